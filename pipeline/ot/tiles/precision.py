"""Products of float32 numbers in float32, whatever precision the process has set.

TF32 keeps 11 bits: logits would be off by tenths of a bit. torch has three ways into it: the old setting
`set_float32_matmul_precision`, the new one `torch.backends...fp32_precision`, and the variable
TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, read at torch's start. The old one also lets oneDNN round products on CPUs. Both are
made to agree, since torch raises where it is asked for the one and they do not.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_CPU: Any = torch.backends.mkldnn  # its annotations do not know `matmul`
_lock = threading.Lock()
_open = 0  # scopes of all threads
_before: tuple[str, ...] = ()


@contextmanager
def ieee_products() -> Iterator[None]:
    """Open a scope in which products are float32's own in this process; the last scope to end restores what was set.

    The settings are the process's: products of other threads are exact meanwhile, too.
    """
    global _open, _before
    with _lock:
        if not _open:
            _before = _settings()
            _set("highest", "ieee", "ieee")
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                _set(*_before)


def _settings() -> tuple[str, str, str]:
    """Return what is set: the old setting, the new one of CUDA, and that of CPUs."""
    cuda, cpu = torch.backends.cuda.matmul.fp32_precision, _CPU.matmul.fp32_precision
    return torch.get_float32_matmul_precision(), cuda, cpu


def _set(old: str, cuda: str, cpu: str) -> None:
    """Set all three; the old one first, since it sets the others."""
    torch.set_float32_matmul_precision(old)
    torch.backends.cuda.matmul.fp32_precision = cuda
    _CPU.matmul.fp32_precision = cpu
