"""Where training runs: a GPU or the CPU, decided without importing TensorFlow.

`auto` takes a GPU where there is one that the installed TensorFlow can use; `gpu` means a GPU or a clear error, never
the CPU in silence. Called by the flow before anything else, and by the train step.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from tasks.errors import DeviceError
from tasks.settings import DeviceChoice
from tasks.values import Device

Kind = Literal["cpu", "gpu"]

# What TensorFlow itself says when it looks for GPUs, from a process of its own: the log goes to standard error.
LOOK = """
import tensorflow as tf
found = tf.config.list_physical_devices()
print("built with CUDA" if tf.test.is_built_with_cuda() else "a CPU-only build", "sees", [d.name for d in found])
"""


def resolve(choice: DeviceChoice) -> Kind:
    """The kind of device to train on. Raises DeviceError, within seconds, for `gpu` where there is none."""
    if choice == "cpu":
        return "cpu"
    why_not = _why_no_gpu()
    if not why_not:
        return "gpu"
    if choice == "auto":
        return "cpu"
    raise DeviceError(
        "cannot train on a GPU",
        f"{why_not}; {_what_tensorflow_sees()}",
        "Use --device cpu or auto, or install retrain-mnist[gpu] on a machine with an NVIDIA driver.",
    )


def describe(kind: Kind) -> Device:
    """The device with its vendor's name."""
    return Device(kind=kind, name=_gpu_name() if kind == "gpu" else _cpu_name())


def _why_no_gpu() -> str:
    """Why no GPU can be used, or "". Cheap: asks the driver, not TensorFlow."""
    if not _visible_gpus():
        return "no NVIDIA GPU is visible"
    if _installed("tensorflow") is None and _installed("tensorflow-cpu") is not None:
        return "the installed TensorFlow is the CPU-only build (tensorflow-cpu)"
    return ""


def _visible_gpus() -> int:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}:
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def _what_tensorflow_sees() -> str:
    loud = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=loud, capture_output=True, text=True, timeout=120, check=False
    )
    reasons = [
        line.split("] ")[-1] for line in done.stderr.splitlines() if "dso_loader" in line or "Cannot dlopen" in line
    ]
    seen = done.stdout.strip() or "TensorFlow cannot be imported"
    return "; ".join([f"TensorFlow {_installed('tensorflow') or _installed('tensorflow-cpu')} is {seen}", *reasons[:2]])


def _gpu_name() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise DeviceError(
            "cannot train on a GPU", f"a GPU is there, but {_what_tensorflow_sees()}", "Install retrain-mnist[gpu]."
        )
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"
