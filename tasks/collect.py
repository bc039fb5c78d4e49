"""The steps of a source that grows: which batches a run learns from, each read once, then joined into one data set.

A batch is immutable once a model has learned from it, so its content is read when it is new and never again: the ledger
(`tasks.registry.batches`) knows the digest of a batch by its name, and by the names, sizes and times of its files.
Called by `flows.data`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, partial

from tasks.address import Address
from tasks.caching.keys import canonical
from tasks.caching.steps import Run, step
from tasks.data.arrays import read_split, require_split, store_split
from tasks.data.sources.batches import BatchContents, BatchFiles, batches_of, join, read_batch
from tasks.data.sources.interface import shown
from tasks.download import download_fits, log_seldom
from tasks.errors import DataError, UsageError
from tasks.registry.batches import BatchLedger
from tasks.registry.documents import sha256
from tasks.report.formatting import count
from tasks.running.prefect_artifacts import show_markdown
from tasks.settings import EACH, BatchName
from tasks.storage import open_store
from tasks.values import Artifact, Batch, BatchContent, Collected, Dataset, Download, Examples, SeenBatch, Sha256

LOG = logging.getLogger("retrain.collect")

FindFiles = Callable[[], BatchFiles]

# Names in one line of a log.
NAMES = 5


def _digest(train: Examples | None, test: Examples | None, shape: tuple[int, ...], classes: tuple[str, ...]) -> Sha256:
    splits = [each and [each.images.sha256, each.labels.sha256] for each in (train, test)]
    return sha256(canonical({"splits": splits, "shape": list(shape), "classes": list(classes)}))


def _batch_fits(result: BatchContent, read: Callable[[Artifact], bytes], *_: object) -> None:
    for examples, images in ((result.train, result.images), (result.test, result.test_images)):
        if (examples is None) != (images == 0):
            raise ValueError("its numbers of images are not those of its splits")
        if examples:
            split = read_split(examples, read)
            require_split(split, result.shape, len(result.classes))
            if len(split.labels) != images:
                raise ValueError("its numbers of images are not those of its splits")
    if result.digest != _digest(result.train, result.test, result.shape, result.classes):
        raise ValueError("its digest is of another content")


@step(packages=["numpy", "pillow", "pyarrow"], not_in_key=["files"], fits=_batch_fits)
def batch(folder: Address, name: BatchName, seen: Sha256, files: FindFiles, run: Run) -> BatchContent:
    """Read a batch into the store. Called directly, without a task of its own: there may be thousands.

    Args:
        folder: The folder of batches.
        name: The batch.
        seen: What its files looked like, by which the cache knows whether they changed.
        files: Finds them; called only if they are read.
        run: The run, with its store.

    Raises:
        DataError: A defect of the batch, or it changed while the run was at work.
    """
    found = files()
    if found.seen != seen:
        raise DataError(
            f"cannot read the batch {name}", "it changes while it is read", "Run again when it is complete."
        )
    contents = read_batch(found, log_seldom())
    train, test = (
        store_split(split, run.artifacts.put) if split else None for split in (contents.train, contents.test)
    )
    images, test_images = (len(split.labels) if split else 0 for split in (contents.train, contents.test))
    LOG.info("collect: batch %s has %s, %s", name, count(images + test_images, "image"), contents.format)
    return BatchContent(
        digest=_digest(train, test, contents.shape, contents.classes),
        train=train,
        test=test,
        shape=contents.shape,
        classes=contents.classes,
        images=images,
        test_images=test_images,
    )


@step(cached=False)
def collect(
    source: Address,
    model: str,
    window: int,
    until: BatchName,
    without: tuple[BatchName, ...],
    accept_changed: tuple[BatchName, ...],
    run: Run,
) -> Collected:
    """Choose the batches that a run learns from, and read those that nobody has read.

    A new one that cannot be read is left out until it can be. Of those that a model has learned from, none may have
    changed, and one that is no longer there is said.

    Args:
        source: The folder of batches, and /*.
        model: Whose ledger says which of them are known.
        window: How many, the last ones by name; 0 for all.
        until: The last one; "" for all.
        without: Those to leave out, from now on.
        accept_changed: Those that may have changed.
        run: The run, with its store.

    Raises:
        DataError: A batch changed after a model had learned from it, or there is none to learn from.
        UsageError: A name is that of no batch.
    """
    found = {each.name: each for each in batches_of(source)}
    folder = Address(open_store(source.removesuffix(EACH)).url)  # however it was written
    ledger = BatchLedger(run.store, model, folder)
    known = ledger.read()
    for name in {*without, *accept_changed, *filter(None, [until])} - found.keys() - known.names:
        raise UsageError(f"cannot find the batch {name}", f"{source} has none of this name", "Correct the name.", name)
    ledger.leave_out([name for name in without if not known.left_out(name)], run.id)
    out = {name for name in {*found, *known.names} if name in without or known.left_out(name)}
    names = [name for name in sorted(found) if name not in out and (not until or name <= until)][-window:]
    chosen, new, unreadable = [], [], {}
    for name in names:
        digest = known.digest_of(name, found[name].seen)
        if digest is None:
            try:
                digest = _read(folder, found[name], run).digest
            except DataError as error:
                if known.digests(name):
                    raise _not_the_same(name, str(error)) from error
                unreadable[name] = str(error)
                LOG.warning("collect: batch %s is left out of this run: %s", name, error)
                continue
        used = known.digests(name)
        if used and used[-1] != digest and name not in accept_changed:
            raise _not_the_same(name, f"it had the digest {used[-1]} when a model learned from it, and now {digest}")
        if digest not in used:
            new.append(name)
        chosen.append(SeenBatch(name=name, digest=digest, seen=found[name].seen))
    if not chosen:
        why = "every one is left out or damaged" if found else "there is none"
        raise DataError(f"cannot learn from the batches in {source}", why, "See the log, and add a batch.")
    gone = tuple(sorted(name for name in known.names if known.digests(name) and name not in found and name not in out))
    result = Collected(source=folder, batches=tuple(chosen), new=tuple(new), unreadable=unreadable, gone=gone)
    _say(result, run)
    return result


def _read(folder: Address, files: BatchFiles, run: Run) -> BatchContent:
    return batch.directly(folder, files.name, files.seen, lambda: files, run)


def _not_the_same(name: str, why: str) -> DataError:
    return DataError(
        f"cannot learn from the batch {name}",
        f"a model has learned from it, and it changed: {why}",
        f"Put the earlier one back; or accept this one with --accept-changed {name}, or leave it out with "
        f"--without {name}.",
    )


def _say(collected: Collected, run: Run) -> None:
    texts = [f"{len(collected.batches):,} batch{'' if len(collected.batches) == 1 else 'es'}"]
    texts.append(f"{len(collected.new):,} new{_names(collected.new)}")
    if collected.unreadable:
        texts.append(f"{len(collected.unreadable):,} left out{_names(collected.unreadable)}")
    if collected.gone:
        LOG.warning("collect: no longer there, so their images stay out%s", _names(collected.gone))
        texts.append(f"{len(collected.gone):,} no longer there{_names(collected.gone)}")
    LOG.info("collect: %s", "; ".join(texts))
    reasons = [f"- `{name}`: {shown(why)}" for name, why in collected.unreadable.items()]
    show_markdown("batches", run.series, "\n".join([*(f"- {text}" for text in texts), *reasons]), "; ".join(texts))


def _names(names: Collection[str]) -> str:
    some = ", ".join(list(names)[-NAMES:])
    return f": {'…, ' if len(names) > NAMES else ''}{some}" if names else ""


def contents_of(folder: Address, batches: Collection[SeenBatch], run: Run) -> Iterator[tuple[str, BatchContent]]:
    """Names and contents of batches that `collect` has chosen; one that the cache has lost is read again.

    Raises:
        DataError: It is no longer what it was.
    """

    @cache
    def found() -> dict[str, BatchFiles]:
        return {each.name: each for each in batches_of(f"{folder}{EACH}")}

    def files(name: str) -> BatchFiles:
        if name not in found():
            raise DataError(f"cannot read the batch {name}", "it is no longer there", "Run again.")
        return found()[name]

    for each in batches:
        content = batch.directly(folder, each.name, each.seen, partial(files, each.name), run)
        if content.digest != each.digest:
            raise _not_the_same(each.name, f"it had the digest {each.digest}, and now {content.digest}")
        yield each.name, content


def read_contents(content: BatchContent, run: Run) -> BatchContents:
    """The arrays of a batch."""
    train, test = (read_split(each, run.artifacts.get) if each else None for each in (content.train, content.test))
    return BatchContents(train, test, content.shape, content.classes, "")


@step(packages=["numpy"], not_in_key=["seen"], fits=download_fits)
def joined(folder: Address, digests: Mapping[str, Sha256], seen: Mapping[str, Sha256], run: Run) -> Download:
    """Join batches into one data set, as if they were one source.

    Args:
        folder: The folder of batches.
        digests: Those to join, by name.
        seen: What their files look like, by name.
        run: The run, with its store.

    Raises:
        DataError: They do not fit each other, or a model cannot learn from them.
    """
    chosen = [SeenBatch(name=name, digest=digest, seen=seen[name]) for name, digest in digests.items()]
    contents = dict(contents_of(folder, chosen, run))
    whole = join({name: read_contents(content, run) for name, content in contents.items()})
    data = Dataset(
        dataset="",
        train=store_split(whole.train, run.artifacts.put),
        test=store_split(whole.test, run.artifacts.put) if whole.test else None,
        shape=whole.train.images.shape[1:],
        classes=whole.classes,
        batches=tuple(
            Batch(
                name=name,
                digest=content.digest,
                images=content.images,
                test_images=content.test_images,
                test=content.test and content.test.images,
            )
            for name, content in contents.items()
        ),
    )
    return Download(data=data, source=Address(f"{folder}{EACH}"))
