"""The training on the device there is, a GPU or a CPU, with whatever backend Keras has: TensorFlow, or JAX.

    python -m tests.benchmarks.gpu FOLDER [--epochs 5]    # a folder with the four MNIST .gz files
    KERAS_BACKEND=jax python -m tests.benchmarks.gpu FOLDER

The whole data set lies on the device, and an epoch is one compiled call: the host only draws the order of the images,
sends it, and reads the loss. The job's own training does the same around `model.fit` with TensorFlow, and sends every
image again with another backend. For both this prints:

- seconds of all epochs after the first one, which compiles, and images/s;
- the share of that time in which the device is idle. On a GPU it is measured with the profiler: the time in which no
  kernel and no copy runs, in one more such training. Elsewhere it is estimated: the same epochs also run as one single
  call, with all orders on the device, and the time that a training takes beyond that counts as idle. The estimate
  misses gaps between two kernels of one call;
- the accuracy on the test images;
- the highest rate of float32 matrix products of the backend on this device, and the training's share of it.

Needs Keras and its backend; the row of the job's own training needs the project too, and is left out without it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks import protocol
from tests.benchmarks.protocol import BATCH, EPOCHS, FLOPS_PER_IMAGE, Arrays

BESIDE = Path(__file__).parents[3] / "shared" / "mnist"


class Framework(NamedTuple):
    """What differs between the backends of Keras."""

    device: str
    is_gpu: bool
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    gradients: Callable[[Callable[..., Any], Any], tuple[Any, Any]]  # (loss, parameters) to (value, gradients)
    profile: Callable[[Path, Callable[[], object]], None]


def tensorflow() -> Framework:
    """TensorFlow with XLA: one call runs a whole epoch without returning to Python."""
    import tensorflow as tf

    def gradients(loss: Callable[..., Any], parameters: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            value = loss(parameters)
        return value, tape.gradient(value, parameters)

    def profile(folder: Path, run: Callable[[], object]) -> None:
        with tf.profiler.experimental.Profile(str(folder)):
            run()

    gpus = tf.config.list_physical_devices("GPU")
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"
    return Framework(
        f"{name}, TensorFlow {tf.__version__}", bool(gpus), tf.function(jit_compile=True), gradients, profile
    )


def jax() -> Framework:
    """JAX; the new state takes the memory of the old one."""
    import jax

    def gradients(loss: Callable[..., Any], parameters: Any) -> tuple[Any, Any]:
        value, gradients = jax.value_and_grad(loss)(parameters)
        return value, gradients

    def profile(folder: Path, run: Callable[[], object]) -> None:
        with jax.profiler.trace(folder):
            run()

    device = jax.devices()[0]
    name = f"{device.device_kind}, JAX {jax.__version__}"
    return Framework(name, device.platform == "gpu", partial(jax.jit, donate_argnums=0), gradients, profile)


class Resident:
    """The network and the data set on the device, and the compiled calls that train it."""

    def __init__(self, keras: Any, framework: Framework, arrays: Arrays) -> None:
        self.keras, self.ops, self.framework = keras, keras.ops, framework
        keras.utils.set_random_seed(0)
        pixels = keras.Input((arrays.train_images.shape[1],))
        hidden = keras.layers.Dense(512, activation="relu")(pixels)
        self.model = keras.Model(pixels, keras.layers.Dense(10, activation="softmax")(hidden))
        self.images = self.ops.convert_to_tensor(arrays.train_images)
        self.labels = self.ops.convert_to_tensor(arrays.train_labels.astype(np.int32))
        self.epoch, self.epochs = framework.compiled(self._epoch), framework.compiled(self._epochs)

    def state(self) -> Any:
        """Copies, as a call may overwrite them: parameters, the mean squares of their gradients, the last loss."""
        parameters = [self.ops.copy(variable.value) for variable in self.model.trainable_variables]
        return parameters, [self.ops.zeros_like(parameter) for parameter in parameters], self.ops.zeros(())

    def _batch(self, images: Any, labels: Any, state: Any, rows: Any) -> Any:
        """One batch of RMSprop as Keras defines it, on the images of these rows; the new state holds the loss."""
        ops, (parameters, squares, _) = self.ops, state
        batch_images = ops.cast(ops.take(images, rows, axis=0), "float32") / 255
        batch_labels = ops.take(labels, rows)

        def loss(parameters: Any) -> Any:
            probabilities, _ = self.model.stateless_call(parameters, [], batch_images)
            return ops.mean(self.keras.losses.sparse_categorical_crossentropy(batch_labels, probabilities))

        value, gradients = self.framework.gradients(loss, parameters)
        squares = [0.9 * v + 0.1 * g * g for v, g in zip(squares, gradients, strict=True)]
        updates = zip(parameters, gradients, squares, strict=True)
        return [w - 1e-3 * g / ops.sqrt(v + 1e-7) for w, g, v in updates], squares, value

    def _epoch(self, state: Any, images: Any, labels: Any, order: Any) -> Any:
        """All images once; the last batch may hold fewer."""
        batch = partial(self._batch, images, labels)
        whole = order.shape[0] // BATCH * BATCH
        state = self._for_each(self.ops.reshape(order[:whole], (-1, BATCH)), batch, state)
        return batch(state, order[whole:]) if whole < order.shape[0] else state

    def _epochs(self, state: Any, images: Any, labels: Any, orders: Any) -> Any:
        """Several epochs in one call: the device never waits for the host."""
        return self._for_each(orders, lambda state, order: self._epoch(state, images, labels, order), state)

    def _for_each(self, rows: Any, change: Callable[[Any, Any], Any], state: Any) -> Any:
        """A loop on the device; not `ops.scan`, which with TensorFlow takes only results of the state's shape."""
        take = partial(self.ops.take, rows, axis=0)
        return self.ops.fori_loop(0, rows.shape[0], lambda number, state: change(state, take(number)), state)

    def train(self, epochs: int) -> Any:
        """Train; for each epoch the host draws an order, sends it, and reads the loss."""
        random, state = np.random.default_rng(0), self.state()
        for _ in range(epochs):
            order = self.ops.convert_to_tensor(random.permutation(len(self.labels)).astype(np.int32))
            state = self.epoch(state, self.images, self.labels, order)
            float(state[-1])
        return state

    def train_in_one_call(self, orders: Any) -> None:
        """The same epochs, with all orders on the device."""
        float(self.epochs(self.state(), self.images, self.labels, orders)[-1])

    def accuracy(self, state: Any, arrays: Arrays) -> float:
        """The share of the test images that are right."""
        for variable, value in zip(self.model.trainable_variables, state[0], strict=True):
            variable.assign(value)
        predicted = self.model.predict(arrays.test_images / np.float32(255), verbose=0).argmax(axis=1)
        return float((predicted == arrays.test_labels).mean())


