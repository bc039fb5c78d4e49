"""The limit of this machine: NumPy's product of two large float32 matrices, which spends all its time in BLAS.

python -m tests.benchmarks.matmul    # prints floating-point operations per second
"""

from __future__ import annotations

import sys
import time

import numpy as np


def peak(size: int, times: int) -> float:
    """Operations per second of the fastest of several products; a multiplication and an addition count as two."""
    random = np.random.default_rng(0)
    left, right = random.random((size, size), np.float32), random.random((size, size), np.float32)
    result = np.empty_like(left)
    fastest = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        np.matmul(left, right, out=result)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


if __name__ == "__main__":
    print(peak(*map(int, sys.argv[1:])) if sys.argv[1:] else peak(2048, 12))
