"""Configuration: YAML and `key=value` overrides in, one frozen and validated model per command out.

couple.py      the model of `flowpairs couple`; `data:` and `source:` are in data.py, `coupling:` in coupling.py
strict.py      the base class of every part
plain_yaml.py  YAML read as plain data
loading.py     reading, overriding, validating and writing any command's model
identity.py    what makes two configurations the same
"""

from flowpairs.pipeline.config.couple import (
    ClusterConfig,
    CoupleConfig,
    FeaturesConfig,
    OutputConfig,
    SamplingConfig,
    check_cost,
)
from flowpairs.pipeline.config.coupling import LEAST_EPS, CouplingConfig
from flowpairs.pipeline.config.data import DataConfig
from flowpairs.pipeline.config.identity import differing, digest, leaves, pin
from flowpairs.pipeline.config.loading import from_overrides, load, read_yaml, save, validate
from flowpairs.pipeline.config.strict import Strict

__all__ = [
    "LEAST_EPS",
    "ClusterConfig",
    "CoupleConfig",
    "CouplingConfig",
    "DataConfig",
    "FeaturesConfig",
    "OutputConfig",
    "SamplingConfig",
    "Strict",
    "check_cost",
    "differing",
    "digest",
    "from_overrides",
    "leaves",
    "load",
    "pin",
    "read_yaml",
    "save",
    "validate",
]
