"""How many cores a process counts: no more than its affinity and the limits of its control groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowpairs.pipeline.base import threads

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, float("inf")),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/pod/box\n", {"pod/cpu.max": "50000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 0.5),
        ("0::/outside\n", {"cpu.max": "100000 100000\n"}, 1.0),  # a name that is not there, within a container
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        (
            "7:memory:/a\n4:cpu,cpuacct:/a:b\n",
            {
                "cpu,cpuacct/a:b/cpu.cfs_quota_us": "25000\n",
                "cpu,cpuacct/a:b/cpu.cfs_period_us": "100000\n",
                "memory/a/cpu.max": "1 100000\n",
            },
            0.25,
        ),
        ("0::/\n", {"cpu.max": "no numbers\n"}, float("inf")),
        (None, {}, float("inf")),
    ],
)
def test_the_least_limit_of_all_groups_counts(
    own: str | None, files: dict[str, str], granted: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "OWN_GROUPS", tmp_path / "own")
    if own is not None:
        (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert threads._granted() == granted
    assert threads.cores() == (ALL if granted > ALL else max(1, round(granted + 0.49)))


def test_a_process_in_a_limited_group_takes_no_more_threads(tmp_path: Path) -> None:
    """A real control group of one core, where this user may make one."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from flowpairs.jobs.entry import run_command\n"
        "def command() -> None:\n"
        "    import torch\n"
        "    print(torch.get_num_threads(), file=sys.stderr)\n"
        "sys.argv = sys.argv[:1]\n"
        "run_command(command)\n"
    )
    group = next((path for path in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")) if path.is_dir()), None)
    group = None if group is None else group / f"flowpairs-{os.getpid()}"
    try:
        assert group is not None
        group.mkdir()
        limit = group / "cpu.max"
        (limit if limit.exists() else group / "cpu.cfs_quota_us").write_text(
            "100000 100000" if limit.exists() else "100000"
        )
    except (OSError, AssertionError):
        if group is not None and group.is_dir():
            group.rmdir()
        pytest.skip("control groups cannot be made here")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    try:
        command = [sys.executable, "-c", program, str(group)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr.split()[-1] == "1"
    finally:
        group.rmdir()
