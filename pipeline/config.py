"""Configuration: YAML and `key=value` overrides in, one frozen and validated model per command out.

Every command owns one model; this module holds what they share (`Strict`, `load`, `digest`) and the model of
`flowpairs couple`. Unknown keys, wrong types and values that contradict each other raise `InputError` with the key,
the value and the remedy, before anything heavy is imported.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Literal, TypeVar, cast, get_args

import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.place import Place, place


class Strict(BaseModel):
    """A part of a configuration: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


MAX_DEPTH = 20  # levels of a YAML file

Config = TypeVar("Config", bound=Strict)
Cost = Literal["dot", "sqeuclidean"] | Callable[..., Any]


class DataConfig(Strict):
    """Where the target data set is read from."""

    path: str  # "digits", a file, a directory or an fsspec URL
    column: str = "image"  # npz key, parquet column, WebDataset extension; a numeric parquet column may be a comma list
    label: str | None = None  # the same for labels; `label: label` with an image folder takes the class folders
    flips: bool = False  # every image also mirrored left-right, under the id (id + N)
    fingerprint: str | None = None  # sha256 that the data must have; the resolved config holds what was read


class SourceConfig(Strict):
    """Where x0 comes from."""

    kind: Literal["gaussian"] = "gaussian"
    seed: int = Field(default=0, ge=0, lt=2**63)


class FeaturesConfig(Strict):
    """What the cost sees: flattened and centred data, projected on `pca` principal directions where given."""

    pca: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_none(cls, value: Any) -> Any:
        return {} if value in (None, "none") else value


class CouplingConfig(Strict):
    """One coupling problem per block of `n` source rows."""

    method: Literal["independent", "exact", "sinkhorn", "semidiscrete", "imported"] = "sinkhorn"
    n: int = Field(ge=1)
    cost: str = "dot"  # or sqeuclidean, or module:function of tiles [r, d], [c, d] -> [r, c]; see pipeline/ot/cost.py
    table: str | None = None  # of pairs made elsewhere, for method imported: see pipeline/table.py
    table_fingerprint: str | None = None  # sha256 that its columns must have; the resolved config holds what was read
    rel_eps: float | None = Field(default=None, ge=0)  # eps / std(C); where none is given 0.1, semidiscrete 0
    eps: float | None = Field(default=None, ge=0)  # absolute, in the units of the cost; 0 for semidiscrete alone
    entropy: float | None = Field(default=None, gt=0, lt=1)  # sharpness E to find eps for: 0 sharp, 1 blurred
    tol: PositiveFloat = 1e-3  # L1 error of the marginals
    chi2: float = Field(default=0.05, gt=0, lt=1)  # semidiscrete: chi-square error of the data's masses
    condition: Literal["blind", "class", "extended"] = "blind"  # semidiscrete: see pipeline/conditions.py
    beta: PositiveFloat | None = None  # weight of the conditions in the extended cost
    condition_file: str | None = None  # .npy of one row of numbers a datum, for condition extended; else the labels
    condition_fingerprint: str | None = None  # sha256 that it must have; the resolved config holds what was read
    max_passes: PositiveInt = 20_000  # over the n x m entries before giving up
    warm_start: bool = False  # blocks after the first epoch start from its potentials: see pipeline/known.py
    start: str | None = None  # a pair store over the same data, from whose potentials to start
    start_fingerprint: str | None = None  # sha256 of those potentials; the resolved config holds what was read
    resample: Literal["repeat"] | None = None  # n above the data's size: every datum in every block, weight 1/N
    backend: Literal["auto", "torch", "keops", "flash"] = "auto"  # what computes the passes: see docs/solver.md
    on_unconverged: Literal["fail", "record"] = "fail"

    @model_validator(mode="before")
    @classmethod
    def _default_epsilon(cls, value: Any) -> Any:
        default = {"sinkhorn": 0.1, "semidiscrete": 0.0}
        if isinstance(value, dict) and value.get("method", "sinkhorn") in default:
            given = any(value.get(key) is not None for key in ("eps", "rel_eps", "entropy"))
            return value | ({} if given else {"rel_eps": default[value.get("method", "sinkhorn")]})
        return value

    @model_validator(mode="after")
    def _one_epsilon(self) -> "CouplingConfig":
        given = [key for key in ("rel_eps", "eps", "entropy") if getattr(self, key) is not None]
        if self.method == "semidiscrete":
            self._semidiscrete()
        elif self.condition != "blind":
            raise ValueError(f"condition={self.condition!r} belongs to method semidiscrete; remove it")
        elif 0 in (self.rel_eps, self.eps):
            raise ValueError(
                f"{given[0]}=0: an unregularised plan is method exact or semidiscrete; give a positive one"
            )
        if self.method not in ("sinkhorn", "semidiscrete") and self.start is not None:
            raise ValueError(f"start belongs to methods sinkhorn and semidiscrete, not to {self.method}; remove it")
        if self.method not in ("sinkhorn", "semidiscrete") and given:
            raise ValueError(f"{' and '.join(given)} belong to method sinkhorn, not to {self.method}; remove them")
        if self.method != "sinkhorn" and self.backend != "auto":
            raise ValueError(f"backend belongs to method sinkhorn, not to {self.method}; remove it")
        if (self.method == "imported") != (self.table is not None):
            raise ValueError("table belongs to method imported, and that method needs one; give both or neither")
        if self.method == "imported" and self.resample is not None:
            raise ValueError("resample does not belong to method imported, whose table says which data; remove it")
        if self.method != "sinkhorn" and self.warm_start:
            raise ValueError(f"warm_start belongs to method sinkhorn, not to {self.method}; remove it")
        if self.entropy is not None and self.warm_start:
            raise ValueError("warm_start needs one eps for all blocks; give rel_eps or eps instead of entropy")
        if self.method == "imported" and self.cost != "dot":
            raise ValueError("cost does not belong to method imported, which computes no coupling; remove it")
        self.cost_function()
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} given; keep one of rel_eps (relative to std(C)), eps, entropy")
        return self

    def _semidiscrete(self) -> None:
        """Refuse what does not go with method semidiscrete."""
        if self.entropy is not None:
            raise ValueError("entropy belongs to method sinkhorn; give rel_eps or eps, 0 being the sharpest")
        if self.cost != "dot":
            raise ValueError(f"cost={self.cost!r}: method semidiscrete searches inner products; give dot")
        if self.condition == "extended" and self.beta is None:
            raise ValueError("condition='extended' needs beta, the weight of the conditions in the cost; give one")
        if self.condition != "extended" and (self.beta is not None or self.condition_file is not None):
            raise ValueError("beta and condition_file belong to condition extended; remove them")

    def cost_function(self) -> Cost:
        """What the coupling minimises: a name, or the function that the config names.

        Raises:
            ValueError: no such cost, module or function.
        """
        if self.cost in ("dot", "sqeuclidean"):
            return cast("Cost", self.cost)
        module, colon, name = self.cost.partition(":")
        if not (module and colon and name):
            raise ValueError(f"cost={self.cost!r}: unknown; give dot, sqeuclidean or module:function")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"cost={self.cost!r}: cannot be imported ({error}); put its module where the job runs or on PYTHONPATH"
            ) from error
        if not callable(function):
            raise ValueError(f"cost={self.cost!r}: is no function; give one that takes two tiles of features")
        return cast("Cost", function)


