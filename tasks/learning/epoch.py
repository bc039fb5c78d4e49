"""A Keras model whose `fit` trains a whole epoch in one compiled call. Called by `tasks.learning.training`.

The images and labels are on the device from the beginning. `fit` gets the order in which an epoch takes them, and XLA
compiles the loop over the batches. On two cores that takes two thirds of the time of the same loop over TensorFlow's
own kernels. With another Keras backend it is the plain `fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Bytes, Labels, Split
from tasks.learning import backend

# Bytes. TensorFlow uses memory that is aligned like this without a copy.
ALIGNMENT = 64


def epoch_model(layers: Sequence[Any], split: Split, batch_size: int) -> Any:
    """A Sequential of these layers. Compile it, then train it with `fit(**fit_arguments(…))`.

    Args:
        layers: From uint8 images to probabilities (n, classes).
        split: Images and labels; they are copied to the device that is current in Keras.
        batch_size: Images per batch; the last batch of an epoch may have fewer.
    """
    keras = backend.keras()
    if keras.backend.backend() != "tensorflow":
        return keras.Sequential(layers)
    import tensorflow as tf

    images, labels = _on_device(split.images), tf.constant(split.labels)
    batches, remainder = divmod(len(split.labels), batch_size)

    class EpochModel(keras.Sequential):  # type: ignore[misc, name-defined]
        train_function: Any

        def make_train_function(self, force: bool = False) -> None:
            if self.train_function is not None and not force:
                return

            classes = self.output_shape[-1]

            def train_on(rows: Any) -> None:
                self.train_step((tf.gather(images, rows), tf.one_hot(tf.gather(labels, rows), classes)))

            # Traced once, for whole batches and for the last one.
            train_batch = tf.function(train_on, input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)

            def train_epoch(order: Any) -> Any:
                whole, last = tf.split(order, [batches * batch_size, remainder])
                whole = tf.reshape(whole, (batches, batch_size))

                def train_next(number: Any) -> Any:
                    train_batch(whole[number])
                    return number + 1

                if batches:
                    tf.while_loop(lambda number: number < batches, train_next, [0])
                if remainder:
                    train_batch(last)
                return self.get_metrics_result()

            # Keras' own `jit_compile` is ignored while TensorFlow's op determinism is on, because not every operation
            # supports both. Of the layers of `tasks.learning.layers`, one has a gradient that does not.
            supported = all(type(layer).__name__ != "MaxPooling2D" for layer in self.layers)
            compiled = tf.function(train_epoch, jit_compile=supported, autograph=False)

            def run(orders: Any) -> Any:
                # XLA updates a variable in place if nothing else reads its memory. If it then runs out of memory, it
                # frees that memory twice, and the process aborts later. A second reader prevents the update in place.
                variables = (*self.variables, *self.optimizer.variables, *self.metrics_variables)
                readers = [variable.value.read_value() for variable in variables]
                result = compiled(next(orders))
                del readers
                return result

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


def _on_device(images: Bytes) -> Any:
    """The images on the device, copied once. TensorFlow would copy unaligned memory a second time."""
    import tensorflow as tf

    buffer = np.empty(images.nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    aligned = buffer[start : start + images.nbytes].reshape(images.shape)
    aligned[:] = images
    on_host = tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())
    return tf.identity(on_host)  # copies to a GPU, if that is the device


def one_hot(labels: Labels, classes: int) -> NDArray[np.float32]:
    """Labels (n,) as one-hot rows, float32 (n, classes)."""
    return np.eye(classes, dtype=np.float32)[labels]
