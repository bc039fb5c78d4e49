"""The same training in idiomatic JAX: an epoch is one compiled call, a scan over its batches.

    python -m tests.benchmarks.peer_jax FOLDER [--seed 0] [--bf16]

The recipe is exactly that of Keras: Glorot-uniform kernels, zero biases, RMSprop with its epsilon under the root, and a
smaller last batch, outside the scan. With --bf16, products are in bfloat16, as Flax' layers have it with that dtype.
Needs jax and NumPy, and of the project only `protocol`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from tests.benchmarks import protocol

RATE, DECAY, EPSILON = 1e-3, 0.9, 1e-7


class State(NamedTuple):
    """The parameters, (kernel, bias) by layer, and the mean squares of their gradients."""

    parameters: Any
    squares: Any


def network(key: Any, pixels: int) -> State:
    """The initial state."""
    shapes = ((pixels, 512), (512, 10))
    glorot = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(shapes))
    parameters = [(glorot(each, shape), jnp.zeros(shape[1])) for each, shape in zip(keys, shapes, strict=True)]
    return State(parameters, jax.tree.map(jnp.zeros_like, parameters))


def logits(parameters: Any, images: Any, dtype: Any) -> Any:
    """The outputs before the softmax, which the loss includes and the accuracy does not need; products of `dtype`."""

    def product(left: Any, right: Any) -> Any:
        return (left.astype(dtype) @ right.astype(dtype)).astype(jnp.float32)

    (hidden, hidden_bias), (digit, digit_bias) = parameters
    return product(jax.nn.relu(product(images, hidden) + hidden_bias), digit) + digit_bias


def loss(parameters: Any, images: Any, labels: Any, dtype: Any) -> tuple[Any, Any]:
    """The mean cross-entropy, and the sum of losses and the hits of the batch, which Keras computes too."""
    outputs = logits(parameters, images, dtype)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1)
    return losses.mean(), jnp.stack([losses.sum(), (outputs.argmax(1) == labels).sum().astype(losses.dtype)])


def step(state: State, images: Any, labels: Any, dtype: Any) -> tuple[State, Any]:
    """One batch."""
    gradients, sums = jax.grad(loss, has_aux=True)(state.parameters, images, labels, dtype)
    squares = jax.tree.map(lambda v, g: DECAY * v + (1 - DECAY) * g * g, state.squares, gradients)
    update = partial(jax.tree.map, lambda w, g, v: w - RATE * g * jax.lax.rsqrt(v + EPSILON))
    return State(update(state.parameters, gradients, squares), squares), sums


@partial(jax.jit, donate_argnums=0, static_argnums=4)
def epoch(state: State, key: Any, images: Any, labels: Any, dtype: Any) -> tuple[State, Any]:
    """All images once, in a new order."""
    order = jax.random.permutation(key, len(labels))
    whole = len(labels) // protocol.BATCH * protocol.BATCH

    def batch(state: State, rows: Any) -> tuple[State, Any]:
        return step(state, images[rows], labels[rows], dtype)

    state, sums = jax.lax.scan(batch, state, order[:whole].reshape(-1, protocol.BATCH))
    total = sums.sum(axis=0)
    if whole < len(labels):
        state, last = batch(state, order[whole:])
        total += last
    return state, total


def main() -> None:
    """Train, test, print the line."""
    options = protocol.options(__doc__)
    dtype = jnp.bfloat16 if options.bf16 else jnp.float32
    arrays = protocol.read(options.folder)
    images, tests = (jnp.asarray(each, jnp.float32) / 255 for each in (arrays.train_images, arrays.test_images))
    labels, answers = (jnp.asarray(each, jnp.int32) for each in (arrays.train_labels, arrays.test_labels))
    first, *keys = jax.random.split(jax.random.key(options.seed), protocol.EPOCHS + 1)
    state = jax.block_until_ready(network(first, images.shape[1]))
    moments = [time.perf_counter()]
    for key in keys:
        state, sums = epoch(state, key, images, labels, dtype)
        sums.block_until_ready()
        moments.append(time.perf_counter())
    accuracy = (logits(state.parameters, tests, dtype).argmax(1) == answers).mean()
    print(protocol.line(float(accuracy), moments))


if __name__ == "__main__":
    main()
