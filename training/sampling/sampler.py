"""The samples of a trained network: the same ones for the same seed and number, however they are batched."""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.blocks import noise
from flowpairs.training.config import SamplerConfig
from flowpairs.training.run.trained import Trained
from flowpairs.training.sampling import ode, sde
from flowpairs.training.sampling.curvature import curvature_by_time
from flowpairs.training.sampling.flow import Flow

CURVATURE_SAMPLES = 1024
CURVATURE_STEPS = 32  # of Heun


class Sampler:
    """The trained flow on data to start from, or on noises that depend on their shape, the seed and number alone.

    Args:
        trained: the network.
        config: how many samples, and how.
        classes: labels to draw the samples' from, as those of the data; a conditional network needs them.
        device: where to sample.
        starts: of the samples, where the flow leads from data to data; None: noise.
    """

    def __init__(
        self,
        trained: Trained,
        config: SamplerConfig,
        classes: Int64[Tensor, " c"] | None,
        device: torch.device,
        starts: Float32[Tensor, "n *shape"] | None = None,
    ) -> None:
        self.trained, self.config, self.device = trained, config, device
        self.network = trained.network(device)
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randn(config.samples, *trained.shape, generator=generator) if starts is None else starts
        assert len(drawn) == config.samples
        self.starts: Float32[Tensor, "n *shape"] = drawn
        self.labels: Int64[Tensor, " n"] | None = None
        if trained.config.model.conditional:
            assert classes is not None
            self.labels = classes[torch.randint(len(classes), (config.samples,), generator=generator)]

    def samples(self, solver: str, steps: int | None) -> tuple[Float32[Tensor, "n *shape"], float]:
        """All samples, and the mean number of function evaluations that one took.

        Args:
            solver: of `flowpairs.training.sampling.ode`; sde; or jump, by the average velocity of a MeanFlow model.
            steps: None of dopri5, which chooses them.
        """
        parts, evaluations = [], 0
        for rows, flow, x0 in self._batches(self.config.samples):
            if steps is None:
                solution = ode.solve_dopri5(flow.velocity, x0, self.config.rtol, self.config.atol)
            elif solver == "jump":
                solution = flow.jump(x0, steps)
            elif solver == "sde":
                solution = sde.solve_sde(*flow.sde(), x0, steps, partial(self._normals, rows))
            else:
                solution = ode.solve_fixed(flow.velocity, x0, solver, steps)
            parts.append(solution.end.cpu())
            evaluations += solution.nfe * len(x0)
        return torch.cat(parts), evaluations / self.config.samples

    def curvature(self) -> Tensor:
        """Mean over the first CURVATURE_SAMPLES samples, by time."""
        count = min(CURVATURE_SAMPLES, self.config.samples)
        batches = self._batches(count)
        sums = [curvature_by_time(flow.velocity, x0, CURVATURE_STEPS) for _, flow, x0 in batches]
        return torch.stack(sums).sum(0).cpu() / count

    def trajectories(self, count: int, times: int) -> Float32[Tensor, "count times *shape"]:
        """Where the first samples run, by dopri5, at equally spaced times from 0 to 1."""
        _, flow, x0 = next(self._batches(count))
        at = torch.linspace(0, 1, times, device=self.device)
        return ode.solve_dopri5(flow.velocity, x0, self.config.rtol, self.config.atol, at).states.transpose(0, 1).cpu()

    def between(self, start: float, end: float) -> Float32[Tensor, "n *shape"]:
        """States at a later time of the samples that start at an earlier one, by dopri5."""
        times, parts = torch.tensor([start, end], device=self.device), []
        for _, flow, x in self._batches(len(self.starts)):
            parts.append(ode.solve_dopri5(flow.velocity, x, self.config.rtol, self.config.atol, times).end.cpu())
        return torch.cat(parts)

    def _batches(self, count: int) -> Iterator[tuple[slice, Flow, Float32[Tensor, "b *shape"]]]:
        """Rows, flow and noise of batch after batch; a conditional flow has its batch's labels bound."""
        for first in range(0, count, self.config.batch):
            rows = slice(first, min(first + self.config.batch, count))
            label = None if self.labels is None else self.labels[rows].to(self.device)
            null = self.trained.num_classes
            flow = Flow(self.network, self.trained.config, label, null, self.config.guidance)
            yield rows, flow, self.starts[rows].to(self.device)

    def _normals(self, rows: slice, step: int) -> Float32[Tensor, "b *shape"]:
        """What drives the SDE in one step, the same for a sample however the samples are batched."""
        first, count = step * self.config.samples + rows.start, rows.stop - rows.start
        drawn = noise.gaussian(self.config.seed, first, count, self.starts[0].numel(), noise.Stream.PATH)
        return torch.from_numpy(drawn).view(count, *self.starts.shape[1:]).to(self.device)
