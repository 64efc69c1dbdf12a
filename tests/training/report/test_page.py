"""The page: complete, self-contained, and told apart from what is missing."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

from flowpairs.jobs.report import report
from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.metrics.worth import worth_of_stores, worth_table
from flowpairs.training.report.page import write_pages, write_report
from flowpairs.training.report.store_view import outliers
from flowpairs.training.report.summaries.stores import read_store

Make = Callable[..., Path]  # what the fixtures make_store and make_run are

VOID = {"meta", "img", "br", "wbr", "line", "path", "rect", "use"}  # `line`, `path`, ... close themselves in SVG


class Page(HTMLParser):
    """Collects a page's text, ids and references, and refuses tags that do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.parts: list[str] = []
        self.images = self.svgs = 0
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.parts).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.references += [values[name] for name in ("src", "href", "srcset", "data", "xlink:href") if name in values]
        self.images += tag == "img"
        self.svgs += tag == "svg"
        if tag == "img":
            assert values["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.parts.append(data)


@pytest.fixture
def digits(make_store: Make, make_run: Make) -> Page:
    """Two stores and two runs of images, as the demo leaves them."""
    return Page(
        write_report([
            make_store("pairs/ot", blocks=16), make_store("pairs/plain", method="independent"),
            make_run("runs/ot"), make_run("runs/plain", method="independent", scale=2.0),
        ])
    )  # fmt: skip


def test_nothing_is_fetched(digits: Page) -> None:
    assert digits.references
    for reference in digits.references:
        assert reference.startswith(("#", "data:image/png;base64,"))
    assert re.findall(r"url\((?!#)", digits.source) == []
    assert re.findall(r"https?:|@import|<script|<link", digits.source) == []


def test_ids_are_unique_and_every_local_reference_meets_one(digits: Page) -> None:
    assert len(set(digits.ids)) == len(digits.ids)
    local = [reference[1:] for reference in digits.references if reference[0] == "#"]
    local += re.findall(r"url\(#([^)]+)\)", digits.source)
    assert set(local) <= set(digits.ids)


def test_every_run_and_figure_is_there(digits: Page) -> None:
    for name in ("pairs/ot", "pairs/plain", "runs/ot", "runs/plain"):
        assert name in digits.text.replace("/ ", "/")
    evaluated = ["0.412", "31.5", "14.8", "9.19", "4.85", "0.824", "63.0", "29.6", "18.4", "9.70", "86.4 NFE"]
    trained = ["400", "128", "0.750", "1.50", "21.5", "4,321", "3.4 %", "checkpoint_000003", "0123456789abcdef"]
    for figure in evaluated + trained:
        assert figure in digits.text, figure
    assert "Optimal-transport pairs won on all 4 Fréchet distances" in digits.text
    # Two stores of twelve pairs; two runs of five grids and paths, and in the gallery with each of four solvers.
    assert digits.images == 2 * 12 * 2 + 2 * (5 + 1) + 2 * 4


def test_the_winners_are_marked_in_words(digits: Page) -> None:
    [head] = re.findall(r'<table class="headline">.*?</table>', digits.source, flags=re.DOTALL)
    first, second = re.findall(r"<tr>(?:(?!</tr>).)*<td>.*?</tr>", head, flags=re.DOTALL)
    assert (first.count("best</span>"), second.count("best</span>")) == (5, 0)


def test_few_blocks_in_full_and_many_in_summary(digits: Page) -> None:
    assert "Coupling of every block" in digits.text
    assert "All 16 blocks in summary" in digits.text
    assert "Marginal errors of 16 blocks" in digits.source


def test_planar_data_show_lines_scatters_and_trajectories(make_store: Make, make_run: Make) -> None:
    page = Page(write_report([make_store("moons", data="moons"), make_run("run", data="moons")]))
    assert page.images == 0
    for kind in ("pairs", "independent pairs"):
        assert f"64 {kind}, a line from each x0 to its x1" in page.source
    assert "40 trajectories of the flow" in page.source
    assert page.source.count("64 samples over 64 real points") == 4


def test_vectors_show_strips(make_store: Make, make_run: Make) -> None:
    page = Page(write_report([make_store("vectors", data="vectors"), make_run("run", data="vectors")]))
    assert page.images == 2 + 5
    assert "40 trajectories of the flow" in page.source
    assert "principal direction 1" in page.text


def test_an_older_evaluation_is_shown_without_its_trajectories(make_run: Make) -> None:
    run = make_run("run")
    with np.load(run / "samples.npz") as file:
        arrays = {key: file[key] for key in file.files if key != "trajectories"}
    np.savez(run / "samples.npz", **arrays)
    page = Page(write_report([run]))
    assert page.images == 5
    assert "Trajectories" not in page.text


def test_what_is_missing_is_told(make_store: Make, make_run: Make) -> None:
    store, run, late = make_store("store"), make_run("run"), make_run("late", evaluated=False)
    for path in (store / "blocks.parquet", store / "config.yaml", run / "samples.npz", late / "metrics.jsonl"):
        path.unlink()
    text = Page(write_report([store, run, late])).text
    for sentence in (
        "No blocks.parquet in this store",
        "No config.yaml in this store",
        "run has no samples.npz",
        "late has no metrics.jsonl",
        "late has not been evaluated yet",
        "One run evaluated, nothing to compare it with yet",
    ):
        assert sentence in text


def test_an_unevaluated_run_and_a_store_alone(make_store: Make, make_run: Make) -> None:
    assert "No run has been evaluated yet" in Page(write_report([make_run("late", evaluated=False)])).text
    assert "No training run was given" in Page(write_report([make_store("store")])).text


def test_unconverged_blocks_are_named(make_store: Make) -> None:
    text = Page(write_report([make_store("store", blocks=3, converged=False)])).text
    assert "3 of 3 blocks did not converge" in text


def test_keys_that_differ_are_tabled(digits: Page) -> None:
    [table] = re.findall(r"Keys whose values differ.*?</table>", digits.source, flags=re.DOTALL)
    assert re.findall(r"<code>(.*?)</code>", table) == ["pairs"]  # steps are the same
    assert re.findall(r"<td>(.*?)</td>", table) == ["exact", "independent"]


def test_names_are_escaped(make_run: Make) -> None:
    page = Page(write_report([make_run("a<b>&c"), make_run("plain", method="independent", scale=2.0)]))
    assert "a<b>&c (exact pairs) won on Fréchet distance" in page.text


def test_the_same_files_give_the_same_bytes(make_store: Make, make_run: Make, tmp_path: Path) -> None:
    directories = [make_store("moons", data="moons", blocks=5), make_run("run", data="moons")]
    first = write_report(directories, tmp_path / "first.html").read_bytes()
    assert first == write_report(directories, tmp_path / "second.html").read_bytes()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.json", "{}", "pairs_dir: Field required"),
        ("evaluation.json", "{", "Invalid JSON"),
        ("metrics.jsonl", "{}\n", "step"),
        ("samples.npz", "no zip", "not the samples"),
    ],
)
def test_a_spoilt_file_is_named(make_run: Make, file: str, content: str, message: str) -> None:
    run = make_run("run")
    (run / file).write_text(content)
    with pytest.raises(InputError, match=rf"{file}.*{message}"):
        write_report([run])


