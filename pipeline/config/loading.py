"""YAML and `key=value` overrides in, one frozen and validated model out.

Unknown keys, wrong types and values that contradict each other raise `InputError` with the key, the value and the
remedy, before anything heavy is imported.
"""

from io import BytesIO
from typing import Any, TypeVar, cast, get_args

import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.config.strict import Strict

MAX_DEPTH = 20  # levels of a YAML file

Config = TypeVar("Config", bound=Strict)


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
