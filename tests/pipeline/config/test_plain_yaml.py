"""YAML of configurations: numbers and text as version 1.2 has them, and back again."""

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowpairs.pipeline.config.plain_yaml import dump, parse

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(max_codepoint=0xFFFD, exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LIKE_NUMBERS = st.from_regex(
    r"[-+]?[0-9_.:oxe]{1,6}|yes|no|on|off|~|=|<<|null|[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT | LIKE_NUMBERS
TREES = st.dictionaries(
    TEXT,
    st.recursive(
        LEAVES, lambda node: st.lists(node, max_size=3) | st.dictionaries(TEXT, node, max_size=3), max_leaves=8
    ),
    max_size=3,
)


def test_scalars_are_those_of_the_specification() -> None:
    """Its example 10.9, and what version 1.1 took for booleans, times, dates and numbers to other bases."""
    assert parse("[null, Null, ~, ]") == [None] * 3
    assert parse("{a: }") == {"a": None}
    assert parse("[true, True, false, FALSE]") == [True, True, False, False]
    assert parse("[0, 0o7, 0x3A, -19, 010]") == [0, 7, 58, -19, 10]
    assert parse("[0., -0.0, .5, +12e03, -2E+05, 1e-3]") == [0.0, -0.0, 0.5, 12000.0, -200000.0, 0.001]
    assert parse("[.inf, -.Inf, +.INF]") == [math.inf, -math.inf, math.inf]
    assert math.isnan(parse(".NAN"))
    for text in (
        "yes",
        "no",
        "on",
        "off",
        "6:00",
        "1:30.5",
        "2001-01-01",
        "1_000",
        "0b11",
        "=",
        "<<",
        "${oc.env:HOME}",
    ):
        assert parse(text) == text


@unhurried
@given(tree=TREES)
def test_json_is_yaml(tree: dict[str, Any]) -> None:
    assert parse(json.dumps(tree)) == tree


@unhurried
@given(tree=TREES)
def test_what_is_written_is_read_back_by_either_version(tree: dict[str, Any]) -> None:
    assert parse(dump(tree)) == tree
    assert yaml.safe_load(dump(tree)) == tree


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "aliases are not read; write the value out .* line 2, column 4"),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice; keep one .* line 3"),
        ("{1: a}", "key 1 is no text; quote it"),
        ("{[a]: b}", r"key \['a'\] is no text"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!timestamp 2001-01-01", "could not determine a constructor"),
        ("a: !!bool [true]", "expected a scalar node"),
        ("a: !!int 6:00", "invalid literal for int"),
        ("a\n---\nb", "expected a single document"),
        ("9" * 5000, "integer string conversion"),
        ("\0", "special characters are not allowed"),
    ],
)
def test_what_is_no_plain_yaml_says_so(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)
