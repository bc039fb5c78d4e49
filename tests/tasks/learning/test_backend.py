from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Opens files after the import, so that they get the numbers of descriptors that were closed during it.
PROGRAM = """
import logging, os, sys
from pathlib import Path
from tasks.learning import backend
backend.keras()
files = [open(f"file-{number}", "w") for number in range(20)]
logger = logging.getLogger("tensorflow")
assert logger.handlers
logger.error("a line of TensorFlow's log")
logger.warning("a warning")
print("a line of this program", file=sys.stderr)
print([file.name for file in files if Path(file.name).stat().st_size])
"""


def test_tensorflows_log_never_reaches_a_file_that_was_opened_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert done.stderr.splitlines() == ["ERROR:tensorflow:a line of TensorFlow's log", "a line of this program"]


# As TensorFlow says it: the cause is within, and its own message holds a whole traceback.
BROKEN = """
try:
    raise ImportError("libcudart.so.12: cannot open shared object file: No such file or directory")
except ImportError:
    import traceback
    raise ImportError(f"{traceback.format_exc()}\\n\\nFailed to load the native TensorFlow runtime.")
"""
MISSING = "import sys\nsys.modules['tensorflow'] = None\n"  # as if it were not installed


@pytest.mark.parametrize(
    ("files", "environment", "why"),
    [
        ({"sitecustomize.py": MISSING}, {}, "cannot train: the package tensorflow is not installed"),
        ({}, {"KERAS_BACKEND": "nothing"}, "cannot train: the package nothing (KERAS_BACKEND) is not installed"),
        (
            {"tensorflow/__init__.py": BROKEN},
            {},
            "cannot train: the import of Keras and its backend fails: ImportError: libcudart.so.12: cannot open shared "
            "object file: No such file or directory",
        ),
    ],
    ids=["missing", "another", "broken"],
)
def test_a_backend_that_is_missing_or_damaged_is_one_line(
    files: dict[str, str], environment: dict[str, str], why: str, tmp_path: Path, prefect_server: None
) -> None:
    from prefect.settings import PREFECT_API_URL

    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "run", "--dataset", "digits", "--store", str(tmp_path / "store")],
        env={
            **{name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"},
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])]),
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith(f"retrain: {why}. ")
    assert "pip install -e '.[cpu]'" in last
    if "tensorflow/__init__.py" not in files:
        assert before == [], "found before anything begins"
        assert not (tmp_path / "store").exists()


# What a user may have set; prints what is left of it.
CONFIGURED = """
import os
from tasks.learning import backend
keras = backend.keras()
print(keras.backend.backend(), keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format())
print(keras.config.max_epochs(), keras.config.max_steps_per_epoch(), keras.config.dtype_policy().name)
print(sorted(name for name in os.environ if name.startswith(("TF_", "DNNL_", "ONEDNN_", "NVIDIA_TF32"))))
"""
KERAS_JSON = """{"backend": "numpy", "floatx": "float16", "epsilon": 0.01, "image_data_format": "channels_first",
"max_epochs": 1, "max_steps_per_epoch": 2}"""
FOREIGN = {
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
    "TF_CONFIG": "{",
    "TF2_BEHAVIOR": "0",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "ANY",
    "NVIDIA_TF32_OVERRIDE": "1",
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
}


def test_neither_configuration_file_nor_variables_reach_a_training(tmp_path: Path) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(KERAS_JSON)
    kept = {"TF_NUM_INTRAOP_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED],
        cwd=Path(__file__).parents[3],
        env={"HOME": str(tmp_path), "PATH": "", **FOREIGN, **kept},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "tensorflow float32 1e-07 channels_last",
        "None None float32",
        "['TF_CPP_MIN_LOG_LEVEL', 'TF_NUM_INTRAOP_THREADS']",
    ], done.stderr
    assert (tmp_path / ".keras/keras.json").read_text() == KERAS_JSON
