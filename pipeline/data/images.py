"""Encoded images: reads the shape from the header alone, or all pixels, with one rule for PIL's modes."""

import io
import warnings
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from flowpairs.pipeline.base.errors import InputError

# PIL's mode -> the mode of the pixels that are read. Palettes and bitmaps are only encodings of colours and greys.
MODES = {"L": "L", "1": "L", "RGB": "RGB", "P": "RGB", "RGBA": "RGBA"}
BANDS = {"L": 1, "RGB": 3, "RGBA": 4}


def header_shape(file: bytes | io.IOBase, where: str) -> tuple[int, ...]:
    """Read [C, H, W] of an encoded image, without decoding its pixels.

    Raises:
        InputError: not an image, or a mode other than grey, RGB, RGBA or palette.
    """
    with _open(file, where) as image:
        return BANDS[MODES[image.mode]], image.height, image.width


def decode_image(data: bytes, where: str) -> UInt8[np.ndarray, "c h w"]:
    """Decode all pixels of an encoded image, channels first.

    Raises:
        InputError: as `header_shape`, or pixels that cannot be decoded.
    """
    with _open(data, where) as image:
        try:
            pixels = np.asarray(image.convert(MODES[image.mode]))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{where}: image cut short or corrupt ({error}); replace the file") from error
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0))


def _open(file: bytes | io.IOBase, where: str) -> PIL.Image.Image:
    """Open an image lazily, and refuse modes that have no single reading as uint8 channels."""
    source: Any = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            # PIL only warns of images that may exhaust the memory; in a training set they are a mistake.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(source)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError, Warning) as error:
        raise InputError(f"{where}: not an image that can be read ({error}); replace or remove it") from error
    if image.mode not in MODES:
        raise InputError(f"{where}: image mode {image.mode}; convert it to greyscale, RGB or RGBA of 8 bits")
    return image
