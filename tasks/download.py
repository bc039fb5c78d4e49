"""The download step: bring the four IDX files of a data set into the store. `tasks.data.mirrors` fetches them."""

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
    """Bring the four IDX files into the store. Which mirror has them is no part of the key: their content is pinned."""
    spec = DATASETS[dataset]
    with Progress("download", f"Bytes of {spec.name}") as progress:
        fetched = fetch(spec, mirror, lambda name, done, total: progress.show(done / total if total else 0, name))
    files = {field: run.artifacts.put(content, "application/x-idx") for field, content in fetched.contents.items()}
    LOG.info(
        "download: %s from %s, %.0f MB", spec.name, fetched.source, sum(file.size for file in files.values()) / 1e6
    )
    return Download(files=Files(dataset=spec.name, **files), source=fetched.source)
