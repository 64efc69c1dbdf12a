"""YAML as plain data: the core schema of YAML 1.2, in which 1e-3 is a number, and 6:00 and yes are text.

Nothing in a file is called, looked up or repeated: there are no Python tags, no interpolation, no aliases. Duplicate
keys, and nesting deeper than any configuration's, are refused.
"""

import re
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import yaml

MAX_DEPTH = 20  # levels

_TAG = "tag:yaml.org,2002:"
_SCALARS = {  # tag -> pattern of its plain text; the first that fits counts
    "null": r"(~|null|Null|NULL)?",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def parse(text: str | bytes) -> Any:
    """Parse a YAML text into the mappings, lists, texts, numbers, booleans and nulls that it stands for.

    Raises:
        ValueError: not YAML of this kind; the one-line message says what is wrong and where.
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML also raises other libraries' exceptions
        raise ValueError(" ".join(str(error).split())) from error


def dump(tree: dict[str, Any]) -> str:
    """Write a tree as YAML that `parse`, and readers of YAML 1.1, read as the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str | None, Any] = {}  # noqa: RUF012 - as types-PyYAML has it
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (_TAG + "str", _TAG + "seq", _TAG + "map", None)
    }
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node and the nodes below it."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read; write the value out", mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping; refuse keys that are no text or occur twice."""
        out: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key, mark = self.construct_object(key_node, deep=True), key_node.start_mark
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no text; quote it", mark)
            if key in out:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice; keep one", mark)
            out[key] = self.construct_object(value_node, deep=True)
        return out


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _add(name: str, read: Callable[[str], Any]) -> None:
    """Read plain text that looks like one of `_SCALARS`, and quote other text that does."""

    def construct(loader: Any, node: Any) -> Any:
        return read(loader.construct_scalar(node))

    for each in (_Loader, _Dumper):
        each.add_implicit_resolver(_TAG + name, re.compile(rf"({_SCALARS[name]})\Z"), None)
    _Loader.add_constructor(_TAG + name, construct)


_add("null", lambda text: None)
_add("bool", lambda text: text.lower() == "true")
_add("int", _integer)
_add("float", _real)
