"""Versions that wait for a person: what is stored, who decides, and what kills and races leave."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any, cast

import pytest

from tasks import approval
from tasks.errors import ChampionMoved, RegistryError, StoreError, UsageError
from tasks.registry import Registry
from tasks.registry.approvals import MOVING, Approval, answered
from tasks.registry.documents import encode, now
from tasks.registry.retention import outdated
from tasks.registry.runs import RunIndex
from tasks.settings import Gate, Retention
from tasks.storage import ObjectStore, open_store
from tasks.storage.probe import Capabilities
from tasks.values import Receipt
from tests.tasks.registry.conftest import POINTER
from tests.tasks.registry.test_runs import Counting

FILES = {"model.keras": b"a model", "report.html": b"<p>a</p>"}
OTHER = {"model.keras": b"another model", "report.html": b"<p>b</p>"}


def facts(weights: str) -> dict[str, Any]:
    return {"metrics": {"accuracy": 0.98}, "weights_digest": weights}


def propose(registry: Registry, files: dict[str, bytes] = FILES, weights: str = "a") -> Receipt:
    champion = registry.champion()
    after = champion.publish_id if champion else None
    return registry.propose(files, facts(weights), f"accuracy of {weights}", after, f"run-{weights}", Gate())


def rows(registry: Registry) -> list[tuple[str, int, str]]:
    shown = RunIndex(registry.store, registry.model).shown()
    return [(row["verdict"], row["version"], row["why"]) for row in shown]


def test_a_version_that_waits_is_stored_whole_and_no_champion(registry: Registry) -> None:
    receipt = propose(registry)
    assert (receipt.version, receipt.new, receipt.champion, receipt.approval) == (1, True, 0, "waits")
    assert registry.champion() is None
    assert registry.history() == []
    assert registry.read(1, "model.keras") == b"a model"
    assert registry.verify(1) == registry.verify_champion() == []
    assert str(registry.waiting()[1]).startswith("waits for approval since ")


def test_the_same_weights_wait_once(registry: Registry) -> None:
    propose(registry)
    again = propose(registry, OTHER)
    assert (again.version, again.new, again.approval) == (1, False, "waits")
    approval.decline(registry, 1, "too early")
    again = propose(registry, OTHER)
    assert (again.version, again.new, again.approval) == (1, False, "declined")
    assert registry.versions() == [1]


def test_whoever_approves_is_recorded(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    propose(registry)
    monkeypatch.setattr(approval, "who", lambda: "alice on here")
    pointer = approval.approve(registry, 1, "as agreed")
    assert (pointer.version, pointer.generation) == (1, 1)
    assert pointer.reason == "accuracy of a; approved by alice on here: as agreed"
    known = registry.approvals.read(1)
    assert known
    assert [(each.verdict, each.by, each.reason) for each in known.answers] == [
        ("approved", "alice on here", "as agreed")
    ]
    assert rows(registry) == [("published", 1, "approved by alice on here: as agreed")]
    assert registry.waiting() == {}
    assert approval.approve(registry, 1, "again") == pointer, "nothing to do"
    with pytest.raises(RegistryError, match="it is the champion, or was"):
        approval.decline(registry, 1, "too late")


def test_what_was_declined_can_be_approved_later(registry: Registry) -> None:
    propose(registry)
    declined = approval.decline(registry, 1, "too early")
    assert "too early" in str(declined)
    assert registry.champion() is None
    assert [verdict for verdict, _, _ in rows(registry)] == ["declined"]
    assert approval.approve(registry, 1, "").version == 1
    assert [each.verdict for each in cast(Approval, registry.approvals.read(1)).answers] == ["declined", "approved"]


def test_a_version_is_not_approved_beside_another_champion_than_it_was_compared_with(registry: Registry) -> None:
    propose(registry)
    registry.publish(OTHER, facts("b"), "meanwhile")
    with pytest.raises(ChampionMoved):
        approval.approve(registry, 1, "")
    assert cast(Approval, registry.approvals.read(1)).answers == (), "nobody has decided"
    champion = registry.champion()
    assert champion
    assert champion.version == 2
    assert approval.approve(registry, 1, "", champion.publish_id).version == 1


def test_a_run_that_loses_a_race_takes_no_waiting_version_with_it(registry: Registry) -> None:
    propose(registry)
    registry.publish(OTHER, facts("b"), "first")
    with pytest.raises(ChampionMoved):
        registry.publish(FILES, facts("a"), "of a model that nobody has to approve any more", after=None)
    assert list(registry.waiting()) == [1]
    assert registry.verify(1) == []


@pytest.mark.parametrize("decide", [approval.approve, approval.decline])
def test_nothing_is_decided_on_what_does_not_wait(registry: Registry, decide: Any) -> None:
    registry.publish(FILES, facts("a"), "first")
    registry.publish(OTHER, facts("b"), "second")
    with pytest.raises(RegistryError, match="there is no such version"):
        decide(registry, 3, "why")
    with pytest.raises(RegistryError, match="it is the champion, or was"):
        decide(registry, 1, "why")
    assert [pointer.version for pointer in registry.history()] == [1, 2]


def test_a_version_that_never_waited_is_no_candidate(registry: Registry) -> None:
    propose(registry)
    registry.store.delete(registry.key("approvals/1.json"))
    with pytest.raises(RegistryError, match="it does not wait for anybody"):
        approval.approve(registry, 1, "")


@pytest.mark.parametrize("reason", ["", "two\nlines"])
def test_declining_takes_a_reason(registry: Registry, reason: str) -> None:
    propose(registry)
    with pytest.raises(UsageError, match="reason"):
        approval.decline(registry, 1, reason)


def test_a_rollback_leads_to_no_version_that_nobody_has_approved(registry: Registry) -> None:
    registry.publish(OTHER, facts("b"), "first")
    propose(registry)
    with pytest.raises(RegistryError, match="never champion: it waits for approval") as error:
        registry.rollback(2, "mistyped")
    assert "retrain approve 2" in error.value.next_step
    champion = registry.champion()
    assert champion
    assert champion.version == 1


def test_a_version_that_is_damaged_is_not_approved(store: ObjectStore, registry: Registry) -> None:
    propose(registry)
    store.put(registry.key("versions/1/model.keras"), b"other bytes")
    with pytest.raises(RegistryError, match=r"model\.keras"):
        approval.approve(registry, 1, "")
    assert registry.champion() is None


def test_an_approval_that_is_damaged_is_an_error_that_verify_names(store: ObjectStore, registry: Registry) -> None:
    propose(registry)
    store.put(registry.key("approvals/1.json"), b"{}")
    (problem,) = registry.verify_champion()
    assert "approvals/1.json" in str(problem)
    with pytest.raises(RegistryError, match=r"approvals/1\.json"):
        approval.approve(registry, 1, "")


def test_a_person_who_declines_is_told_that_another_one_has_approved(registry: Registry) -> None:
    propose(registry)
    registry.approvals.answer(1, answered("approved", "alice", ""), registry.capabilities)  # the pointer moves next
    with pytest.raises(RegistryError, match="it was approved by alice"):
        approval.decline(registry, 1, "no")
    late = answered("declined", "bob", "no")
    killed = late.model_copy(update={"at": late.at + MOVING})
    assert registry.approvals.answer(1, killed, registry.capabilities).declined, "who approved it was killed"


def test_of_people_who_decide_at_the_same_time_one_wins(store_url: str) -> None:
    registry = Registry(open_store(store_url), "mnist", POINTER)
    propose(registry)
    results = list[object]()

    def decide(number: int) -> None:
        own = Registry(open_store(store_url), "mnist", POINTER)
        try:
            results.append((approval.decline if number % 2 else approval.approve)(own, 1, f"by {number}"))
        except RegistryError as error:
            results.append(error)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known, champion = cast(Approval, registry.approvals.read(1)), registry.champion()
    won = [each for each in results if not isinstance(each, RegistryError)]
    assert won
    assert (champion is not None) == any(each.verdict == "approved" for each in known.answers)
    assert not (champion and known.declined), "nobody is told that a champion was declined"


@pytest.mark.parametrize("requests", range(14))
def test_a_run_that_is_killed_while_it_asks_is_completed_by_the_next_one(
    store: ObjectStore, capabilities: Capabilities, requests: int
) -> None:
    killed = Registry(cast(Any, Counting(store, requests)), "mnist", capabilities)
    try:
        propose(killed)
    except StoreError:
        assert not Registry(store, "mnist", capabilities).waiting()
    registry = Registry(store, "mnist", capabilities)
    assert propose(registry).approval == "waits"
    assert list(registry.waiting()) == [1]
    assert registry.verify(1) == registry.verify_champion() == []


@pytest.mark.parametrize("requests", range(20))
def test_an_approval_that_is_killed_is_completed_by_the_next_one(
    store: ObjectStore, capabilities: Capabilities, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.registry.champion.WITHDRAWAL_WAITS", [0.01] * 3)
    registry = Registry(store, "mnist", capabilities)
    registry.publish(OTHER, facts("b"), "first")
    propose(registry)
    killed = Registry(cast(Any, Counting(store, requests)), "mnist", capabilities)
    try:
        approval.approve(killed, 2, "yes")
    except StoreError:
        champion = registry.champion()
        assert champion
        assert registry.verify(champion) == []
    assert approval.approve(registry, 2, "yes").version == 2
    assert [pointer.version for pointer in registry.history()] == [1, 2]
    assert registry.verify_champion() == []


def test_an_altered_approval_is_refused(store: ObjectStore, registry: Registry) -> None:
    propose(registry)
    key = registry.key("approvals/1.json")
    data = store.get(key, 1 << 20).data
    for place in range(0, len(data), 7):
        store.put(key, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(RegistryError):
            registry.approvals.read(1)
    store.put(key, data)
    assert encode(cast(Approval, registry.approvals.read(1))) == data


def test_what_was_declined_is_removed_under_the_policy_and_what_waits_is_not(registry: Registry) -> None:
    registry.publish(OTHER, facts("b"), "first")
    propose(registry)
    propose(registry, {"model.keras": b"a third"}, "c")
    approval.decline(registry, 2, "too early")
    policy, later = Retention(keep_champions=1), now() + timedelta(seconds=5)

    def find() -> dict[int, str]:
        return outdated(registry, policy, later)

    assert list(find()) == [2]
    assert "was declined by" in find()[2]
    assert outdated(registry, policy, now() - timedelta(days=1)) == {}, "only lately"
    assert registry.retire(2, find)
    assert registry.versions() == [1, 3]
    assert list(registry.waiting()) == [3]
    with pytest.raises(RegistryError, match="retired"):
        approval.approve(registry, 2, "too late")
    assert propose(registry).version == 4, "nothing is left that says it was declined"
