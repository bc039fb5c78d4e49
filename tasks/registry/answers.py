"""What the models of a version's seeds answer to a test set: `seeds/<version>-<test set>.npz`, in the run's own store.

A version publishes the model of one seed, and is compared by the mean over the seeds of its recipe. Their answers are
kept here, and not in the version's folder: whoever can write only that one cannot say what its other seeds answer.
Named by the content of the version and of the test set, so those of another test set are never taken for these. A
damaged file counts as none. Called by `tasks.gate.baselines` and `flows.seeds`.
"""

from __future__ import annotations

import logging

import numpy as np

from tasks.data.arrays import Labels, answers_from_npz, answers_to_npz
from tasks.errors import ArtifactError, KeyMissing, ObjectTooLarge
from tasks.registry.documents import sha256
from tasks.storage.objects import ObjectStore
from tasks.storage.verified import sealed, unsealed
from tasks.values import Sha256

LOG = logging.getLogger("retrain.judge")

FOLDER = "seeds/"

# Nobody trains more seeds, and the file has little beside two bytes for each answer.
MOST_SEEDS, OVERHEAD = 100, 4096


class SeedAnswers:
    """The kept answers to one test set, which the SHA-256 of its images and that of its labels identify."""

    def __init__(self, store: ObjectStore, images: Sha256, labels: Sha256) -> None:
        self._store, self._test_set = store, sha256(f"{images}{labels}".encode())

    def _key(self, identity: Sha256) -> str:
        return f"{FOLDER}{identity}-{self._test_set}.npz"

    def read(self, identity: Sha256, own: Labels, labels: Labels) -> Labels | None:
        """The predicted classes of a version's seeds, (seeds, n); None if they are not kept, or damaged.

        Args:
            identity: The content of the version.
            own: What its published model predicts, (n,): one of the seeds has to predict the same.
            labels: The labels of the test set, (n,).

        Raises:
            StoreError: The store cannot be read.
        """
        key = self._key(identity)
        try:
            data = self._store.get(key, (MOST_SEEDS + 1) * 2 * len(labels) + OVERHEAD).data
            predicted, of = answers_from_npz(unsealed(data, self._store.address(key)))
        except KeyMissing:
            return None
        except (ArtifactError, ObjectTooLarge, ValueError) as error:
            why = str(error)
        else:
            if np.array_equal(of, labels) and (predicted == own).all(axis=1).any():
                return predicted
            why = "none of its seeds answers as the published model does"
        LOG.warning("judge: %s is left out, and the version counts as one seed: %s", self._store.address(key), why)
        return None

    def keep(self, identity: Sha256, predicted: Labels, labels: Labels) -> None:
        """Keep the predicted classes of a version's seeds, (seeds, n), in place of those that were kept.

        Raises:
            StoreError: The store cannot be written.
        """
        # Not read back: another run may keep those of more or fewer seeds at this moment.
        self._store.put(self._key(identity), sealed(answers_to_npz(predicted, labels)))
