"""What the template shows of a pair store: its totals, its blocks, its pairs and its plan, with their figures."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.report.drawing import coupling_figures, figures, pictures
from flowpairs.training.report.summaries.plan_statistics import SharpnessCurve
from flowpairs.training.report.summaries.stores import BlockSummary, PairSamples, StoreSummary

BLOCKS_IN_FULL = 4  # largest number of blocks in the table; more are summarised
BLOCKS_DRAWN = 4  # least number of blocks for a figure; fewer are in the table only
OUTLIERS = 8  # largest number of blocks that are listed for standing out
APART = 5.0  # times the median distance from the median, beyond which a block stands out
UNDRAWN = "independent", "imported", "semidiscrete", "reflow"  # methods whose blocks have no errors to draw
FIGURES = {
    "Sharpness E": "sharpness", "Partners a row": "partners", "Source marginal error (L1)": "source_error",
    "Target marginal error (L1)": "target_error", "Error of the plan (L1, estimated)": "plan_error",
    "Cost, independent": "cost_independent", "Cost, coupled": "cost_coupled", "Passes": "passes", "Seconds": "seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Outlier:
    """A block that stands out from the others of its store by one of its figures."""

    block: int
    figure: str
    value: float
    median: float


def store_view(index: int, store: StoreSummary) -> dict[str, Any]:
    """Collect what the template shows of a pair store."""
    blocks = store.blocks
    view: dict[str, Any] = {
        "store": store, "blocks": None, "figures": None, "potentials": _potentials(store), "made": _made(store),
        "pairs": _pairs(store.pairs), "kind": pictures.kind(store.index.shape), "statistics": _statistics(index, store),
        "plan": _plan(index, store),
    }  # fmt: skip
    if blocks:
        coupled = statistics.fmean(block.cost_coupled for block in blocks)
        independent = statistics.fmean(block.cost_independent for block in blocks)
        lost = max(blocks, key=_loss)
        view |= {
            "blocks": blocks if len(blocks) <= BLOCKS_IN_FULL else None,
            "summary": _summary(store) if len(blocks) > BLOCKS_IN_FULL else None,
            "outliers": outliers(blocks),
            "unconverged": [block.block for block in blocks if not block.converged],
            "sharpness": _over([block.sharpness for block in blocks], statistics.median),
            "partners": _over([block.partners for block in blocks], statistics.median),
            "worst_error": _over([e for block in blocks for e in (block.source_error, block.target_error)], max),
            "cost": (independent, coupled, round(100 * (1 - coupled / independent)) if independent else 0),
            "seconds": sum(block.seconds for block in blocks),
            "lost": lost if lost.regions else None,
            "relabelled": sum(block.relabelled or 0 for block in blocks),
        }
        if len(blocks) >= BLOCKS_DRAWN and store.index.method not in UNDRAWN:
            view["tolerance"] = _tolerance(store)
            view["figures"] = (
                Markup(figures.sharpness_by_block(blocks, f"sharpness-{index}")),
                Markup(figures.errors_by_block(blocks, view["tolerance"], f"errors-{index}")),
            )
    return view


def _loss(block: BlockSummary) -> float:
    return block.loss_bound or 0.0


def outliers(blocks: list[BlockSummary]) -> list[Outlier]:
    """Find the blocks that stand out, the farthest first.

    A block does so by a figure whose distance from the median is more than APART times the median of those distances,
    and more than a hundredth of the median; seconds and passes depend on the machine and are left out.
    """
    found: list[tuple[float, Outlier]] = []
    for label, field in FIGURES.items():
        rows = [(block.block, getattr(block, field)) for block in blocks]
        values = np.array([value for _, value in rows if value is not None], np.float64)
        if len(values) < BLOCKS_DRAWN or field in ("passes", "seconds"):
            continue
        middle = float(np.median(values))
        least = max(APART * float(np.median(np.abs(values - middle))), 0.01 * abs(middle))
        if field.endswith("_error"):
            least = max(least, middle)  # errors below a tolerance differ by factors
        for block, value in rows:
            if value is not None and abs(value - middle) > least:
                found.append((abs(value - middle) / least if least else np.inf, Outlier(block, label, value, middle)))
    found.sort(key=lambda pair: -pair[0])
    return [outlier for _, outlier in found[:OUTLIERS]]


def _made(store: StoreSummary) -> list[tuple[str, str]]:
    """List when and with what the blocks were made."""
    out = []
    for label, field in {
        "Coupled": "date", "On": "device", "flowpairs": "flowpairs", "commit": "commit", "torch": "torch"
    }.items():  # fmt: skip
        values = sorted({value for block in store.blocks or [] if (value := getattr(block, field))})
        if values:
            out.append(
                (label, f"{values[0]} to {values[-1]}" if field == "date" and len(values) > 1 else _listed(values))
            )
    return out


def _listed(values: list[str]) -> str:
    return ", ".join(values[:4]) + (", …" if len(values) > 4 else "")


def _statistics(index: int, store: StoreSummary) -> dict[str, Any]:
    """Draw how near the sides of pairs are, where they lie, and how often data are used."""
    found = store.statistics
    coupled, independent = found.distances
    near, apart = found.cosines
    planar = store.index.shape in ((2,), [2])
    axis = "coordinate" if planar else "principal direction"
    occur = sum(data for times, data in found.uses.items() if times)
    return {
        "lines": None
        if found.plane is None
        else [
            Markup(coupling_figures.pair_lines(*found.plane, partners, axis, f"{kind}-{index}"))
            for kind, partners in (("coupled", None), ("apart", found.exchanged))
        ],
        "distance": Markup(coupling_figures.histograms(coupled, independent, "squared distance", f"distance-{index}")),
        "cosine": Markup(coupling_figures.histograms(near, apart, "cosine", f"cosine-{index}")),
        "distances": (float(coupled.mean()), float(independent.mean())),
        "cosines": (float(near.mean()), float(apart.mean())),
        "compared": len(coupled),
        "uses": Markup(coupling_figures.uses_of_data(found.uses, f"uses-{index}")) if found.uses else None,
        "occur": occur,
        "data": occur + found.uses[0] if 0 in found.uses else None,
        "read": found.read,
        "classes": found.classes,
    }


def _plan(index: int, store: StoreSummary) -> dict[str, Any]:
    """Draw the partners of rows, sharpness against epsilon, and the convergence of the worst block."""
    blocks = store.blocks or []
    out: dict[str, Any] = {"partners": None, "curve": None, "smaller": None, "convergence": None}
    if store.partners is not None:
        out["partners"] = Markup(coupling_figures.partners_of_rows(store.partners, f"rows-{index}"))
        out["rows"], out["quartiles"] = len(store.partners), np.quantile(store.partners, (0.05, 0.5, 0.95)).tolist()
    if store.curve is not None:
        own = [(b.rel_eps, b.sharpness) for b in blocks if b.rel_eps and b.sharpness is not None]
        drawn = own[:: max(1, len(own) // 64)]
        out["curve"] = Markup(coupling_figures.sharpness_against_eps(store.curve, drawn, f"eps-{index}"))
        out["tried"], out["smaller"] = store.curve, _smaller(store.curve)
    worst = max((b for b in blocks if b.errors), key=lambda b: (b.passes, b.target_error or 0.0), default=None)
    if worst is not None and worst.errors:
        out["worst"] = worst
        drawn_errors = coupling_figures.errors_by_pass(worst.errors, _tolerance(store), worst.block, f"worst-{index}")
        out["convergence"] = Markup(drawn_errors)
    return out


def _smaller(curve: SharpnessCurve) -> dict[str, Any] | None:
    """Say what the next smaller epsilon would change; None where the store has none of its own."""
    if curve.chosen is None or curve.chosen + 1 >= len(curve.points):
        return None
    now, then = curve.points[curve.chosen], curve.points[curve.chosen + 1]
    return {"now": now, "then": then}


def _potentials(store: StoreSummary) -> dict[str, Any] | None:
    """Summarise how the potentials of a semi-discrete coupling were found and how accurate they are."""
    if store.potentials is None:
        return None
    reports = store.potentials.reports
    needed = {"block", "points", "rounds", "seconds", "converged"}
    if lost := sorted({key for report in reports for key in needed - report.keys()}):
        file = store.path / "potentials" / "semidiscrete.json"
        raise InputError(f"{file}: a report without {', '.join(lost)}; couple into a new directory")
    condition, beta = store.coupling.get("condition", "blind"), store.coupling.get("beta")
    return {
        "data": len(store.potentials.g),
        "problems": len(reports),
        "condition": f"{condition}, beta {beta}" if condition == "extended" else condition,
        "chi2": store.potentials.chi2,
        "mass_error": 100 * max(store.potentials.chi2, 0.0) ** 0.5,
        "eps": store.potentials.eps,
        "rel_eps": store.potentials.rel_eps,
        "points": sum(report["points"] for report in reports),
        "rounds": max(report["rounds"] for report in reports),
        "seconds": sum(report["seconds"] for report in reports),
        "unconverged": [report["block"] for report in reports if not report["converged"]],
    }


def _summary(store: StoreSummary) -> list[tuple[str, float | None, float | None, float | None]]:
    """List (figure, smallest, median, largest) over the blocks."""
    assert store.blocks
    rows = []
    for label, field in FIGURES.items():
        values = [getattr(block, field) for block in store.blocks]
        rows.append((label, _over(values, min), _over(values, statistics.median), _over(values, max)))
    return rows


def _over(values: Sequence[int | float | None], figure: Callable[[list[float]], float]) -> float | None:
    """Compute a figure over the values that are not None; None if there are none."""
    numbers = [float(value) for value in values if value is not None]
    return figure(numbers) if numbers else None


def _tolerance(store: StoreSummary) -> float | None:
    tol = store.coupling.get("tol")
    return tol if isinstance(tol, int | float) and store.index.method == "sinkhorn" else None


def _pairs(pairs: PairSamples) -> Any:
    """Draw a store's first pairs for the template: image tiles with captions, or strips; None for points in a plane."""
    match pictures.kind(pairs.x1.shape[1:]):
        case "plane":
            return None
        case "image":
            reach0, reach1 = pictures.grey_reach(pairs.x0), pictures.grey_reach(pairs.x1)
            labels = pairs.labels or [None] * len(pairs.data_ids)
            return [
                (pictures.upscale(x0[None], 1, reach0), pictures.upscale(x1[None], 1, reach1), data_id, label)
                for x0, x1, data_id, label in zip(pairs.x0, pairs.x1, pairs.data_ids, labels, strict=True)
            ]
        case _:
            return [
                (side, pictures.strips(x, pictures.strip_reach(x)), pictures.strip_reach(x))
                for side, x in (("x0", pairs.x0), ("x1", pairs.x1))
            ]
