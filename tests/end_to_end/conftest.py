"""The fixtures of the tests of the whole job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import evaluate, load_back
from tasks.data.datasets import DATASETS
from tasks.learning import isolated, predictions
from tests.end_to_end.jobs import job
from tests.mirrors import CONTENTS, Mirror, gzipped, serving, spec_for


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror that serves a small data set as MNIST."""
    monkeypatch.setitem(DATASETS, "mnist", spec_for(CONTENTS))
    with serving(gzipped(CONTENTS)) as running:
        yield running


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """For a test that loads the model file back in an isolated process, as the job does."""
    isolated.dismiss()
    yield
    isolated.dismiss()


@pytest.fixture(autouse=True)
def loaded_back_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load back in this process in all other tests: a subprocess would import TensorFlow for each model, in seconds."""
    if "fresh_process" not in request.fixturenames:
        for step in (evaluate, load_back):
            monkeypatch.setattr(step, "predict_isolated", predictions.predict)
        monkeypatch.setattr(isolated, "preload", lambda: None)


@pytest.fixture(scope="session")
def _first_store(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patched, serving(gzipped(CONTENTS)) as running:
        patched.setitem(DATASETS, "mnist", spec_for(CONTENTS))
        job(str(folder), running)
    return folder


@pytest.fixture
def trained_store(_first_store: Path, tmp_path: Path) -> Path:
    """A copy of a store that a run has filled."""
    return Path(shutil.copytree(_first_store, tmp_path / "store"))