def test_a_cut_shard_is_named(make_store: Make) -> None:
    store = make_store("store")
    shard = store / "shards" / "pairs-000000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InputError, match=r"pairs-000000.tar.*has 700 bytes"):
        write_report([store])


def test_a_log_still_being_written_and_a_resumed_one(make_run: Make) -> None:
    from flowpairs.training.report.summaries.runs import read_run

    run = make_run("run", steps=8)
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 3}\n{"step": 2, "loss": 9}\n{"step": 2, "loss": 2}\n{"step"'
    )
    metrics = read_run(run, "run").metrics
    assert metrics is not None
    assert metrics.step.tolist() == [1, 2]
    assert metrics.loss.tolist() == [3, 2]


def test_a_page_each_and_one_that_leads_to_them(make_store: Make, make_run: Make, tmp_path: Path) -> None:
    runs = [make_run("ot"), make_run("plain", method="independent", scale=2.0)]
    index = write_pages([make_store("store", blocks=16), *runs], tmp_path / "pages")
    links = [link for link in Page(index).references if link.endswith(".html")]
    assert links == ["store-0-store.html", "run-0-ot.html", "run-1-plain.html"]
    store, first, _ = (Page(index.with_name(link)) for link in links)
    assert "Sharpness E" in store.text
    assert "Optimal-transport pairs won" in Page(index).text
    assert "One run evaluated" in first.text
    assert "index.html" in first.references
    with pytest.raises(InputError, match="--pages"):
        write_pages(runs, index)


