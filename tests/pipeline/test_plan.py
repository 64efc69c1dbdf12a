"""The forecast of a job against the job, and what cannot fit told before it is tried."""

import re
from pathlib import Path

import pytest
from support.couplings import settings

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import check_sizes, couple, survey_job
from flowpairs.pipeline.plan import plan
from flowpairs.pipeline.store.potential_files import load_potentials


def files(directory: Path) -> set[str]:
    """Every file below a directory, with its place."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_forecast_is_of_the_job(tmp_path: Path, local_ray: None) -> None:
    config = settings(tmp_path / "s", features={"pca": 16}, cluster={"actors": "auto"})
    forecast = plan(config)
    assert list(tmp_path.iterdir()) == [], "a trial leaves nothing behind"
    index = couple(config)
    assert (forecast.pairs, forecast.blocks, forecast.n, forecast.m) == (1500, 4, 400, 400)
    assert forecast.shards == len(index.shards)
    assert forecast.shard_bytes == pytest.approx(sum(shard.bytes for shard in index.shards), rel=0.02)
    assert forecast.seconds > forecast.block_seconds > 0
    assert (forecast.pairs_left, forecast.blocks_left) == (1500, 4)
    store = files(tmp_path)
    assert (plan(config).pairs_left, plan(config).seconds) == (0, 0), "the store is complete"
    (tmp_path / "s" / "shards" / "pairs-000009.json").unlink()
    rest = plan(config)
    assert (rest.pairs, rest.pairs_left, rest.blocks_left, rest.shards) == (1500, 300, 1, 2)
    assert files(tmp_path) == store - {"s/shards/pairs-000009.json"}, "nothing is mended that nobody asked for"
    with pytest.raises(InputError, match=r"holds pairs of another config; coupling\.rel_eps"):
        plan(settings(tmp_path / "s", features={"pca": 16}, coupling={"rel_eps": 0.2}))


def test_blocks_too_large_for_the_nodes_are_refused_with_what_fits(tmp_path: Path, local_ray: None) -> None:
    huge, output = {"n": 2**26, "resample": "repeat"}, {"pairs": 2**26, "pairs_per_shard": 2**16}
    with pytest.raises(InputError, match=r"coupling\.n=67108864: an actor takes about .* GiB") as refused:
        plan(settings(tmp_path / "s", coupling=huge, cluster={"actors": 1}, output=output))
    fits = int(re.search(r"give coupling\.n=(\d+)", str(refused.value)).group(1))
    assert 2**16 < fits < 2**26


def test_shards_too_large_for_the_disk_are_refused_with_what_fits(tmp_path: Path, local_ray: None) -> None:
    with pytest.raises(InputError, match=r"output\.pairs=3000000000: .* give output\.payload=seeded or output\.pairs="):
        plan(
            settings(
                tmp_path / "s",
                coupling={"n": 1797},
                output={"pairs": 3 * 10**9, "pairs_per_shard": 1797, "payload": "full"},
            )
        )


def test_what_couple_refuses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "couple.yaml").write_text("data: {path: digits}\ncoupling: {n: 5000}\noutput: {dir: out, pairs: 10}")
    with pytest.raises(InputError, match=r"coupling\.n=5000: larger than the data set"):
        plan(load(CoupleConfig, tmp_path / "couple.yaml", [f"output.dir={tmp_path / 'out'}"]))


def test_a_semidiscrete_solve_is_forecast_without_being_done(tmp_path: Path, local_ray: None) -> None:
    coupling = {"method": "semidiscrete", "rel_eps": None, "n": 500, "chi2": 0.2}
    config = settings(tmp_path / "s", features={"pca": 16}, coupling=coupling, output={"pairs": 1000})
    forecast = plan(config)
    assert list(tmp_path.iterdir()) == []
    assert forecast.start_seconds > forecast.potential_seconds > 0
    couple(config)
    drawn = load_potentials(tmp_path / "s").reports[0]["points"]
    assert forecast.potential_points == pytest.approx(drawn, rel=1.0)
    assert plan(config).potential_points == 0, "it is solved"
    alone = settings(tmp_path / "p", features={"pca": 16}, coupling=coupling, output={"pairs": 0})
    forecast = plan(alone)
    assert forecast.seconds > forecast.potential_seconds > 0


def test_the_payload_is_ids_where_full_shards_would_take_over_16_gb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def kept(pairs: int) -> tuple[str, list[int], str]:
        config = settings(tmp_path / str(pairs), output={"pairs": pairs, "payload": "auto", "pairs_per_shard": None})
        config, _ = survey_job(config)
        blocks = check_sizes(config, 1797, None, None)
        return config.output.payload, [len(rows) for rows in blocks.shards(0).values()], capsys.readouterr().err

    # A pair of digits in full has two images of 64 float32: 512 bytes.
    payload, _, said = kept(25_000_000)
    assert payload == "full"
    assert "payload: full; in full, the pairs take 12.8 GB" in said
    payload, shards, said = kept(40_000_000)
    assert (payload, shards) == ("ids", [400]), "a shard of ids is as long as a block"
    assert "payload: ids; in full, the pairs take 20.5 GB" in said
