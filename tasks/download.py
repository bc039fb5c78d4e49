"""The download step: a known data set, or somebody's own, in canonical form, as artifacts. Called by the flow.

A known set is pinned by content. Of any other source the names, sizes and times of its files are looked at in each run,
and it is read again if one of them changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tasks.address import Address
from tasks.caching.steps import Run, step
from tasks.data.arrays import read_split, require_split, store_split
from tasks.data.datasets import DATASETS
from tasks.data.pins import require_pinned
from tasks.data.reading import OnProgress, read_source
from tasks.values import Artifact, Dataset, Download

LOG = logging.getLogger("retrain.download")

SECONDS = 5.0


def download_fits(result: Download, read: Callable[[Artifact], bytes], *_: object) -> None:
    """Raise ValueError unless the result is one of canonical images and labels."""
    data = result.data
    for examples in (data.train, data.test):
        if examples:
            require_split(read_split(examples, read), data.shape, len(data.classes))


@step(
    packages=["numpy", "pillow", "pyarrow", "scikit-learn"],
    not_in_key=["mirror"],
    timeout_seconds=6 * 3600,
    fits=download_fits,
)
def download(source: Address, seen: str, mirror: tuple[Address, ...], run: Run) -> Download:
    """Read images and labels into the store.

    Args:
        source: A known data set, or the address of somebody's own.
        seen: What `look` has seen of it, by which the cache knows whether the files changed.
        mirror: Where to look for the files of a known set. Its content is pinned, so they are not part of the key.
        run: The run, with its store.

    Raises:
        DataError: The source cannot be used.
        MirrorsUnreachable: No mirror answered.
        DownloadError: No mirror delivered the right bytes.
    """
    contents, origin = read_source(source, mirror, log_seldom())
    if source in DATASETS and not DATASETS[source].train_images.sha256:
        require_pinned(run.store, source, contents)
    data = Dataset(
        dataset=source if source in DATASETS else "",
        train=store_split(contents.train, run.artifacts.put),
        test=store_split(contents.test, run.artifacts.put) if contents.test else None,
        shape=contents.train.images.shape[1:],
        classes=contents.classes,
    )
    images = sum(len(split.labels) for split in (contents.train, contents.test) if split)
    LOG.info("download: %s images from %s, %s", f"{images:,}", origin, contents.format)
    return Download(data=data, source=origin)


def log_seldom() -> OnProgress:
    """A line for each file, and every SECONDS for one that takes longer: an hour of reading is 720 lines."""
    logged = time.monotonic()

    def log(name: str, done: int, total: int | None) -> None:
        nonlocal logged
        if done == total or time.monotonic() - logged > SECONDS:
            logged = time.monotonic()
            share = f"{100 * done / total:3.0f} %" if total else f"{done:,} bytes"
            LOG.info("download: %s %s", share, name)

    return log
