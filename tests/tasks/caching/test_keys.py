from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks
from tasks.caching.keys import DECLARATIONS, PLUMBING, canonical, closure, differences, key_document, key_of, plain
from tasks.settings import Recipe

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

STEPS = {
    "download": "tasks.download",
    "preprocess": "tasks.preprocess",
    "train": "tasks.train",
    "evaluate": "tasks.evaluate",
    "load_back": "tasks.load_back",
    "export": "tasks.export",
    "report": "tasks.report.step",
}

# Prints every step's key, from wherever the project lies.
KEYS = """
import json
from tasks.caching.keys import key_document, key_of
from tasks.settings import Recipe
def key(name, module):
    return key_of(key_document(name, module, {"recipe": Recipe()}, ["numpy"]))
print(json.dumps({name: key(name, module) for name, module in json.loads(input()).items()}))
"""


def python(code: str, folder: Path, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        input=json.dumps(STEPS),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def keys_in(folder: Path, **environment: str) -> dict[str, str]:
    keys: dict[str, str] = json.loads(python(KEYS, folder, **environment))
    return keys


def copied(folder: Path) -> Path:
    """The project's sources in another place."""
    root = Path(tasks.__file__).parent
    for path in root.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            target = folder / "tasks" / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_a_mapping_changes_nothing(value: dict[str, object]) -> None:
    assert canonical(value) == canonical(dict(reversed(value.items())))
    assert json.loads(canonical(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_has_no_key(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        key_of({"inputs": value})


def test_what_is_no_value_cannot_be_an_input() -> None:
    with pytest.raises(TypeError, match="not object"):
        plain({"recipe": [Recipe(), object()]})


def test_two_machines_compute_the_same_keys(tmp_path: Path) -> None:
    here = keys_in(copied(tmp_path / "here"), PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC")
    there = keys_in(copied(tmp_path / "far" / "away"), PYTHONHASHSEED="2", LC_ALL="C.UTF-8", TZ="Asia/Tokyo")
    assert here == there
    assert len(set(here.values())) == len(STEPS)


# Which steps depend on which file: an edit to it must re-run these, and an edit to any other must re-run none.
DEPENDENTS = {
    "tasks/address.py": {"download"},
    # `from tasks.data import ...` runs it.
    "tasks/data/__init__.py": {"download"},
    "tasks/data/arrays.py": {"download", "evaluate", "export", "load_back", "preprocess", "report", "train"},
    "tasks/data/content.py": {"download", "evaluate", "export", "load_back", "preprocess", "report", "train"},
    "tasks/data/datasets.py": {"download"},
    "tasks/data/idx.py": {"download"},
    "tasks/data/mirrors.py": {"download"},
    "tasks/data/pins.py": {"download"},
    "tasks/data/reading.py": {"download"},
    "tasks/data/sources/__init__.py": {"download"},
    "tasks/data/sources/canonical.py": {"download"},
    "tasks/data/sources/csv_file.py": {"download"},
    "tasks/data/sources/idx_files.py": {"download"},
    "tasks/data/sources/interface.py": {"download"},
    "tasks/data/sources/npz.py": {"download"},
    "tasks/data/sources/parquet.py": {"download"},
    "tasks/data/sources/picture_folder.py": {"download"},
    "tasks/data/sources/pictures.py": {"download"},
    "tasks/data/sources/trees.py": {"download"},
    "tasks/data/splits.py": {"preprocess"},
    "tasks/download.py": {"download"},
    "tasks/evaluate.py": {"evaluate"},
    "tasks/export.py": {"export"},
    "tasks/gate/comparison.py": {"report"},
    "tasks/gate/intervals.py": {"report"},
    "tasks/gate/paired.py": {"report"},
    "tasks/learning/__init__.py": {"evaluate", "export", "load_back", "train"},
    "tasks/learning/agreement.py": {"export", "load_back"},
    "tasks/learning/architecture.py": {"evaluate", "export", "load_back", "train"},
    "tasks/learning/backend.py": {"evaluate", "export", "load_back", "train"},
    "tasks/learning/checkpoints.py": {"train"},
    "tasks/learning/device.py": {"train"},
    "tasks/learning/epoch.py": {"train"},
    "tasks/learning/isolated.py": {"evaluate", "load_back"},  # `reevaluate` is in the module of `evaluate`
    "tasks/learning/layers.py": {"evaluate", "export", "load_back", "train"},
    "tasks/learning/metrics.py": {"evaluate"},
    "tasks/learning/model_file.py": {"evaluate", "export", "load_back", "train"},
    "tasks/learning/network.py": {"train"},
    "tasks/learning/onnx_file.py": {"export"},
    "tasks/learning/predictions.py": {"evaluate", "load_back"},
    "tasks/learning/training.py": {"train"},
    "tasks/learning/weights_file.py": {"evaluate", "export", "load_back", "train"},
    "tasks/load_back.py": {"load_back"},
    "tasks/preprocess.py": {"preprocess"},
    "tasks/report/__init__.py": {"report"},
    "tasks/report/model_page.html": {"report"},  # lies beside the template of the report
    "tasks/report/model_page.js": {"report"},
    "tasks/report/batches.html.jinja": {"report"},  # lies beside the template of the report
    "tasks/report/calibration.py": {"report"},
    "tasks/report/changes.py": {"report"},
    "tasks/report/compare.html.jinja": {"report"},  # lies beside the report's template
    "tasks/report/facts.py": {"report"},
    "tasks/report/figures.py": {"report"},
    "tasks/report/formatting.py": {"report"},
    "tasks/report/html.py": {"report"},
    "tasks/report/markdown.py": {"report"},
    "tasks/report/parts.html.jinja": {"report"},
    "tasks/report/report.html.jinja": {"report"},
    "tasks/report/report.schema.json": {"report"},  # lies beside the templates; a change of values makes both
    "tasks/report/schema.py": {"report"},  # names the schema that is published beside the report
    "tasks/report/step.py": {"report"},
    "tasks/report/style.css": {"report"},
    "tasks/train.py": {"train"},
    "tasks/running/caller.py": {"evaluate", "load_back"},
}

# Edits each file in turn, and prints which steps' keys that changes. What the keys remember of a module is forgotten
# when one of its files changes, as by a new process; all of it after each edit would take half a minute.
EDITS = """
import json, pathlib
from tasks.caching import keys
steps = json.loads(input())
def by_content(function):
    known = {}
    def cached(module, sources=keys.OURS):
        path = keys._source_path(sources, module)
        files = [path, *keys._data_files(module, sources)] if path else []
        content = (module, *(file.read_bytes() for file in files))
        if content not in known:
            known[content] = function.__wrapped__(module, sources)
        return known[content]
    return cached
for name in ("_imports", "_tree", "source_digest"):
    setattr(keys, name, by_content(getattr(keys, name)))
def now():
    return {name: keys.key_of(keys.key_document(name, module, {}, [])) for name, module in steps.items()}
before, changed = now(), {}
for path in sorted(path for path in pathlib.Path().rglob("*") if path.is_file() and path.suffix != ".pyc"):
    original = path.read_bytes()
    path.write_bytes(original + b"\\nEDITED = 1\\n")
    changed[path.as_posix()] = [name for name, key in now().items() if key != before[name]]
    path.write_bytes(original)
print(json.dumps(changed))
"""


def test_an_edit_to_a_file_reaches_exactly_the_steps_that_use_it(tmp_path: Path) -> None:
    changed: dict[str, list[str]] = json.loads(python(EDITS, copied(tmp_path)))
    assert len(changed) > 40
    assert {name: set(steps) for name, steps in changed.items() if steps} == DEPENDENTS


def test_a_comment_or_a_docstring_changes_no_key(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    before = keys_in(folder)
    path = folder / "tasks/train.py"
    path.write_text("# A comment.\n" + path.read_text().replace('"""The train step', '"""This is the train step'))
    assert keys_in(folder) == before


# Functions of declaring modules that compute nothing a step's result depends on.
DECLARED = {"__init__", "__str__", "card", "_split", "_time_zone", "_unset", "is_line", "judges_only", "model_name"}
DECLARED |= {"home", "allow_http", "history_decides", "longest_training", "_switch"}  # read the environment
DECLARED |= {"recipe_for", "gate_for", "deployment_prefix"}  # choose inputs
DECLARED |= {"test_set", "first_weights", "failed"}  # name what is published or refused, for no step that is cached
DECLARED |= {"has_batches"}  # chooses the step
DECLARED |= {
    "_address",
    "_kind",
    "_seeds",
    "check",
    "require_judgeable",
    "require_plain",
    "require_usable_environment",
    "_is_proxy",
    "_block_name",
    "causes",
    "reason_of",
}  # refuse


def test_modules_left_out_of_the_keys_only_declare_fields() -> None:
    """Their content is in the inputs; code in them would be code that no key sees."""
    for name in DECLARATIONS:
        path = Path(tasks.__file__).parent / f"{name.removeprefix('tasks.').replace('.', '/')}.py"
        functions = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        assert set(functions) <= DECLARED, name


def test_the_closure_follows_imports_inside_functions_and_packages() -> None:
    modules = closure("tasks.report.step")
    assert {"tasks.report", "tasks.report.html", "tasks.report.figures", "tasks.data.arrays"} <= modules
    assert not any(name.startswith(PLUMBING) for name in modules)


def test_what_changed_is_said_in_words() -> None:
    old = key_document("train", "tasks.train", {"recipe": Recipe()}, ["numpy"])
    new = key_document("train", "tasks.train", {"recipe": Recipe(learning_rate=0.002, seed=1)}, ["numpy"])
    assert differences(old, new) == ["learning_rate 0.001 → 0.002", "seed 0 → 1"]
    edited = {**new, "code": {**new["code"], "tasks.train": "other"}, "packages": {"numpy": "9.9"}}
    assert differences(new, edited) == ["code tasks.train changed", f"numpy {new['packages']['numpy']} → 9.9"]
    assert differences(new, new) == []
    listed = {**new, "inputs": {**new["inputs"], "given": [1, 2]}}
    assert differences(new, listed) == ["given changed"]
