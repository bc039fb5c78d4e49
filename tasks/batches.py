"""Images and labels as the batches that `model.fit` reads, gathered when they are needed. Called by the train step.

Handing the arrays to `model.fit` copies them several times (1.4 GB more for 600,000 images) and takes a fifth longer.
It is a `tf.data` pipeline, which Keras reads whatever its backend is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import Bytes, Split

# Images gathered by one NumPy call, about: enough that Python's share of the time does not show.
CHUNK = 8192


def batches(split: Split, order: NDArray[np.intp], size: int) -> Any:
    """A `tf.data.Dataset` of (images uint8 (size, pixels), labels uint8 (size,)); the last batch may hold fewer.

    Args:
        split: The images and labels.
        order: Which rows, in which order.
        size: Images per batch.
    """
    import tensorflow as tf

    signature = (tf.TensorSpec((None, split.images.shape[1]), tf.uint8), tf.TensorSpec((None,), tf.uint8))
    options = tf.data.Options()
    # Its tuning thread can sleep for seconds after the last batch, and the epoch does not end before it wakes up.
    options.autotune.enabled = False
    with tf.device("cpu:0"):
        return (
            tf.data.Dataset.from_generator(lambda: _chunks(split, order, size), output_signature=signature)
            .rebatch(size)
            .apply(tf.data.experimental.assert_cardinality(math.ceil(len(order) / size)))
            .prefetch(2)
            .with_options(options)
        )


def _chunks(split: Split, order: NDArray[np.intp], size: int) -> Iterator[tuple[Bytes, Bytes]]:
    """Some whole batches at a time."""
    rows = max(CHUNK // size, 1) * size
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        yield split.images[chosen], split.labels[chosen]