def seconds(run: Callable[[], object], times: int = 3) -> list[float]:
    """Seconds of several runs, sorted, after a warm-up run that compiles."""
    run()
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        measured.append(time.perf_counter() - start)
    return sorted(measured)


def busy(folder: Path) -> float | None:
    """The seconds in which a GPU worked, from the trace in a folder; None if the trace has no GPU.

    A trace has a plane for each GPU and a line for each of its streams, with an event for each kernel and each copy.
    """
    try:
        from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace
    except ImportError:
        return _busy_in_jax(folder)
    spans = []
    for file in folder.rglob("*.xplane.pb"):
        space = XSpace.FromString(file.read_bytes())
        spans += [
            (line.timestamp_ns + event.offset_ps / 1e3, event.duration_ps / 1e3)
            for plane in space.planes
            if plane.name.startswith("/device:GPU")
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        ]
    return union(spans) / 1e9 if spans else None


def _busy_in_jax(folder: Path) -> float | None:
    """`busy` with the reader of JAX, for an environment without TensorFlow."""
    from jax.profiler import ProfileData

    spans = [
        (event.start_ns, event.duration_ns)
        for file in folder.rglob("*.xplane.pb")
        for plane in ProfileData.from_file(str(file)).planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
        for event in line.events
    ]
    return union(spans) / 1e9 if spans else None


