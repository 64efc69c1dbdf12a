"""Samples of a trained network, which depend on the seed and the number of samples, but not on their batches."""

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

CURVATURE_SAMPLES = 1024  # largest number of samples that the curvature is averaged over
CURVATURE_STEPS = 32  # number of Heun steps for the curvature


class Sampler:
    """A trained flow with its starts: given data, or noise that depends only on shape, seed and number of samples.

    Args:
        trained: the network.
        config: the number of samples and how to draw them.
        classes: the labels from which those of the samples are drawn, such as the labels of the data; required for a
            conditional network.
        device: the device to sample on.
        starts: the data to start from, for a flow from data to data; None: noise.
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
        """Draw all samples, and compute the mean number of function evaluations per sample.

        Args:
            solver: a solver of `flowpairs.training.sampling.ode`; sde; or jump, the average velocity of a MeanFlow
                model.
            steps: the number of equal steps; None for dopri5, which chooses its steps.
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
        """Compute the mean curvature of the first CURVATURE_SAMPLES samples at each time; see `curvature_by_time`."""
        count = min(CURVATURE_SAMPLES, self.config.samples)
        batches = self._batches(count)
        sums = [curvature_by_time(flow.velocity, x0, CURVATURE_STEPS) for _, flow, x0 in batches]
        return torch.stack(sums).sum(0).cpu() / count

    def trajectories(self, count: int, times: int) -> Float32[Tensor, "count times *shape"]:
        """Compute the trajectories of the first samples with dopri5, at equally spaced times from 0 to 1."""
        _, flow, x0 = next(self._batches(count))
        at = torch.linspace(0, 1, times, device=self.device)
        return ode.solve_dopri5(flow.velocity, x0, self.config.rtol, self.config.atol, at).states.transpose(0, 1).cpu()

    def between(self, start: float, end: float) -> Float32[Tensor, "n *shape"]:
        """Move all starts from time `start` to time `end` with dopri5."""
        times, parts = torch.tensor([start, end], device=self.device), []
        for _, flow, x in self._batches(len(self.starts)):
            parts.append(ode.solve_dopri5(flow.velocity, x, self.config.rtol, self.config.atol, times).end.cpu())
        return torch.cat(parts)

    def _batches(self, count: int) -> Iterator[tuple[slice, Flow, Float32[Tensor, "b *shape"]]]:
        """Yield the rows, the flow with their labels, and the starts of each batch."""
        for first in range(0, count, self.config.batch):
            rows = slice(first, min(first + self.config.batch, count))
            label = None if self.labels is None else self.labels[rows].to(self.device)
            null = self.trained.num_classes
            flow = Flow(self.network, self.trained.config, label, null, self.config.guidance)
            yield rows, flow, self.starts[rows].to(self.device)

    def _normals(self, rows: slice, step: int) -> Float32[Tensor, "b *shape"]:
        """Draw the noise of one step of the SDE; that of a sample does not depend on the batches."""
        first, count = step * self.config.samples + rows.start, rows.stop - rows.start
        drawn = noise.gaussian(self.config.seed, first, count, self.starts[0].numel(), noise.Stream.PATH)
        return torch.from_numpy(drawn).view(count, *self.starts.shape[1:]).to(self.device)
