"""The device that training runs on: a GPU or the CPU, chosen without importing TensorFlow.

`auto` takes a GPU if the installed TensorFlow can use one; `gpu` means a GPU or an error, never silently the CPU.
Called by the flow before the first step, by a worker of the pool, and by the train step.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from tasks.errors import DeviceError, UsageError
from tasks.learning import backend as keras_backend
from tasks.learning.backend import require_backend
from tasks.settings import DeviceChoice, TrainOn
from tasks.values import Device, DeviceKind

LOG = logging.getLogger("retrain.train")

Kind = Literal["cpu", "gpu"]

# How to get TensorFlow with CUDA: beside the CPU-only build it must not be installed.
INSTALL = "On a machine with an NVIDIA driver, `make install SET=gpu` in the checkout makes .venv-gpu with CUDA."

# Prints the devices that TensorFlow sees. Runs in a subprocess, because TensorFlow logs the causes to standard error.
TENSORFLOW_PROBE = """
import tensorflow as tf
devices = tf.config.list_physical_devices()
print("built with CUDA" if tf.test.is_built_with_cuda() else "a CPU-only build", "sees", [d.name for d in devices])
"""
PROBE_TIMEOUT = 60.0  # seconds

CPUINFO = Path("/proc/cpuinfo")

# XLA multiplies with oneDNN, which chooses its float32 kernels by CPU flags. The best set first: name, CPU flags,
# prefixes of ONEDNN_MAX_CPU_ISA. Measured with the recipe: each set gives other bits, and so do some of XLA's flags.
# What XLA compiles beside the products depends on the CPU's model. The number of threads and the later AVX-512
# extensions change no bits.
INSTRUCTIONS: tuple[tuple[str, set[str], tuple[str, ...]], ...] = (
    ("AVX-512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, ("AVX512", "AVX10")),
    ("AVX2", {"avx2", "fma"}, ("AVX2",)),
    ("AVX", {"avx"}, ("AVX",)),
    ("SSE4.1", set(), ("",)),
)


# XLA's flags that change no result.
NAMES_OF_FOLDERS = ("--xla_dump_", "--xla_gpu_cuda_data_dir=")


def resolve(choice: DeviceChoice, train_on: TrainOn = "here") -> DeviceKind:
    """The kind of device to train on.

    The devices of a worker of the training pool cannot be seen from here, so one for a GPU is expected to have a
    GPU until `require` checks it there. One for the CPU must have the arithmetic of this machine's CPU.

    Raises:
        DeviceError: `gpu` on a machine where TensorFlow cannot use one, within seconds; or there is no TensorFlow.
    """
    require_backend()
    if train_on == "pool":
        return device_kind("cpu" if choice == "cpu" else "gpu")
    if choice == "cpu":
        return device_kind("cpu")
    visible = _visible_gpus()
    why_not = _why_no_cuda() if visible else "no NVIDIA GPU is visible"
    if not why_not:
        return device_kind("gpu")
    if choice == "auto":
        if visible:
            LOG.warning("training on the CPU, though this machine has a GPU: %s. %s", why_not, INSTALL)
        return device_kind("cpu")
    raise DeviceError(
        "cannot train on a GPU",
        f"{why_not}; {_what_tensorflow_sees()}",
        f"Use --device cpu or auto. {INSTALL}",
    )


def require(expected: DeviceKind) -> None:
    """Raise DeviceError if this machine has no such device. A worker calls it before it trains for another run."""
    actual = resolve(expected.kind)
    if actual != expected:
        raise DeviceError(
            f"cannot train on this {actual.kind.upper()}",
            f"it calculates with {actual.arithmetic}, the waiting run with {expected.arithmetic}",
            "Start the worker on a machine like that of the waiting run, or train with --device gpu.",
        )


def device_kind(kind: Kind) -> DeviceKind:
    """The device kind: the backend, for a CPU the arithmetic of this machine's, and XLA's flags."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    parts = [f"{backend}, {_cpu_arithmetic()}" if kind == "cpu" else backend, *_xla_flags()]
    return DeviceKind(kind=kind, arithmetic=" ".join(parts))


