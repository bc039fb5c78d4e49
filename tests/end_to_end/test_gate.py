"""The gate in the whole job: champion, pin, override, damage, changed test sets, and runs that race."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.schemas.objects import State

from flows.cli.main import main
from flows.retrain import retrain
from tasks.data import idx
from tasks.data.arrays import from_npy
from tasks.data.datasets import DATASETS
from tasks.errors import ChampionMoved, GateRejected, RegistryError, UsageError
from tasks.evaluate import evaluate
from tasks.judge import report_facts
from tasks.publish import ROUNDS
from tasks.registry import Registry
from tasks.settings import ONE_SEED, Data, GateSettings, RecipeSettings
from tasks.storage import ObjectStore, open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Decision, Outcome
from tests.faults.proxy import Fault, proxying
from tests.mirrors import CONTENTS, Contents, Mirror, gzipped, serving, spec_for
from tests.model_files import oracle

GOOD = RecipeSettings(epochs=3, batch_size=32)
WORSE = RecipeSettings(epochs=1, batch_size=32, learning_rate=0.0001)
# Only the row of the champion.
GATE = GateSettings(min_accuracy=0, min_accuracy_lower_bound=0, min_class_recall=0)

pytestmark = pytest.mark.usefixtures("prefect_server")


def job(store: ObjectStore, mirror: Mirror, recipe: RecipeSettings = GOOD, **more: Any) -> State[Outcome]:
    data, gate = Data(mirror=(mirror.url,)), more.pop("gate", GATE)
    options = {"device": "cpu", "seeds": ONE_SEED} | more
    return cast(State[Outcome], retrain(data, recipe, gate, store=store.url, return_state=True, **options))


def outcome(state: State[Outcome]) -> Outcome:
    """The outcome of a run, also of a rejected one."""
    try:
        return cast(Any, state.result())  # type: ignore[no-any-return]
    except GateRejected as rejection:
        return cast(Outcome, rejection.outcome)


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def registry_of(store: ObjectStore) -> Registry:
    return Registry(store, "mnist")


def test_champion_pin_and_override_from_the_first_model_on(
    store: ObjectStore, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    first = outcome(job(store, mirror))
    assert (first.verdict, first.decision.remark) == ("published", "no champion yet")

    state = job(store, mirror, WORSE)
    worse = outcome(state)
    assert (state.name, worse.verdict, failed(worse.decision)) == ("Rejected", "rejected", ["loss to champion v1"])
    assert "allowed 0.0020" in worse.decision.checks[-1].sentence
    assert b"loss to champion v1" in store.get(f"runs/{worse.run}/report.md", LARGEST_DOCUMENT).data
    assert registry_of(store).versions() == [1]

    state = job(store, mirror, WORSE, force_publish="the audit wants it")
    forced = outcome(state)
    assert (state.name, forced.verdict) == ("Published", "published")
    assert "Rejected by the gate: loss to champion v1. Published all the same by " in str(state.message)
    assert forced.receipt
    assert (forced.receipt.version, forced.receipt.champion) == (2, 2)
    for kept in (
        forced.decision.model_dump(mode="json"),
        json.loads(store.get(f"runs/{forced.run}/decision.json", LARGEST_DOCUMENT).data),
        registry_of(store).manifest(2).facts["decision"],
        json.loads(registry_of(store).read(2, "report.json"))["decision"],
    ):
        assert kept["override"]["reason"] == "the audit wants it"
        assert not kept["checks"][-1]["passed"]
    assert "the audit wants it" in registry_of(store).history()[-1].reason
    assert b"published by override" in registry_of(store).read(2, "report.html")
    assert b"the audit wants it" in registry_of(store).read(2, "report.html")

    # Another bad candidate passes against the worse champion, and fails against the pinned version.
    another = WORSE.model_copy(update={"seed": 1})
    options = ["--store", store.url]
    assert main(["pin", "1", "--reason", "as good as it has to be", "--seeds", "1", *options]) == 0
    pinned = outcome(job(store, mirror, another, gate=GATE.model_copy(update={"max_regression": 0.2})))
    assert [check.name for check in pinned.decision.checks[-2:]] == ["loss to champion v2", "loss to reference v1"]
    assert failed(pinned.decision) == ["loss to reference v1"]
    capsys.readouterr()
    assert main(["champion", *options]) == 0
    assert main(["versions", *options]) == 0
    shown = capsys.readouterr().out
    assert "reference: version 1, pinned " in shown
    assert "as good as it has to be" in shown
    assert [line.split()[-1] for line in shown.splitlines()[-2:]] == ["reference", "champion"]
    assert main(["unpin", *options]) == 0
    freed = outcome(job(store, mirror, another, gate=GATE.model_copy(update={"max_regression": 0.2})))
    assert (freed.verdict, failed(freed.decision)) == ("published", [])


def test_a_run_again_after_a_rollback_does_not_undo_it(local: ObjectStore, mirror: Mirror) -> None:
    tolerant = GATE.model_copy(update={"max_regression": 1.0})
    for recipe in (GOOD, WORSE):
        job(local, mirror, recipe, gate=tolerant)
    assert main(["rollback", "--store", local.url, "--reason", "customers complained"]) == 0
    state = job(local, mirror, WORSE, gate=tolerant)
    result = outcome(state)
    assert state.name == "Unchanged"
    assert result.decision.remark == "version 2 has these weights already, and version 1 was put back in its place"
    assert result.receipt
    assert (result.receipt.version, result.receipt.champion, result.receipt.new) == (2, 1, False)
    assert registry_of(local).versions() == [1, 2]


def test_a_champion_of_another_test_set_is_evaluated_again(
    local: ObjectStore, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(local, mirror)
    labels = idx.decode(CONTENTS["test_labels"], "labels", (300,)).copy()
    labels[:7] = (labels[:7] + 1) % 10
    other: Contents = {**CONTENTS, "test_labels": idx.encode(labels)}
    monkeypatch.setitem(DATASETS, "mnist", spec_for(other))
    with serving(gzipped(other)) as serves:
        # The checksums of the data set are not in the cache key, because they change only with their module.
        new = {"gate": GateSettings(**_lenient()), "refresh": ("download",)}
        result = outcome(job(local, serves, GOOD.model_copy(update={"seed": 1}), **new))
        steps = {step.name: step.cached for step in result.steps}
        assert steps["reevaluate"] is False
        assert result.verdict == "published", "it is judged against the champion on the new labels"
        assert result.decision.checks[-1].name == "loss to champion v1"
        # The first model again: its predictions belong to the old labels and are not reused.
        again = outcome(job(local, serves, WORSE))
        assert failed(again.decision) == ["loss to champion v2"]
        main(["rollback", "--store", local.url, "--to", "1"])
        same = outcome(job(local, serves))
    assert same.decision.verdict == "no change"
    assert "reevaluate" not in [step.name for step in same.steps], "its own evaluation is that of the champion"
    assert same.decision.checks[-1].passed
    assert same.decision.accuracy < 0.99
    report = json.loads(local.get(f"runs/{same.run}/report.json", LARGEST_DOCUMENT).data)
    assert report["decision"]["accuracy"] == report["evaluation"]["accuracy"] == same.decision.accuracy


def _lenient() -> dict[str, float]:
    return {**GATE.model_dump(), "max_regression": 0.5}


def spoil(store: ObjectStore, *names: str) -> None:
    for name in names:
        key = f"models/mnist/versions/1/{name}"
        store.put(key, store.get(key, LARGEST_DOCUMENT).data[:-1])


def test_a_champion_is_compared_by_its_model_whatever_lies_beside_it(
    local: ObjectStore, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    before = outcome(job(local, mirror))
    spoil(local, "predictions.npz")
    worse = outcome(job(local, mirror, WORSE))
    assert failed(worse.decision) == ["loss to champion v1"]
    assert "at least 0." in worse.decision.checks[-1].sentence
    assert "reevaluate" not in [step.name for step in worse.steps], "this store has evaluated it"
    for entry in list(local.list("cache/results/evaluate/")):
        local.delete(entry.key)
    sentence = outcome(job(local, mirror, WORSE)).decision.checks[-1].sentence
    assert sentence == worse.decision.checks[-1].sentence
    assert "the model of champion v1 is evaluated: this store has no result of it" in caplog.text
    # The same weights, but a damaged version: it is published again, because readers cannot read it.
    mended = outcome(job(local, mirror))
    assert (mended.decision.verdict, mended.decision.accuracy) == ("publish", before.decision.accuracy)
    assert mended.receipt
    assert mended.receipt.champion == 2
    assert not registry_of(local).verify(2)


@pytest.mark.parametrize("names", [("model.keras",), ("manifest.json",)])
def test_a_champion_that_cannot_be_read_rejects_until_somebody_decides(
    local: ObjectStore, mirror: Mirror, names: tuple[str, ...]
) -> None:
    job(local, mirror)
    spoil(local, *names)
    for entry in list(local.list("cache/results/evaluate/")):
        local.delete(entry.key)
    better = GOOD.model_copy(update={"epochs": 6})
    state = job(local, mirror, better, gate=GateSettings(**{**_lenient(), "max_regression": 1.0}))
    assert state.name == "Rejected"
    decision = outcome(state).decision
    assert failed(decision) == ["loss to champion v1"]
    sentence = decision.checks[-1].sentence
    assert sentence.startswith("cannot be compared: cannot trust ")
    assert "`retrain rollback`" in sentence
    assert "\n" not in sentence
    forced = outcome(job(local, mirror, better, force_publish="version 1 is lost"))
    assert forced.verdict == "published"
    assert forced.receipt
    assert forced.receipt.champion == 2
    assert outcome(job(local, mirror, better)).verdict == "already published"


def test_a_damaged_pointer_is_an_error_that_a_rollback_ends(local: ObjectStore, mirror: Mirror) -> None:
    job(local, mirror)
    local.put("models/mnist/champion.json", b"{}")
    for force in ("", "I know better"):
        state = job(local, mirror, WORSE, force_publish=force)
        assert state.name == "Failed"
        assert "champion.json" in str(state.message)
    assert registry_of(local).versions() == [1]
    assert main(["rollback", "--store", local.url, "--to", "1"]) == 0
    assert outcome(job(local, mirror)).verdict == "already published"


def test_a_damaged_pin_rejects_until_it_is_removed(local: ObjectStore, mirror: Mirror) -> None:
    job(local, mirror)
    assert main(["pin", "1", "--seeds", "1", "--store", local.url]) == 0
    local.put("models/mnist/reference.json", b"{}")
    result = outcome(job(local, mirror))
    assert (result.verdict, failed(result.decision)) == ("rejected", ["loss to reference"])
    assert main(["unpin", "--store", local.url]) == 0
    assert outcome(job(local, mirror)).verdict == "already published"


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below it, with its time of change and its bytes."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


def test_a_dry_run_judges_and_publishes_nothing(store: ObjectStore, mirror: Mirror) -> None:
    state = job(store, mirror, dry_run=True)
    first = outcome(state)
    assert (state.name, state.is_completed(), first.verdict, first.receipt) == ("Passed", True, "passed", None)
    assert "Nothing was published (dry run)" in str(state.message)
    assert first.decision.remark == "no champion yet"
    assert not list(store.list("models/"))
    assert b"Passed the gate" in store.get(f"runs/{first.run}/report.html", LARGEST_DOCUMENT).data

    published = outcome(job(store, mirror))
    assert published.verdict == "published"
    assert all(step.cached for step in published.steps if step.name in {"train", "evaluate", "load_back", "export"})
    models = [(entry.key, store.etag(entry.key)) for entry in store.list("models/")]
    for _ in range(2):  # the second one is not compared with the first
        state = job(store, mirror, GOOD.model_copy(update={"seed": 3}), gate=GateSettings(**_lenient()), dry_run=True)
        again = outcome(state)
        assert (state.name, again.verdict, again.decision.remark) == ("Passed", "passed", "")
        assert again.decision.checks[-1].name == "loss to champion v1"
    state = job(store, mirror, WORSE, dry_run=True)
    assert (state.name, failed(outcome(state).decision)) == ("Rejected", ["loss to champion v1"])
    state = job(store, mirror, dry_run=True)
    assert (state.name, outcome(state).verdict) == ("Unchanged", "already published")
    assert [(entry.key, store.etag(entry.key)) for entry in store.list("models/")] == models


def test_a_run_that_requires_a_champion_ends_before_the_download_where_there_is_none(
    store: ObjectStore, mirror: Mirror
) -> None:
    for dry_run in (False, True):
        state = job(store, mirror, require_champion=True, dry_run=dry_run)
        assert state.name == "Failed"
        with pytest.raises(RegistryError) as error:
            state.result()
        assert str(error.value).startswith(
            f"cannot compare with the champion of mnist: there is none in {store.url}. Publish one there first"
        )
        assert mirror.asked == []
    job(store, mirror)
    assert outcome(job(store, mirror, require_champion=True)).verdict == "already published"


def test_a_champion_that_is_gone_by_the_time_of_the_judgement_is_an_error_where_one_is_required(
    local: ObjectStore, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(local, mirror)

    def lose(*arguments: Any) -> Any:
        for entry in list(local.list("models/")):
            local.delete(entry.key)
        return evaluate(*arguments)

    monkeypatch.setattr("flows.seeds.evaluate", lose)
    state = job(local, mirror, WORSE, require_champion=True)
    with pytest.raises(RegistryError, match="cannot compare with the champion of mnist: there is none"):
        state.result()
    assert not list(local.list("models/"))


def test_a_baseline_in_another_bucket_is_read_with_credentials_that_may_not_write(
    bucket: str, s3_server: str, mirror: Mirror, local: ObjectStore
) -> None:
    main_store = open_store(f"{bucket}/main")
    job(main_store, mirror)
    assert main(["pin", "1", "--seeds", "1", "--store", main_store.url]) == 0
    denied = Fault("status", method="PUT|POST|DELETE", times=1000, status=403, code="AccessDenied")
    with proxying(s3_server) as proxy:
        proxy.faults.append(denied)
        state = job(local, mirror, WORSE, baseline=main_store.url)
        worse = outcome(state)
        assert (state.name, worse.verdict) == ("Rejected", "rejected")
        assert failed(worse.decision) == ["loss to champion v1", "loss to reference v1"]
        state = job(local, mirror, baseline=main_store.url)
        same = outcome(state)
        assert (state.name, same.verdict) == ("Unchanged", "already published")
        assert same.receipt
        assert (same.receipt.version, same.receipt.new) == (1, False)
        assert same.receipt.url == registry_of(main_store).receipt(1, cast(Any, _champion(main_store)), new=False).url
        better = GOOD.model_copy(update={"seed": 1})
        state = job(local, mirror, better, gate=GateSettings(**_lenient()), baseline=main_store.url)
        assert (state.name, outcome(state).verdict) == ("Passed", "passed")
        assert {request.method for request in proxy.requests} == {"GET"}
        assert (denied.times, denied.after) == (1000, 0), "no write was tried"
    assert b"Compared with the champion" in local.get(f"runs/{outcome(state).run}/report.html", LARGEST_DOCUMENT).data
    assert not list(local.list("models/"))
    assert len({entry.key.split("/")[1] for entry in local.list("runs/")}) == 3


def _champion(store: ObjectStore) -> object:
    return registry_of(store).champion()


def test_a_baseline_in_a_folder_is_evaluated_again_without_a_change_there(
    tmp_path: Path, mirror: Mirror, local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "main"
    job(open_store(str(folder)), mirror)
    before = content(folder)
    labels = idx.decode(CONTENTS["test_labels"], "labels", (300,)).copy()
    labels[:7] = (labels[:7] + 1) % 10
    other: Contents = {**CONTENTS, "test_labels": idx.encode(labels)}
    monkeypatch.setitem(DATASETS, "mnist", spec_for(other))
    with serving(gzipped(other)) as serves:
        result = outcome(job(local, serves, WORSE, baseline=str(folder)))
        assert {step.name: step.cached for step in result.steps}["reevaluate"] is False
        assert failed(result.decision) == ["loss to champion v1"]
    assert content(folder) == before


def test_a_baseline_without_a_champion_is_an_error_and_no_folder_appears(
    tmp_path: Path, mirror: Mirror, local: ObjectStore
) -> None:
    state = job(local, mirror, baseline=str(tmp_path / "mistyped"))
    with pytest.raises(RegistryError, match=r"there is none in file://.*/mistyped\. Publish one there first"):
        state.result()
    assert mirror.asked == []
    assert not (tmp_path / "mistyped").exists()
    assert not list(local.list("cache/"))


@pytest.mark.parametrize("more", [{"dry_run": True}, {"baseline": "s3://bucket/main"}])
def test_a_run_that_only_judges_cannot_be_forced(local: ObjectStore, mirror: Mirror, more: dict[str, Any]) -> None:
    state = job(local, mirror, force_publish="the audit wants it", **more)
    with pytest.raises(UsageError, match=r"cannot use --force-publish with --(dry-run|baseline)"):
        state.result()
    assert mirror.asked == []


@pytest.fixture
def overtaking(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A queue of functions, of which one is called after each judgement, before the run can publish."""
    waiting: list[Any] = []

    def collect(candidate: Any, *arguments: Any) -> Any:
        facts = report_facts(candidate, *arguments)
        if waiting:
            waiting.pop(0)(candidate, arguments[-1])
        return facts

    monkeypatch.setattr("flows.retrain.report_facts", collect)
    return waiting


