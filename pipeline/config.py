"""Configuration: YAML and `key=value` overrides in, one frozen and validated model per command out.

Every command owns one model; this module holds what they share (`load`, `digest`) and the model of `flowpairs couple`,
of which `data:` and `source:` are in data_config.py and `coupling:` in coupling_config.py. Unknown keys, wrong types
and values that contradict each other raise `InputError` with the key, the value and the remedy, before anything heavy
is imported.
"""

import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal, TypeVar, cast, get_args

import yaml
from omegaconf import OmegaConf
from pydantic import Field, PositiveInt, ValidationError, model_validator

from pipeline.coupling_config import CouplingConfig
from pipeline.data_config import DataConfig, DataSource, GaussianSource, SourceConfig
from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.place import AnyPath, as_path
from pipeline.strict import Strict

MAX_DEPTH = 20  # levels of a YAML file

Config = TypeVar("Config", bound=Strict)


class FeaturesConfig(Strict):
    """What the cost sees: flattened and centred data, projected on `pca` principal directions where given."""

    pca: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_none(cls, value: Any) -> Any:
        return {} if value in (None, "none") else value


class SamplingConfig(Strict):
    """How partners are drawn from the coupling."""

    draw: Literal["categorical", "balanced"] = "categorical"
    direction: Literal["forward", "backward"] = "forward"  # a partner for each source row, or for each target row


class OutputConfig(Strict):
    """The pair store."""

    dir: str
    pairs: int = Field(ge=0)  # 0: potentials alone, with method semidiscrete, to match inside the training job
    payload: Literal["full", "seeded", "ids"] = "full"
    pairs_per_shard: PositiveInt = 16_384


class ClusterConfig(Strict):
    """What the job asks of Ray. It never changes the pairs."""

    actors: PositiveInt | Literal["auto"] = "auto"
    actors_per_block: PositiveInt = 1  # that solve one block together; `actors` counts all of them
    checkpoint_seconds: float = Field(default=60.0, ge=0)  # between two records of how far a block's solve has come
    gpus_per_actor: float | Literal["auto"] = Field(default="auto")
    cpus_per_actor: PositiveInt | Literal["auto"] = "auto"
    # How long to wait for nodes that an autoscaler is asked for, as many as `actors` need and no more; 0: ask for none.
    scale_seconds: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _what_to_ask_for(self) -> "ClusterConfig":
        if self.scale_seconds and "auto" in (self.actors, self.gpus_per_actor):
            raise ValueError(
                f"scale_seconds={self.scale_seconds:g}: nodes that are not there yet must be asked for by number; give "
                "actors and gpus_per_actor (0 where GPUs are not wanted)"
            )
        return self


class CoupleConfig(Strict):
    """All of `flowpairs couple CONFIG`."""

    data: DataConfig
    source: SourceConfig = Field(default=GaussianSource(kind="gaussian"), discriminator="kind")
    features: FeaturesConfig = FeaturesConfig()
    coupling: CouplingConfig
    sampling: SamplingConfig = SamplingConfig()
    output: OutputConfig
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _noise(cls, value: Any) -> Any:
        """A source that does not say what it is, is Gaussian."""
        if isinstance(value, dict) and isinstance(value.get("source"), dict):
            return value | {"source": {"kind": "gaussian"} | value["source"]}
        return value

    def determining(self) -> dict[str, Any]:
        """The part that determines the pairs: not where they go, nor how many actors make them, nor where the data lie.

        The data themselves, and a table of pairs, enter by their fingerprint, which the resolved config holds. A
        backend counts where one is named: pairs of two backends may differ, as may those of two kinds of devices. What
        came to the configuration later counts where it is not at its default, so that older stores keep their hash.
        """
        config = self.model_dump(
            exclude={"cluster": True, "output": {"dir"}, "data": {"path"}, "source": {"path"}, "coupling": PATHS}
        )
        for part, keys in LATER.items():
            fields = type(getattr(self, part)).model_fields
            for key in keys:
                if key in fields and getattr(getattr(self, part), key) == fields[key].default:
                    config[part].pop(key)
        if self.coupling.method != "semidiscrete":
            for key in ("chi2", "condition", "beta", "condition_fingerprint"):
                config["coupling"].pop(key)
        return config

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
        if self.two_sided and method in ("semidiscrete", "imported"):
            raise ValueError(
                f"coupling.method={method}: takes noise as its source; give method sinkhorn, exact or independent"
            )
        if self.data.weight is not None and method in ("semidiscrete", "imported"):
            raise ValueError(
                f"data.weight: method {method} counts every datum alike; remove it or give method sinkhorn"
            )
        if self.source.kind == "previous" and (self.coupling.warm_start or self.coupling.start is not None):
            raise ValueError("coupling.warm_start and start are of one coupling, not of a chain; remove them")
        if self.sampling.direction == "backward" and method in ("semidiscrete", "imported"):
            raise ValueError(f"sampling.direction=backward: method {method} goes from noise to data; remove it")
        if self.coupling.cost == "precomputed" and not isinstance(self.source, DataSource):
            raise ValueError("coupling.cost=precomputed: a matrix between two data sets; give source.kind=data")
        if self.coupling.cost == "precomputed" and self.features.pca is not None:
            raise ValueError("features.pca: a precomputed cost sees no features; remove it")
        return self

    @model_validator(mode="after")
    def _several_actors(self) -> "CoupleConfig":
        if self.output.pairs == 0 and self.coupling.method != "semidiscrete":
            raise ValueError("output.pairs=0: potentials alone serve method semidiscrete; give a number of pairs")
        k, method = self.cluster.actors_per_block, self.coupling.method
        if k > 1 and method != "sinkhorn":
            raise ValueError(f"cluster.actors_per_block={k}: method {method} works on one actor a block; remove it")
        if self.cluster.actors != "auto" and self.cluster.actors % k:
            raise ValueError(
                f"cluster.actors={self.cluster.actors}: no multiple of actors_per_block={k}; give one or auto"
            )
        return self


