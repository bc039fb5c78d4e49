"""A failed S3 request as one line: what failed, why, what to do next. Called by `tasks.storage.s3`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    EndpointResolutionError,
    HTTPClientError,
    InvalidRegionError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from urllib3.util.ssl_match_hostname import CertificateError

from tasks.address import without_secrets
from tasks.errors import KeyConflict, KeyMissing, NotOffered, StoreError, reason_of

# All exceptions of a request or its answer.
FAILURES = (ClientError, BotoCoreError, HTTPClientError, ResponseParserError)

EXPIRED = ("the session token has expired", "Log in again for fresh credentials.")
CLOCK = ("this machine's clock is wrong", "Set the clock, for example with NTP.")
REGION = ("the bucket is in another region", "Set AWS_DEFAULT_REGION to the bucket's region.")
FULL = ("the store is full, or its quota is used up", "Free space, for example with `retrain gc`, or raise the quota.")
TOO_LARGE = ("the object is larger than the server, or a proxy before it, accepts", "Raise that limit.")

# A server's error code, with the cause and what to do next.
CAUSES = {
    "NoSuchBucket": ("the bucket does not exist", "Create it, or correct --store."),
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "InvalidToken": ("the session token is not valid", "Log in again, or unset AWS_SESSION_TOKEN."),
    "InvalidAccessKeyId": ("the server does not know the access key", "Check AWS_ACCESS_KEY_ID and the endpoint."),
    "SignatureDoesNotMatch": ("the secret key does not match the access key", "Check AWS_SECRET_ACCESS_KEY."),
    "RequestTimeTooSkewed": CLOCK,
    "RequestExpired": CLOCK,
    "PermanentRedirect": REGION,
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
    "QuotaExceeded": FULL,
    "XMinioAdminBucketQuotaExceeded": FULL,
    "XMinioStorageFull": FULL,
    "EntityTooLarge": TOO_LARGE,
    # For an answer without a body, botocore uses the status as the code.
    "404": ("there is no such bucket, or this is no S3 server", "Check --store and AWS_ENDPOINT_URL_S3."),
}

# What to grant for a denied request, if the server does not name the permission.
PERMISSIONS = {
    "read": "s3:GetObject on the prefix and s3:ListBucket on the bucket",
    "write": "s3:PutObject on the prefix",
    "list": "s3:ListBucket on the bucket",
    "delete": "s3:DeleteObject on the prefix",
}
DENIED_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)")
MAYBE_MISSING = "access is denied, or the object is missing: without s3:ListBucket the server does not tell which"

# The codes (with 400 or 405) by which servers refuse an unknown condition; any 501 does so too.
UNKNOWN_CONDITION = {"NotImplemented", "InvalidArgument", "InvalidRequest", "MethodNotAllowed", "405"}
# The codes (with 400) by which servers refuse an unknown checksum; any 501 does so too.
UNKNOWN_HEADER = {"NotImplemented", "InvalidArgument", "InvalidRequest", "400"}

# OpenSSL's numbers for a certificate that is good at another time: one of the two clocks is wrong.
NOT_YET_VALID, EXPIRED_CERTIFICATE = 9, 10

SET_KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
PROXY = "Check HTTPS_PROXY, or HTTP_PROXY."
NETWORK = "Check the network, AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION."


class Answer(NamedTuple):
    """A server's error: its code, its HTTP status and its message; empty and 0 if it did not answer."""

    code: str
    status: int
    message: str

    @classmethod
    def of(cls, error: BaseException | None) -> Answer:
        """The server's answer, as far as the error has it."""
        if not isinstance(error, ClientError):
            return cls("", 0, "")
        response: Any = error.response
        details, status = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cls(details.get("Code") or "", status, _one_line(details.get("Message") or ""))

    def __str__(self) -> str:
        code = "" if self.code == str(self.status) else self.code
        return " ".join(filter(None, (str(self.status), code, self.message)))


def may_be_unknown_header(error: BaseException | None) -> bool:
    """Whether a write may have been refused for a header that the server does not know."""
    answer = Answer.of(error)
    return answer.status == 501 or (answer.status == 400 and answer.code in UNKNOWN_HEADER)


