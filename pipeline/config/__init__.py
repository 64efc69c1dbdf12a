"""Configuration: YAML and `key=value` overrides in, one frozen and validated model per command out.

couple.py    the model of `flowpairs couple`, of which `data:` and `source:` are in data.py, `coupling:` in coupling.py
loading.py   reading, overriding, validating and writing any command's model
identity.py  what makes two configurations the same
"""

from flowpairs.pipeline.config.couple import (
    ClusterConfig,
    CoupleConfig,
    FeaturesConfig,
    OutputConfig,
    SamplingConfig,
)
from flowpairs.pipeline.config.coupling import CouplingConfig
from flowpairs.pipeline.config.data import DataConfig
from flowpairs.pipeline.config.identity import differing, digest, leaves
from flowpairs.pipeline.config.loading import MAX_DEPTH, from_overrides, load, read_yaml, save, validate
from flowpairs.pipeline.config.strict import Strict

__all__ = [
    "MAX_DEPTH",
    "ClusterConfig",
    "CoupleConfig",
    "CouplingConfig",
    "DataConfig",
    "FeaturesConfig",
    "OutputConfig",
    "SamplingConfig",
    "Strict",
    "differing",
    "digest",
    "from_overrides",
    "leaves",
    "load",
    "read_yaml",
    "save",
    "validate",
]
