"""A folder of pictures, as Keras and torchvision read it: `train/<class>/*` and `test/<class>/*`, or `<class>/*`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tasks.data.sources.interface import (
    AS_BATCHES,
    Part,
    Parts,
    Progress,
    Tree,
    check_classes,
    left_out,
    shown,
    unreadable,
)
from tasks.data.sources.pictures import LARGEST, SUFFIXES, Pictures, in_rgb

NAME = "pictures"
FILES = "train/<class>/*.png and test/<class>/*.png, or <class>/*.png"

SPLITS = ("train", "test")
VALIDATION = ("val", "valid", "validation")
LAYOUT = "Put each picture into train/<class>/ or test/<class>/, or all of them into <class>/."


def fits(names: Sequence[str]) -> bool:
    """See `Format`."""
    return any("/" in name and name.lower().endswith(SUFFIXES) for name in names)


def read(tree: Tree, names: Sequence[str], progress: Progress) -> Parts:
    """See `Format`. Files beside the folders are ignored unless they are pictures."""
    split_of = _layout(tree, names)
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if "/" not in name and not name.lower().endswith(SUFFIXES):
            continue
        folders = name.split("/")[:-1]
        if name.endswith("/"):
            if len(folders) == 1 + split_of and (not split_of or folders[0] in SPLITS):
                raise unreadable(name, "the folder is empty", "Put pictures of its class there, or remove it.")
            continue
        if len(folders) != 1 + split_of:
            raise unreadable(name, "it lies in no folder of a class", LAYOUT + AS_BATCHES)
        split = folders[0] if split_of else "train"
        if split not in SPLITS + VALIDATION:
            raise unreadable(name, f"its folder {shown(split)} is neither train nor test", LAYOUT + AS_BATCHES)
        if not name.lower().endswith(SUFFIXES):
            raise unreadable(name, f"it is no picture by its name ({', '.join(SUFFIXES)})", "Remove it.")
        files[split].append(name)
    left_out([split for split in files if split in VALIDATION], tree.where)
    if "train" not in files:
        raise unreadable(tree.where, "it has pictures for the test and none for training", LAYOUT)
    classes = sorted({name.split("/")[-2] for split in SPLITS for name in files.get(split, ())})
    check_classes(classes, tree.where, fewest=1)
    train = _part(tree, files["train"], classes, "train", progress)
    test = _part(tree, files["test"], classes, "test", progress) if "test" in files else None
    if test and train.images.ndim != test.images.ndim:
        train, test = (part._replace(images=in_rgb(part.images)) for part in (train, test))
    return Parts(train, test, tuple(classes))


def _layout(tree: Tree, names: Sequence[str]) -> bool:
    """Whether there is a folder of each split above those of the classes."""
    depths = {name.count("/"): name for name in names if "/" in name and not name.endswith("/")}
    if len(depths) > 1:
        shallow, deep = (shown(depths[depth]) for depth in (min(depths), max(depths)))
        raise unreadable(tree.where, f"{shallow} and {deep} lie at different depths", LAYOUT)
    return max(depths) > 1


def _part(tree: Tree, names: list[str], classes: list[str], split: str, progress: Progress) -> Part:
    number = {name: label for label, name in enumerate(classes)}
    labels = np.fromiter((number[name.split("/")[-2]] for name in names), np.uint16, len(names))
    pictures = Pictures()
    pictures.expect(len(names), tree.where)
    for done, name in enumerate(names, 1):
        pictures.add(tree.read(name, LARGEST), name)
        progress(f"{split} pictures", done, len(names))
    return Part(pictures.images, labels, tree.where)
