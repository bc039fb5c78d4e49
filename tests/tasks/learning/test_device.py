from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import DeviceError, UsageError
from tasks.learning import device
from tasks.learning.device import describe, require, resolve
from tasks.values import DeviceKind


def test_without_a_gpu_auto_is_the_cpu_and_tensorflow_is_not_asked() -> None:
    call = "resolve('auto').kind, 'tensorflow' in sys.modules"
    code = f"import sys; from tasks.learning.device import resolve; print({call})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "False"]


def test_a_device_has_its_vendors_name() -> None:
    cpu = describe(resolve("cpu"))
    assert cpu.kind == "cpu"
    assert "cores" in cpu.name


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: A CPU
flags\t\t: {}
model name\t: another
"""
AVX512 = "sse4_1 avx avx2 fma avx512f avx512bw avx512dq avx512vl amx_tile"


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (AVX512, {}, "tensorflow, oneDNN with AVX-512"),
        (AVX512, {"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, "tensorflow, oneDNN with AVX-512"),
        (AVX512, {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, "tensorflow, oneDNN with AVX2"),
        (AVX512, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, "tensorflow, oneDNN with SSE4.1"),
        (AVX512, {"KERAS_BACKEND": "jax"}, "jax, oneDNN with AVX-512"),
        ("sse4_1 avx avx2 fma avx512f", {}, "tensorflow, oneDNN with AVX2"),
        ("sse4_1 avx avx2 fma", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "tensorflow, oneDNN with AVX2"),
        ("sse4_1 avx", {"ONEDNN_MAX_CPU_ISA": "ALL"}, "tensorflow, oneDNN with AVX"),
        ("sse4_1", {}, "tensorflow, oneDNN with SSE4.1"),
    ],
)
def test_the_arithmetic_is_what_onednn_chooses(
    flags: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "XLA_FLAGS", "KERAS_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "require_backend", lambda: None)  # JAX is not installed
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    device.CPUINFO.write_text(CPUINFO.format(flags))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert resolve("cpu").arithmetic == f"{expected} on AuthenticAMD/25/17"
    monkeypatch.setenv("XLA_FLAGS", " --xla_cpu_max_isa=AVX  --xla_dump_to=/tmp")
    flags = "--xla_cpu_max_isa=AVX"
    assert resolve("cpu").arithmetic == f"{expected} on AuthenticAMD/25/17 {flags}"


def test_one_thread_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5})
    several = resolve("cpu")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "4")
    assert resolve("cpu") == several
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    one = resolve("cpu")
    assert one.arithmetic == f"{several.arithmetic}, one thread"
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "0")
    assert resolve("cpu") == several
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    assert resolve("cpu") == one


def test_flags_of_xla_count_also_in_a_file_and_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_cuda_data_dir=/usr --xla_gpu_autotune_level=0")
    assert resolve("gpu", "pool").arithmetic == "tensorflow --xla_gpu_autotune_level=0"
    (tmp_path / "flags").write_text("--xla_cpu_enable_fast_math=true\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert resolve("cpu").arithmetic.endswith(" --xla_cpu_enable_fast_math=true")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match=r"cannot read XLA_FLAGS .*No such file"):
        resolve("cpu")


def test_another_machine_is_asked_for_what_the_run_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_what_tensorflow_sees", lambda: "TensorFlow 2 sees []")  # asked in another test
    require(resolve("cpu"))
    assert resolve("cpu", "pool") == resolve("cpu")
    assert resolve("gpu", "pool") == resolve("auto", "pool") == DeviceKind(kind="gpu", arithmetic="tensorflow")
    with pytest.raises(DeviceError, match=r"no NVIDIA GPU is visible; TensorFlow .* sees \["):
        require(resolve("gpu", "pool"))
    other = DeviceKind(kind="cpu", arithmetic="tensorflow, AVX on another")
    with pytest.raises(DeviceError, match=r"cannot train on this CPU: .* the waiting run with tensorflow, AVX on"):
        require(other)


def test_a_run_and_a_worker_without_the_backends_package_are_told_before_they_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = resolve("cpu")
    monkeypatch.setenv("KERAS_BACKEND", "no_such_backend")
    for begin in (lambda: resolve("auto"), lambda: resolve("gpu", "pool"), lambda: require(expected)):
        with pytest.raises(DeviceError, match=r"the package no_such_backend \(KERAS_BACKEND\) is not installed"):
            begin()


def a_gpu_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that sees a GPU, beside a TensorFlow that has no CUDA libraries."""
    monkeypatch.setattr(device, "_visible_gpus", lambda: 1)
    monkeypatch.setattr(device, "_installed", {"tensorflow": "2.21.0"}.get)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)


def test_auto_takes_the_cpu_loudly_where_tensorflow_lacks_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a_gpu_without_cuda(monkeypatch)
    assert resolve("auto").kind == "cpu"
    assert "though this machine has a GPU: the CUDA libraries are missing" in caplog.text


def test_gpu_is_refused_with_what_tensorflow_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu_without_cuda(monkeypatch)
    device._what_tensorflow_sees.cache_clear()
    with pytest.raises(
        DeviceError, match=r"CUDA libraries are missing.*TensorFlow 2\.21\.0 is .* sees \['/physical_device:CPU:0'\]"
    ):
        resolve("gpu")
    device._what_tensorflow_sees.cache_clear()


def test_a_tensorflow_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device._what_tensorflow_sees.cache_clear()
    monkeypatch.setattr(device, "TENSORFLOW_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(device, "PROBE_TIMEOUT", 0.5)
    with pytest.raises(DeviceError, match="no NVIDIA GPU is visible; TensorFlow did not list its devices within"):
        resolve("gpu")
    device._what_tensorflow_sees.cache_clear()