# Of `coupling:`, what says where something lies or how the job is run rather than what comes out.
PATHS = {"on_unconverged", "table", "start", "condition_file", "matrix"}
LATER = {
    "data": ("weight", "time", "leave_out", "columns_fingerprint"),
    "source": ("columns_fingerprint",),
    "sampling": ("direction",),
    "coupling": ("table_fingerprint", "start_fingerprint", "matrix_fingerprint", "backend", "neighbours", "heat"),
}


def digest(determining: dict[str, Any]) -> str:
    """A 16-digit hash of a configuration's determining part, independent of key order."""
    canonical = json.dumps(determining, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differing(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys whose values differ between two nested configurations, each with both values."""
    out = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += differing(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key} ({b!r} there, {a!r} here)")
    return out


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a nested configuration, and their values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def load(model: type[Config], path: str | AnyPath, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides and validate.

    Raises:
        InputError: file missing, no YAML mapping, malformed override, unknown key, wrong type or value.
    """
    return validate(model, read_yaml(path, overrides))


def read_yaml(path: str | AnyPath, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a YAML file, and apply overrides, without asking whose configuration it is.

    Raises:
        InputError: file missing, no YAML mapping, malformed override.
    """
    path = as_path(path)
    if not path.is_file():
        raise InputError(f"config {str(path)!r}: no such file; give the path of a YAML file")
    try:
        text = path.read_bytes()
        _refuse_depth(text)
        tree: Any = OmegaConf.load(BytesIO(text))
        if not OmegaConf.is_dict(tree):
            raise InputError(f"config {str(path)!r}: not a YAML mapping; start from one of configs/")
        return _apply(tree, overrides, "key.sub=value, as in coupling.n=4096")
    except InputError:
        raise
    except Exception as error:  # OmegaConf lets through whatever its parsers stumble over
        first = " ".join(str(error).split())
        raise InputError(f"config {str(path)!r}: cannot be read as YAML ({first}); mend the file") from error


def from_overrides(model: type[Config], overrides: list[str] | None) -> Config:
    """The model's defaults with `key=value` overrides, for commands that take no YAML file.

    Raises:
        InputError: malformed override, unknown key, wrong type or value.
    """
    return validate(model, _apply(OmegaConf.create(), overrides, "key=value"))


def _apply(tree: Any, overrides: list[str] | None, form: str) -> dict[str, Any]:
    """Lay the overrides over a tree, in order, as plain nested mappings."""
    for item in overrides or []:
        tree = OmegaConf.merge(tree, _override(item, form))
    return cast("dict[str, Any]", OmegaConf.to_container(tree, resolve=True, throw_on_missing=True))


def _refuse_depth(text: bytes) -> None:
    """Refuse nesting that no config has: libyaml overflows the stack on it, and takes the process with it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _override(item: str, form: str) -> Any:
    """The tree of one override; `form` tells the user how one looks."""
    key, equals, value = item.partition("=")
    try:
        if equals and key and not key.startswith("-"):
            _refuse_depth(value.encode())
            return OmegaConf.from_dotlist([item])
    except Exception as error:
        raise InputError(f"override {item!r}: cannot be read ({error}); write key.sub=value, quoted as YAML") from error
    raise InputError(f"override {item!r}: not of the form {form}")


def save(config: Strict, path: AnyPath, remark: str) -> None:
    """Write a resolved config as YAML that the same command accepts again, below a one-line remark."""
    body = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_atomically(path, f"# {remark}\n{body}".encode())


def validate(model: type[Config], plain: dict[str, Any]) -> Config:
    """Validate a plain nested mapping; `InputError` names the first offending key, its value and what is allowed."""
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        key, owner = _locate(errors[0]["loc"], model)
        same_key = [e for e in errors if _locate(e["loc"], model)[0] == key]  # one for each member of a union
        raise InputError(_sentence(key, owner, same_key)) from error


def _locate(location: tuple[int | str, ...], model: type[Strict]) -> tuple[str, type[Strict]]:
    """The dotted key that the user wrote, and the model it was looked up in; pydantic adds union members behind it."""
    key, owner = [], model
    members: dict[str, type[Strict]] = {}
    for part in map(str, location):
        if part in members:  # the discriminator's value, which stands between a union's key and its member's
            owner, members = members[part], {}
            continue
        key.append(part)
        field = owner.model_fields.get(part)
        if field is None:
            break
        if isinstance(field.annotation, type) and issubclass(field.annotation, Strict):
            owner = field.annotation
        elif isinstance(field.discriminator, str):
            models = get_args(field.annotation)
            members = {str(get_args(m.model_fields[field.discriminator].annotation)[0]): m for m in models}
        else:
            break
    return ".".join(key), owner


def _sentence(key: str, owner: type[Strict], errors: list[Any]) -> str:
    """One sentence out of pydantic's errors for one key."""
    kind, value = errors[0]["type"], errors[0]["input"]
    if kind == "extra_forbidden":
        return f"{key}={value!r}: unknown key; known here: {', '.join(sorted(owner.model_fields))}"
    if kind == "missing":
        return f"{key}: missing; add it to the config or give {key}=VALUE"
    if kind == "value_error":
        return f"{key or 'config'}: {errors[0]['ctx']['error']}"
    message = " or ".join(e["msg"][0].lower() + e["msg"][1:] for e in errors)
    return f"{key}={value!r}: {message}; change it in the config or give {key}=VALUE"
