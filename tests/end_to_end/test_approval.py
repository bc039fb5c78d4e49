"""A model that passes the gate waits until a person approves it: the whole job, and the decision's own flow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.schemas.objects import State

from flows.approve import approve
from tasks.registry import Registry
from tasks.registry.runs import RunIndex
from tasks.settings import GateSettings, RecipeSettings
from tasks.storage import open_store
from tasks.values import Outcome
from tests.end_to_end import jobs
from tests.end_to_end.jobs import outcome
from tests.mirrors import Mirror

pytestmark = pytest.mark.usefixtures("prefect_server")

ANY = GateSettings(min_accuracy=0.0, min_accuracy_lower_bound=0.0, min_class_recall=0.0, max_regression=0.9)
OTHER = RecipeSettings(epochs=3, batch_size=32, seed=5)
THIRD = RecipeSettings(epochs=3, batch_size=32, seed=9)


def job(store: str, mirror: Mirror, recipe: RecipeSettings = jobs.RECIPE, gate: GateSettings = ANY, **more: Any) -> Any:
    return jobs.job(store, mirror, recipe, gate, **more)


def decide(store: Path, version: int, **more: Any) -> State[Outcome]:
    return cast(State[Outcome], approve(version, "mnist", store=str(store), return_state=True, **more))


def registry(store: Path) -> Registry:
    return Registry(open_store(str(store)), "mnist")


def verdicts(store: Path) -> list[tuple[str, int]]:
    return [(row["verdict"], row["version"]) for row in RunIndex(open_store(str(store)), "mnist").shown()]


def champion(store: Path) -> int | None:
    pointer = registry(store).checked_champion()
    return pointer.version if pointer else None


def test_a_first_model_waits_and_becomes_champion_once_approved(tmp_path: Path, mirror: Mirror) -> None:
    state = job(str(tmp_path), mirror, approve=True)
    assert (state.name, state.is_completed()) == ("AwaitingApproval", True)
    assert "retrain approve 1" in str(state.message)
    result = outcome(state)
    assert result.receipt
    assert (result.verdict, result.receipt.approval, champion(tmp_path)) == ("waiting", "waits", None)
    again = job(str(tmp_path), mirror, approve=True)
    assert again.name == "Unchanged"
    assert "waits for approval" in str(again.message)
    assert registry(tmp_path).versions() == [1]
    approved = decide(tmp_path, 1, reason="as agreed")
    assert (approved.name, champion(tmp_path)) == ("Published", 1)
    assert "as agreed" in registry(tmp_path).history()[-1].reason
    assert decide(tmp_path, 1).name == "Unchanged"
    assert job(str(tmp_path), mirror, approve=True).name == "Unchanged"
    assert verdicts(tmp_path) == [("waiting", 1), ("unchanged", 1), ("published", 1), ("unchanged", 1)]


def test_what_was_declined_is_not_asked_for_again(trained_store: Path, mirror: Mirror) -> None:
    assert outcome(job(str(trained_store), mirror, OTHER, approve=True)).verdict == "waiting"
    declined = decide(trained_store, 2, answer="decline", reason="not this week")
    assert declined.name == "Declined"
    assert "not this week" in str(declined.message)
    again = job(str(trained_store), mirror, OTHER, approve=True)
    assert again.name == "Unchanged"
    assert "It was declined" in str(again.message)
    assert (champion(trained_store), registry(trained_store).versions()) == (1, [1, 2])


def test_declining_without_a_reason_fails_in_one_line(trained_store: Path, mirror: Mirror) -> None:
    job(str(trained_store), mirror, OTHER, approve=True)
    state = decide(trained_store, 2, answer="decline")
    assert state.is_failed()
    assert "no reason is given" in str(state.message)
    assert list(registry(trained_store).waiting()) == [2]


def test_a_version_is_judged_again_beside_a_champion_that_is_new(trained_store: Path, mirror: Mirror) -> None:
    for recipe in (OTHER, THIRD):
        job(str(trained_store), mirror, recipe, approve=True)
    assert decide(trained_store, 2).name == "Published"
    state = decide(trained_store, 3)
    assert (state.name, champion(trained_store)) == ("Published", 3)
    decision = outcome(state).decision
    assert any("champion v2" in check.name for check in decision.checks), "compared with the champion of now"
    run = outcome(state).run
    assert (trained_store / "runs" / run / "report.html").exists()
    assert verdicts(trained_store)[-4:] == [("waiting", 2), ("waiting", 3), ("published", 2), ("published", 3)]


def test_a_version_that_loses_to_the_new_champion_is_rejected(tmp_path: Path, mirror: Mirror) -> None:
    strict = GateSettings(**ANY.model_dump() | {"max_regression": 0.0})
    worse = RecipeSettings(epochs=1, batch_size=32, seed=3)
    assert job(str(tmp_path), mirror, worse, strict, approve=True).name == "AwaitingApproval"
    assert job(str(tmp_path), mirror).name == "Published"
    state = decide(tmp_path, 1)
    assert (state.name, champion(tmp_path)) == ("Rejected", 2)
    assert list(registry(tmp_path).waiting()) == [1], "a person may still decline it"
    assert verdicts(tmp_path)[-1] == ("rejected", 0)
    assert decide(tmp_path, 1, answer="decline", reason="it lost").name == "Declined"


def test_a_version_whose_images_are_gone_is_not_approved_unseen(
    trained_store: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for recipe in (OTHER, THIRD):
        job(str(trained_store), mirror, recipe, approve=True)
    decide(trained_store, 2)
    shutil.rmtree(trained_store / "cache")
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    state = decide(trained_store, 3)
    assert state.is_failed()
    assert "no longer in the cache" in str(state.message)
    assert "retrain run" in str(state.message)
    assert champion(trained_store) == 2


def test_a_forced_model_waits_too(trained_store: Path, mirror: Mirror) -> None:
    never = GateSettings(**ANY.model_dump() | {"min_accuracy": 1.0})
    state = job(str(trained_store), mirror, OTHER, never, force_publish="the old one is wrong", approve=True)
    assert (state.name, champion(trained_store)) == ("AwaitingApproval", 1)
    assert decide(trained_store, 2).name == "Published"
    assert "the old one is wrong" in registry(trained_store).history()[-1].reason


def test_without_the_setting_nothing_waits(trained_store: Path, mirror: Mirror) -> None:
    job(str(trained_store), mirror, OTHER, approve=True)
    state = job(str(trained_store), mirror, THIRD)
    assert (state.name, champion(trained_store)) == ("Published", 3)
    assert list(registry(trained_store).waiting()) == [2], "what waits is not forgotten"


def test_a_dry_run_asks_nobody(trained_store: Path, mirror: Mirror) -> None:
    state = job(str(trained_store), mirror, OTHER, approve=True, dry_run=True)
    assert (state.name, registry(trained_store).versions()) == ("Passed", [1])
