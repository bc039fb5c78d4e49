"""Versions that wait until a person approves them: who decided what about which one, when and why.

    models/<model>/approvals/<n>.json   of a version that a run has asked for

Such a version passed the gate, and is stored like any other; what it lacks is the pointer. A decision is added to its
document by compare-and-swap, before the pointer moves: of a person who approves and one who declines at the same time,
one is first, and the other one is told. Whoever approves a version judges it again if the champion is another one by
then (`flows.approve`). May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from tasks.errors import KeyConflict, KeyMissing, RegistryError
from tasks.registry.documents import NUMBER, now, read, replace
from tasks.settings import Gate
from tasks.storage.objects import ObjectStore
from tasks.storage.probe import Capabilities
from tasks.values import Sha256, Value

# For so long whoever has approved a version may still be moving the pointer, so nobody can decline it.
MOVING = timedelta(minutes=10)


class Answer(Value):
    """A decision on a version: by whom, when and why."""

    verdict: Literal["approved", "declined"]
    by: str
    at: AwareDatetime
    reason: str = ""

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.verdict} by {self.by} on {self.at:%Y-%m-%d %H:%M} UTC{why}"


class Approval(Value):
    """A version that waits, or waited, for a person.

    `identity` is that of its content, `weights` the digest of its weights. `run` asked for it. `after` is the publish
    id of the champion that it was compared with, None for none. `gate` has the limits that it passed, `reason` is what
    the history will say. `answers` are in the order in which they were given.
    """

    version: Annotated[int, Field(ge=1)]
    identity: Sha256
    weights: str
    run: str
    after: str | None
    gate: Gate
    reason: str
    asked: AwareDatetime
    answers: tuple[Answer, ...] = ()

    @property
    def last(self) -> Answer | None:
        """The decision that holds; None while nobody has decided."""
        return self.answers[-1] if self.answers else None

    @property
    def declined(self) -> bool:
        """Whether the last decision is against it."""
        return self.last is not None and self.last.verdict == "declined"

    def __str__(self) -> str:
        return str(self.last) if self.declined else f"waits for approval since {self.asked:%Y-%m-%d %H:%M} UTC"


class Approvals:
    """The approvals of one model.

    Args:
        store: The store that holds them.
        base: The prefix of the model's keys ("models/mnist").
    """

    def __init__(self, store: ObjectStore, base: str) -> None:
        self._store, self._base = store, f"{base}/approvals/"

    def numbers(self) -> list[int]:
        """The numbers of all versions that wait or waited, ascending."""
        names = (entry.key.removeprefix(self._base) for entry in self._store.list(self._base))
        return sorted(int(found[1]) for name in names if (found := re.fullmatch(rf"({NUMBER.pattern})\.json", name)))

    def read(self, version: int) -> Approval | None:
        """The approval of a version; None if it never waited. Raises RegistryError if it is damaged."""
        try:
            return read(self._store, Approval, self._key(version))[0]
        except KeyMissing:
            return None

    def ask(self, approval: Approval, capabilities: Capabilities) -> Approval:
        """Write the approval of a version, unless another process with the same content has; returns what is there."""
        if known := self.read(approval.version):
            return known
        key = self._key(approval.version)
        try:
            replace(self._store, approval, key, None, capabilities)
        except KeyConflict:
            return read(self._store, Approval, key)[0]
        return approval

    def answer(self, version: int, answer: Answer, capabilities: Capabilities) -> Approval:
        """Add a decision. The same one again by the same person changes nothing.

        Raises:
            RegistryError: The version never waited, it was approved and may become champion right now, or another
                person decides at the same time.
        """
        key = self._key(version)
        try:
            known, etag = read(self._store, Approval, key)
        except KeyMissing:
            raise self.unknown(version) from None
        if (last := known.last) and (last.verdict, last.by, last.reason) == (answer.verdict, answer.by, answer.reason):
            return known
        if last and last.verdict == "approved" and answer.verdict == "declined" and answer.at - last.at < MOVING:
            raise RegistryError(
                f"cannot decline version {version}",
                f"it was {last}",
                f"If it is the champion, `retrain rollback --from {version}`; else try again in ten minutes.",
            )
        changed = known.model_copy(update={"answers": (*known.answers, answer)})
        try:
            replace(self._store, changed, key, etag, capabilities)
        except KeyConflict as error:
            why, next_step = "another person decides at the same time", "See `retrain versions`, then try again."
            raise RegistryError(f"cannot decide on version {version}", why, next_step) from error
        return changed

    @staticmethod
    def unknown(version: int) -> RegistryError:
        """The error for a version that never waited."""
        why, next_step = "it does not wait for anybody", "`retrain versions` shows which ones wait."
        return RegistryError(f"cannot decide on version {version}", why, next_step)

    def _key(self, version: int) -> str:
        return f"{self._base}{version}.json"


def answered(verdict: Literal["approved", "declined"], by: str, reason: str) -> Answer:
    """A decision that is made now."""
    return Answer(verdict=verdict, by=by, at=now(), reason=reason)
