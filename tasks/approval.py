"""Approve or decline a version that waits: who decides, what the history says, and the model's page.

Called by the commands and by `flows.approve`, which judges a version again if the champion has changed. Imports neither
Prefect nor TensorFlow.
"""

from __future__ import annotations

from tasks.errors import UsageError
from tasks.model_page import enter
from tasks.registry import Registry
from tasks.registry.approvals import Approval, answered
from tasks.registry.documents import Pointer, now
from tasks.registry.runs import RunIndex
from tasks.running.who import who
from tasks.settings import NO_LINE, is_line
from tasks.values import LONGEST_REASON, RunRow

# In place of a champion's publish id: the one that the run which asks has compared the version with.
AS_ASKED = "as asked"


def approve(registry: Registry, version: int, reason: str, after: str | None = AS_ASKED) -> Pointer:
    """Make a version that waits the champion; its pointer. Nothing to do where it is the champion already.

    Args:
        registry: The versions of its model.
        version: Its number.
        reason: Why; "" for no reason.
        after: The publish id of the champion that it was compared with; None: there was none; the default is the one
            that its run has compared it with.

    Raises:
        ChampionMoved: Another version is the champion by now: it has to be judged again.
        RegistryError: The version does not wait, is damaged, or another person decides at the same time.
        StoreError: The store refused a request.
        UsageError: The reason is no line of text.
    """
    _require_line(reason)
    champion = registry.checked_champion()
    if champion and champion.version == version:
        return champion
    approval = registry.requested(version)
    compared_with = approval.after if after == AS_ASKED else after
    pointer = registry.approve(version, answered("approved", who(), reason), compared_with)
    _enter(registry, approval, "published", pointer.publish_id, pointer.reason.removeprefix(f"{approval.reason}; "))
    return pointer


def decline(registry: Registry, version: int, reason: str) -> Approval:
    """Decline a version that waits, for a reason; its approval.

    Raises:
        RegistryError: The version does not wait, is damaged, was just approved, or another person decides too.
        StoreError: The store refused a request.
        UsageError: There is no reason, or it is no line of text.
    """
    if not reason:
        raise UsageError(f"cannot decline version {version}", "no reason is given", "Give a reason, in words.")
    _require_line(reason)
    approval = registry.decline(version, answered("declined", who(), reason))
    _enter(registry, approval, "declined", f"{approval.run}-declined"[-64:], str(approval.last))
    return approval


def _require_line(reason: str) -> None:
    if reason and not is_line(reason):
        raise UsageError("cannot use the reason", NO_LINE, "Give a reason in one line.")


def _enter(registry: Registry, approval: Approval, verdict: str, name: str, why: str) -> None:
    """Enter the decision on the model's page, with what the version's run has measured."""
    index = RunIndex(registry.store, registry.model)
    measured = index.row(approval.run)
    row = measured.model_dump() if measured else {"accuracy": registry.manifest(approval.version).accuracy}
    own = {"id": name, "time": now(), "verdict": verdict, "version": approval.version, "why": why[:LONGEST_REASON]}
    enter(registry.store, registry.model, RunRow.model_validate(row | own))
