"""Every error this project raises on purpose: one tree, one line each.

An error says what failed, why, and what to do next; the command line prints exactly that line. Anything that is
not a `RetrainError` is a defect and keeps its traceback. Any module may import this one; it imports nothing.
"""

from __future__ import annotations


class RetrainError(Exception):
    """Something failed for a reason the user can act on.

    Args:
        what: What failed, with its name ("cannot reach the store s3://models").
        why: The cause, as far as it is known.
        next_step: What to do now, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(what, why, next_step)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        return f"{self.what}: {self.why.rstrip('.')}. {self.next_step}"


class UsageError(RetrainError):
    """A setting or a command-line argument that cannot be used."""

    exit_code = 2


class StoreError(RetrainError):
    """The store cannot be reached, read or written."""


class KeyMissing(StoreError):
    """No object is stored under that key."""


class KeyConflict(StoreError):
    """A conditional write lost: the object exists already, or is no longer what was read."""


class NotOffered(StoreError):
    """The server does not know this kind of request."""


class ArtifactError(RetrainError):
    """An artifact is missing, or its bytes are not the ones its SHA-256 names: `sha256`, "" for other kept bytes."""

    def __init__(self, what: str, why: str, next_step: str, sha256: str = "") -> None:
        super().__init__(what, why, next_step)
        self.sha256 = sha256


class RegistryError(RetrainError):
    """A published version is missing, incomplete or damaged."""


class ChampionMoved(RegistryError):
    """Another version became champion after the decision that a publish is based on."""


class DownloadError(RetrainError):
    """No mirror delivered the data set."""


class MirrorsUnreachable(DownloadError):
    """Every mirror failed before it sent a byte of data (no network, unknown host, refused, timed out)."""


class DataError(RetrainError):
    """Bytes that arrived are not the data set they claim to be."""


class DeviceError(RetrainError):
    """The device asked for is not there."""


class TrainingError(RetrainError):
    """Training ended without a usable model."""


class DispatchError(RetrainError):
    """A training on another machine ended without a result."""


class TrainingCrashed(DispatchError):
    """Its process or its machine died; another try resumes from the last checkpoint."""


class ModelFileError(RetrainError):
    """A model file is unsafe or damaged and was not loaded."""


class LoadBackError(RetrainError):
    """A process of its own could not predict with the model file."""


class ExportError(RetrainError):
    """The model cannot be written as ONNX, or not so that it predicts the same."""


class ServerError(RetrainError):
    """No Prefect server answers, and none could be started."""


class GateRejected(RetrainError):
    """The gate rejected the candidate; nothing was published. `outcome` is the run's outcome."""

    exit_code = 3

    def __init__(self, why: str, outcome: object) -> None:
        super().__init__("the model is not published", why, "Read the report, then change the recipe or the data.")
        self.outcome = outcome
