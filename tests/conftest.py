"""Shared fixtures: the real data sets, where they are at hand, and one local Ray for the tests that need it."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Ray's own workers must not run under coverage of the parent's warnings filter, nor phone home.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
# Ray's default of 15 would let its workers wait for every other process, the tests in this one among them.
os.environ.setdefault("RAY_worker_niceness", "0")
# A checkpoint waits for Ray Train's next poll of its workers, of which there is one every two seconds.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# One actor less to start in every run: nobody announces that he takes away this machine.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# `make test-all` runs what `make test` leaves out, and draws more examples.
ALL = os.environ.get("FLOWPAIRS_TESTS") == "all"
settings.register_profile("some", max_examples=15, deadline=None)
settings.register_profile("all", max_examples=60, deadline=None)
settings.register_profile("fuzz", max_examples=2000, deadline=None)
settings.load_profile({"all": "all", "fuzz": "fuzz"}.get(os.environ.get("FLOWPAIRS_TESTS", ""), "some"))


@lru_cache
def shares_ray(path: str) -> bool:
    """Whether a file has tests on the session's Ray."""
    return "local_ray" in Path(path).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out files as a whole, and all that share the session's Ray to one process: there is one Ray for all."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return "ray" if shares_ray(str(config.rootpath / path)) else path

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order files: those on the session's Ray first, then those with the most slow tests.

    What is nightly, repeats of a property that another test holds, is left to `make test-all`.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (not shares_ray(str(item.path)), -slow[item.path], str(item.path)))
    if not ALL:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real data sets beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray of two CPUs for the whole session: all tests that need it run in one process of pytest-xdist."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A semi-discrete store by one process, which must be left as it is: eps = 0, blocks of 400, 400 and 200 pairs."""
    from support.couplings import settings
    from support.matchings import BLIND

    from flowpairs.pipeline.couple import couple

    directory = tmp_path_factory.mktemp("semidiscrete") / "blind"
    couple(settings(directory, **BLIND))
    return directory


@pytest.fixture(scope="session")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another: ten problems, with mirror images, eps > 0, two blocks of balanced pairs, payload ids."""
    from support.couplings import settings
    from support.matchings import BY_CLASS

    from flowpairs.pipeline.couple import couple

    directory = tmp_path_factory.mktemp("semidiscrete") / "by-class"
    couple(settings(directory, **BY_CLASS))
    return directory
