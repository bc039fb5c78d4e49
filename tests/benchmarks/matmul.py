"""What this machine can multiply at best: NumPy's product of two float32 matrices, which is its BLAS and nothing else.

python -m tests.benchmarks.matmul    # prints operations a second
"""

from __future__ import annotations

import sys
import time

import numpy as np


def peak(size: int, times: int) -> float:
    """Operations a second of the fastest of several products; one multiplication and one addition are two."""
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
