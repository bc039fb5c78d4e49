"""The ledger of looks: every verdict that was reached with a test set, kept in the store under the test set's digest.

Each verdict on the same test images is one more chance for a worse model to pass by luck. So looks are counted, whoever
asked and whatever the model is called. Each has an object of its own, `looks/<test set>/<number>-<models>.json`, which
is written with the verdict. That needs no condition of the store: of two runs at once, at least one lists both. The
same models judged against the same baselines reach the same verdict, so they are the same look.

Only names count, and every object counts, whatever its name and its bytes: who damages entries does not get a lower
count. Nor does who deletes some, as names carry numbers, and versions the number that they were published with. Called
by the judge step and `retrain history`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import AwareDatetime

from tasks.errors import RegistryError, StoreError
from tasks.registry.documents import encode, sha256
from tasks.storage.objects import ObjectStore
from tasks.values import Sha256, Value

NAME = re.compile(r"([0-9]{8})-[0-9a-f]{64}\.json")

FOLDER = "looks/"

# A larger number is no count of verdicts: somebody forged it, and each verdict after it would be held to it.
MOST = 100_000


class Look(Value):
    """Who looks at a test set: a run that judges a model. Times are in UTC.

    `candidate` is the digest of its weights; `champion` and `reference` are the identities of the
    versions that it is compared with, "" for none.
    """

    run: str
    model: str
    candidate: Sha256
    champion: str
    reference: str
    created: AwareDatetime


def published_look(facts: Mapping[str, Any], images: Sha256, labels: Sha256) -> int:
    """With which look at these test images a version was published, as its manifest's facts say; 0 if they do not."""
    data, decision = facts.get("data"), facts.get("decision")
    if not isinstance(data, dict) or (data.get("test"), data.get("test_labels")) != (images, labels):
        return 0
    look = decision.get("look") if isinstance(decision, dict) else 0
    return look if type(look) is int and 0 < look <= MOST else 0


class Looks:
    """The ledger of one test set, which the SHA-256 of its images and that of its labels identify."""

    def __init__(self, store: ObjectStore, images: Sha256, labels: Sha256) -> None:
        self._store, self._prefix = store, f"{FOLDER}{sha256(f'{images}{labels}'.encode())}/"

    def count(self, known: int = 0) -> int:
        """How many looks there were; at least the largest number in a name, and at least the `known` ones.

        Raises:
            RegistryError: A name has a number that no count reaches.
            StoreError: The store cannot be read.
        """
        names = self._names()
        return max(len(names), known, *names.values())

    def number(self, look: Look, known: int = 0) -> tuple[int, bool]:
        """Which look at the test set this is, from 1, and whether it was entered before.

        Args:
            look: Who looks. The same models against the same baselines keep the number that they have.
            known: The largest number that a published version is known to have been judged with.

        Raises:
            RegistryError: A name has a number that no count reaches.
            StoreError: The store cannot be read.
        """
        names, end = self._names(), f"-{_verdict(look)}.json"
        if numbers := [number for name, number in names.items() if name.endswith(end)]:
            return max(min(numbers), 1), True
        return max(len(names), known, *names.values()) + 1, False

    def enter(self, look: Look, known: int = 0) -> int:
        """Enter a look, and return its number; the arguments and errors are those of `number`.

        Raises:
            StoreError: The store cannot be written, or lists no entry after that.
        """
        number, entered = self.number(look, known)
        if entered:
            return number
        name = f"{number:08d}-{_verdict(look)}.json"
        # Not read back: another run that enters the same look at this moment writes its own bytes there.
        self._store.put(f"{self._prefix}{name}", encode(look))
        names = self._names()
        if name not in names:
            address = self._store.address(f"{self._prefix}{name}")
            raise StoreError(f"cannot trust {address}", "it was lost", "Check the disks of the store, then run again.")
        return max(len(names), known, *names.values())  # another run may have entered one meanwhile

    def _names(self) -> dict[str, int]:
        """The names of the entries, with the number in each; 0 in a name that no look has."""
        names = {}
        for entry in self._store.list(self._prefix):
            name = entry.key.removeprefix(self._prefix)
            match = NAME.fullmatch(name)
            names[name] = int(match[1]) if match else 0
            if names[name] > MOST:
                raise RegistryError(
                    "cannot count the looks at the test set",
                    f"{self._store.address(entry.key)} has a number that no count reaches",
                    "Delete that object.",
                )
        return names


def _verdict(look: Look) -> Sha256:
    return sha256(f"{look.model}\n{look.candidate}\n{look.champion}\n{look.reference}".encode())
