"""`data:` and `source:` of a configuration: where x1 and x0 come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from flowpairs.pipeline.config.strict import Strict

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class DataConfig(Strict):
    """Where the target data set is read from."""

    path: str  # "digits", a file, a directory or an fsspec URL
    column: str = "image"  # npz key, parquet column, WebDataset extension; a numeric parquet column may be a comma list
    label: str | None = None  # the same for labels; `label: label` with an image folder takes the class folders
    flips: bool = False  # every image also mirrored left-right, under the id (id + N)
    weight: str | None = None  # the same for how much each datum counts in the marginal; npz and parquet
    time: str | None = None  # and for its time point, with source.kind=previous
    leave_out: tuple[float, ...] = ()  # time points that have no part in any pair
    fingerprint: str | None = None  # sha256 that the data must have; the resolved config holds what was read
    columns_fingerprint: str | None = None  # the same of weights and times

    def columns(self) -> dict[str, str]:
        """The names of the columns of numbers that go with the data: weight, time."""
        named = {"weight": self.weight, "time": self.time}
        return {key: name for key, name in named.items() if name is not None}

    @model_validator(mode="after")
    def _times(self) -> "DataConfig":
        if self.leave_out and self.time is None:
            raise ValueError("leave_out names time points of a column; give data.time or remove it")
        return self


class GaussianSource(Strict):
    """Standard Gaussian noise by counters."""

    kind: Literal["gaussian"]
    seed: Seed = 0


class DataSource(Strict):
    """Another data set, of data of the same shape; see pipeline/blocks/source.py."""

    kind: Literal["data"]
    seed: Seed = 0  # of orders and draws
    path: str  # as of the target's data, here and below
    column: str = "image"
    flips: bool = False
    weight: str | None = None
    fingerprint: str | None = None
    columns_fingerprint: str | None = None

    def as_data(self) -> DataConfig:
        """What reads it."""
        return DataConfig(**self.model_dump(include={"path", "column", "flips", "weight"}))


class PreviousSource(Strict):
    """Of a datum at one time point, those at the one before: a chain of couplings over the column `data.time`."""

    kind: Literal["previous"]
    seed: Seed = 0


SourceConfig = GaussianSource | DataSource | PreviousSource
