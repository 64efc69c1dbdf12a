"""Formulas of a cost: their grammar, which is parsed here and never run as code, so that a formula is data.

A formula is made of the features X and Y of the two points of a pair, numbers, operators and the functions below. Each
of its terms is a number a pair (of size 1) or one number per feature; the formula itself must come to one a pair.

    + - * / and -f      number by number; a number a pair goes with all features
    f ** 2              a whole power
    f | g               the inner product
    MAPS(f)             number by number
    FOLDS(f)            over the features
    Clamp(f, low, high) f between two numbers
    Elem(f, i)          feature i, from 0
    Extract(f, i, k)    the k features from i
"""

import ast
import functools
import math
import re
from dataclasses import dataclass

PREFIX = "keops:"  # of a formula, where a cost is named
MAPS = "Abs", "Cos", "Exp", "Log", "ReLU", "Sign", "Sin", "Sqrt", "Square"
FOLDS = "Max", "Min", "Norm2", "SqNorm2", "Sum"
OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "Add",
    ast.Sub: "Subtract",
    ast.Mult: "Mult",
    ast.Div: "Divide",
    ast.BitOr: "Scalprod",
}
LONGEST = 1000  # characters
LARGEST_POWER = 16


@dataclass(frozen=True)
class Term:
    """A part of a formula.

    Attributes:
        operation: "X", "Y", "Number", or the name of what is done to the parts.
        parts: terms that it is made of.
        numbers: value of a Number, exponent of Pow, indices of Elem and Extract.
        size: numbers that it has for each pair; None: one per feature.
        least: features that it needs at least.
    """

    operation: str
    parts: tuple["Term", ...] = ()
    numbers: tuple[float, ...] = ()
    size: int | None = 1
    least: int = 1


@functools.cache
def parse_formula(text: str) -> Term:
    """Parse a formula.

    Raises:
        ValueError: it is none; a sentence with the remedy, to be headed by the key and the formula.
    """
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters; give at most {LONGEST}, or a function as module:function")
    try:
        term = _term(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"cannot be read ({error.msg}); give a formula of X and Y such as Sum(Abs(X - Y))") from None
    except (MemoryError, RecursionError):
        raise ValueError("is nested too deeply; give a function as module:function") from None
    if term.size != 1:
        many = "one number per feature" if term.size is None else f"{term.size} numbers"
        raise ValueError(f"comes to {many} for a pair, not to one cost; reduce it by Sum, Max, Norm2 or another")
    if {"X", "Y"} - _operations(term):
        raise ValueError("does not compare the two points; use the features X of one and Y of the other")
    return term


def swap_points(text: str) -> str:
    """Exchange X and Y in a formula."""
    return re.sub(r"\b[XY]\b", lambda found: "Y" if found[0] == "X" else "X", text)


def _operations(term: Term) -> set[str]:
    """Collect the operations of a term."""
    return {term.operation}.union(*map(_operations, term.parts))


def _term(node: ast.expr) -> Term:
    """Convert a syntax tree to a term."""
    match node:
        case ast.Name(id="X" | "Y" as name):
            return Term(name, size=None)
        case ast.Constant():
            return Term("Number", numbers=(_number(node),))
        case ast.UnaryOp(op=ast.USub()):
            return _made("Minus", node.operand)
        case ast.UnaryOp(op=ast.UAdd()):
            return _term(node.operand)
        case ast.BinOp(op=ast.Pow()):
            power = _whole(node.right, "a power", 2, LARGEST_POWER)
            return _made("Pow", node.left, numbers=(power,))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return _made(OPERATORS[type(node.op)], node.left, node.right)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return _call(name, node.args)
    raise ValueError(
        f"holds {_shown(node)}, which is none of {', '.join(('X', 'Y', *MAPS, *FOLDS))}; see docs/solver.md"
    )


def _call(name: str, given: list[ast.expr]) -> Term:
    """Convert the call of a function to a term."""
    counts = dict.fromkeys((*MAPS, *FOLDS), 1) | {"Clamp": 3, "Elem": 2, "Extract": 3}
    if name not in counts:
        raise ValueError(f"has no function {name}; give one of {', '.join(sorted(counts))}")
    if len(given) != counts[name]:
        raise ValueError(f"gives {name} {len(given)} arguments; it takes {counts[name]}")
    if name == "Elem":
        return _part("Elem", given[0], _whole(given[1], "a feature", 0), 1)
    if name == "Extract":
        first, count = _whole(given[1], "a feature", 0), _whole(given[2], "a number of features", 1)
        return _part("Extract", given[0], first, count)
    return _made(name, *given)


def _made(operation: str, *given: ast.expr, numbers: tuple[float, ...] = ()) -> Term:
    """Build the term of an operation on terms whose sizes go together."""
    parts = tuple(map(_term, given))
    sizes = {part.size for part in parts} - {1}
    if len(sizes) > 1 or (operation == "Scalprod" and len({part.size for part in parts}) > 1):
        words = " and ".join("all features" if p.size is None else f"{p.size}" for p in parts)
        raise ValueError(f"takes {operation} of terms of unlike sizes ({words}); make them agree")
    folded = operation in FOLDS or operation == "Scalprod"
    size = 1 if folded or not sizes else sizes.pop()
    return Term(operation, parts, numbers, size, max(part.least for part in parts))


def _part(operation: str, given: ast.expr, first: int, count: int) -> Term:
    """Build the term of some of another one's numbers."""
    part = _term(given)
    if part.size is not None and first + count > part.size:
        raise ValueError(f"takes {operation} up to {first + count} of a term of size {part.size}; give a smaller one")
    least = max(part.least, first + count) if part.size is None else part.least
    numbers = (first,) if operation == "Elem" else (first, count)
    return Term(operation, (part,), numbers, count, least)


def _number(node: ast.Constant) -> float:
    """Return the value of a number."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e30:
        raise ValueError(f"holds {_shown(node)}, which is no number of at most 1e30; give one")
    return float(value)


def _whole(node: ast.expr, what: str, least: int, most: int = 2**20) -> int:
    """Return the value of a whole number."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"has {_shown(node)} as {what}; give a whole number from {least} to {most}")
    return value


def _shown(node: ast.expr) -> str:
    """Return the source of a syntax tree, cut where it is long."""
    text = ast.unparse(node)
    return repr(text if len(text) <= 40 else text[:37] + "...")