def union(spans: Iterable[tuple[float, float]]) -> float:
    """The time that (begin, duration) spans cover; overlaps count once."""
    covered, end = 0.0, float("-inf")
    for begin, duration in sorted(spans):
        covered += max(begin + duration - max(begin, end), 0)
        end = max(end, begin + duration)
    return covered


def at_work(run: Callable[[], object], framework: Framework, alone: float) -> tuple[float, str]:
    """Seconds of one training in which the device works, and whether they are measured or estimated.

    Args:
        run: The training.
        framework: The backend and device.
        alone: Seconds of the same training as one single call.
    """
    if framework.is_gpu:
        with TemporaryDirectory() as name:
            framework.profile(Path(name), run)
            if measured := busy(Path(name)):
                return measured, "measured, from the profiler's trace"
    return alone, "estimated, from all epochs in one call"


def limit(keras: Any, is_gpu: bool) -> float:
    """Operations per second of products of large float32 matrices, with the default precision of the backend."""
    size, times = (8192, 10) if is_gpu else (1024, 3)
    factor = keras.ops.full((size, size), 1 / size)  # its powers equal itself

    def products() -> None:
        result = factor
        for _ in range(times):
            result = keras.ops.matmul(result, factor)
        float(result[0, 0])

    return times * 2 * size**3 / seconds(products, 7)[0]


def own(arrays: Arrays, epochs: int, is_gpu: bool) -> tuple[float, float] | str:
    """The job's own training: seconds of the epochs after the first one, and accuracy; or why it cannot run."""
    try:
        from tasks.data.arrays import Split, scale
        from tasks.learning.training import fit
        from tasks.settings import Recipe
    except ImportError as error:
        return f"left out, {error}"
    moments: list[float] = []
    train = Split(arrays.train_images, arrays.train_labels)
    recipe = Recipe(epochs=epochs + 1)
    model = fit(
        train, recipe, "gpu" if is_gpu else "cpu", on_epoch=lambda *_: moments.append(time.perf_counter())
    ).model
    predicted = model.predict(scale(arrays.test_images), verbose=0).argmax(axis=1)
    return moments[-1] - moments[0], float((predicted == arrays.test_labels).mean())


def main(folder: Path, epochs: int = EPOCHS) -> None:
    """Measure and print."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    framework = {"tensorflow": tensorflow, "jax": jax}[keras.backend.backend()]()
    arrays = protocol.read(folder)
    images = epochs * len(arrays.train_labels)
    begin = time.perf_counter()
    resident = Resident(keras, framework, arrays)
    trained = resident.train(1)
    first = time.perf_counter() - begin
    random = np.random.default_rng(0)
    orders = np.stack([random.permutation(len(arrays.train_labels)) for _ in range(epochs)]).astype(np.int32)
    sent = keras.ops.convert_to_tensor(orders)
    wall = median(seconds(lambda: resident.train(epochs)))
    alone = median(seconds(lambda: resident.train_in_one_call(sent)))
    work, how = at_work(lambda: resident.train(epochs), framework, alone)
    trained = resident.train(epochs)
    best = limit(keras, framework.is_gpu)

    def row(name: str, wall: float, accuracy: float) -> str:
        speed = images / wall
        share = speed * FLOPS_PER_IMAGE / best
        idle = max(1 - work / wall, 0)
        return f"| {name} | {wall:.3f} | {speed:,.0f} | {idle:.1%} | {share:.1%} | {accuracy:.4f} |"

    print(f"{framework.device}, Keras {keras.__version__}; {time.strftime('%Y-%m-%d')}")
    print(f"First epoch, with the data sent and all compiled: {first:.1f} s.")
    print(f"The device works {work:.3f} s of {epochs} epochs: {how}.")
    print(f"Its limit is float32 products of the backend: {best / 1e9:,.0f} GFLOP/s.\n")
    print(f"| {epochs} epochs, compiled | s | images/s | outside the device | of the limit | accuracy |")
    print("|---|---|---|---|---|---|")
    print(row("data set on the device", wall, resident.accuracy(trained, arrays)))
    result = own(arrays, epochs, framework.is_gpu)
    print(f"\nThe job's own training: {result}." if isinstance(result, str) else row("the job's own training", *result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=BESIDE, help="with the four .gz files")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    main(options.folder, options.epochs)
