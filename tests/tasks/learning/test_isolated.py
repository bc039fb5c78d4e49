from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.data.arrays import Bytes
from tasks.errors import LoadBackError, SubprocessError
from tasks.learning import isolated
from tasks.learning.isolated import dismiss, predict_isolated, preload
from tasks.learning.model_file import to_bytes
from tasks.learning.predictions import predict
from tasks.load_back import TOLERANCE, compare
from tests.tasks.learning.test_metrics import network
from tests.tasks.learning.test_model_file import LAMBDA, with_layer

IMAGES: Bytes = np.random.default_rng(0).integers(0, 256, (40, 784), np.uint8)


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    dismiss()
    yield
    dismiss()


@pytest.fixture(scope="module")
def model() -> bytes:
    return to_bytes(network())


def test_a_fresh_process_predicts_the_same_bit_for_bit_and_another_model_does_not(model: bytes) -> None:
    predicted = predict_isolated(model, IMAGES)
    evaluated = predict(model, IMAGES)
    assert predicted.tobytes() == evaluated.tobytes()
    assert compare(predicted, evaluated).model_dump() == {
        "images": 40,
        "same": 40,
        "largest_difference": 0.0,
        "failure": "",
    }
    other = network()
    other.layers[0].kernel.assign(other.layers[0].kernel.numpy()[::-1])
    altered = compare(predict(to_bytes(other), IMAGES), evaluated)
    assert altered.same < altered.images
    assert altered.largest_difference > TOLERANCE


def test_an_unsafe_file_is_refused_with_the_loaders_reason(model: bytes) -> None:
    with pytest.raises(LoadBackError, match="the class Lambda, which is not known to be harmless"):
        predict_isolated(with_layer(model, LAMBDA), IMAGES)


def test_a_process_that_needs_too_much_memory_is_ended(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MEMORY_LIMIT", 50_000_000)
    with pytest.raises(SubprocessError, match="on this machine"):
        predict_isolated(model, IMAGES)


def test_a_lower_limit_of_this_machine_stays_and_is_no_refusal(model: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(model)
    for limit, expected in ((4 * 2**30, "(40, 10)"), (2**27, "SubprocessError")):
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), str(tmp_path / "model")],
            cwd=isolated.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == expected, done.stderr


# Predicts under a limit of memory that may not be raised; the array's shape, or the kind of error.
LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from tasks.errors import RetrainError
from tasks.learning.isolated import predict_isolated
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
try:
    print(predict_isolated(Path(sys.argv[2]).read_bytes(), np.zeros((40, 784), np.uint8)).shape)
except RetrainError as error:
    print(type(error).__name__)
"""


def impostor(folder: Path, code: str) -> Path:
    """A project whose process does something else."""
    (folder / "tasks/learning").mkdir(parents=True, exist_ok=True)
    for package in ("tasks", "tasks/learning"):
        (folder / package / "__init__.py").touch()
    (folder / "tasks/learning/predictions.py").write_text(f"import os, sys, time\nimport numpy as np\n{code}\n")
    return folder


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("os.kill(os.getpid(), 9)", "the process was killed by SIGKILL"),
        ("time.sleep(600)", "the process was not done after 2 s"),
        ("os._exit(0)", "No such file"),
        ("os._exit(7)", "the process ended with 7"),
        ("raise ValueError('what is this')", "ValueError: what is this"),
        ("open('probabilities.npy', 'wb').write(b'')", "wrote no array"),
        ("open('probabilities.npy', 'wb').write(b'x' * 500)", "wrote no array"),
        ("np.save('probabilities.npy', np.array([{}]), allow_pickle=True)", "wrote no array"),
        ("np.savez('p.npz', a=1); os.rename('p.npz', 'probabilities.npy')", "wrote no array"),
        ("np.save('probabilities.npy', np.zeros((39, 10), np.float32))", r"wrote float32 \(39, 10\) for 40 images"),
        ("np.save('probabilities.npy', np.zeros((40, 10)))", r"wrote float64 \(40, 10\)"),
        ("np.save('probabilities.npy', np.zeros(40, np.float32))", r"wrote float32 \(40,\)"),
    ],
)
def test_a_process_that_dies_hangs_or_writes_something_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    monkeypatch.setattr(isolated, "ROOT", impostor(tmp_path, code))
    if "sleep" in code:
        monkeypatch.setattr(isolated, "TIMEOUT", 2.0)
    verdict = LoadBackError if why.startswith("wrote float") else SubprocessError
    with pytest.raises(verdict, match=why):
        predict_isolated(b"model", IMAGES)


def test_a_disk_that_is_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SubprocessError, match="No space left on device"):
        predict_isolated(b"model", IMAGES)


# Waits for a line, and predicts its own number.
WAITS = """
sys.stdin.readline()
np.save("probabilities.npy", np.full((40, 10), os.getpid() % 2**20, np.float32))
"""


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The id of a process that waits."""
    monkeypatch.setattr(isolated, "ROOT", impostor(tmp_path, WAITS))
    preload()
    preload()
    assert isolated._preloaded
    return isolated._preloaded._process.pid


def test_the_process_that_waits_is_taken_once(waiting: int) -> None:
    assert predict_isolated(b"model", IMAGES)[0, 0] == waiting % 2**20
    assert not psutil.pid_exists(waiting)
    assert predict_isolated(b"model", IMAGES)[0, 0] != waiting % 2**20


def test_where_the_process_that_waits_has_died_another_one_predicts(waiting: int) -> None:
    os.kill(waiting, signal.SIGKILL)
    psutil.Process(waiting).wait(10)
    assert predict_isolated(b"model", IMAGES)[0, 0] != waiting % 2**20


def test_a_process_that_is_not_needed_ends_and_leaves_nothing(waiting: int) -> None:
    assert isolated._preloaded
    folder = Path(isolated._preloaded._folder.name)
    assert folder.exists()
    dismiss()
    assert not psutil.pid_exists(waiting)
    assert not folder.exists()


def test_a_process_that_waits_ends_with_the_one_that_started_it() -> None:
    code = (
        "from tasks.learning import isolated; isolated.preload(); "
        "print(isolated._preloaded._process.pid, isolated._preloaded._folder.name, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=isolated.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        pid, folder = starter.stdout.readline().split()
        waiting = psutil.Process(int(pid))
        starter.kill()
    waiting.wait(60)
    assert not Path(folder).exists()
