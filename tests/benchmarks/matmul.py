"""The limit of this machine: the product of two large matrices, float32 in NumPy's BLAS or bfloat16 in TensorFlow's.

python -m tests.benchmarks.matmul [--bf16]    # prints floating-point operations per second
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np


def peak(size: int, times: int, bf16: bool = False) -> float:
    """Operations per second of the fastest of several products; a multiplication and an addition count as two."""
    random = np.random.default_rng(0)
    left, right = random.random((size, size), np.float32), random.random((size, size), np.float32)
    product = _bfloat16(left, right) if bf16 else partial(np.matmul, left, right, out=np.empty_like(left))
    fastest = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def _bfloat16(left: Any, right: Any) -> Callable[[], object]:
    """The product on the CPU; where the CPU has instructions for it, oneDNN uses them."""
    import tensorflow as tf

    with tf.device("cpu:0"):
        matrices = [tf.cast(each, tf.bfloat16) for each in (left, right)]
    return partial(tf.linalg.matmul, *matrices)


if __name__ == "__main__":
    print(peak(2048, 12, bf16="--bf16" in sys.argv))
