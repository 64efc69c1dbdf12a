"""Ways to damage a file, and what every reader has to make of it: an answer, or one sentence."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from flowpairs.pipeline.base.errors import InputError


def outcome(read: Callable[[], Any]) -> str | None:
    """The sentence by which a reader refuses, None where it reads; any other exception goes on to fail the test."""
    try:
        read()
    except InputError as error:
        sentence = str(error)
    else:
        return None
    assert len(sentence) > 10
    assert "\n" not in sentence
    return sentence


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut short, with bits flipped, with bytes overwritten, or with a piece repeated or left out."""
    data = bytearray(whole)
    places = st.integers(0, len(whole) - 1)
    match draw(st.sampled_from(["cut", "flip", "overwrite", "repeat", "omit"])):
        case "cut":
            del data[draw(places) :]
        case "flip":
            for place in draw(st.lists(places, min_size=1, max_size=6)):
                data[place] ^= 1 << draw(st.integers(0, 7))
        case "overwrite":
            place, piece = draw(places), draw(st.binary(min_size=1, max_size=16))
            data[place : place + len(piece)] = piece
        case "repeat":
            a, b = sorted((draw(places), draw(places)))
            data[b:b] = data[a:b]
        case "omit":
            a, b = sorted((draw(places), draw(places)))
            del data[a:b]
    return bytes(data)


class Bomb:
    """An object whose unpickling creates a file."""

    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.fuse,)


def pickled_bomb(fuse: Path) -> bytes:
    return pickle.dumps(Bomb(fuse))


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
