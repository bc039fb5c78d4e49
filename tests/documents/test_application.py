"""The README's lines load the champion: in a process of its own, over S3, with credentials that may only read."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3

from tests.faults.proxy import Fault, proxying

ROOT = Path(__file__).parents[2]
STORE = ROOT / "tests/stores/0.1.0.tar.xz"
MODEL = "digits"


def lines(store: str) -> str:
    """The first Python fence of the README, for another store."""
    fence = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert fence.count('"s3://models/prod"') == fence.count('"mnist"') == 1
    return fence.replace("s3://models/prod", store).replace('"mnist"', f'"{MODEL}"')


def upload(store: str) -> None:
    """Copy a store that earlier code published to."""
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    with tarfile.open(STORE) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{member.name}", Body=file.read())


def test_an_application_with_read_only_credentials_loads_the_champion(
    bucket: str, s3_server: str, tmp_path: Path
) -> None:
    store, folder = f"{bucket}/prod", tmp_path / "anywhere"
    folder.mkdir()
    upload(store)
    with proxying(s3_server) as proxy:
        proxy.faults.append(Fault("status", method="PUT|POST|DELETE", times=None, status=403, code="AccessDenied"))
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"{lines(store)}\nprint(champion.version, probabilities.shape)",
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "2 (1, 10)\n", done.stderr
        assert {request.method for request in proxy.requests} == {"GET"}
    assert list(folder.iterdir()) == []
