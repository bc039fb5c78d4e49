"""What a new batch is like beside the earlier ones, before a training is spent on it.

`tasks.gate.batch_checks` has the rows. Nothing is cached: the champion, which is asked what it thinks of the labels,
may have changed. Called by the flow; imports no TensorFlow, as a published model predicts in an isolated process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tasks.caching.steps import Run
from tasks.collect import contents_of, read_contents
from tasks.data.arrays import Bytes, Labels, Probabilities
from tasks.data.sources.batches import BatchContents
from tasks.data.sources.canonical import ordered
from tasks.errors import LoadBackError, ModelFileError, RegistryError
from tasks.gate.batch_checks import Champion, Earlier, NewBatch, check_batch
from tasks.gate.checks import UNKNOWN
from tasks.learning.isolated import predict_isolated
from tasks.model_page import refused_row
from tasks.record import more
from tasks.registry import Registry
from tasks.registry.registry import MODEL_FILE
from tasks.report.batches import SHOWN, BatchesDocument, Pictures, markdown, render_batches, rows_markdown
from tasks.running.prefect_artifacts import show_markdown
from tasks.settings import BatchLimits
from tasks.values import BatchVerdict, Check, Collected, Record

LOG = logging.getLogger("retrain.check_batches")

# The batches that a new one is compared with, the last ones before it, and the most bytes of their pixels: a check
# takes as long in ten years as today.
MOST_EARLIER, MOST_BYTES = 100, 2 << 30


class Batch(NamedTuple):
    """A batch with all its images, (n, height, width) or (n, height, width, 3); `test` are the last ones of them."""

    name: str
    digest: str
    images: Bytes
    labels: Labels
    test: int
    classes: tuple[str, ...]


class Opinion(NamedTuple):
    """What the champion predicts: of the new batches, by their names, and of test images that it never learned from."""

    name: str
    classes: tuple[str, ...]
    batches: Mapping[str, Probabilities]
    test: Probabilities
    test_labels: Labels


def check_new_batches(
    collected: Collected, versions: Registry, limits: BatchLimits, run: Run
) -> tuple[BatchVerdict, ...]:
    """The rows of each new batch, compared with those that were learned from and with new ones of earlier names.

    The first batch of all has nothing to be compared with.

    Args:
        collected: The batches of the run.
        versions: Has the champion.
        limits: What a batch must reach.
        run: The run, with its store.

    Raises:
        DataError: A batch cannot be read any more.
        RegistryError: The pointer to the champion is damaged.
        StoreError: The store cannot be read.
    """
    fresh = set(collected.new)
    known = [each for each in collected.batches if each.name not in fresh][-MOST_EARLIER:]
    new = [each for each in collected.batches if each.name in fresh]
    if not new or len(collected.batches) == 1:
        return ()
    contents = contents_of(collected.source, [*known, *new], run)
    batches = [_batch(name, content.digest, read_contents(content, run)) for name, content in contents]
    opinion, problem = _ask_champion(batches[: len(known)], batches[len(known) :], versions)
    verdicts = []
    for place in range(max(len(known), 1), len(batches)):
        verdict = _verdict(batches[place], _last(batches[:place]), opinion, limits)
        if problem:
            checks = (*verdict.checks, _unknown("labels", limits.min_p_labels, problem))
            verdict = verdict.model_copy(update={"checks": checks})
        LOG.info("check_batches: %s: %s", verdict.batch, ", ".join(verdict.failed) or "every row passes")
        verdicts.append(verdict)
    if verdicts and not any(verdict.failed for verdict in verdicts):  # else the report has them
        names = [verdict.batch for verdict in verdicts]
        text = rows_markdown(verdicts[-SHOWN:])
        show_markdown("batch checks", run.series, text, f"every row passes: {', '.join(names[-SHOWN:])}")
    return tuple(verdicts)


def record_refused(model: str, collected: Collected, verdicts: Sequence[BatchVerdict], run: Run) -> Record:
    """Write the report of a run that ends before its training to `runs/<run>/`, and show it on the run's page.

    Raises:
        StoreError: The store cannot be written.
    """
    left_out = dict.fromkeys(collected.gone, "it is no longer there") | collected.unreadable
    document = BatchesDocument(model=model, batches=tuple(verdicts), left_out=left_out)
    shown = {verdict.batch for verdict in document.shown if verdict.failed}
    chosen = [each for each in collected.batches if each.name in shown]
    pictures = {}
    for name, content in contents_of(collected.source, chosen, run):
        batch = _batch(name, content.digest, read_contents(content, run))
        pictures[name] = Pictures(batch.images, tuple(batch.classes[label] for label in batch.labels))
    for path, data in render_batches(document, pictures).items():
        run.store.put(f"runs/{run.id}/{path}", data)
    address = run.store.address(f"runs/{run.id}/report.html")
    show_markdown("report", run.series, f"{markdown(document)}\n{more(address)}", document.title)
    return Record(report=address, model=model, row=refused_row(run.id, document.refused))


def _batch(name: str, digest: str, contents: BatchContents) -> Batch:
    splits = [split for split in (contents.train, contents.test) if split]
    images, labels = (np.concatenate(arrays) for arrays in zip(*splits, strict=True))
    return Batch(name, digest, images, labels, len(contents.test.labels) if contents.test else 0, contents.classes)


def _last(earlier: Sequence[Batch]) -> Sequence[Batch]:
    """The last ones, of one size of image, that have no more than MOST_BYTES; at least one."""
    same = [each for each in earlier if each.images.shape[1:] == earlier[0].images.shape[1:]]
    sizes = np.cumsum([each.images.nbytes for each in reversed(same)])
    return same[-max(1, min(MOST_EARLIER, int((sizes <= MOST_BYTES).sum()))) :]


def _verdict(batch: Batch, before: Sequence[Batch], opinion: Opinion | None, limits: BatchLimits) -> BatchVerdict:
    classes = ordered(name for each in before for name in each.classes)
    earlier = Earlier(
        images=np.concatenate([each.images for each in before]),
        labels=np.concatenate([_labels_among(classes, each) for each in before]),
        batch=np.repeat(np.arange(len(before)), [len(each.labels) for each in before]),
        test_images=np.concatenate([_tests(each) for each in before]),
        classes=classes,
        names=tuple(each.name for each in before),
    )
    champion = None
    if opinion and batch.name in opinion.batches:
        predicted = opinion.batches[batch.name]
        champion = Champion(opinion.name, predicted, opinion.test, opinion.test_labels, opinion.classes)
    new = NewBatch(batch.name, batch.images, batch.labels, batch.classes)
    checks, offending = check_batch(new, earlier, champion, limits)
    shown = {row: tuple(int(image) for image in images) for row, images in offending.items()}
    guesses = {}
    if champion and (contradicted := offending.get("labels")) is not None:
        taken = champion.predicted[contradicted].argmax(axis=1)
        guesses = {"labels": tuple(champion.classes[label] for label in taken)}
    return BatchVerdict(
        batch=batch.name,
        digest=batch.digest,
        images=len(batch.labels),
        checks=checks,
        offending=shown,
        guesses=guesses,
    )


def _labels_among(classes: Sequence[str], batch: Batch) -> Labels:
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place[name] for name in batch.classes], np.uint16)[batch.labels]


def _tests(batch: Batch) -> Bytes:
    return batch.images[len(batch.images) - batch.test :]


def _ask_champion(known: Sequence[Batch], new: Sequence[Batch], versions: Registry) -> tuple[Opinion | None, str]:
    """What the champion predicts; None without one, or where it knows other classes; and why it cannot be asked."""
    pointer = versions.checked_champion() if known else None
    if pointer is None:
        return None, ""
    name, shape = f"champion v{pointer.version}", known[0].images.shape[1:]
    asked = [each for each in new if each.images.shape[1:] == shape]
    tests = [each for each in known if each.test and each.images.shape[1:] == shape]
    try:
        manifest = versions.manifest(pointer)
        found = manifest.fact("data", "classes")
        classes = tuple(map(str, found)) if isinstance(found, list) else ()
        if not {label for each in tests for label in each.classes} <= set(classes) or not asked or not tests:
            LOG.warning("check_batches: %s is not asked for its opinion, as it knows other classes", name)
            return None, ""
        model = versions.read_file(pointer.version, versions.file(manifest, MODEL_FILE))
        images = np.concatenate([*(each.images for each in asked), *(_tests(each) for each in tests)])
        predicted = predict_isolated(model, images.reshape(len(images), -1))
    except (RegistryError, ModelFileError, LoadBackError) as error:
        return None, f"{name} cannot be asked: {error.what}: {error.why.rstrip('.')}"
    ends = np.cumsum([len(each.labels) for each in asked])
    *parts, test = np.split(predicted, ends)
    labels = np.concatenate([_labels_among(classes, each)[len(each.labels) - each.test :] for each in tests])
    return Opinion(name, classes, {e.name: part for e, part in zip(asked, parts, strict=True)}, test, labels), ""


def _unknown(name: str, limit: float, why: str) -> Check:
    return Check(name=name, value=UNKNOWN, limit=limit, margin=UNKNOWN - limit, passed=False, sentence=why)
