"""Loading of configurations: YAML and `key=value` overrides in, one frozen and validated model out.

Unknown keys, wrong types and values that contradict each other raise `InputError` with the key, the value and the
remedy, before anything heavy is imported.
"""

import difflib
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.config import plain_yaml
from flowpairs.pipeline.config.strict import Strict, sections_of

FEW = 8  # a part with at most this many keys has all of them named where one is misspelt

Config = TypeVar("Config", bound=Strict)


def load(model: type[Config], path: str | AnyPath, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides and validate.

    Raises:
        InputError: file missing, no YAML mapping, malformed override, unknown key, wrong type or value.
    """
    below = read_yaml(path)
    return validate(model, _lay(_tree(overrides, "key.sub=value, as in coupling.n=4096"), below, model))


def read_yaml(path: str | AnyPath) -> dict[str, Any]:
    """Read a YAML file without knowing which model it is for.

    Raises:
        InputError: file missing, no YAML mapping.
    """
    path = as_path(path)
    if not path.is_file():
        raise InputError(f"config {str(path)!r}: no such file; give the path of a YAML file")
    try:
        tree = plain_yaml.parse(path.read_bytes())
    except ValueError as error:
        raise InputError(f"config {str(path)!r}: cannot be read as YAML ({error}); mend the file") from error
    if tree is not None and not isinstance(tree, dict):
        raise InputError(f"config {str(path)!r}: not a YAML mapping; start from one of configs/")
    return tree or {}


def from_overrides(model: type[Config], overrides: list[str] | None) -> Config:
    """Build a model from its defaults and `key=value` overrides, for commands that take no YAML file.

    Raises:
        InputError: malformed override, unknown key, wrong type or value.
    """
    return validate(model, _tree(overrides, "key=value"))


def _tree(overrides: list[str] | None, form: str) -> dict[str, Any]:
    """Parse overrides into one nested mapping, later ones over earlier ones; `form` shows the user how one looks."""
    tree: dict[str, Any] = {}
    for item in overrides or []:
        key, equals, text = item.partition("=")
        parts = key.split(".")
        if not equals or not all(parts) or len(parts) > plain_yaml.MAX_DEPTH or key.startswith("-"):
            raise InputError(f"override {item!r}: not of the form {form}")
        try:
            value = plain_yaml.parse(text)
        except ValueError as error:
            raise InputError(
                f"override {item!r}: cannot be read ({error}); write key.sub=value, quoted as YAML"
            ) from error
        for part in reversed(parts):
            value = {part: value}
        tree = _lay(value, tree, Strict)
    return tree


def _lay(above: dict[str, Any], below: dict[str, Any], model: type[Strict]) -> dict[str, Any]:
    """Lay overrides over a file's values of the same part, and drop the values that they replace."""
    fields, out = model.model_fields, dict(below)
    gone = {key for keys in model.alternatives if any(above.get(key) is not None for key in keys) for key in keys}
    for key, keys in model.belonging.items():
        if key in above and above[key] != below.get(key, fields[key].default):
            gone.update(keys)
    for key in gone & below.keys():
        del out[key]
    for key, value in above.items():
        given = out.get(key)
        if isinstance(value, dict) and isinstance(given, dict):
            part = _part(fields.get(key), value, given)
            if part is not _part(fields.get(key), given):
                given = {name: kept for name, kept in given.items() if name in part.model_fields}
            value = _lay(value, given, part)
        out[key] = value
    return out


def _part(field: FieldInfo | None, *values: dict[str, Any]) -> type[Strict]:
    """Find the model of a part; for a union, the member named by the first of the values with the discriminator."""
    if field is not None and len(models := sections_of(field)) == 1:
        return models[0]
    tag, members = _members(field)
    return next((members.get(str(value[tag]), Strict) for value in values if tag in value), Strict)


def _members(field: FieldInfo | None) -> tuple[str, dict[str, type[Strict]]]:
    """Find the key that discriminates a union's members, and the member for each of its values."""
    if field is None or not isinstance(field.discriminator, str):
        return "", {}
    tag, models = field.discriminator, get_args(field.annotation)
    return tag, {str(kind): m for m in models for kind in get_args(m.model_fields[tag].annotation)}


def save(config: Strict, path: AnyPath, remark: str) -> None:
    """Write a resolved config as YAML that the same command accepts again, below a one-line remark."""
    write_atomically(path, f"# {remark}\n{plain_yaml.dump(config.model_dump(mode='json'))}".encode())


def validate(model: type[Config], plain: dict[str, Any]) -> Config:
    """Validate a plain nested mapping.

    Raises:
        InputError: the mapping is invalid; names the first offending key, its value and what is allowed.
    """
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        key, owner = _locate(errors[0]["loc"], model)
        same_key = [e for e in errors if _locate(e["loc"], model)[0] == key]  # one per member of a union
        raise InputError(_sentence(key, owner, same_key)) from error


def _locate(location: tuple[int | str, ...], model: type[Strict]) -> tuple[str, type[Strict]]:
    """Find the dotted key that the user wrote, and its model; pydantic also puts union members into the key."""
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
        if len(models := sections_of(field)) == 1:
            owner = models[0]
        elif not (members := _members(field)[1]):
            break
    return ".".join(key), owner


def _sentence(key: str, owner: type[Strict], errors: list[Any]) -> str:
    """Format pydantic's errors for one key as one sentence."""
    kind, value = errors[0]["type"], errors[0]["input"]
    if kind == "extra_forbidden":
        return f"{key}={value!r}: unknown key; {_nearest(key.rpartition('.')[2], sorted(owner.model_fields))}"
    if kind == "missing":
        return f"{key}: missing; add it to the config or give {key}=VALUE"
    if kind == "value_error":
        return f"{key or 'config'}: {errors[0]['ctx']['error']}"
    message = " or ".join(e["msg"][0].lower() + e["msg"][1:] for e in errors)
    return f"{key}={value!r}: {message}; change it in the config or give {key}=VALUE"


def _nearest(key: str, names: list[str]) -> str:
    """Suggest what a misspelt key may mean: all names where they are few, else similar ones, if any."""
    near = difflib.get_close_matches(key, names, cutoff=0.5)
    if near and len(names) > FEW:
        return f"did you mean {' or '.join(near)}?"
    return f"known here: {', '.join([*near, *(name for name in names if name not in near)])}"
