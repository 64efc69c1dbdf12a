"""Samples and pairs as PNG data URIs: tiles of images, or strips of coordinates for other vectors."""

import base64
import io
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image

ImageKind = Literal["image", "plane", "vector"]
TILE = 64  # least length of the longer side of a tile, in pixels: digits of 8 x 8 at eight times their size
STRIP = 12  # side of a cell of a strip, in pixels


def kind(shape: tuple[int, ...]) -> ImageKind:
    """Choose how data of a shape are shown: [1, h, w] and [3, h, w] as images, [2] as points, others as coordinates."""
    if len(shape) == 3 and shape[0] in (1, 3):
        return "image"
    return "plane" if shape == (2,) else "vector"


def grey_reach(images: Float[np.ndarray, "..."]) -> float:
    """Choose the value drawn white: 1 for images in [-1, 1], else 3, three standard deviations of Gaussian noise."""
    return 1.0 if np.abs(images).max() <= 1 else 3.0


def strip_reach(vectors: Float[np.ndarray, "..."]) -> float:
    """Choose the value that saturates a strip: the 98th percentile of the absolute coordinates."""
    return float(np.quantile(np.abs(vectors), 0.98)) or 1.0


def upscale(images: Float[np.ndarray, "k c h w"], columns: int, reach: float) -> str:
    """Draw `grid` as a data URI."""
    return data_uri(grid(images, columns, reach))


def grid(images: Float[np.ndarray, "k c h w"], columns: int, reach: float) -> UInt8[np.ndarray, "..."]:
    """Draw image tiles row by row in RGBA, transparent between the tiles; small tiles are enlarged.

    Args:
        images: the images, of one or three channels.
        columns: the number of tiles per row.
        reach: the value drawn white; -reach is black, and values beyond are clipped.
    """
    k, _, h, w = images.shape
    rows = -(-k // columns)
    canvas = np.zeros((rows * (h + 1) - 1, columns * (w + 1) - 1, 4), np.uint8)
    for index, image in enumerate(bytes_of(images, reach)):
        top, left = index // columns * (h + 1), index % columns * (w + 1)
        canvas[top : top + h, left : left + w, :3] = image
        canvas[top : top + h, left : left + w, 3] = 255
    return _enlarged(canvas, max(1, TILE // max(h, w)))


def bytes_of(images: Float[np.ndarray, "k c h w"], reach: float = 1.0) -> UInt8[np.ndarray, "k h w c"]:
    """Convert images to bytes with channels last: -reach becomes 0 and +reach becomes 255."""
    return ((np.clip(images, -reach, reach) / reach + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)


def strips(vectors: Float[np.ndarray, "k ..."], reach: float) -> str:
    """Draw a PNG with a row per vector and a cell per coordinate: blue at -reach, white at zero, red at +reach."""
    flat = vectors.reshape(len(vectors), -1)
    unit = np.clip(flat / reach, -1, 1) / 2 + 0.5
    return data_uri(_enlarged((colormaps["RdBu_r"](unit) * 255).round().astype(np.uint8), STRIP))


def _enlarged(rgba: UInt8[np.ndarray, "h w 4"], factor: int) -> UInt8[np.ndarray, "..."]:
    """Enlarge an image by repeating pixels, since a viewer would blur them."""
    return rgba.repeat(factor, axis=0).repeat(factor, axis=1)


def data_uri(rgba: UInt8[np.ndarray, "h w 4"]) -> str:
    """Encode an image as `data:image/png;base64,...`."""
    return "data:image/png;base64," + base64.b64encode(png(rgba)).decode()


def png(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Encode an image of 1, 3 or 4 channels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
