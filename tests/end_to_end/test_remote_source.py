"""Data of somebody's own at an https:// address, from a server of this machine: `retrain data check` and whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.schemas.objects import State

from flows.cli.main import main
from flows.retrain import retrain
from tasks.address import Address
from tasks.data.content import Split
from tasks.errors import RetrainError
from tasks.settings import Data, GateSettings, RecipeSettings
from tasks.values import Outcome
from tests import tls
from tests.mirrors import Answer, Mirror, serving
from tests.source_files import some, write_gzip, write_npz

SPLITS = {"train": some(60), "test": some(30, seed=1)}
FOLDER = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


@pytest.fixture
def site() -> Iterator[Mirror]:
    with serving({}) as mirror:
        yield mirror


@pytest.fixture
def address(site: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The https:// address of the site, whose certificate is trusted."""
    pem = tls.certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with tls.terminating(pem, site.server.server_port) as url:
        yield url


def archive(folder: Path, train: Split = SPLITS["train"]) -> Answer:
    write_npz(folder, SPLITS | {"train": train})
    return Answer((folder / "images.npz").read_bytes())


def job(source: str, store: Path) -> State[Outcome]:
    recipe, gate = RecipeSettings(epochs=1), GateSettings(min_accuracy=0)
    data, options = Data(source=Address(source)), {"store": str(store), "model": "shapes", "seeds": "1"}
    state = retrain(data, recipe, gate, "cpu", return_state=True, **options)
    return cast(State[Outcome], state)


def reused(state: State[Outcome]) -> set[str]:
    outcome = cast(Outcome, cast(Any, state.result()))
    return {step.name for step in outcome.steps if step.cached}


@pytest.mark.usefixtures("prefect_server")
def test_each_run_reads_it_again_and_trains_where_it_changed(site: Mirror, address: str, tmp_path: Path) -> None:
    """Nothing tells whether a file over HTTPS changed. The same content is the same data, so it trains once."""
    site.answers["own/images.npz"] = archive(tmp_path)
    first = job(f"{address}/own/images.npz", tmp_path / "store")
    assert (first.name, reused(first), site.asked) == ("Published", set(), ["own/images.npz"])
    second = job(f"{address}/own/images.npz", tmp_path / "store")
    assert (second.name, len(site.asked)) == ("Unchanged", 2)
    assert "download" not in reused(second)
    assert reused(second) >= {"preprocess", "train", "evaluate"}

    images, labels = SPLITS["train"]
    site.answers["own/images.npz"] = archive(tmp_path, Split(images[:-1], labels[:-1]))
    changed = job(f"{address}/own/images.npz", tmp_path / "store")
    assert not reused(changed) & {"download", "preprocess", "train"}

    del site.answers["own/images.npz"]
    with pytest.raises(RetrainError, match=rf"cannot read {address}/own/images\.npz: it is not there\. Correct"):
        job(f"{address}/own/images.npz", tmp_path / "store").result()


@pytest.mark.usefixtures("prefect_server")
def test_a_folder_of_idx_files_is_one_request_for_each(site: Mirror, address: str, tmp_path: Path) -> None:
    write_gzip(tmp_path, SPLITS)
    for name in FOLDER:
        old = name.replace("t10k", "test").replace("-idx", ".idx")
        site.answers[f"own/{name}.gz"] = Answer((tmp_path / f"own-{old}.gz").read_bytes())
    assert job(f"{address}/own/", tmp_path / "store").name == "Published"
    assert site.asked == [f"own/{name}.gz" for name in FOLDER]


def test_data_check_reads_it_over_https_and_over_http_from_this_machine(
    site: Mirror, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.answers["images.npz"] = archive(tmp_path)
    site.answers["images.npz?signature=secret"] = site.answers["images.npz"]
    for url in (address, site.url.rstrip("/")):
        assert main(["data", "check", "--source", f"{url}/images.npz?signature=secret"]) == 0
        output = capsys.readouterr().out
        assert output.splitlines()[:3] == [
            f"source    {url}/images.npz",
            "format    npz",
            "images    8 × 8 pixels, grey",
        ]
        assert "secret" not in output


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("gone.npz", None, "cannot read {}/gone.npz: it is not there."),
        ("busy.npz", Answer(status=403), "cannot read {0}/busy.npz: answered 403 for {0}/busy.npz. Check the address."),
        ("page.npz", Answer(b"<html>"), "cannot read page.npz: it is not a valid .npz archive (BadZipFile)."),
        ("cut.npz", Answer(bytes(100), cut=9), "cannot read {}/cut.npz: the connection broke ("),
        ("down.npz", Answer(status=302, headers={"Location": "http://127.0.0.1/x"}), "which is not https://."),
        ("letters/", None, "there is no train-images-idx3-ubyte, with .gz or without. Give the address of one .npz, "),
        ("letters.zip", None, "nothing can be listed there, and there is no train-images-idx3-ubyte"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    path: str, answer: Answer | None, why: str, site: Mirror, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if answer:
        site.answers[path] = answer
    assert main(["data", "check", "--source", f"{address}/{path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert why.format(address) in line


def test_a_certificate_that_nobody_trusts_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], site: Mirror
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert main(["data", "check", "--source", f"{address}/images.npz"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"retrain: cannot read {address}/images.npz: its certificate is not trusted (self-signed")
    assert "SSL_CERT_FILE names the trusted ones" in line
    assert not site.asked
