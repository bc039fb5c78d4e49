from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tasks.provenance
from tasks.provenance import provenance


def test_a_model_says_what_code_packages_and_data_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_REVISION", "release 7")
    found = provenance("https://mirror.example.org/", {"train": 1.5})
    assert (found.code, found.source, found.seconds) == ("release 7", "https://mirror.example.org/", {"train": 1.5})
    assert {"keras", "numpy", "prefect"} <= found.packages.keys()


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "tasks").mkdir()
    module = tmp_path / "tasks/provenance.py"
    module.write_text("")
    git("add", ".")
    git("commit", "-m", "one")
    monkeypatch.setattr(tasks.provenance, "__file__", str(module))
    monkeypatch.delenv("RETRAIN_REVISION", raising=False)
    commit = git("rev-parse", "HEAD")[:12]
    assert provenance("", {}).code == commit
    module.write_text("edited")
    assert provenance("", {}).code == f"{commit} + changes"
