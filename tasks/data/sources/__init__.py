"""Labelled images from any source, in one canonical form: one interface, one file for each format.

A source is a folder, one file, or an address; its format is recognised by the names of its files. Called by the steps
`download` and `preprocess`. Imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks.data.sources import csv_file, idx_files, npz, parquet, picture_folder
from tasks.data.sources.canonical import canonical
from tasks.data.sources.interface import AS_BATCHES, Contents, File, Format, Progress, Tree, shown
from tasks.data.sources.trees import open_tree
from tasks.errors import DataError

__all__ = ["Contents", "File", "Format", "Tree", "open_tree", "read", "recognise"]

FORMATS: tuple[Format, ...] = (idx_files, npz, picture_folder, csv_file, parquet)


def recognise(tree: Tree) -> Format:
    """The format of a source, by the names of its files.

    Raises:
        DataError: None fits, or several do.
    """
    names = [file.name for file in tree.files]
    fitting = [form for form in FORMATS if form.fits(names)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        found = " and ".join(form.NAME for form in fitting)
        raise DataError(
            f"cannot read the source {shown(tree.where)}", f"it has files of {found}", "Keep one format." + AS_BATCHES
        )
    found = (
        f"none of its {len(names):,} files, as {shown(names[0])}, is of a known format" if names else "it has no file"
    )
    wanted = "; ".join(f"{form.NAME}: {form.FILES}" for form in FORMATS)
    raise DataError(f"cannot read the source {shown(tree.where)}", found, f"Known are {wanted}.")


def read(tree: Tree, progress: Progress = lambda *_: None, whole: bool = True) -> Contents:
    """Read a source into canonical form.

    The same images and labels give the same arrays whichever format they are in, apart from what a format loses itself.

    Args:
        tree: Where its files are.
        progress: Called with (what, done, total or None), every 0.5 s and at the end of each file.
        whole: Whether it is a source by itself; otherwise one batch of several, which may lack classes.

    Raises:
        DataError: A defect, with the name of the file.
        StoreError: The source cannot be listed.
    """
    form = recognise(tree)
    parts = form.read(tree, [file.name for file in tree.files], _seldom(progress))
    return canonical(parts, tree.where, form.NAME, whole)


def _seldom(progress: Progress) -> Callable[[str, int, int | None], None]:
    reported = time.monotonic()

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal reported
        if done == total or time.monotonic() - reported > 0.5:
            reported = time.monotonic()
            progress(what, done, total)

    return report
