from __future__ import annotations

import subprocess
import sys

from tasks.device import describe, resolve


def test_without_a_gpu_auto_is_the_cpu_and_tensorflow_is_not_asked() -> None:
    code = "import sys; from tasks.device import resolve; print(resolve('auto'), 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "False"]


def test_a_device_has_its_vendors_name() -> None:
    assert resolve("cpu") == "cpu"
    found = describe("cpu")
    assert found.kind == "cpu"
    assert "cores" in found.name
