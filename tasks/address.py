"""Addresses without their secrets, and what of the environment may not be shown.

An address may hold a password (`https://user:password@host/`) or a signature (`https://host/mnist.npz?X-Amz-…`).
`Address` is the type of one that somebody gives: it is printed, compared and stored without them, and only `usable`
still has them. `hidden` does the same to addresses within a text, and `escaped` makes control characters visible. Any
module may import this one; it imports none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# An address that may be stored: no user information, no query, and nothing that may be a password with a character that
# is not escaped. In a key of S3 a lone ? is a character as others. In JSON Schema's terms, so that a Prefect server
# refuses the parameters of a run by it.
PLAIN = "".join(
    (
        r"^(?![^/?#]*(//[^/?#]*|:[^/?#]*)@)",
        r"(?![^/?#]*//[^/?#\[]*:(?![0-9]*(/|$)))",
        r"(?![^/?#]*//[^/]*:[\s\S]*@)",
        r"(?![Hh][Tt][Tt][Pp][\s\S]*[?#])",
        r"(?![\s\S]*[?&#][A-Za-z0-9_.-]+=)",
    )
)

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]*)?")
QUERY = re.compile(r"[?&#][A-Za-z0-9_.-]+=")
IN_A_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]*[^\s'\"<>`).,;:\]]|[^\s'\"/:@]+:[^\s'\"/@]+@")

SECRETS = re.compile(r"(AWS|PREFECT)_.*(KEY|TOKEN|AUTH_STRING)")

# A value that is shorter is no secret, and may be a part of any word.
SHORTEST = 8


class Address(str):
    """An address as it may be shown: without user, password, query and fragment. `usable` is as it was given."""

    usable: str

    def __new__(cls, text: str) -> Self:
        """The address that a text is; another `Address` keeps its secrets."""
        address = super().__new__(cls, without_secrets(text))
        address.usable = text.usable if isinstance(text, Address) else text
        return address

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (str(self),)  # what is written somewhere has no secrets

    def file(self, name: str) -> str:
        """The usable address of a file in this folder; the signature of a folder holds for its files too."""
        path, mark, query = self.usable.partition("?")
        return f"{path.partition('#')[0].rstrip('/')}/{name}{mark}{query}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, check: value if isinstance(value, cls) else cls(check(value)), core_schema.str_schema()
        )


def is_plain(text: str) -> bool:
    """Whether an address holds neither user information nor a query, and so may be stored."""
    return re.match(PLAIN, text.usable if isinstance(text, Address) else text) is not None


def without_secrets(text: str) -> str:
    """An address without user, password, query and fragment; "…" for a host that cannot be told from a password."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return QUERY.split(re.sub(r"^[^/]*:.*@", "…@", text, flags=re.DOTALL))[0]
    authority, path = re.fullmatch(r"([^/?#\\]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host = authority.rpartition("@")[2]
    if not AUTHORITY.fullmatch(host) or (":" in host and "@" in path):
        return f"{scheme}://…"
    ends = QUERY if scheme.lower() in {"s3", "file"} else re.compile("[?#]")
    return f"{scheme}://{host}{ends.split(path)[0]}"


def hidden(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text in which every address is without its secrets, and no key, token or password of the environment stands."""
    for name, value in environment.items():
        if SECRETS.fullmatch(name) and len(value) >= SHORTEST:
            text = text.replace(value, "…")
    return IN_A_TEXT.sub(lambda match: without_secrets(match[0]), text)


def escaped(text: str) -> str:
    """A text that anybody may have written, as in a store, as one line that a terminal only shows."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
