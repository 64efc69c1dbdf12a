"""Encoded images: reads the shape from the header alone, or all pixels, with one rule for PIL's modes.

Stored as                                  read as
1 bit, grey                                [1, H, W]
RGB, palette                               [3, H, W]
any of these with alpha or a transparent colour   [4, H, W], RGBA
CMYK, 16 bits a channel, any other mode    refused
several frames (GIF, APNG, WebP, TIFF)     refused; but of a photo with previews (MPO) the photo
An EXIF orientation is applied, as viewers do. `data.on_bad: skip` leaves refused images out.
"""

import io
import warnings
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

BANDS = {"L": 1, "RGB": 3, "RGBA": 4}
# PIL's mode -> the mode of the pixels that are read. Palettes and bitmaps are only encodings of colours and greys.
MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "RGBA": "RGBA", "LA": "RGBA", "PA": "RGBA"}
# Those of PIL's formats that only decode: its EPS would start a program.
DECODED = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA")
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
POINTER = b"version https://git-lfs.github.com/spec/"


class Unreadable(ValueError):
    """A row that cannot be used; the message is the reason."""


def header_shape(file: bytes | io.IOBase) -> tuple[int, ...]:
    """Read [C, H, W] of an encoded image, without decoding its pixels.

    Raises:
        Unreadable: no image, or one that the table above refuses.
    """
    with _open(file) as image:
        turned = image.format != "TIFF" and _orientation(image) in TURNED  # PIL turns TIFF itself
        size = (image.width, image.height) if turned else (image.height, image.width)
        return BANDS[_mode(image)], *size


def decode_image(data: bytes) -> UInt8[np.ndarray, "c h w"]:
    """Decode all pixels of an encoded image, channels first.

    Raises:
        Unreadable: as `header_shape`, or pixels that cannot be decoded.
    """
    with _open(data) as image:
        mode = _mode(image)
        try:
            image.load()
            turned: Any = PIL.ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
            pixels = np.asarray(turned.convert(mode))
        except Exception as error:  # decoders raise a dozen kinds of exceptions on a damaged file
            raise Unreadable(f"image cut short or corrupt ({error}); replace the file") from error
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0))


def _open(file: bytes | io.IOBase) -> PIL.Image.Image:
    """Open an image lazily, and refuse what has no single reading as uint8 channels."""
    source: Any = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            # PIL only warns of images that may exhaust the memory; in a training set they are a mistake.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(source, formats=DECODED)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception as error:
        source.seek(0)
        raise Unreadable(_not_an_image(source.read(len(POINTER)), error)) from error
    if frames > 1:
        raise Unreadable(f"image of {frames} frames; store one frame a file")
    if image.mode not in MODES:
        raise Unreadable(f"image mode {image.mode}; convert it to greyscale, RGB or RGBA of 8 bits")
    # PIL halves the depth of such a PNG or TIFF without a word; how it unpacks the pixels tells.
    if any("16" in str(tile[3]) for tile in image.tile if image.format in ("PNG", "TIFF", "PPM")):
        raise Unreadable("image of 16 bits a channel; convert it to 8 bits")
    return image


def _mode(image: PIL.Image.Image) -> str:
    return "RGBA" if image.has_transparency_data else MODES[image.mode]


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that cannot be parsed says nothing, for viewers, too
        return 1


def _not_an_image(head: bytes, error: Exception) -> str:
    if not head:
        return "a file of 0 bytes; copy it again"
    if head == POINTER:
        return "a Git LFS pointer; run `git lfs pull` where it was cloned"
    said = f" ({error})" if isinstance(error, PIL.Image.DecompressionBombError | Warning) else ""
    return f"not an image that can be read{said}; replace or remove it"
