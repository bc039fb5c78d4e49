from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tasks.report.provenance
from tasks.report.provenance import _digest, provenance


def test_a_model_says_what_code_packages_and_data_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_REVISION", "release 7")
    result = provenance("https://mirror.example.org/", {"train": 1.5})
    assert (result.code, result.source, result.seconds) == ("release 7", "https://mirror.example.org/", {"train": 1.5})
    assert {"keras", "numpy", "prefect"} <= result.packages.keys()
    assert result.digests.keys() == result.packages.keys()


RECORD = """a/b.py,sha256=one,1
a-1.dist-info/INSTALLER,sha256=pip,4
../../bin/a,sha256=mine,9
a-1.dist-info/RECORD,,
"""


@pytest.mark.parametrize(
    ("record", "same"),
    [
        (RECORD.replace("sha256=pip", "sha256=uv").replace("sha256=mine", "sha256=yours"), True),
        ("".join(f"{line}\n" for line in reversed(RECORD.splitlines())), True),
        (RECORD.replace("sha256=one", "sha256=two"), False),
        (RECORD.replace("a/b.py", "a/c.py"), False),
        (RECORD + "a/c.py,sha256=more,1\n", False),
    ],
)
def test_a_package_is_named_by_its_files_whoever_installed_it(
    record: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(name: str, text: str) -> str:
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "RECORD").write_text(text)
        return _digest(name)

    _digest.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    assert (digest("first", RECORD) == digest("second", record)) is same
    assert digest("third", "") == _digest("not-installed") == ""


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        result = subprocess.run(["git", "-C", tmp_path, *who, *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    git("init")
    (tmp_path / "tasks").mkdir()
    module = tmp_path / "tasks/provenance.py"
    module.write_text("")
    git("add", ".")
    git("commit", "-m", "one")
    monkeypatch.setattr(tasks.report.provenance, "__file__", str(module))
    monkeypatch.delenv("RETRAIN_REVISION", raising=False)
    commit = git("rev-parse", "HEAD")[:12]
    assert provenance("", {}).code == commit
    module.write_text("edited")
    assert provenance("", {}).code == f"{commit} + changes"