def describe(device: DeviceKind) -> Device:
    """The device with its vendor's name. Imports TensorFlow for a GPU.

    Raises:
        DeviceError: TensorFlow sees no GPU.
    """
    name = _gpu_name() if device.kind == "gpu" else _cpu_name()
    return Device(kind=device.kind, arithmetic=device.arithmetic, name=name)


def compiled_for() -> list[str]:
    """What XLA compiles for, on this CPU: more than changes the weights."""
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return [device_kind("cpu").arithmetic, _cpu_field("flags"), str(_usable_cores()), threads]


def _cpu_arithmetic() -> str:
    machine = platform.machine()
    return f"{_kernels() if machine == 'x86_64' else machine} on {_cpu_model()}{_one_thread()}"


def _one_thread() -> str:
    """With one thread XLA adds in another order than with several, whose number changes no bits."""
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    number = int(threads) if threads.isdecimal() and int(threads) else _usable_cores()
    return ", one thread" if number == 1 else ""


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _xla_flags() -> list[str]:
    """The flags in XLA_FLAGS, or in the file that it names, but for those that only name a folder."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):
        try:
            flags = Path(flags).read_text()
        except OSError as error:
            raise UsageError(f"cannot read XLA_FLAGS {flags}", str(error.strerror), "Correct or unset it.") from None
    return [flag for flag in flags.split() if not flag.startswith(NAMES_OF_FOLDERS)]


def _cpu_model() -> str:
    """The CPU's maker, family and model, from /proc/cpuinfo."""
    fields = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")  # of x86, of Arm
    return "/".join(filter(None, map(_cpu_field, fields))) or platform.processor() or "an unknown CPU"


def _kernels() -> str:
    flags = set(_cpu_field("flags").split())
    # oneDNN's own variable, by its present and its former name: an upper bound on the instructions that it uses.
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    unlimited = limit in {"", "ALL", "DEFAULT"}
    supported = next(rank for rank, (_, needed, _) in enumerate(INSTRUCTIONS) if needed <= flags)
    allowed = next(rank for rank, (_, _, names) in enumerate(INSTRUCTIONS) if unlimited or limit.startswith(names))
    return f"oneDNN with {INSTRUCTIONS[max(supported, allowed)][0]}"


def _why_no_cuda() -> str:
    """Why the installed TensorFlow cannot use a GPU, or "". Looks for the libraries, without importing TensorFlow."""
    if _installed("tensorflow") is None and _installed("tensorflow-cpu") is not None:
        return "the installed TensorFlow is the CPU-only build (tensorflow-cpu)"
    # CUDA comes as packages with tensorflow[and-cuda], or is installed on the system.
    if not any(_installed(f"nvidia-cudnn-cu{cuda}") for cuda in (12, 13)) and not ctypes.util.find_library("cudnn"):
        return "the CUDA libraries are missing (no cuDNN is installed)"
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
    verbose = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    command = [sys.executable, "-P", "-c", TENSORFLOW_PROBE]
    try:
        done = subprocess.run(command, env=verbose, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"TensorFlow did not list its devices within {PROBE_TIMEOUT:.0f} s"
    reasons = [
        line.split("] ")[-1] for line in done.stderr.splitlines() if "dso_loader" in line or "Cannot dlopen" in line
    ]
    seen = done.stdout.strip() or "TensorFlow cannot be imported"
    return "; ".join([f"TensorFlow {_installed('tensorflow') or _installed('tensorflow-cpu')} is {seen}", *reasons[:2]])


def _gpu_name() -> str:
    keras_backend.keras()  # before TensorFlow, which reads the environment when it is imported
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise DeviceError(
            "cannot train on a GPU",
            f"a GPU is visible, but {_what_tensorflow_sees()}",
            INSTALL,
        )
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name))


def _cpu_name() -> str:
    name = _cpu_field("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _cpu_field(field: str) -> str:
    """The value of this field of /proc/cpuinfo for the first core, or ""."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() == field), "")
