"""The colours of the page, and matplotlib figures as inline SVG that follows them.

Figures are drawn in the light palette. In the SVG, each of its colours becomes a CSS variable, so that one SVG serves
the light page, the dark page and print. Text stays text, in the font of the page.
"""

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# name -> (light, dark). The colours of the runs are Okabe and Ito's, darkened or lightened to a contrast of 4.5:1 with
# the page; every light value is unique, since `to_svg` recognises colours by it.
PAPER = {
    "page": ("#fdfdfc", "#16181c"),
    "panel": ("#f4f4f1", "#1f2227"),
    "ink": ("#1c1e21", "#e8e8e4"),
    "muted": ("#5d6167", "#a3a8af"),
    "rule": ("#d9dad6", "#383c43"),
}
RUNS = (
    ("#0068a8", "#64b5f0"),
    ("#b84a00", "#ff9a5c"),
    ("#007a5a", "#4cc9a0"),
    ("#9b4b8c", "#e3a3d2"),
    ("#806000", "#e2c04a"),
    ("#4b4f9e", "#a8acf5"),
)
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 2), (2, 2), (7, 2, 2, 2), (10, 3), (4, 1, 1, 1))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, MUTED, RULE, PAGE = (PAPER[name][0] for name in ("ink", "muted", "rule", "page"))

_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flowpairs",  # the same figure gives the same bytes
    "font.size": 10.0,
    "axes.unicode_minus": True,
}


def run_color(number: int) -> str:
    """Return the light colour of a run."""
    return RUNS[number % len(RUNS)][0]


def run_style(number: int) -> dict[str, Any]:
    """Return matplotlib's line keywords of a run: colour and dashes, so that colour is never the only difference."""
    dashes = DASHES[number % len(DASHES)]
    return {"color": run_color(number), "linestyle": (0, dashes) if dashes else "-"}


def swatch(number: int) -> str:
    """Draw a run's line as a small inline SVG, for legends and tables."""
    dashes, color = " ".join(map(str, DASHES[number % len(DASHES)])), f"var(--run-{number % len(RUNS)})"
    return (
        '<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">'
        f'<line x1="1" y1="5" x2="25" y2="5" style="stroke: {color}; stroke-dasharray: {dashes or "none"}"/></svg>'
    )


def variables(dark: bool) -> dict[str, str]:
    """Map the names of the CSS variables to their values on the light or the dark page."""
    names = PAPER | {f"run-{number}": pair for number, pair in enumerate(RUNS)}
    return {name: pair[dark] for name, pair in names.items()}


@contextmanager
def axes(width: float = 5.0, height: float = 3.1) -> Iterator[tuple[Figure, Axes]]:
    """Create a figure with plain axes for the body of a `with`; width and height are in inches."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_visible(False)
        ax = figure.add_subplot()
        ax.patch.set_visible(False)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(RULE)
        ax.tick_params(color=RULE, labelcolor=MUTED, labelsize=9.5)
        ax.xaxis.label.set_color(INK)
        ax.yaxis.label.set_color(INK)
        ax.grid(axis="y", color=RULE, linewidth=0.6)
        ax.set_axisbelow(True)
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_major_formatter(plain)
        ax.yaxis.set_major_formatter(plain)
        yield figure, ax


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Convert a figure to an `<svg>` element for the page.

    Args:
        figure: the figure, drawn in the light colours of the palette.
        name: a name that is unique in the page; it prefixes the ids, which matplotlib numbers from 1 in every figure.
        description: the text for screen readers.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_RC):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'font-family: [^;"]*;? ?', "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the page
    for variable, color in variables(dark=False).items():
        svg = svg.replace(color, f"var(--{variable})")
    # Without width and height the SVG takes the width of the page; the viewBox keeps its aspect ratio.
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", svg, count=1)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)


def fit_square(ax: Axes, shown: Float[np.ndarray, "k 2"], axis: str = "coordinate") -> None:
    """Set equal scales on both axes, with limits that fit the points `shown`."""
    low, high = shown.min(0), shown.max(0)
    centre, reach = (low + high) / 2, 0.56 * float((high - low).max()) or 1.0
    ax.set_xlim(centre[0] - reach, centre[0] + reach)
    ax.set_ylim(centre[1] - reach, centre[1] + reach)
    ax.set_aspect("equal", adjustable="box")
    ax.grid(visible=False)
    ax.set_xlabel(f"{axis} 1")
    ax.set_ylabel(f"{axis} 2")
