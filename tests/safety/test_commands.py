"""Command lines that make no sense: each command ends with one sentence, whatever it is given."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flowpairs.jobs.cli import application
from flowpairs.pipeline.base.errors import InputError, JobError

# Commands that read; what starts Ray is given nothing that it could start with.
READERS = (
    "status",
    "verify",
    "report",
    "export",
    "sample",
    "evaluate",
    "convert",
    "plan",
    "couple",
    "train",
    "stream",
    "write",
    "config",
)
WORDS = [
    "", ".", "..", "/", "/proc/self", "/dev/null", "x" * 300, "ü[/]\x1b[31m", "--json", "--deep", "-1", "--output",
    "a.png", "--payload", "ids", "--steps", "1e9", "--solver", "euler", "coupling.n=-1", "=", "a=b", "samples=1",
    "--extend", "--from", "s9://x", "memory://nowhere", "file:relative", "config.yaml", "broken.yaml", "--license",
    "mit", "--labels", "7", "--dry-run", "--samples", "coupling.n",
]  # fmt: skip
FEW = max(6, settings().max_examples // 3)
fuzzed = settings(max_examples=FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("command", READERS)
def test_a_command_line_is_carried_out_or_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("data: {path: digits}\ncoupling: {n: 5000}\noutput: {dir: out, pairs: 1}\n")
    (tmp_path / "broken.yaml").write_text("{{{")
    app, runner = application(), CliRunner()

    @fuzzed
    @given(st.lists(st.sampled_from(WORDS), max_size=4))
    def run(words: list[str]) -> None:
        ended = runner.invoke(app, [command, *words])
        assert isinstance(ended.exception, InputError | JobError | SystemExit | None), ended.exc_info
        if isinstance(ended.exception, InputError):
            assert "\n" not in str(ended.exception)

    run()
