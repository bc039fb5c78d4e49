"""The download step: the four IDX files of a data set, verified, as artifacts of the store. Called by the flow."""

from __future__ import annotations

import logging

from tasks.caching.steps import Run, step
from tasks.data.datasets import DATASETS
from tasks.data.mirrors import fetch
from tasks.report.prefect_artifacts import Progress
from tasks.values import Download, Files

LOG = logging.getLogger("retrain.download")


@step(packages=["numpy", "scikit-learn"], not_in_key=["mirror"], timeout_seconds=3600)
def download(dataset: str, mirror: tuple[str, ...], run: Run) -> Download:
    """Fetch the four IDX files into the store. Their content is pinned, so the mirror is not part of the key.

    Raises:
        MirrorsUnreachable: No mirror answered.
        DownloadError: No mirror delivered the right bytes.
    """
    spec = DATASETS[dataset]
    with Progress("download", f"Bytes of {spec.name}") as progress:
        fetched = fetch(spec, mirror, lambda name, done, total: progress.show(done / total if total else 0, name))
    files = {field: run.artifacts.put(content, "application/x-idx") for field, content in fetched.contents.items()}
    LOG.info(
        "download: %s from %s, %.0f MB", spec.name, fetched.source, sum(file.size for file in files.values()) / 1e6
    )
    return Download(files=Files(dataset=spec.name, **files), source=fetched.source)
