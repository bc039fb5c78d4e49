"""Strategies: valid bytes and valid JSON documents, mutated. What stays valid around a mutation is read further."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from tasks.registry.documents import sha256
from tasks.storage.objects import LARGEST_DOCUMENT

Plain = dict[str, Any]
Place = tuple[str | int, ...]

# What `json.dumps` does not write: its place in a document holds the name, and the text gets the bytes.
RAW = {
    "@deep lists": b"[" * 20_000 + b"]" * 20_000,
    "@deep objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "@open": b"[" * 20_000,
    "@more digits": b"9" * 5_000,
    "@overflow": b"1e999",
    "@minus zero": b"-0",
    "@NaN": b"NaN",
    "@infinity": b"-Infinity",
    "@surrogate": b'"\\ud800"',
    "@surrogate bytes": b'"\xed\xa0\x80"',
    "@no UTF-8": b'"\xff\xfe"',
    "@control": b'"\x1b[2J\x00"',
    "@nothing": b"",
    "@comment": b"1 /* */",
}
NAMES = re.compile(b'"(' + b"|".join(re.escape(name.encode()) for name in RAW) + b')"')
AGAIN = "@again "  # before a key that is there twice

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 256, 2**31, 2**32 - 1, 2**53, 2**63, 2**64, -(2**63) - 1, 10**18, 10**400),
    *(10**4200, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, 1e16, "", " ", "0", "1", "a", "nan", "\0", "a\0b", "\n", "\x1b[2J"),
    *("\u2028", "\ufeff", "é", "\U0001f600", "..", ".", "/", "a/b", "../../etc/passwd", "a\\b", "x" * 300),
    *("0" * 64, "f" * 32, "2026-01-02T03:04:05Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "__class__"),
    *([], {}, [[]], [{}], [None], [0], ["a"], {"": ""}, {"a": 1}, {"__class__": "os.system", "data": {}}),
    *RAW,
]
LARGE: list[Any] = ["x" * 20_000, [0] * 10_000, ["a"] * 10_000, {str(number): number for number in range(10_000)}]


def places(value: Any, path: Place = ()) -> list[Place]:
    """The path of every value in a document but its own."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in list(items)[:50] for place in ((*path, key), *places(item, (*path, key)))]


def at(value: Any, path: Place) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def odd(draw: st.DrawFn) -> Any:
    """A value that is seldom expected; one in fifty is large."""
    return copy.deepcopy(draw(st.sampled_from(ODD if draw(st.integers(0, 49)) else LARGE)))


@st.composite
def mutated(draw: st.DrawFn, documents: list[Plain]) -> Any:
    """One of these documents, with up to four of its values changed, removed, renamed, doubled or exchanged."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 4))):
        known = places(document)
        if not known:
            return document
        *parents, last = draw(st.sampled_from(known))
        target = at(document, tuple(parents))
        change = draw(
            st.sampled_from(["odd", "odd", "remove", "rename", "again", "wrap", "other", "many", "text", "top"])
        )
        if change == "odd":
            target[last] = draw(odd())
        elif change == "remove":
            del target[last]
        elif change in {"rename", "again"} and isinstance(target, dict):
            name = (
                f"{AGAIN}{last}" if change == "again" else draw(st.sampled_from(["", "sha256", "a\0", "é", "x" * 200]))
            )
            target[name] = draw(odd()) if change == "again" else target.pop(last)
        elif change == "wrap":
            target[last] = [target[last]]
        elif change == "other":
            target[last] = copy.deepcopy(at(document, draw(st.sampled_from(known))))
        elif change == "many":
            small = len(repr(target[last])[:101]) <= 100
            count = draw(st.sampled_from([2, 100, 10_000])) if small else 2
            # Each its own: what is there 10,000 times must not grow 10,000 times with the next change.
            target[last] = [copy.deepcopy(target[last]) for _ in range(count)]
        elif change == "text":
            target[last] = draw(st.integers() | st.floats() | st.text(max_size=20))
        elif change == "top" and draw(st.integers(0, 20)) == 0:
            return draw(odd())
    return document


def text_of(document: Any, **style: Any) -> bytes:
    """A mutated document as JSON; none that is larger than what any reader takes."""
    text = json.dumps(document, **style).encode(errors="surrogatepass")
    if sum(len(RAW[match[1].decode()]) for match in NAMES.finditer(text)) > LARGEST_DOCUMENT:
        reject()
    text = text.replace(b'"' + AGAIN.encode(), b'"')
    return NAMES.sub(lambda match: RAW[match[1].decode()], text)


STYLES: list[Plain] = [{}, {"indent": 1, "sort_keys": True, "ensure_ascii": False}, {"separators": (",", ":")}]


@st.composite
def json_texts(draw: st.DrawFn, documents: list[Plain], style: Plain | None = None) -> bytes:
    """A mutated document, sometimes with mutated bytes or a mark before or after it too."""
    document = draw(mutated(documents))
    text = text_of(document, **(draw(st.sampled_from(STYLES)) if style is None else style))
    how = draw(st.integers(0, 9))
    if how == 0:
        return draw(mutated_bytes([text]))
    if how == 1:
        before, after = draw(st.sampled_from([(b"\xef\xbb\xbf", b""), (b"", b"\0"), (b"\n", b"\n"), (b"", text)]))
        return before + text + after
    return text


@st.composite
def sealed_texts(draw: st.DrawFn, documents: list[Plain]) -> bytes:
    """A mutated document of the registry that carries the SHA-256 of its own content."""
    document = draw(mutated([{name: value for name, value in each.items() if name != "sha256"} for each in documents]))
    style = STYLES[1]
    if not isinstance(document, dict):
        return text_of(document, **style)
    return text_of({**document, "sha256": sha256(text_of(document, **style))}, **style)


INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


@st.composite
def mutated_bytes(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of these contents after up to four changes, or entirely random bytes."""
    if draw(st.integers(0, 30)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 40))
        change = draw(
            st.sampled_from(["flip", "byte", "number", "number", "cut", "remove", "insert", "double", "splice"])
        )
        if change == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "byte" and data:
            data[place] = draw(st.integers(0, 255))
        elif change == "number":
            size, order = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(INTERESTING)) % 2 ** (8 * size)
            data[place : place + size] = number.to_bytes(size, order)
        elif change == "cut":
            del data[place:]
        elif change == "remove":
            del data[place : place + length]
        elif change == "insert":
            data[place:place] = draw(st.binary(max_size=40))
        elif change == "double":
            data[place:place] = data[place : place + length]
        elif change == "splice":
            other = draw(st.sampled_from(contents))
            start = draw(st.integers(0, max(len(other) - 1, 0)))
            data[place : place + length] = other[start : start + length]
    return bytes(data)
