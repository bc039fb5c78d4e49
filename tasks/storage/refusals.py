"""What went wrong with an S3 request, as one line: what failed, why, what to do next. Called by `tasks.storage.s3`."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from tasks.errors import KeyConflict, KeyMissing, StoreError

# All that a request can raise on the way or because of its answer.
FAILURES = (ClientError, BotoCoreError, HTTPClientError, ResponseParserError)

KEYS = ("there are no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.")
EXPIRED = ("the session token has expired", "Log in again for fresh credentials.")
DENIED = ("access is denied", "Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the prefix.")
DENIED_READ = (
    "access is denied, or the object is missing: without s3:ListBucket the server does not tell which",
    "Grant s3:GetObject on the prefix and s3:ListBucket on the bucket.",
)
REGION = ("the bucket is in another region", "Set AWS_REGION to the bucket's region.")

# What a server's error code means to a person: why, and what to do next.
CAUSES = {
    "NoSuchBucket": ("the bucket does not exist", "Create it, or correct --store."),
    "AccessDenied": DENIED,
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "InvalidToken": ("the session token is not valid", "Log in again, or unset AWS_SESSION_TOKEN."),
    "InvalidAccessKeyId": ("the server does not know the access key", "Check AWS_ACCESS_KEY_ID and the endpoint."),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", "Check AWS_SECRET_ACCESS_KEY."),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "Set the clock, for example with NTP."),
    "PermanentRedirect": REGION,
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
}

# What happened before any answer came.
SILENT: tuple[tuple[tuple[type[Exception], ...], tuple[str, str]], ...] = (
    ((NoCredentialsError,), KEYS),
    ((PartialCredentialsError,), ("the credentials are incomplete", KEYS[1])),
    (
        (TokenRetrievalError, CredentialRetrievalError, SSOError, LoginError),
        ("the credentials cannot be fetched", "Log in again, or correct AWS_PROFILE."),
    ),
    (
        (SSLError,),
        ("the server's certificate is not trusted", "Set AWS_CA_BUNDLE to the certificates of its authority."),
    ),
)


class Answer(NamedTuple):
    """The code and the HTTP status of a server's error; none where it did not answer."""

    code: str
    status: int

    @classmethod
    def of(cls, error: BaseException | None) -> Answer:
        """What a server answered, as far as the error tells."""
        if not isinstance(error, ClientError):
            return cls("", 0)
        answer: Any = error.response
        return cls(answer.get("Error", {}).get("Code", ""), answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def refuse(verb: str, address: str, error: Exception) -> NoReturn:
    """Raise KeyMissing, KeyConflict or StoreError for a failed request: `verb` is read, write, list or delete."""
    what, (code, status) = f"cannot {verb} {address}", Answer.of(error)
    if code in {"NoSuchKey", "404"}:
        raise KeyMissing(what, "there is no such object", "Check the store's address.") from error
    if status == 412 or code == "ConditionalRequestConflict":
        raise KeyConflict(what, "another writer was first", "Read it again.") from error
    why, next_step = _cause(verb, error)
    raise StoreError(what, why, next_step) from error


def _cause(verb: str, error: Exception) -> tuple[str, str]:
    code, status = Answer.of(error)
    if status:
        known = CAUSES.get(code) or (DENIED if status == 403 else None)
        if known is DENIED and verb == "read":
            return DENIED_READ
        return known or (f"the server answered {status} {line(error)}", "See the server's log, or try again.")
    for kinds, cause in SILENT:
        if isinstance(error, kinds):
            return cause
    return line(error), "Check the network, AWS_ENDPOINT_URL_S3 and AWS_REGION."


def line(error: Exception) -> str:
    """An error's own words in one line."""
    return " ".join(str(error).split()) or type(error).__name__
