"""A Keras model whose `fit` trains as many batches as it can in one compiled call. Called by `tasks.learning.training`.

`fit` gets the order in which an epoch takes the images. The images of the next batches are gathered and handed to a
loop over them that XLA compiles: for MNIST, an epoch is one call. On two cores that takes two thirds of the time of the
same loop over TensorFlow's own kernels. With another Keras backend it is the plain `fit`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Bytes, Labels, Split
from tasks.learning import backend

# Bytes of images that one call takes: what a training needs beside the images themselves. MNIST has 47 MB.
CALL = 64 << 20

# Bytes. TensorFlow uses memory that is aligned like this without a copy.
ALIGNMENT = 64


def epoch_model(layers: Sequence[Any], split: Split, batch_size: int) -> Any:
    """A Sequential of these layers. Compile it, then train it with `fit(**fit_arguments(…))`.

    Args:
        layers: From uint8 images to probabilities (n, classes).
        split: Images and labels. A CPU reads them where they are; if another device is current in Keras, they are
            copied to it.
        batch_size: Images per batch; the last batch of an epoch may have fewer.
    """
    keras = backend.keras()
    if keras.backend.backend() != "tensorflow":
        return keras.Sequential(layers)
    import tensorflow as tf

    on_host = "CPU" in tf.zeros(()).device
    images, labels = (split.images if on_host else tf.constant(split.images)), tf.constant(split.labels)
    images_at = _rows_on_host if on_host else tf.gather
    batches, remainder = divmod(len(split.labels), batch_size)
    in_call = max(1, min(batches, CALL // (batch_size * split.images[:1].nbytes)))

    class EpochModel(keras.Sequential):  # type: ignore[misc, name-defined]
        train_function: Any

        def make_train_function(self, force: bool = False) -> None:
            if self.train_function is not None and not force:
                return

            classes = self.output_shape[-1]

            def train_on(images: Any, labels: Any) -> None:
                self.train_step((images, tf.one_hot(labels, classes)))

            # Traced once, for whole batches and for the last one.
            signature = [tf.TensorSpec([None, *images.shape[1:]], images.dtype), tf.TensorSpec([None], labels.dtype)]
            train_batch = tf.function(train_on, input_signature=signature, autograph=False)

            def train_batches(images: Any, labels: Any, count: Any) -> None:
                shape = (in_call, batch_size)
                images = tf.reshape(images, (*shape, *images.shape[1:]))
                labels = tf.reshape(labels, shape)

                def train_next(number: Any) -> Any:
                    train_batch(images[number], labels[number])
                    return number + 1

                tf.while_loop(lambda number: number < count, train_next, [0])

            # Keras' own `jit_compile` is ignored while TensorFlow's op determinism is on, because not every operation
            # supports both. Of the layers of `tasks.learning.layers`, one has a gradient that does not.
            supported = all(type(layer).__name__ != "MaxPooling2D" for layer in self.layers)
            compiled, compiled_rest = (
                tf.function(function, jit_compile=supported, autograph=False)
                for function in (train_batches, train_batch)
            )

            def call(function: Any, rows: Any, *count: Any) -> None:
                # XLA updates a variable in place if nothing else reads its memory. If it then runs out of memory, it
                # frees that memory twice, and the process aborts later. A second reader prevents the update in place.
                variables = (*self.variables, *self.optimizer.variables, *self.metrics_variables)
                readers = [variable.value.read_value() for variable in variables]
                function(images_at(images, rows), tf.gather(labels, rows), *count)
                del readers

            def run(orders: Any) -> Any:
                order = next(orders).numpy()
                whole = order[: batches * batch_size].reshape(batches, batch_size)
                for start in range(0, batches, in_call):
                    rows = whole[start : start + in_call]
                    # Always of one shape, or the last call would be compiled anew; what is too much is not trained on.
                    call(compiled, np.resize(rows, in_call * batch_size), tf.constant(len(rows)))
                if remainder:
                    call(compiled_rest, order[-remainder:])
                return self.get_metrics_result()

            self.train_function = run

    return EpochModel(layers)


def fit_arguments(split: Split, order: NDArray[np.intp], batch_size: int) -> dict[str, Any]:
    """The arguments of `fit` for an epoch that takes the images in this order, a permutation (n,) of their indices."""
    if backend.keras().backend.backend() != "tensorflow":
        classes = int(split.labels.max()) + 1
        return {"x": split.images[order], "y": one_hot(split.labels[order], classes), "batch_size": batch_size}
    import tensorflow as tf

    options = tf.data.Options()
    # The tuning thread can sleep for seconds after the last element, and the epoch ends only when it wakes up.
    options.autotune.enabled = False
    with tf.device("cpu:0"):
        return {"x": tf.data.Dataset.from_tensors(order.astype(np.int32)).with_options(options)}


def _rows_on_host(images: Bytes, rows: NDArray[np.int32]) -> Any:
    """These images as a tensor, copied once: TensorFlow would copy what NumPy returns a second time."""
    import tensorflow as tf

    shape = (len(rows), *images.shape[1:])
    buffer = np.empty(math.prod(shape) + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    aligned = buffer[start : start + math.prod(shape)].reshape(shape)
    np.take(images, rows, axis=0, out=aligned, mode="clip")  # any other mode has a buffer of its own
    return tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())


def one_hot(labels: Labels, classes: int) -> NDArray[np.float32]:
    """Labels (n,) as one-hot rows, float32 (n, classes)."""
    return np.eye(classes, dtype=np.float32)[labels]
