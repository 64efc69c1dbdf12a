"""Text for the terminal, in which a name or a path is text: neither markup of Rich nor a command to the terminal."""

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # and what no encoding can hold


def printable(text: object) -> str:
    r"""Show what a terminal would obey as its code, such as \x1b."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


def counted(count: int, noun: str) -> str:
    """Write a number and what it counts, as in "1 block" and "4,000 blocks"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rich_text(text: object) -> "Text":
    """Make a text in which Rich sees no markup."""
    from rich.text import Text

    return Text(printable(text))


def print_line(text: object, file: Any = None) -> None:
    """Print a line at once; a character that the stream's encoding lacks becomes its code."""
    file = sys.stdout if file is None else file
    encoding = file.encoding or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
