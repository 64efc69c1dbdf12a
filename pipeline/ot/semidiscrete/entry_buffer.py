"""The large entries that a pass finds, 12 bytes each: as they are found, and then in the order of their targets."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.sweep import Entries

LEAST, MOST = 2**14, 2**23  # entries of a part; malloc gives arrays of over 32 MiB back to the system, each at once
AT_ONCE = 2**19  # entries that are computed with at a time

Found = tuple[Int[Tensor, " _"], Int[Tensor, " _"], Float[Tensor, " _"]]  # targets, points, probabilities


class EntryBuffer:
    """Entries of this process's targets, in parts that are never moved; each has room for as many as all before it.

    A list of what each batch found would cost more in the heads of its tensors than in entries, where tiles and
    batches are many; and an array that grows is in memory twice whenever it does.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._parts, self._sizes = device, list[Found](), list[int]()

    def __len__(self) -> int:
        """Return the number of entries."""
        return sum(self._sizes)

    def add(self, found: Found) -> None:
        """Append entries; those of a target come in the order of their points."""
        start, end = 0, len(found[0])
        while start < end:
            if not self._parts or self._sizes[-1] == len(self._parts[-1][0]):
                size = min(max(len(self), LEAST), MOST)
                target, point = (torch.empty(size, dtype=torch.int32, device=self.device) for _ in range(2))
                self._parts.append((target, point, torch.empty(size, device=self.device)))
                self._sizes.append(0)
            low = self._sizes[-1]
            count = min(end - start, len(self._parts[-1][0]) - low)
            for values, new in zip(self._parts[-1], found, strict=True):
                values[low : low + count] = new[start : start + count]
            start, self._sizes[-1] = start + count, low + count

    def runs(self) -> Iterator[Found]:
        """Yield the entries, some at a time."""
        for part, size in zip(self._parts, self._sizes, strict=True):
            yield from _runs(part, size)

    def sorted(self, totals: Float64[Tensor, " N"]) -> Entries:
        """Return the entries by targets, and each target's by points; none is left here.

        Args:
            totals: each target's sum of probabilities over all points [N]; a logit is log2 of an entry's share in it.
        """
        count, following = len(self), torch.zeros_like(totals, dtype=torch.int64)
        for target, _, _ in self.runs():
            following += target.bincount(minlength=len(totals))
        following = following.cumsum(0) - following  # where each target's next entry goes
        i, j = (torch.empty(count, dtype=torch.int32, device=self.device) for _ in range(2))
        logits = totals.new_empty(count)
        while self._parts:
            for target, point, share in _runs(self._parts.pop(0), self._sizes.pop(0)):
                order = target.argsort(stable=True)
                target, counts = target[order], target.bincount(minlength=len(totals))
                before = counts.cumsum(0) - counts
                position = (following - before)[target] + torch.arange(len(order), device=self.device)
                i[position], j[position] = target, point[order]
                logits[position] = (share[order].double() / totals[target]).log2()
                following += counts
        return Entries(i, j, logits)


def _runs(part: Found, size: int) -> Iterator[Found]:
    """Yield the first `size` entries of a part, some at a time."""
    for low in range(0, size, AT_ONCE):
        target, point, share = (values[low : min(low + AT_ONCE, size)] for values in part)
        yield target, point, share
