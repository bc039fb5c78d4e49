"""Reads any source: a known data set, or somebody's own.

Called by the flow and the step `download`, and by `retrain init` and `retrain data`. No Prefect.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence

from tasks.address import Address
from tasks.data.datasets import DATASETS, decoded
from tasks.data.mirrors import fetch, reader
from tasks.data.sources import Contents, open_tree, read

OnProgress = Callable[[str, int, int | None], None]

HTTP = ("http://", "https://")


def look(source: Address) -> str:
    """What tells whether the files of a source changed; "" for a known data set, which never does.

    Over HTTP nothing tells, so nothing is asked: then it is another text each time.

    Raises:
        DataError: There is nothing, or it cannot be listed.
    """
    if source in DATASETS:
        return ""
    files = [uuid.uuid4().hex] if source.startswith(HTTP) else [list(file) for file in open_tree(source).files]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def read_source(source: Address, mirrors: Sequence[str], progress: OnProgress) -> tuple[Contents, Address]:
    """The images of a source, and what served them: for a known data set one of its mirrors.

    Raises:
        DataError: The source cannot be used.
        DownloadError: No mirror delivered the right bytes; MirrorsUnreachable if none answered.
    """
    if source in DATASETS:
        fetched = fetch(DATASETS[source], mirrors, progress)
        return decoded(DATASETS[source], fetched.contents), fetched.source
    return read(open_tree(source, reader(source, progress) if source.startswith(HTTP) else None), progress), source