def refuse(verb: str, address: str, error: Exception, condition: Collection[str] = ()) -> NoReturn:
    """Raise KeyMissing, KeyConflict, NotOffered or StoreError for a failed request.

    Args:
        verb: The request: read, write, list or delete.
        address: The object's address.
        error: One of `FAILURES`.
        condition: A write's conditions, by boto3's names: IfMatch, IfNoneMatch.
    """
    what, answer = f"cannot {verb} {address}", Answer.of(error)
    if answer.code in {"NoSuchKey", "404"} and (verb in {"read", "delete"} or "IfMatch" in condition):
        raise KeyMissing(what, "there is no such object", "Check the store's address.") from error
    if answer.status == 412 or answer.code == "ConditionalRequestConflict":
        raise KeyConflict(what, "another writer was first", "Read it again.") from error
    if condition and (answer.status == 501 or (answer.status in {400, 405} and answer.code in UNKNOWN_CONDITION)):
        raise NotOffered(
            what,
            f"the server does not know this condition: it answered {answer}",
            "Run `retrain doctor` to see what the store can do.",
        ) from error
    why, next_step = _explain_answer(verb, answer) if answer.status else _explain_silence(error)
    raise StoreError(what, why, next_step) from error


def _explain_answer(verb: str, answer: Answer) -> tuple[str, str]:
    if answer.code in CAUSES:
        return CAUSES[answer.code]
    if answer.status == 507 or (answer.status == 403 and "quota" in answer.message.lower()):
        return FULL
    if answer.status == 413:
        return TOO_LARGE
    if answer.status == 403:
        return _denied(verb, answer.message)
    return f"the server answered {answer}", "See the server's log, or try again."


def _denied(verb: str, message: str) -> tuple[str, str]:
    """AWS names the permission; for a missing object it names s3:ListBucket."""
    match = DENIED_ACTION.search(message)
    permission = match[1] if match else PERMISSIONS[verb]
    why = MAYBE_MISSING if verb == "read" and "s3:ListBucket" in permission else "access is denied"
    return why, f"Grant {permission}."


def _explain_silence(error: Exception) -> tuple[str, str]:
    match error:
        case NoCredentialsError():
            return "there are no credentials", SET_KEYS
        case PartialCredentialsError():
            return "the credentials are incomplete", SET_KEYS
        case TokenRetrievalError() | CredentialRetrievalError() | SSOError() | LoginError():
            return "the credentials cannot be fetched", "Log in again, or correct AWS_PROFILE."
        case SSLError():
            return _no_tls(_endpoint(error), error.kwargs["error"].args[0])
        case EndpointConnectionError():
            return f"{_endpoint(error)} cannot be reached: {reason_of(error.kwargs['error'])}", NETWORK
        case ConnectTimeoutError():
            return f"{_endpoint(error)} cannot be reached: no connection in time", NETWORK
        case ReadTimeoutError():
            return f"{_endpoint(error)} did not answer in time", NETWORK
        case ConnectionClosedError():
            return f"{_endpoint(error)} closed the connection without an answer", NETWORK
        case EndpointResolutionError():
            return "the endpoint is no address such as https://host:port", NETWORK
        case ProxyConnectionError():
            return f"no connection through the proxy: {reason_of(error.kwargs['error'])}", PROXY
        case ResponseParserError():
            return "the answer is not that of an S3 server", NETWORK
    return f"no answer: {reason_of(error)}", NETWORK


def _no_tls(endpoint: str, reason: Exception) -> tuple[str, str]:
    if getattr(reason, "verify_code", None) in {NOT_YET_VALID, EXPIRED_CERTIFICATE}:
        now = datetime.now(UTC)
        return (
            f"the certificate of {endpoint} is not valid now: {_reason(reason)}",
            f"Check this machine's clock, which says {now:%Y-%m-%d %H:%M} UTC; if it is right, renew the certificate.",
        )
    if isinstance(reason, ssl.SSLCertVerificationError | CertificateError):
        return (
            f"the certificate of {endpoint} is not trusted: {_reason(reason)}",
            "Set AWS_CA_BUNDLE to the certificates of its authority.",
        )
    return f"no TLS with {endpoint}: {_reason(reason)}", "Check AWS_ENDPOINT_URL_S3 and AWS_CA_BUNDLE."


def _endpoint(error: BotoCoreError) -> str:
    """The endpoint's address, without the request and without any password."""
    return "/".join(without_secrets(error.kwargs["endpoint_url"]).split("/")[:3])


def _reason(error: Exception) -> str:
    return _one_line(str(error)) if isinstance(error, CertificateError) else reason_of(error)


def unusable_settings(error: Exception) -> str:
    """Why no client can be made of the AWS settings, without their values."""
    match error:
        case ProfileNotFound():
            return f"there is no profile {error.kwargs['profile']}"
        case ConfigParseError() | ConfigNotFound():
            return f"{error.kwargs['path']} cannot be read, or is no file of profiles"
        case InvalidRegionError():
            return "the region's name is not valid"
        case BotoCoreError():
            return _explain_silence(error)[0]
    return "the endpoint is no address such as https://host:port"


def _one_line(text: str) -> str:
    return " ".join(text.split())
