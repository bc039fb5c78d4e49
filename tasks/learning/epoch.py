"""A Keras model whose `fit` trains a whole epoch in one compiled call. Called by the train step.

The images and labels are on the device from the beginning; what an epoch is given is the order in which to take them,
and XLA compiles the loop over its batches. On two cores that takes two thirds of the time of the same loop over
TensorFlow's own kernels. With another backend of Keras' it is the plain `fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Bytes, Split
from tasks.learning import backend

CLASSES = 10

# Of the memory that TensorFlow computes in, in bytes.
ALIGNMENT = 64


def learner(layers: Sequence[Any], split: Split, batch_size: int) -> Any:
    """A Sequential of these layers, to be compiled, and then trained by `fit(**arguments(split, order, batch_size))`.

    Args:
        layers: From uint8 images (n, pixels) to probabilities (n, 10).
        split: Images and labels, put on the device that Keras is told to use.
        batch_size: Images per batch; the last one of an epoch may hold fewer.
    """
    keras = backend.keras()
    if keras.backend.backend() != "tensorflow":
        return keras.Sequential(layers)
    import tensorflow as tf

    images, labels = _on_device(split.images), tf.constant(split.labels)
    batches, left = divmod(len(split.labels), batch_size)

    class Learner(keras.Sequential):  # type: ignore[misc, name-defined]
        train_function: Any

        def make_train_function(self, force: bool = False) -> None:
            if self.train_function is not None and not force:
                return

            def one(rows: Any) -> None:
                self.train_step((tf.gather(images, rows), tf.one_hot(tf.gather(labels, rows), CLASSES)))

            # Traced once, for whole batches and for the last one.
            batch = tf.function(one, input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)

            def train(order: Any) -> Any:
                whole, rest = tf.split(order, [batches * batch_size, left])
                whole = tf.reshape(whole, (batches, batch_size))

                def one_more(number: Any) -> Any:
                    batch(whole[number])
                    return number + 1

                if batches:
                    tf.while_loop(lambda number: number < batches, one_more, [0])
                if left:
                    batch(rest)
                return self.get_metrics_result()

            # Not by Keras' own `jit_compile`, which is given up where TensorFlow has been told to be deterministic: not
            # every operation can be both. Those of this network can.
            compiled = tf.function(train, jit_compile=True, autograph=False)

            def run(orders: Any) -> Any:
                # XLA computes in a variable's own memory where nobody else reads it, and if memory runs out meanwhile
                # frees that twice: the process would be aborted later, when the variables go.
                variables = (*self.variables, *self.optimizer.variables, *self.metrics_variables)
                held = [variable.value.read_value() for variable in variables]
                result = compiled(next(orders))
                del held
                return result

            self.train_function = run

    return Learner(layers)


def arguments(split: Split, order: NDArray[np.intp], batch_size: int) -> dict[str, Any]:
    """What `fit` is given to train on the images in this order."""
    if backend.keras().backend.backend() != "tensorflow":
        return {"x": split.images[order], "y": one_hot(split.labels[order]), "batch_size": batch_size}
    import tensorflow as tf

    options = tf.data.Options()
    # Its tuning thread can sleep for seconds after the last element, and the epoch does not end before it wakes up.
    options.autotune.enabled = False
    with tf.device("cpu:0"):
        return {"x": tf.data.Dataset.from_tensors(order.astype(np.int32)).with_options(options)}


def _on_device(images: Bytes) -> Any:
    """The images on the device, one copy: TensorFlow takes what is aligned like this as it is, and would make two."""
    import tensorflow as tf

    room = np.empty(images.nbytes + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    aligned = room[begin : begin + images.nbytes].reshape(images.shape)
    aligned[:] = images
    on_host = tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())
    return tf.identity(on_host)  # a GPU gets its copy here


def one_hot(labels: Bytes) -> NDArray[np.float32]:
    """Labels (n,) as float32 (n, 10)."""
    return np.eye(CLASSES, dtype=np.float32)[labels]
