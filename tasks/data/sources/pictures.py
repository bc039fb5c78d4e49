"""PNG, JPEG, BMP, GIF and TIFF as rows of one array, decoded by Pillow. Used for folders of pictures and for Parquet.

Grey and black-and-white pictures are grey; RGB and palette pictures are RGB, and make all of them RGB. Refused are
transparency, 16 bits, other colour spaces, and more than one frame. Orientation marks of cameras are ignored, as Keras
and torchvision do.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray

from tasks.data.sources.interface import allocate, check_shape, shown, unreadable
from tasks.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
KINDS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")

# Of one picture's file: 512 × 512 pixels in RGB have 0.8 MB.
LARGEST = 16 * 10**6


class Pictures:
    """An array of pictures that fills as they are added; the first one decides the size."""

    def __init__(self) -> None:
        self._expected, self._first, self.done = 0, "", 0
        self.images = np.empty((0, 0, 0), np.uint8)

    def expect(self, count: int, name: str) -> None:
        """Make room for so many more pictures, without a copy where the system can do that. Raises DataError."""
        self._expected += count
        if self.done:
            shape = (self._expected, *self.images.shape[1:])
            check_shape(shape, name)
            try:
                self.images.resize(shape, refcheck=False)
            except MemoryError:
                raise unreadable(name, "this machine has no memory for its pictures") from None

    def add(self, data: bytes, name: str) -> None:
        """Decode a picture into the next row. Raises DataError."""
        pixels = decode(data, name)
        if not self.done:
            self._first = name
            self.images = allocate((self._expected, *pixels.shape), name)
        if pixels.shape[:2] != self.images.shape[1:3]:
            (height, width), (first_height, first_width) = pixels.shape[:2], self.images.shape[1:3]
            why = f"it has {height} × {width} pixels, and {shown(self._first)} has {first_height} × {first_width}"
            raise unreadable(name, why, "Resize the pictures to one size.")
        if pixels.ndim == self.images.ndim:
            self.images = in_rgb(self.images)
        self.images[self.done] = pixels[:, :, None] if pixels.ndim + 1 < self.images.ndim else pixels
        self.done += 1


def in_rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey images (n, height, width) as (n, height, width, 3); RGB as they are."""
    if images.ndim == 4:
        return images
    result = allocate((*images.shape, 3), "the pictures")
    result[:] = images[..., None]
    return result


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """A picture's pixels: uint8 (height, width) or (height, width, 3); its size is checked before it is decoded.

    Raises:
        DataError: No picture, a damaged one, or one that cannot be used.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata
            with Image.open(io.BytesIO(data), formats=KINDS) as picture:
                width, height = picture.size
                check_shape((1, height, width), name)
                if getattr(picture, "n_frames", 1) > 1:
                    raise unreadable(name, "it has more than one frame")
                if picture.has_transparency_data:
                    raise unreadable(name, "it has transparency", "Save the pictures in RGB or in grey.")
                if picture.mode not in {"1", "L", "P", "RGB"}:
                    why = f"its pixels are {picture.mode} instead of 8 bits of grey or RGB"
                    raise unreadable(name, why, "Save the pictures with 8 bits, in RGB or in grey.")
                return np.array(picture.convert("L" if picture.mode in {"1", "L"} else "RGB"))
    except DataError:
        raise
    except Exception as error:  # a decoder fed with damaged bytes raises what it likes
        raise unreadable(name, f"it is not a picture that can be decoded ({type(error).__name__})") from error