def test_what_pairs_are_worth_is_the_table_of_the_command(make_store: Make, make_run: Make, tmp_path: Path) -> None:
    stores = [make_store("ot", blocks=12), make_store("plain", method="independent", blocks=12)]
    page = Page(write_report(stores, tmp_path / "report.html", worth=True))
    _, rows = worth_table(worth_of_stores(stores))
    assert "What the pairs are worth" in page.text
    for row in rows:
        for cell in row[2:]:
            assert cell in page.text
    assert "What the pairs are worth" not in Page(write_report(stores, tmp_path / "plain.html")).text
    with pytest.raises(InputError, match="no store"):
        write_report([make_run("run")], tmp_path / "none.html", worth=True)


def test_blocks_that_stand_out_are_listed(make_store: Make) -> None:
    store = make_store("store", blocks=16)
    rows = pq.read_table(store / "blocks.parquet").to_pylist()
    rows[5]["cost_coupled"] *= 1.5
    pq.write_table(pa.Table.from_pylist(rows), store / "blocks.parquet")
    found = [
        outlier for outlier in outliers(read_store(store, "store").blocks or []) if outlier.figure == "Cost, coupled"
    ]
    assert [outlier.block for outlier in found] == [5]
    assert "Blocks that stand out" in Page(write_report([store])).text


def test_what_regions_lose_is_bounded_on_the_page(make_store: Make) -> None:
    page = Page(write_report([make_store("store", blocks=2, regions=4, loss_bound=0.25, loss_error=0.01)]))
    assert "Lost by 4 regions ≤ 0.250 ± 0.0100" in page.text


def test_versions_dates_and_machine_are_told(make_store: Make, make_run: Make) -> None:
    store, run = make_store("store", flowpairs="0.1.0", date="2026-01-02 03:04 UTC", device="cpu"), make_run("run")
    tree = json.loads((run / "train.json").read_text())
    made = {"date": "2026-01-03 04:05 UTC", "torch": "2.13.0", "machine": "AMD, 2 cores"}
    (run / "train.json").write_text(json.dumps(tree | {"made_with": made}))
    text = Page(write_report([store, run])).text
    for fact in ("2026-01-02 03:04 UTC", "2026-01-03 04:05 UTC", "torch 2.13.0", "AMD, 2 cores", "flowpairs 0.1.0"):
        assert fact in text


def command(*arguments: object) -> Result:
    app = Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_into_the_first_directory_or_where_told(make_run: Make, tmp_path: Path) -> None:
    first, second = make_run("first"), make_run("second", method="independent")
    assert command(first, second).exit_code == 0
    Page(first / "report.html")
    assert command(first, "--output", tmp_path / "other.html").exit_code == 0
    Page(tmp_path / "other.html")


def test_the_command_refuses_what_is_neither_store_nor_run(make_run: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for wrong, message in [("empty", "neither index.json"), ("nowhere", "no such directory")]:
        error = command(tmp_path / wrong).exception
        assert isinstance(error, InputError)
        assert message in str(error)
    error = command(make_run("run"), "--output", tmp_path / "nowhere" / "report.html").exception
    assert isinstance(error, InputError)
    assert "existing directory" in str(error)
