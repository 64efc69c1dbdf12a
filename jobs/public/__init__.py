"""flowpairs: optimal-transport pairs for flow matching.

In memory, without Ray and without files: `couple` arrays into `Pairs`, or `solve` for a `Coupling` to draw from.
Over a pair store: `PairStore` to look at it, `PairDataset` and `PairLoader` to train on it, `Assigner` to pair fresh
noise by its potentials. For a training loop of your own: `flow_matching_loss` and `sample`.
One page on all of them: docs/python.md.

Each name is imported at its first use (PEP 562), so `import flowpairs` imports neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The module that defines each public name.
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
}

__all__ = [  # written out for tools that read it without running anything; a test holds it against the table
    "Assigner",
    "Coupling",
    "PairDataset",
    "PairLoader",
    "PairStore",
    "Pairs",
    "couple",
    "flow_matching_loss",
    "sample",
    "solve",
]

if TYPE_CHECKING:  # what type checkers and editors see of the table
    from flowpairs.arrays import Coupling, Pairs, couple, solve
    from flowpairs.pair_store import PairStore
    from flowpairs.training.objectives.loss import flow_matching_loss
    from flowpairs.training.pairs.assigner import Assigner
    from flowpairs.training.pairs.dataset import PairDataset
    from flowpairs.training.pairs.pair_loader import PairLoader
    from flowpairs.training.sampling.ode import sample


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, and keep it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The module's names, public ones included before their first use."""
    return sorted({*globals(), *__all__})
