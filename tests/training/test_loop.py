"""The training loop without Ray: what it learns, and that stopping and going on leaves no trace."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.stores import write_store

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.training import models
from flowpairs.training.config import MLPConfig, OptimisationConfig
from flowpairs.training.objectives import probability_paths
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.loader_state import store_fingerprint
from flowpairs.training.run import loop
from flowpairs.training.run.directory import STATE_FILE
from flowpairs.training.run.loop import LogLine
from flowpairs.training.run.state import TrainState
from flowpairs.training.sampling.ode import solve_dopri5


def train(
    store: Path,
    index: Index,
    config: OptimisationConfig,
    *,
    width: int = 32,
    stop: int | None = None,
    resume: Path | None = None,
    path: probability_paths.Path | None = None,
) -> tuple[TrainState, list[LogLine]]:
    """Train alone, to `stop` steps where given, from a checkpoint where given."""
    model = models.build_model(MLPConfig(kind="mlp", width=width, depth=2), index.shape, 0, config.seed)
    state = TrainState.start(model, config)
    if resume:
        state.load(resume)
    part, lines = BatchPart(config.batch, 0, 1, 4), []
    until = config.model_copy(update={"steps": stop or config.steps})
    objective = Objective(config.seed, path or probability_paths.Straight())
    draw = partial(objective.draw, shape=index.shape)
    with ShardLoader(store, index, part, config.seed, state=state.loader, draw=draw) as loader:
        loop.train_loop(state, model, loader, objective, until, lines.append, lambda metrics: None)
    return state, lines


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """Pairs (x, A x + b) with A symmetric and positive: the optimal coupling of N(0, I) and N(b, A^2)."""
    a, b = torch.tensor([[1.5, 0.4], [0.4, 0.6]]), torch.tensor([1.0, -2.0])
    x0 = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    store = tmp_path_factory.mktemp("affine") / "store"
    write_store(store, x0.numpy(), (x0 @ a + b).numpy(), shard_counts=[2000, 2096])
    return store, a, b


def test_flow_trained_on_gaussian_optimal_pairs_is_the_affine_map(
    affine: tuple[Path, torch.Tensor, torch.Tensor],
) -> None:
    """Straight paths of a monotone map never cross, so the regression's optimum transports x0 to A x0 + b."""
    store, a, b = affine
    config = OptimisationConfig(steps=600, batch=256, lr=3e-3, warmup=20, ema=0.98, log_every=100)
    state, lines = train(store, read_index(store), config, width=64)
    x0 = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    end = solve_dopri5(lambda t, x: state.ema(t, x, None), x0).end
    truth = x0 @ a + b
    assert (end - truth).square().mean().sqrt() < 0.05 * (truth - x0).square().mean().sqrt()
    assert lines[-1].loss < 0.01 * lines[0].loss


@pytest.mark.parametrize(
    "path", [probability_paths.Straight(), probability_paths.Bridge(0.5)], ids=["straight", "bridge"]
)
def test_gradients_of_parts_add_up(
    affine: tuple[Path, torch.Tensor, torch.Tensor], path: probability_paths.Path
) -> None:
    """A step in four parts is the step in one, noise of the path included."""
    config = OptimisationConfig(steps=20, batch=256, lr=1e-3, warmup=5, ema=0.9, log_every=5)
    (whole, lines), (parts, others) = (
        train(affine[0], read_index(affine[0]), config.model_copy(update={"accumulate": count}), path=path)
        for count in (1, 4)
    )
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert [line.loss for line in others] == pytest.approx([line.loss for line in lines], rel=1e-5)


def test_going_on_from_a_checkpoint_is_exact(affine: tuple[Path, torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    """Bit for bit the weights, averages and log of a run that was never stopped."""
    store = affine[0]
    config = OptimisationConfig(steps=40, batch=256, lr=1e-3, warmup=30, ema=0.9, log_every=10)
    whole, lines = train(store, read_index(store), config)
    half, _ = train(store, read_index(store), config, stop=20)
    half.save(tmp_path)
    resumed, more = train(store, read_index(store), config, resume=tmp_path)
    assert resumed.step == whole.step == 40
    for ours, theirs in ((resumed.model, whole.model), (resumed.ema, whole.ema)):
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
    assert [(line.step, line.loss, line.lr) for line in more] == [(x.step, x.loss, x.lr) for x in lines[2:]]


def test_a_checkpoint_holds_tensors_and_numbers_only(
    affine: tuple[Path, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    store = affine[0]
    state, _ = train(store, read_index(store), OptimisationConfig(steps=2, batch=8, warmup=0))
    state.save(tmp_path)
    tree = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert sorted(tree) == ["ema", "loader", "model", "optimiser", "seconds", "step"]
    own = {"arcs": 4, "batch": 8, "seed": 0, "store": store_fingerprint(read_index(store))}
    assert tree["loader"] == {**own, "epoch": 0, "position": 4}


def test_a_checkpoint_of_an_earlier_version_is_refused(
    affine: tuple[Path, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """It had a state without seed, batch and store, in another order of the pairs."""
    store, config = affine[0], OptimisationConfig(steps=2, batch=8, warmup=0)
    state, _ = train(store, read_index(store), config)
    state.loader = {"arcs": 4, "epoch": 0, "position": 4}
    state.save(tmp_path)
    with pytest.raises(
        InputError, match=r"^checkpoint '.*': loader state: has \['arcs', 'epoch', 'position'\], .* beginning$"
    ):
        train(store, read_index(store), config, resume=tmp_path)


def test_average_weights_are_the_recurrence(affine: tuple[Path, torch.Tensor, torch.Tensor]) -> None:
    """ema <- 0.9 ema + 0.1 weights, started at the weights of the first step."""
    store, config = affine[0], OptimisationConfig(steps=4, batch=8, warmup=0, ema=0.9)
    bias = [train(store, read_index(store), config, stop=n)[0].model.leave.bias.detach().double() for n in (1, 2, 3, 4)]
    truth = bias[0]
    for later in bias[1:]:
        truth = 0.9 * truth + 0.1 * later
    ema = train(store, read_index(store), config)[0].ema.leave.bias
    torch.testing.assert_close(ema.double(), truth, rtol=1e-5, atol=1e-7)


def test_log_lines_come_at_the_interval_and_at_the_end(affine: tuple[Path, torch.Tensor, torch.Tensor]) -> None:
    config = OptimisationConfig(steps=25, batch=8, lr=1e-2, warmup=20, log_every=10)
    _, lines = train(affine[0], read_index(affine[0]), config)
    assert [line.step for line in lines] == [10, 20, 25]
    assert [line.lr for line in lines] == pytest.approx([0.5e-2, 1e-2, 1e-2])
    assert all(0 <= line.data_wait <= 1 for line in lines)
    assert all(a.seconds < b.seconds for a, b in pairwise(lines))


def test_a_diverging_loss_ends_the_run_with_the_remedy(affine: tuple[Path, torch.Tensor, torch.Tensor]) -> None:
    config = OptimisationConfig(steps=50, batch=8, lr=1e30, warmup=0, log_every=10)
    with pytest.raises(InputError, match=r"train.lr=1e\+30: the loss is .* at step \d+; lower it"):
        train(affine[0], read_index(affine[0]), config)
