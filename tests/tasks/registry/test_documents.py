from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import RegistryError
from tasks.registry import Registry
from tasks.registry.documents import File, Manifest, Pointer, encode, identity, now, parse, sha256
from tasks.storage.local import LocalStore

ONE, OTHER = "0" * 64, "1" * 64


def manifest(*files: tuple[str, str], **facts: Any) -> Manifest:
    entries = tuple(File(path=path, size=1, sha256=digest) for path, digest in files)
    return Manifest(version=1, identity=identity(dict(files)), created=now(), files=entries, facts=facts)


def pointer(generation: int) -> Pointer:
    return Pointer(
        version=1,
        identity=ONE,
        publish_id="0" * 32,
        generation=generation,
        previous=None,
        moved=now(),
        reason="better",
        decides="pointer",
    )


@pytest.mark.parametrize(
    "data", [b"", b"null", b"1", b'"a"', b"[]", b"[1]", b'["a"]', b"[[1, 2]]", b"[[[], 1]]", b"[" * 200_000, b"\xff"]
)
def test_what_is_no_object_is_no_document(data: bytes) -> None:
    with pytest.raises(RegistryError, match="is no manifest"):
        parse(Manifest, data, "manifest.json")


@pytest.mark.parametrize("path", ["a\0b", "a\nb", "\x1b[2J", "a/\x7f", "../a", "/a", ".a", ""])
def test_a_path_that_no_folder_should_have_is_refused(path: str) -> None:
    plain = json.loads(encode(manifest(("file", ONE))))
    del plain["sha256"]
    plain["files"][0]["path"] = path
    plain["identity"] = identity({path: ONE})
    text = json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False)
    sealed = json.dumps(plain | {"sha256": sha256(text.encode())}, sort_keys=True, indent=1, ensure_ascii=False)
    with pytest.raises(RegistryError, match="is no manifest"):
        parse(Manifest, sealed.encode(), "manifest.json")


def test_a_file_that_is_named_twice_is_refused() -> None:
    """The identity would be that of one, and readers would take the other."""
    with pytest.raises(ValueError, match="the identity does not match the files"):
        manifest(("model.keras", ONE), ("model.keras", OTHER))


@pytest.mark.parametrize(
    ("recorded", "accuracy"), [(0.98, 0.98), (1, 1.0), (10**400, None), (-1, None), (True, None), ("0.98", None)]
)
def test_an_accuracy_is_one_or_none(recorded: object, accuracy: float | None) -> None:
    assert manifest(("file", ONE), metrics={"accuracy": recorded}).accuracy == accuracy


def test_a_generation_far_ahead_names_the_gap_and_takes_no_memory(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for generation in (2, 4, 10**18):
        each = pointer(generation)
        store.put(f"models/mnist/history/{each.entry}", encode(each))
    store.put("models/mnist/champion.json", encode(each))
    said = " ".join(str(error) for error in Registry(store, "mnist").verify_champion())
    assert "no entry for generation 1, 3, 5 to 999999999999999999: it was deleted" in said
