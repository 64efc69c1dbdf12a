"""The model of `flowpairs couple CONFIG`: its smaller parts, and the rules that hold between parts."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from flowpairs.pipeline.config.coupling import CouplingConfig
from flowpairs.pipeline.config.data import DataConfig, DataSource, GaussianSource, SourceConfig
from flowpairs.pipeline.config.strict import Strict

FULL_BYTES = 16e9  # of shards that payload `auto` writes in full
PAIRS_PER_SHARD = 16_384  # of payloads full and seeded
MOST_CPUS = 2**14  # of one actor: more than any machine has


class FeaturesConfig(Strict):
    """What the cost compares: flattened and centred data, projected on `pca` principal directions if given."""

    pca: PositiveInt | None = None
    """Principal directions of the data that the cost sees; null: all coordinates. [directions]"""

    @model_validator(mode="before")
    @classmethod
    def _accept_none(cls, value: Any) -> Any:
        return {} if value in (None, "none") else value


class SamplingConfig(Strict):
    """How partners are drawn from the coupling."""

    draw: Literal["categorical", "balanced"] = "categorical"
    """How partners are drawn: each for itself, or balanced, which uses every datum of a block equally often."""
    direction: Literal["forward", "backward"] = "forward"
    """For the rows of which side partners are drawn: forward for source rows, backward for target rows."""


class OutputConfig(Strict):
    """The pair store."""

    dir: str
    """Directory or URL of the pair store."""
    pairs: int = Field(ge=0)
    """Pairs to make, in whole blocks; 0 makes the potentials of method semidiscrete alone. [pairs]"""
    payload: Literal["auto", "full", "seeded", "ids"] = "auto"
    """What a shard stores of a pair: both sides, the data and a seed, or ids; auto is full up to 16 GB of shards, else
    ids."""
    pairs_per_shard: PositiveInt | None = None
    """Largest number of pairs in a shard; null: 16,384, and with payload ids all pairs of a block. [pairs]"""

    def full_bytes(self, shape: tuple[int, ...]) -> int:
        """Compute about how many bytes all pairs take in full."""
        return 8 * math.prod(shape) * self.pairs

    def decided(self, shape: tuple[int, ...], *, restorable: bool = True) -> "OutputConfig":
        """Return the output with a payload in place of `auto`.

        Args:
            shape: shape of a datum.
            restorable: whether x0 can be found again, without which only `full` can hold it.
        """
        if self.payload != "auto":
            return self
        full = self.full_bytes(shape) <= FULL_BYTES or not restorable
        return self.model_copy(update={"payload": "full" if full else "ids"})

    def shard_pairs(self, block: int) -> int:
        """Return the largest number of pairs in a shard, for blocks of this number of pairs."""
        if self.pairs_per_shard is not None:
            return self.pairs_per_shard
        return block if self.payload == "ids" else PAIRS_PER_SHARD


class ClusterConfig(Strict):
    """What the job requests from Ray. It never changes the pairs."""

    actors: NonNegativeInt | Literal["auto"] = "auto"
    """Actors that solve blocks; auto: one per GPU, else what the cores hold; 0: the calling process, without Ray.
    [actors]"""
    actors_per_block: PositiveInt = 1
    """Actors that solve one block together; `actors` counts all of them. [actors]"""
    checkpoint_seconds: float = Field(default=60.0, ge=0, allow_inf_nan=False)
    """Time between two checkpoints of a block's solve. [s]"""
    gpus_per_actor: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    """GPUs of an actor; auto: one where the cluster has any. [GPUs]"""
    cpus_per_actor: Annotated[int, Field(ge=1, le=MOST_CPUS)] | Literal["auto"] = "auto"
    """CPU cores of an actor; auto: a node's cores divided among its actors. [cores]"""
    scale_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How long to wait for the nodes that `actors` need, which an autoscaler is then asked for; 0: it is
    not asked. [s]"""

    @model_validator(mode="after")
    def _whole_gpus(self) -> "ClusterConfig":
        if self.gpus_per_actor != "auto" and self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise ValueError(f"gpus_per_actor={self.gpus_per_actor:g}: above 1, whole GPUs only; give a whole number")
        return self

    @model_validator(mode="after")
    def _what_to_ask_for(self) -> "ClusterConfig":
        if self.scale_seconds and self.actors == 0:
            raise ValueError(f"scale_seconds={self.scale_seconds:g}: cluster.actors=0 needs no nodes; remove it")
        if self.scale_seconds and "auto" in (self.actors, self.gpus_per_actor):
            raise ValueError(
                f"scale_seconds={self.scale_seconds:g}: nodes that are not there yet must be asked for by number; give "
                "actors and gpus_per_actor (0 where GPUs are not wanted)"
            )
        return self


class CoupleConfig(Strict):
    """The whole configuration of `flowpairs couple CONFIG`."""

    data: DataConfig
    """Where the target data x1 are read from."""
    source: SourceConfig = Field(default=GaussianSource(kind="gaussian"), discriminator="kind")
    """Where x0 comes from: noise, another data set, or the time point before."""
    features: FeaturesConfig = FeaturesConfig()
    """What the cost sees of the data."""
    coupling: CouplingConfig
    """Which coupling, how sharp, of which cost."""
    sampling: SamplingConfig = SamplingConfig()
    """How partners are drawn."""
    output: OutputConfig
    """The pair store."""
    cluster: ClusterConfig = ClusterConfig()
    """What the job requests from Ray; it never changes the pairs."""

    @model_validator(mode="before")
    @classmethod
    def _noise(cls, value: Any) -> Any:
        """Make a source that does not name its kind Gaussian."""
        if isinstance(value, dict) and isinstance(value.get("source"), dict):
            return value | {"source": {"kind": "gaussian"} | value["source"]}
        return value

    def determining(self) -> dict[str, Any]:
        """Return the part that determines the pairs: not the output's path, the number of actors or the data's path.

        What is read enters by its fingerprint, which the resolved config holds. A backend counts by its configured
        name: pairs of two backends may differ, as may those of two kinds of devices.
        """
        return self.model_dump(
            exclude={"cluster": True, "output": {"dir"}, "data": {"path"}, "source": {"path"}, "coupling": PATHS}
        )

    @property
    def two_sided(self) -> bool:
        """Whether x0 is data rather than noise."""
        return self.source.kind != "gaussian"

    @model_validator(mode="after")
    def _two_sides(self) -> "CoupleConfig":
        method = self.coupling.method
        if (self.source.kind == "previous") != (self.data.time is not None):
            raise ValueError("data.time and source.kind=previous need each other; give both or neither")
        if self.two_sided and self.output.payload == "seeded":
            raise ValueError("output.payload=seeded: data as a source have no seed to come back from; give full or ids")
        if self.two_sided and method in ("semidiscrete", "imported", "reflow"):
            raise ValueError(
                f"coupling.method={method}: takes noise as its source; give method sinkhorn, exact or independent"
            )
        if self.data.weight is not None and method == "imported":
            raise ValueError("data.weight: imported pairs have their weights in the table; remove it")
        if self.source.kind == "previous" and self.coupling.start is not None:
            raise ValueError("coupling.start: potentials of one coupling, not of a chain; remove it")
        if self.coupling.regions is not None and (self.two_sided or self.data.weight is not None):
            raise ValueError("coupling.regions: cut noise and as many data without weights; remove it")
        if self.sampling.direction == "backward" and method in ("semidiscrete", "imported", "reflow"):
            raise ValueError(f"sampling.direction=backward: method {method} goes from noise to data; remove it")
        if self.coupling.cost == "precomputed" and not isinstance(self.source, DataSource):
            raise ValueError("coupling.cost=precomputed: a matrix between two data sets; give source.kind=data")
        if self.coupling.cost == "precomputed" and self.features.pca is not None:
            raise ValueError("features.pca: a precomputed cost sees no features; remove it")
        return self

    @model_validator(mode="after")
    def _of_a_flow(self) -> "CoupleConfig":
        """Refuse what asks for data of a data set where a trained flow makes them."""
        if self.coupling.method != "reflow":
            return self
        if self.output.payload == "ids":
            raise ValueError(
                "output.payload=ids: x1 of method reflow is a sample of a flow, no datum that an id names; give full, "
                "or seeded, which leaves out the noise"
            )
        if self.data.weight is not None or self.data.flips:
            key = "flips" if self.data.flips else "weight"
            raise ValueError(f"data.{key}: no datum takes part in pairs of method reflow; remove it")
        if not self.coupling.recouple and self.sampling.draw != "categorical":
            raise ValueError(
                f"sampling.draw={self.sampling.draw}: pairs of method reflow are not drawn; remove it, or give "
                "coupling.recouple=true"
            )
        if not self.coupling.recouple and self.features.pca is not None:
            raise ValueError(
                "features.pca: pairs of method reflow have no cost to see features; remove it, or give "
                "coupling.recouple=true"
            )
        return self

    @model_validator(mode="after")
    def _several_actors(self) -> "CoupleConfig":
        if self.output.pairs == 0 and self.coupling.method != "semidiscrete":
            raise ValueError("output.pairs=0: potentials alone serve method semidiscrete; give a number of pairs")
        k, method = self.cluster.actors_per_block, self.coupling.method
        if k > 1 and method != "sinkhorn":
            raise ValueError(f"cluster.actors_per_block={k}: method {method} works on one actor a block; remove it")
        if k > 1 and self.coupling.regions is not None:
            raise ValueError(f"cluster.actors_per_block={k}: regions are coupled by one actor a block; remove it")
        if k > 1 and self.cluster.actors == 0:
            raise ValueError(f"cluster.actors_per_block={k}: cluster.actors=0 runs in one process; remove one of them")
        if self.cluster.actors != "auto" and self.cluster.actors % k:
            raise ValueError(
                f"cluster.actors={self.cluster.actors}: no multiple of actors_per_block={k}; give one or auto"
            )
        gpus, team = (
            self.cluster.gpus_per_actor,
            k > 1 or (method == "semidiscrete" and self.cluster.actors not in (0, 1)),
        )
        if gpus != "auto" and gpus % 1 and team:
            raise ValueError(
                f"cluster.gpus_per_actor={gpus:g}: actors that solve together (actors_per_block={k}, method={method}) "
                "need a GPU each, which NCCL lets no two share; give a whole number"
            )
        return self


def check_cost(config: CoupleConfig) -> None:
    """Import the cost that a config names, for commands that couple; a command that only reads a store imports nothing.

    Raises:
        InputError: no such module or function.
    """
    config.coupling.cost_function()


# Keys of `coupling:` that name a path or say how the job is run, rather than determine its result.
PATHS = {"on_unconverged", "table", "start", "condition_file", "matrix", "run"}
