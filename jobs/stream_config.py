"""Configuration model of `flowpairs stream CONFIG`."""

from typing import Any

from pydantic import model_validator

from flowpairs.pipeline.config import CoupleConfig, Strict
from flowpairs.training.config import TrainConfig


class StreamConfig(Strict):
    """The complete configuration of `flowpairs stream CONFIG`: a coupling job, and the training job on its pairs."""

    couple: CoupleConfig
    """The coupling job, as `flowpairs couple` takes it."""
    train: TrainConfig
    """The training job, as `flowpairs train` takes it, without `pairs:`."""

    @model_validator(mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Fill in `train.pairs`, which follows from the coupling job."""
        try:
            pairs = {"dir": value["couple"]["output"]["dir"], "source": "stream", "patience": None}
            train = dict(value["train"])
        except (KeyError, TypeError):
            return value  # validation of the fields reports the fault
        given = train.get("pairs", pairs)
        if not isinstance(given, dict) or {**given, "fingerprint": None} != {**pairs, "fingerprint": None}:
            raise ValueError("train.pairs: are those that couple.output.dir will hold; remove it")
        return {**value, "train": train | {"pairs": pairs}}

    @model_validator(mode="after")
    def _side_by_side(self) -> "StreamConfig":
        if not self.couple.output.pairs:
            raise ValueError("couple.output.pairs=0: nothing to train on; give a number of pairs")
        if self.couple.cluster.actors == 0:
            raise ValueError("couple.cluster.actors=0: stream shares a cluster; give a number or auto")
        asked = self.train.cluster
        if self.couple.cluster.scale_seconds and "auto" in (asked.workers, asked.gpus):
            raise ValueError(
                f"couple.cluster.scale_seconds={self.couple.cluster.scale_seconds:g}: nodes that are not there yet "
                "must be asked for by number; give train.cluster.workers and train.cluster.gpus"
            )
        if self.train.cluster.workers == 0:
            raise ValueError("train.cluster.workers=0: stream shares a cluster; give a number or auto")
        if isinstance(self.train.cluster.workers, tuple):
            raise ValueError(
                f"train.cluster.workers={list(self.train.cluster.workers)}: as many as fit would leave couplings no "
                "room; give one number, or run couple, then train"
            )
        return self
