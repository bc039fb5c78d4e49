from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.device import describe, resolve
from tasks.errors import DeviceError


def test_without_a_gpu_auto_is_the_cpu_and_tensorflow_is_not_asked() -> None:
    code = "import sys; from tasks.device import resolve; print(resolve('auto'), 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "False"]


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_tensorflow_sees() -> None:
    with pytest.raises(DeviceError, match=r"no NVIDIA GPU is visible; TensorFlow 2.* sees .*CPU:0") as told:
        resolve("gpu")
    assert "--device cpu" in str(told.value)


def test_a_device_has_its_vendors_name() -> None:
    assert resolve("cpu") == "cpu"
    found = describe("cpu")
    assert found.kind == "cpu"
    assert "cores" in found.name