class SamplingConfig(Strict):
    """How one partner per source row is drawn from the coupling."""

    draw: Literal["categorical", "balanced"] = "categorical"


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
    source: SourceConfig = SourceConfig()
    features: FeaturesConfig = FeaturesConfig()
    coupling: CouplingConfig
    sampling: SamplingConfig = SamplingConfig()
    output: OutputConfig
    cluster: ClusterConfig = ClusterConfig()

    def determining(self) -> dict[str, Any]:
        """The part that determines the pairs: not where they go, nor how many actors make them, nor where the data lie.

        The data themselves, and a table of pairs, enter by their fingerprint, which the resolved config holds. A
        backend counts where one is named: pairs of two backends may differ, as may those of two kinds of devices.
        """
        config = self.model_dump(exclude={"cluster": True, "output": {"dir"}, "data": {"path"}})
        silent = ["on_unconverged", "table"]
        silent += ["table_fingerprint"] if self.coupling.table is None else []
        silent += ["backend"] if self.coupling.backend == "auto" else []
        silent += ["start", "condition_file"]
        semidiscrete = ["chi2", "condition", "beta", "condition_fingerprint"]
        silent += semidiscrete if self.coupling.method != "semidiscrete" else []
        silent += ["start_fingerprint"] if self.coupling.start is None else []
        for key in silent:
            config["coupling"].pop(key)
        return config

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


def load(model: type[Config], path: str | Place, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides and validate.

    Raises:
        InputError: file missing, no YAML mapping, malformed override, unknown key, wrong type or value.
    """
    return validate(model, read(path, overrides))


def read(path: str | Place, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a YAML file, and apply overrides, without asking whose configuration it is.

    Raises:
        InputError: file missing, no YAML mapping, malformed override.
    """
    path = place(path)
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


def save(config: Strict, path: Place, remark: str) -> None:
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
