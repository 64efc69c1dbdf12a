"""flowpairs: optimal-transport pairs for flow matching.

In memory, without Ray and without files: `couple` arrays into `Pairs`, or `solve` for a `Coupling` to draw from.
On a pair store: `PairStore` to make and inspect it, `PairDataset` and `PairLoader` to train on its pairs, `Assigner` to
assign data to fresh noise by its potentials, `write` and `missing_parts` to make one of pairs of your own. For your own
training loop: `flow_matching_loss` and `sample`.
All of them are described in docs/python.md.

Each name is imported at its first use (PEP 562), so `import flowpairs` imports neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
_MODULES = {
    "couple": "flowpairs.arrays",
    "solve": "flowpairs.arrays",
    "Pairs": "flowpairs.arrays",
    "Coupling": "flowpairs.arrays",
    "PairStore": "flowpairs.pair_store",
    "PairDataset": "flowpairs.training.pairs.dataset",
    "PairLoader": "flowpairs.training.pairs.pair_loader",
    "Assigner": "flowpairs.training.pairs.assigner",
    "flow_matching_loss": "flowpairs.training.objectives.loss",
    "sample": "flowpairs.training.sampling.ode",
    "write": "flowpairs.writing",
    "missing_parts": "flowpairs.writing",
}

__all__ = [  # written out for tools that do not run code; a test compares it with the table
    "Assigner",
    "Coupling",
    "PairDataset",
    "PairLoader",
    "PairStore",
    "Pairs",
    "couple",
    "flow_matching_loss",
    "missing_parts",
    "sample",
    "solve",
    "write",
]

if TYPE_CHECKING:  # the same table for type checkers and editors
    from flowpairs.arrays import Coupling, Pairs, couple, solve
    from flowpairs.pair_store import PairStore
    from flowpairs.training.objectives.loss import flow_matching_loss
    from flowpairs.training.pairs.assigner import Assigner
    from flowpairs.training.pairs.dataset import PairDataset
    from flowpairs.training.pairs.pair_loader import PairLoader
    from flowpairs.training.sampling.ode import sample
    from flowpairs.writing import missing_parts, write


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, and keep it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the names of the module, including public names that have not been used yet."""
    return sorted({*globals(), *__all__})
