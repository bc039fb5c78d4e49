"""Data of somebody's own, drawn with the fonts that matplotlib brings: letters, a skewed set, colours.

python -m tests.own_data FOLDER
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pictures = NDArray[np.uint8]

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "cmr10")


def letter(character: str, random: np.random.Generator, side: int = 32) -> Pictures:
    """A letter in some font, size and place, with noise: uint8 (side, side)."""
    file = Path(matplotlib.get_data_path(), "fonts/ttf", f"{random.choice(FONTS)}.ttf")
    picture = Image.new("L", (side, side))
    place = side / 2 + random.uniform(-3, 3), side / 2 + random.uniform(-3, 3)
    font = ImageFont.truetype(file, int(random.integers(side // 2, side - 8)))
    ImageDraw.Draw(picture).text(place, character, fill=255, font=font, anchor="mm")
    noisy = np.asarray(picture, np.float32) + random.normal(0, 12, (side, side))
    return noisy.clip(0, 255).astype(np.uint8)


def letters(folder: Path, each: int = 40, characters: str = string.ascii_uppercase, seed: int = 0) -> Path:
    """A folder of pictures, `<letter>/<number>.png`, without a test split."""
    random = np.random.default_rng(seed)
    for character in characters:
        (folder / character).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(letter(character, random)).save(folder / character / f"{number:04d}.png")
    return folder


def skewed(file: Path, images: int = 400, seed: int = 0) -> Path:
    """An .npz of two classes, of which the second has every tenth image: O and Q, 16 × 16."""
    random = np.random.default_rng(seed)
    labels = (np.arange(images) % 10 == 0).astype(np.uint8)
    pictures = np.stack([letter("IO"[label], random, 24) for label in labels])
    tests = np.arange(images) // 10 % 4 == 3
    arrays = {
        f"{kind}_{split}": value[rows]
        for split, rows in (("train", ~tests), ("test", tests))
        for kind, value in (("x", pictures), ("y", labels))
    }
    np.savez(file, **arrays)
    return file


def colours(folder: Path, each: int = 60, side: int = 20, seed: int = 0) -> Path:
    """A folder of pictures in colour, `train/<class>/*` and `test/<class>/*`: red, green and blue letters."""
    random = np.random.default_rng(seed)
    for split, count in (("train", each), ("test", each // 3)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                picture = np.stack([letter(str(random.choice(list("ABC"))), random, side) // 4] * 3, axis=2)
                picture[:, :, channel] *= 3
                Image.fromarray(picture).save(folder / split / name / f"{number:04d}.png")
    return folder


if __name__ == "__main__":
    target = Path(sys.argv[1])
    letters(target / "letters")
    skewed(target / "skewed.npz")
    colours(target / "colours")
