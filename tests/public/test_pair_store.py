"""`PairStore`: what the commands on stores do, from Python."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from support.couplings import settings
from support.matchings import pairs as pairs_of

import flowpairs as fp


def test_a_store_from_its_config_to_its_report(tmp_path: Path) -> None:
    config = settings(tmp_path / "elsewhere").model_dump(mode="json")
    store = fp.PairStore(tmp_path / "s", config)
    with pytest.raises(ValueError, match="no such directory"):
        len(store)
    forecast = store.plan()
    assert (forecast.pairs, forecast.blocks, forecast.actors) == (1500, 4, 1)
    blocks = []
    assert store.couple(blocks.append).pairs == len(store) == 1500
    assert [block["block"] for block in blocks] == [0, 1, 2, 3]
    again = fp.PairStore(str(tmp_path / "s"))
    assert again.config.coupling.n == 400
    assert again.plan().pairs_left == 0
    assert (again.status().complete, again.status().pairs) == (True, 1500)
    assert again.verify(deep=1).faults == []
    truth = pairs_of(tmp_path / "s")
    np.testing.assert_array_equal(again[1499]["x1"], truth["x1"][1499])
    np.testing.assert_array_equal(again[-3:]["data_id"], truth["data_ids"][-3:])
    assert again.report() == tmp_path / "s" / "report.html"
    assert (tmp_path / "s" / "report.html").stat().st_size > 10_000
    assert again.report(tmp_path / "page.html") == tmp_path / "page.html"


def test_a_config_may_be_a_file(tmp_path: Path) -> None:
    tree = settings(tmp_path / "elsewhere", output={"pairs": 400}).model_dump(mode="json")
    (tmp_path / "couple.yaml").write_text(yaml.safe_dump(tree))
    assert fp.PairStore(tmp_path / "s", tmp_path / "couple.yaml").couple().pairs == 400


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.yaml there; give the job's config"):
        fp.PairStore(tmp_path).plan()
    with pytest.raises(ValueError, match=r"coupling\.n: missing"):
        fp.PairStore(tmp_path / "s", {"data": {"path": "digits"}, "coupling": {}, "output": {"pairs": 1}})
    with pytest.raises(ValueError, match=r"cluster\.actorz=1: unknown key"):
        fp.PairStore(tmp_path / "s", settings(tmp_path).model_dump() | {"cluster": {"actorz": 1}})
