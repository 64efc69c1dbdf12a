"""Every key of a configuration with its type, default, unit and effect, read from the models themselves.

`flowpairs config` prints it and the site's reference shows it. A key's text is the string below its field in the
model's source. A unit in square brackets may end it, and before that `Since VERSION.`; a key without was in FIRST.
"""

import ast
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from flowpairs.pipeline.config.strict import Strict, sections_of

FIRST = "0.1.0"
PLAIN = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
TEXT = re.compile(r"(?P<effect>.*?)(?: Since (?P<since>[\d.]+)\.)?(?: \[(?P<unit>[^\]]+)\])?$")


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        name: the dotted key, as in an override.
        type: what its value may be.
        default: its default as YAML; None: it must be given.
        unit: unit of a number, empty for all else; 1 for a pure number.
        effect: what it does.
        since: the version that had it first.
        only: the condition under which a union has it, as "source.kind=data"; empty: it is always there.
        parts: whether it holds further keys.
    """

    name: str
    type: str
    default: str | None
    unit: str
    effect: str
    since: str
    only: str = ""
    parts: bool = False


def keys_of(model: type[Strict], prefix: str = "", only: str = "") -> Iterator[Key]:
    """Yield every key of a model, each section before its keys."""
    texts = texts_of(model)
    for name, field in model.model_fields.items():
        dotted, parts = prefix + name, sections_of(field)
        found = TEXT.fullmatch(texts.get(name, ""))
        assert found is not None
        kind = "a section" if parts else _spell(field.annotation, tuple(field.metadata))
        yield Key(
            name=dotted,
            type=kind,
            default=None if field.is_required() else "" if parts and field.default else _yaml(field.default),
            unit=found["unit"] or "",
            effect=found["effect"],
            since=found["since"] or FIRST,
            only=only,
            parts=bool(parts),
        )
        for part in parts:
            tag = field.discriminator if len(parts) > 1 else None
            values = " or ".join(get_args(part.model_fields[tag].annotation)) if isinstance(tag, str) else ""
            yield from keys_of(part, f"{dotted}.", f"{dotted}.{tag}={values}" if values else only)


def texts_of(model: type[Strict]) -> dict[str, str]:
    """Read the text of every field that has one: the string below it, in the class or in those that it extends."""
    out: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not issubclass(owner, Strict):
            continue
        [body] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    out[name] = " ".join(text.split())
    return out


def _spell(kind: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Spell a type and its bounds in words."""
    of, bounds = get_args(kind), [f"{BOUNDS[name]} {_number(value)}" for name, value in _bounds(metadata)]
    if bounds:
        return ", ".join([_spell(kind), *bounds])
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) is Annotated:
        return _spell(of[0], of[1:])
    if get_origin(kind) is Literal:
        return " | ".join(map(_yaml, of))
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(_spell, of))
    if get_origin(kind) is dict:
        return "a mapping"
    if get_origin(kind) is tuple:
        items = [item for item in of if item is not Ellipsis]
        return f"list of ({_spell(items[0])})" if Ellipsis in of else f"[{'; '.join(map(_spell, items))}]"
    raise AssertionError(f"no words for {kind}")


def _bounds(metadata: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(tuple(item.metadata))
        else:
            yield from ((name, getattr(item, name)) for name in BOUNDS if hasattr(item, name))


def _number(value: float) -> str:
    powers = {2.0**k: f"2^{k}" for k in range(13, 64)}
    return powers.get(value, f"{value:,g}" if abs(value) >= 1e-3 or value == 0 else f"{value:g}")


def _yaml(value: Any) -> str:
    """Write a value as a config would."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else f"{value:g}".replace("inf", ".inf")
    return value if isinstance(value, str) else json.dumps(value)
