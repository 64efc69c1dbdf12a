"""Samples of a trained network: each depends on the seed and on its own number, not on how many are drawn, or where.

dopri5 chooses its steps for a whole batch, so its samples also depend, within its tolerance, on `batch`: batches hold
the numbers [k batch, (k + 1) batch), whoever draws them.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.blocks import noise
from flowpairs.training.config import MOST_SAMPLES, SamplerConfig
from flowpairs.training.run.trained import Trained
from flowpairs.training.sampling import ode, sde
from flowpairs.training.sampling.curvature import straightness_by_time
from flowpairs.training.sampling.flow import Flow

CURVATURE_SAMPLES = 1024  # largest number of samples that the curvature is averaged over
CURVATURE_STEPS = 32  # number of Heun steps for the curvature


def batches_of(count: int, size: int) -> list[slice]:
    """Divide the numbers from 0 to `count` into batches."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


class Sampler:
    """A trained flow with its starts: given data, or noise by number.

    Args:
        trained: the network.
        config: the number of samples and how to draw them.
        classes: the labels from which those of the samples are drawn, such as the labels of the data; required for a
            conditional network.
        device: the device to sample on.
        starts: the data to start from, for a flow from data to data; None: noise.
        stream: the sequence of the seed that this noise is.
    """

    def __init__(
        self,
        trained: Trained,
        config: SamplerConfig,
        classes: Int64[Tensor, " c"] | None,
        device: torch.device,
        starts: Float32[Tensor, "n *shape"] | None = None,
        stream: noise.Stream = noise.Stream.STARTS,
    ) -> None:
        assert starts is None or len(starts) == config.samples
        assert classes is not None or not trained.config.model.conditional
        self.trained, self.config, self.device = trained, config, device
        self.network = trained.network(device)
        self._starts, self._classes = starts, classes if trained.config.model.conditional else None
        self._stream = stream

    def starts(self, rows: slice) -> Float32[Tensor, "b *shape"]:
        """Return the points that the samples of some numbers start from."""
        if self._starts is not None:
            return self._starts[rows]
        return self._noise(self._stream, rows.start, rows.stop - rows.start)

    def labels(self, rows: slice) -> Int64[Tensor, " b"] | None:
        """Return the labels of the samples of some numbers; None if the network takes none."""
        if self._classes is None:
            return None
        u = noise.uniforms(self.config.seed, noise.Stream.LABELS, rows.start, rows.stop - rows.start)
        return self._classes[torch.from_numpy((u * len(self._classes)).astype(np.int64))]

    def samples(self, solver: str, steps: int | None) -> tuple[Float32[Tensor, "n *shape"], float]:
        """Draw all samples, and compute the mean number of function evaluations per sample; see `draw`."""
        drawn = list(self.draw(solver, steps, batches_of(self.config.samples, self.config.batch)))
        return torch.cat([x for x, _ in drawn]), sum(len(x) * nfe for x, nfe in drawn) / self.config.samples

    def draw(
        self, solver: str, steps: int | None, batches: Sequence[slice]
    ) -> Iterator[tuple[Float32[Tensor, "b *shape"], int]]:
        """Yield the samples of each batch, on the host, and the number of function evaluations that each of them took.

        Args:
            solver: a solver of `flowpairs.training.sampling.ode`; sde; or jump, the average velocity of a MeanFlow
                model.
            steps: the number of equal steps; None for dopri5, which chooses its steps.
            batches: the numbers of the samples, some of `batches_of(samples, batch)`.
        """
        for rows in batches:
            flow, x0 = self._flow(rows)
            if steps is None:
                solution = ode.solve_dopri5(flow.velocity, x0, self.config.rtol, self.config.atol)
            elif solver == "jump":
                solution = flow.jump(x0, steps)
            elif solver == "sde":
                solution = sde.solve_sde(*flow.sde(), x0, steps, partial(self._normals, rows))
            else:
                solution = ode.solve_fixed(flow.velocity, x0, solver, steps, every=False)
            yield solution.end.cpu(), solution.nfe

    def curvature(self) -> Tensor:
        """Compute the mean curvature of the first CURVATURE_SAMPLES samples at each time; see `curvature_by_time`."""
        return self.straightness()[0]

    def straightness(self) -> tuple[Tensor, Tensor]:
        """Compute that and the mean squared distance from the chord at each time; see `straightness_by_time`."""
        count = min(CURVATURE_SAMPLES, self.config.samples)
        flows = map(self._flow, batches_of(count, self.config.batch))
        parts = [straightness_by_time(flow.velocity, x0, CURVATURE_STEPS) for flow, x0 in flows]
        bends, distances = (torch.stack(sums).sum(0).cpu() / count for sums in zip(*parts, strict=True))
        return bends, distances

    def trajectories(
        self, count: int, times: int
    ) -> tuple[Float32[Tensor, "count times *shape"], Float32[Tensor, "count times *shape"]]:
        """Compute trajectories of the first samples with dopri5, at equally spaced times from 0 to 1.

        Returns:
            The states x_t, and the end that the flow predicts from each of them, x_t + (1 - t) v(t, x_t).
        """
        flow, x0 = self._flow(slice(0, count))
        at = torch.linspace(0, 1, times, device=self.device)
        states = ode.solve_dopri5(flow.velocity, x0, self.config.rtol, self.config.atol, at).states
        with torch.no_grad():
            predicted = [x + (1 - t) * flow.velocity(t.expand(len(x)), x) for t, x in zip(at, states, strict=True)]
        return states.transpose(0, 1).cpu(), torch.stack(predicted, 1).cpu()

    def between(self, start: float, end: float) -> Float32[Tensor, "n *shape"]:
        """Move all starts from time `start` to time `end` with dopri5."""
        times, parts = torch.tensor([start, end], device=self.device), []
        for flow, x in map(self._flow, batches_of(self.config.samples, self.config.batch)):
            parts.append(ode.solve_dopri5(flow.velocity, x, self.config.rtol, self.config.atol, times).end.cpu())
        return torch.cat(parts)

    def _flow(self, rows: slice) -> tuple[Flow, Float32[Tensor, "b *shape"]]:
        """Return the flow with the labels of a batch, and the starts of the batch."""
        label = self.labels(rows)
        label = None if label is None else label.to(self.device)
        flow = Flow(self.network, self.trained.config, label, self.trained.num_classes, self.config.guidance)
        return flow, self.starts(rows).to(self.device)

    def _normals(self, rows: slice, step: int) -> Float32[Tensor, "b *shape"]:
        """Draw the noise of one step of the SDE."""
        drawn = self._noise(noise.Stream.PATH, step * MOST_SAMPLES + rows.start, rows.stop - rows.start)
        return drawn.to(self.device)

    def _noise(self, stream: noise.Stream, first: int, count: int) -> Float32[Tensor, "b *shape"]:
        """Make rows of standard noise on the host."""
        shape = self.trained.shape
        drawn = noise.gaussian(self.config.seed, first, count, int(np.prod(shape)), stream)
        return torch.from_numpy(drawn).view(count, *shape)
