"""A sample of what `make fuzz` tries: no configuration ends in anything but a store or one sentence."""

from pathlib import Path

import pytest
import torch
from safety.config_fuzz import faults

CASES = 300


@pytest.mark.slow
def test_no_configuration_ends_in_a_traceback(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert list(faults(CASES, 0, tmp_path)) == []
    finally:
        torch.set_num_threads(threads)
