"""Lightning saves and restores the loader by itself: a run that was stopped sees the pairs of one that was not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.stores import numbered_store

from flowpairs.training.pairs.pair_loader import PairLoader

lightning = pytest.importorskip("lightning", reason="needs lightning: install the extra `examples`")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of which there are many

EPOCHS, STEPS = 4, 5  # 100 pairs in batches of 20


def module() -> Any:
    class Recorder(lightning.LightningModule):
        """Notes the pairs of every step."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

        def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            self.seen.append(batch["data_id"].tolist())
            return self.weight.square().sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Recorder()


def fit(store: Path, checkpoint: Path | None = None, save: Any = None, **options: Any) -> list[list[int]]:
    """The pairs of each step of a run, from a checkpoint where given; `save` is Lightning's callback for them."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    callbacks = [] if save is None else [save]
    trainer = lightning.Trainer(**quiet, callbacks=callbacks, enable_checkpointing=bool(callbacks), **options)
    recorder = module()
    trainer.fit(recorder, PairLoader(store, 20), ckpt_path=checkpoint)
    return recorder.seen


@pytest.fixture
def store(tmp_path: Path) -> Path:
    numbered_store(tmp_path / "store", [23, 40, 9, 28])
    return tmp_path / "store"


@pytest.fixture
def whole(store: Path) -> list[list[int]]:
    loader = PairLoader(store, 20)
    seen = [batch["data_id"].tolist() for _ in range(EPOCHS) for batch in loader]
    assert fit(store, max_epochs=EPOCHS) == seen
    return seen


@pytest.mark.parametrize("limit", [{"max_epochs": EPOCHS}, {"max_steps": EPOCHS * STEPS}], ids=str)
def test_a_checkpoint_of_any_step_goes_on_at_the_next_batch(
    store: Path, whole: list[list[int]], limit: dict[str, int], tmp_path: Path
) -> None:
    save = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    assert fit(store, save=save, **limit) == whole
    for step in (1, 3, 4, 5, 6, 10, 14, 19):
        assert fit(store, tmp_path / f"step={step}.ckpt", **limit) == whole[step:]


def test_a_checkpoint_of_an_epoch_goes_on_with_the_next_one(
    store: Path, whole: list[list[int]], tmp_path: Path
) -> None:
    save = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True
    )
    assert fit(store, save=save, max_epochs=EPOCHS) == whole
    for epoch in (0, 2):
        assert fit(store, tmp_path / f"epoch={epoch}.ckpt", max_epochs=EPOCHS) == whole[STEPS * (epoch + 1) :]


def test_epochs_that_are_cut_short_still_follow_each_other(store: Path, whole: list[list[int]]) -> None:
    seen = fit(store, max_epochs=EPOCHS, limit_train_batches=2)
    assert seen == [batch for epoch in range(EPOCHS) for batch in whole[epoch * STEPS : epoch * STEPS + 2]]
