"""`flowpairs config`, and the descriptions that it shares with the site's reference."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flowpairs.jobs.cli import application
from flowpairs.jobs.config import all_keys
from flowpairs.pipeline.config import plain_yaml
from flowpairs.pipeline.config.keys import Key, keys_of

KEYS: list[tuple[str, Key]] = list(all_keys())


def explain(*words: str) -> str:
    done = CliRunner().invoke(application(), ["config", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize(("command", "key"), KEYS, ids=[f"{command}-{key.name}-{key.only}" for command, key in KEYS])
def test_every_key_says_what_it_does_and_in_which_unit(command: str, key: Key) -> None:
    """A new key needs a string below its field: what it does, and in brackets the unit if it is a number."""
    assert key.effect, f"{command}: {key.name} has no text below its field"
    assert key.effect[0].isupper() or key.effect[0] == "`"
    assert key.effect.endswith(".")
    number = (
        bool(re.search(r"\b(integer|number|\d+)\b", key.type))
        and "seed" not in key.name
        and "leave_out" not in key.name
    )
    number &= not key.name.endswith("labels")
    assert bool(key.unit) == number, f"{command}: {key.name} is {key.type}, its unit {key.unit!r}"
    if key.default is not None and not key.parts:
        plain_yaml.parse(key.default)


def test_defaults_are_those_of_the_models() -> None:
    from flowpairs.training.config import EvaluateConfig

    values = EvaluateConfig().model_dump(mode="json")
    found = {key.name: plain_yaml.parse(key.default) for key in keys_of(EvaluateConfig) if key.default is not None}
    assert found == values


def test_a_key_is_explained_and_a_misspelt_one_is_guessed() -> None:
    told = explain("coupling.n")
    assert "coupling.n   (couple, since 0.1.0)" in told
    assert "integer, at least 1; must be given; unit rows" in told
    assert "with path" not in told
    assert explain("couple.coupling.n") == told  # as stream has it
    assert "with model.kind=unet" in explain("channels")
    assert "train.steps" in explain("steps")
    wrong = CliRunner().invoke(application(), ["config", "coupling.sharpnes"])
    assert "did you mean coupling.sharpness" in str(wrong.exception)


def test_without_a_key_all_are_listed_and_with_a_section_its_own() -> None:
    assert len(explain().splitlines()) == len(KEYS)
    assert {line.split()[1].partition(".")[0] for line in explain("coupling").splitlines()} == {"coupling"}


def test_keys_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "flowpairs config coupling.sh")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setenv("_FLOWPAIRS_COMPLETE", "complete_bash")
    done = CliRunner().invoke(application(), [], prog_name="flowpairs")
    assert done.output.split() == ["coupling.sharpness"]
    monkeypatch.setenv("COMP_WORDS", "flowpairs cou")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert CliRunner().invoke(application(), [], prog_name="flowpairs").output.split() == ["couple"]


def test_the_texts_are_in_the_code_of_the_models_alone() -> None:
    """A comment beside a field would be a second text, and the older of the two."""
    for path in ("pipeline/config/couple.py", "pipeline/config/coupling.py", "training/config/training.py"):
        lines = re.findall(r"^    \w+: .*?  # .*$", Path(path).read_text(), re.MULTILINE)
        fields = [line for line in lines if "ClassVar" not in line]
        assert fields == [], path
