"""Known sets whose content nobody has verified: what a store has seen first, it takes from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tasks.address import Address
from tasks.data.datasets import DATASETS, FASHION_MNIST, KMNIST
from tasks.data.pins import require_pinned
from tasks.data.reading import look, read_source
from tasks.errors import DataError
from tasks.storage import open_store
from tests.mirrors import CONTENTS, gzipped, serving, spec_for


def test_they_have_names_and_encrypted_mirrors_and_no_pin_of_their_own() -> None:
    for spec in (FASHION_MNIST, KMNIST):
        assert DATASETS[spec.name] is spec
        assert all(mirror.startswith("https://") for mirror in spec.mirrors)
        assert not any(file.sha256 for file in spec.files.values())
        assert len(set(spec.names)) == spec.classes == 10
        assert look(Address(spec.name)) == ""


def test_what_a_store_has_seen_first_is_what_it_takes(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = spec_for(CONTENTS)
    unpinned: dict[str, Any] = {field: file._replace(sha256="") for field, file in known.files.items()}
    monkeypatch.setitem(DATASETS, "kmnist", known._replace(names=KMNIST.names, **unpinned))
    store = open_store(store_url)
    other = {**CONTENTS, "train_labels": CONTENTS["train_labels"][:-1] + bytes([CONTENTS["train_labels"][-1] ^ 1])}
    with serving(gzipped(CONTENTS)) as first, serving(gzipped(other)) as second:
        right, wrong = (read_source(Address("kmnist"), (each.url,), lambda *_: None)[0] for each in (first, second))
    assert right.classes[:2] == ("o", "ki")
    for _ in range(2):
        require_pinned(store, "kmnist", right)
    with pytest.raises(DataError, match=r"pins/kmnist\.json has recorded when it was first used\. Use another mirror"):
        require_pinned(store, "kmnist", wrong)
    for damaged in (b"damaged", b"[" * 100_000):
        store.put("pins/kmnist.json", damaged)
        with pytest.raises(DataError, match="delete that file"):
            require_pinned(store, "kmnist", right)
    store.delete("pins/kmnist.json")
    require_pinned(store, "kmnist", wrong)


def test_they_need_a_limit_and_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--source", "fashion-mnist"]) == 2
    assert "no limit is set for its accuracy" in capsys.readouterr().err
    assert main(["versions", "--source", "kmnist", "--store", str(tmp_path / "store")]) == 1
    assert "kmnist" in capsys.readouterr().err
