"""The large entries that a pass finds in one tile, in three arrays that grow, 12 bytes an entry."""

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

GROWTH = 1.5


class EntryBuffer:
    """Entries of some targets, in the order in which they were added: by point.

    A list of what each batch found would cost more in the heads of its tensors than in entries, where tiles and
    batches are many.
    """

    def __init__(self, device: torch.device) -> None:
        whole, number = torch.int32, torch.float32
        self._arrays = [torch.empty(0, dtype=dtype, device=device) for dtype in (whole, whole, number)]
        self._count = 0

    def add(self, i: Int[Tensor, " k"], j: Int[Tensor, " k"], share: Float[Tensor, " k"]) -> None:
        """Append entries: target, point, probability."""
        end = self._count + len(i)
        for k, values in enumerate((i, j, share)):
            if end > len(self._arrays[k]):
                longer = self._arrays[k].new_empty(max(end, int(GROWTH * len(self._arrays[k]))))
                longer[: self._count] = self._arrays[k][: self._count]
                self._arrays[k] = longer
            self._arrays[k][self._count : end] = values
        self._count = end

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._count

    def sort(self) -> None:
        """Bring the entries into the order of their targets, and each target's into that of its points."""
        order = self._arrays[0][: self._count].argsort(stable=True)
        self._arrays = [values[order] for values in self._arrays]

    @property
    def entries(self) -> tuple[Int32[Tensor, " k"], Int32[Tensor, " k"], Float[Tensor, " k"]]:
        """The entries: targets, points, probabilities."""
        i, j, share = (values[: self._count] for values in self._arrays)
        return i, j, share
