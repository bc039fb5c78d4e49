"""Every error this project raises on purpose: one tree, one line each.

An error says what failed, why, and what to do next; the command line prints exactly that line. Anything that is
not a `RetrainError` is a defect and keeps its traceback. Any module may import this one; it imports only
`tasks.address`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.address import escaped, hidden


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised for, one after the other."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def reason_of(error: BaseException) -> str:
    """Why a request failed, as far as the system or the TLS library says; else the error's name.

    Never the error's own text: that of an HTTP client repeats addresses and headers, and with them passwords.
    """
    for cause in causes(error):
        for name in ("verify_message", "strerror", "reason"):  # of a certificate, of the system, of TLS
            if isinstance(cause, OSError) and isinstance(text := getattr(cause, name, None), str) and text:
                return " ".join(text.split())
    return type(error).__name__


class RetrainError(Exception):
    """Something failed for a reason the user can act on. No part of it shows the secrets of an address: see `hidden`.

    Names and texts from a store may stand in it, so that control characters and line breaks are escaped.

    Args:
        what: What failed, with its name ("cannot reach the store s3://models").
        why: The cause, as far as it is known.
        next_step: What to do now, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, what: str, why: str, next_step: str) -> None:
        self.what, self.why, self.next_step = (escaped(hidden(text)) for text in (what, why, next_step))
        super().__init__(self.what, self.why, self.next_step)

    def __str__(self) -> str:
        return f"{self.what}: {self.why.rstrip('.')}. {self.next_step}"


class UsageError(RetrainError):
    """A setting or a command-line argument that cannot be used.

    `value` is the text at fault where it may be that of a setting: the command line then adds where that was written.
    """

    exit_code = 2

    def __init__(self, what: str, why: str, next_step: str, value: str | None = None) -> None:
        super().__init__(what, why, next_step)
        self.value = value


class StoreError(RetrainError):
    """The store cannot be reached, read or written."""


class KeyMissing(StoreError):
    """No object is stored under that key."""


class ObjectTooLarge(StoreError):
    """An object has more bytes than belong under its key; they were not read."""


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
    """The device asked for, or the package that trains on it, is not there."""


class NetworkError(RetrainError):
    """A network of somebody's own is not there, or is none for the images."""


class TrainingError(RetrainError):
    """Training ended without a usable model."""


class DispatchError(RetrainError):
    """A training on another machine ended without a result."""


class TrainingCrashed(DispatchError):
    """Its process or its machine died; another try resumes from the last checkpoint."""


class ModelFileError(RetrainError):
    """A model file is unsafe or damaged and was not loaded."""


class LoadBackError(RetrainError):
    """The model file is refused in an isolated subprocess, or predicts something else there: the gate rejects it."""


class SubprocessError(RetrainError):
    """The isolated subprocess did not finish on this machine, which tells nothing of the model file."""


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
