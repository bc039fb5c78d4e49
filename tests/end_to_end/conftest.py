"""The fixtures of the tests of the whole job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks import load_back
from tasks.data.datasets import DATASETS
from tasks.learning import isolated, predictions
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
        monkeypatch.setattr(load_back, "predict_isolated", predictions.predict)
        monkeypatch.setattr(isolated, "preload", lambda: None)
