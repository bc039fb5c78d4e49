"""Labelled images written in each format that a source may have."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.data import idx
from tasks.data.content import Split

Splits = Mapping[str, Split]


def some(count: int, side: int = 8, channels: int = 1, classes: int = 3, seed: int = 0) -> Split:
    """Random images; every class occurs if there are as many images."""
    random = np.random.default_rng(seed)
    shape = (count, side, side, 3) if channels == 3 else (count, side, side)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, max(0, count - classes))])[:count]
    return Split(random.integers(0, 256, shape, np.uint8), random.permutation(labels).astype(np.uint8))


def png(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def write_idx(folder: Path, splits: Splits) -> None:
    for split, (images, labels) in splits.items():
        name = {"train": "train", "test": "t10k"}[split]
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx.encode(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx.encode(labels))


def write_gzip(folder: Path, splits: Splits) -> None:
    for split, (images, labels) in splits.items():
        (folder / f"own-{split}-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx.encode(images)))
        (folder / f"own-{split}-labels.idx1-ubyte.gz").write_bytes(gzip.compress(idx.encode(labels)))


def write_npz(folder: Path, splits: Splits) -> None:
    arrays: dict[str, Any] = {}
    for split, (images, labels) in splits.items():
        arrays |= {f"x_{split}": images, f"y_{split}": labels.astype(np.int64)[:, None]}
    np.savez_compressed(folder / "images.npz", **arrays)


def write_pictures(folder: Path, splits: Splits) -> None:
    for split, (images, labels) in splits.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))


def write_csv(folder: Path, splits: Splits, header: bool = True, names: Sequence[str] = ()) -> None:
    for split, (images, labels) in splits.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            pixels = images.reshape(len(images), -1)
            if header:
                lines.writerow(["label", *(f"pixel{number}" for number in range(pixels.shape[1]))])
            lines.writerows(
                [names[label] if names else label, *row]
                for label, row in zip(labels.tolist(), pixels.tolist(), strict=True)
            )


def write_parquet(folder: Path, splits: Splits, names: Sequence[str] = ()) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, (images, labels) in splits.items():
        pictures = [{"bytes": png(image), "path": None} for image in images]
        table = pa.table({"image": pictures, "label": pa.array(labels.tolist(), pa.int64())})
        if names:
            features = {"label": {"names": list(names), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        middle = len(images) // 2
        pq.write_table(table.slice(0, middle), folder / f"{split}-00000-of-00002.parquet")
        pq.write_table(table.slice(middle), folder / f"{split}-00001-of-00002.parquet")


WRITERS: dict[str, Callable[[Path, Splits], None]] = {
    "IDX": write_idx,
    "IDX with gzip": write_gzip,
    "npz": write_npz,
    "pictures": write_pictures,
    "CSV": write_csv,
    "Parquet": write_parquet,
}
