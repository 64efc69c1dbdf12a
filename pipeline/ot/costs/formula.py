"""A cost given as a formula of two points' features, by torch on tiles, and in KeOps' words for compilers.

pipeline/base/grammar.py holds the grammar. Whatever is not compiled (moments, exact couplings, chosen entries) is
computed by torch from the same terms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.grammar import PREFIX, Term, parse_formula, swap_points

CPU_NUMBERS, GPU_NUMBERS = 2**18, 2**24  # of a term that are made at a time: on a CPU they stay in its cache
EVEN = "Abs", "Square", "Norm2", "SqNorm2"  # of f - g: the same for g - f, as are sums and products
ALIKE = "Add", "Mult", "Scalprod"

OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Clamp": lambda f, low, high: torch.minimum(torch.maximum(f, low), high),
    "Cos": torch.cos,
    "Divide": torch.div,
    "Elem": lambda f, i: f[..., int(i) : int(i) + 1],
    "Exp": torch.exp,
    "Extract": lambda f, i, k: f[..., int(i) : int(i + k)],
    "Log": torch.log,
    "Max": lambda f: f.amax(-1, keepdim=True),
    "Min": lambda f: f.amin(-1, keepdim=True),
    "Minus": torch.neg,
    "Mult": torch.mul,
    "Norm2": lambda f: torch.linalg.vector_norm(f, dim=-1, keepdim=True),
    "Pow": lambda f, power: f ** int(power),
    "ReLU": torch.relu,
    "Scalprod": lambda f, g: torch.linalg.vecdot(f, g)[..., None],
    "Sign": torch.sign,
    "Sin": torch.sin,
    "SqNorm2": lambda f: f.square().sum(-1, keepdim=True),
    "Sqrt": torch.sqrt,
    "Square": torch.square,
    "Subtract": torch.sub,
    "Sum": lambda f: f.sum(-1, keepdim=True),
}


@dataclass(frozen=True)
class Formula:
    """A cost as a formula such as "Sum(Abs(X - Y))", a function of tiles like any other cost of the user's.

    Args:
        text: formula, in the grammar of pipeline/base/grammar.py.

    Raises:
        InputError: it is no formula.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            parse_formula(self.text)
        except ValueError as error:
            raise InputError(f"cost='{PREFIX}{self.text}': {error}") from None

    @cached_property
    def term(self) -> Term:
        """The parsed formula."""
        return parse_formula(self.text)

    def __call__(self, x0: Float[Tensor, "r d"], x1: Float[Tensor, "c d"]) -> Float[Tensor, "r c"]:
        """Compute the costs between some rows."""
        self.check_features(x0.shape[1])
        numbers = GPU_NUMBERS if x0.is_cuda else CPU_NUMBERS
        step = max(1, numbers // max(1, x0.numel()))
        return torch.cat([self.between(x0[:, None], part) for part in x1.split(step)], 1)

    def between(self, x: Float[Tensor, "... d"], y: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """Compute the costs of pairs of points, whose leading sizes are broadcast."""
        return _evaluate(self.term, x, y)[..., 0]

    def check_features(self, d: int) -> None:
        """Refuse points with fewer features than the formula names, by `InputError`."""
        if d < self.term.least:
            raise InputError(
                f"cost='{PREFIX}{self.text}': needs {self.term.least} features and the points have {d}; give a formula "
                "of fewer, or other features"
            )

    def check_sample(self, x0: Float[Tensor, "r d"], x1: Float[Tensor, "c d"]) -> None:
        """Refuse points for which the formula has no finite values, by `InputError`."""
        if not torch.isfinite(self(x0, x1)).all():
            raise InputError(
                f"cost='{PREFIX}{self.text}': not finite for some of the points; keep arguments of Log, Sqrt and "
                "divisors positive, as in Log(1 + f)"
            )

    def swapped(self) -> "Formula":
        """Return the same cost with its arguments swapped."""
        return Formula(swap_points(self.text))

    @cached_property
    def compiled(self) -> tuple[str, tuple[float, ...]]:
        """The formula in KeOps' words, alike for a symmetric cost and its swapped one, and its numbers.

        Numbers are looked up in a parameter `N`, since KeOps keeps numbers in a formula as float32.
        """
        numbers: list[float] = []
        return _written(self.term, numbers), tuple(numbers)


def _evaluate(term: Term, x: Tensor, y: Tensor) -> Tensor:
    """Compute a term for pairs of points [..., d], as [..., size]."""
    if term.operation in ("X", "Y"):
        return x if term.operation == "X" else y
    if term.operation == "Number":
        return x.new_tensor(term.numbers)
    return OPERATIONS[term.operation](*(_evaluate(part, x, y) for part in term.parts), *term.numbers)


def _written(term: Term, numbers: list[float]) -> str:
    """Write a term in KeOps' words, and add its numbers to `numbers`."""
    if term.operation in ("X", "Y"):
        return term.operation
    if term.operation == "Number":
        numbers.append(term.numbers[0])
        return f"Elem(N,{len(numbers)})"
    parts = term.parts
    if term.operation in ALIKE:
        parts = _ordered(parts)
    elif (term.operation in EVEN or (term.operation == "Pow" and term.numbers[0] % 2 == 0)) and (
        parts[0].operation == "Subtract"
    ):
        parts = (Term("Subtract", _ordered(parts[0].parts)),)
    words = [_written(part, numbers) for part in parts] + [f"{int(number)}" for number in term.numbers]
    return f"{term.operation}({','.join(words)})"


def _ordered(parts: tuple[Term, ...]) -> tuple[Term, ...]:
    """Put terms whose order does not matter in one that does not depend on how a formula was written."""
    return tuple(sorted(parts, key=repr))