def publish_other(right: bool, weights: str = "0" * 64) -> Any:
    """A publish by another run, of a model with all test images right, or that of this run under another digest."""

    def publish(candidate: Any, run: Any) -> None:
        test = candidate.prepared.test
        images, labels = (from_npy(run.artifacts.get(each)) for each in (test.images, test.labels))
        model = oracle(images, labels) if right else run.artifacts.get(candidate.trained.model)
        manifest = {
            "weights_digest": candidate.trained.weights_digest if weights == "same" else weights,
            "data": {
                "test": candidate.prepared.test.images.sha256,
                "test_labels": candidate.prepared.test.labels.sha256,
            },
        }
        files = {"model.keras": model, "README.md": weights.encode()}
        registry_of(run.store).publish(files, manifest, weights)

    return publish


def test_a_run_that_loses_a_race_is_judged_against_the_new_champion(
    store: ObjectStore, mirror: Mirror, overtaking: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    overtaking.append(publish_other(right=True))
    state = job(store, mirror, WORSE)
    result = outcome(state)
    assert (state.name, failed(result.decision)) == ("Rejected", ["loss to champion v1"])
    assert "another run was first, so the model is judged again" in caplog.text
    assert registry_of(store).versions() == [1]
    assert json.loads(store.get(f"runs/{result.run}/decision.json", LARGEST_DOCUMENT).data)["verdict"] == "reject"
    assert [step.name for step in result.steps].count("judge") == 2


def test_a_run_that_loses_a_race_and_is_as_good_is_published_after_the_winner(
    store: ObjectStore, mirror: Mirror, overtaking: list[Any]
) -> None:
    overtaking += [publish_other(right=False), publish_other(right=False, weights="1" * 64)]
    result = outcome(job(store, mirror))
    assert result.verdict == "published"
    assert result.receipt
    assert (result.receipt.version, result.receipt.champion) == (3, 3)
    assert result.decision.checks[-1].name == "loss to champion v2"
    assert registry_of(store).manifest(3).facts["decision"] == result.decision.model_dump(mode="json")
    assert [entry.version for entry in registry_of(store).history()] == [1, 2, 3]
    assert not registry_of(store).verify_champion()


def test_the_same_weights_are_published_once_by_runs_that_start_together(
    store: ObjectStore, mirror: Mirror, overtaking: list[Any]
) -> None:
    overtaking.append(publish_other(right=False, weights="same"))
    state = job(store, mirror)
    assert (state.name, outcome(state).decision.verdict) == ("Unchanged", "no change")
    assert registry_of(store).versions() == [1]


def test_a_run_that_is_overtaken_again_and_again_gives_up(
    local: ObjectStore, mirror: Mirror, overtaking: list[Any]
) -> None:
    overtaking += [publish_other(right=False, weights=f"{number:064d}") for number in range(2 * ROUNDS)]
    state = job(local, mirror)
    assert state.name == "Failed"
    with pytest.raises(ChampionMoved, match="cannot replace the champion: version 5 is by now"):
        state.result()
    assert registry_of(local).versions() == list(range(1, ROUNDS + 1))


def test_a_published_run_says_what_it_replaces(local: ObjectStore, mirror: Mirror) -> None:
    first = job(local, mirror)
    assert "Before" not in str(first.message)
    again = job(local, mirror)
    assert "Before" not in str(again.message), "nothing was replaced"
    state = job(local, mirror, GOOD.model_copy(update={"seed": 1}), gate=GateSettings(**_lenient()))
    assert state.name == "Published"
    assert re.search(r"\. Before: champion v1 with 0\.\d{4}; since then changed: seed.*\. Report: ", str(state.message))
