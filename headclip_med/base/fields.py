"""YAML and ``FIELD=VALUE`` → the fields of a configuration, checked. Needs no torch."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from headclip_med.base.errors import InputError

Config = TypeVar("Config", bound=BaseModel)


def read_fields(path: Path) -> dict[str, Any]:
    """Read the fields of a configuration from a YAML file.

    Args:
        path: of the file.

    Returns:
        Values by field, sections as dictionaries.

    Raises:
        InputError: it cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("The configuration must be a readable YAML file", f"{path.name}: {_words(error)}") from error
    if not isinstance(values, dict):
        raise InputError("The configuration must be a YAML mapping of fields", path.name)
    return values


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """Split settings as a user types them.

    Args:
        pairs: such as ``heads.lr=0.01``.

    Returns:
        Text by field, such as ``{"heads.lr": "0.01"}``.

    Raises:
        InputError: one without field or equals sign.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InputError("A setting must be FIELD=VALUE", pair, "For example --set heads.lr=0.01")
        found[key.strip()] = value.strip()
    return found


def set_field(model: type[BaseModel], values: dict[str, Any], name: str, value: Any, *, is_text: bool = False) -> None:
    """Put ``value`` into ``values`` under ``name``, whose dots reach into sections.

    Args:
        model: whose fields there are.
        values: changed in place.
        name: of a field, such as ``heads.lr``.
        value: for it.
        is_text: the value is text that a user typed: YAML, a list without brackets (``5,8,11``), or a plain word where
            the field is one.

    Raises:
        InputError: an unknown field, with the nearest one, or text that means nothing.
    """
    *sections, last = name.split(".")
    annotation: Any = model
    for section in sections:
        annotation = _field_in(annotation, section, name, model)
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    annotation = _field_in(annotation, last, name, model)
    values[last] = _typed(str(value), annotation, name) if is_text else value


def checked_fields(model: type[Config], values: dict[str, Any], what: str) -> Config:
    """Make a configuration of its fields.

    Args:
        model: its class.
        values: by field.
        what: is configured, as the error names it.

    Returns:
        The configuration.

    Raises:
        InputError: names the first field that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where, words = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        given, hint = f"{where}: {words}" if where else words, ""
        if first["type"] == "extra_forbidden":
            hint = _nearest(model, first["loc"])
        raise InputError(f"{what} must hold known fields and allowed values", given, hint) from error


def _field_in(section: Any, field: str, name: str, root: type[BaseModel]) -> Any:
    """The type of a field in a section, which may be free to hold any."""
    if get_origin(section) is dict or section is Any:
        return Any
    model = next((kind for kind in _kinds(section) if _is_model(kind)), None)
    if model is not None and field in model.model_fields:
        return model.model_fields[field].annotation
    known = list(_dotted(root))
    near = [other for other in known if other.split(".")[-1] == name] or get_close_matches(name, known, 1)
    hint = f"Did you mean {' or '.join(near)}" if near else f"Fields are {', '.join(root.model_fields)}"
    raise InputError("A setting must be a field of the configuration", name, hint)


def _dotted(model: type[BaseModel]) -> Iterator[str]:
    """Names of all fields, those of sections with their dots."""
    for name, field in model.model_fields.items():
        yield name
        for section in filter(_is_model, _kinds(field.annotation)):
            yield from (f"{name}.{inner}" for inner in _dotted(section))


def _nearest(model: type[BaseModel], places: Sequence[str | int]) -> str:
    """The field that was probably meant by the last of an error's ``places``."""
    *sections, field = places
    for place in sections:
        if place in model.model_fields:
            inner = model.model_fields[str(place)].annotation
            kinds = [*_kinds(inner), *(deeper for kind in _kinds(inner) for deeper in get_args(kind))]
            model = next(filter(_is_model, kinds), model)
    near = get_close_matches(str(field), model.model_fields, 1)
    return f"Did you mean {near[0]}" if near else f"Fields are {', '.join(model.model_fields)}"


def _kinds(annotation: Any) -> Sequence[Any]:
    """The type itself, or those that a union offers."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _typed(text: str, annotation: Any, name: str) -> Any:
    """What a user's text means for a field of that type."""
    kinds = _kinds(annotation)
    if kinds[0] in (str, Path):
        return text if text.lower() not in ("null", "none") or type(None) not in kinds else None
    is_list = any((get_origin(kind) or kind) in (tuple, list) for kind in kinds)
    bracketed = f"[{text}]" if is_list and not text.startswith("[") else text
    try:
        return yaml.safe_load(bracketed)
    except (yaml.YAMLError, ValueError) as error:  # such as a date of month 13
        example = "a list as 5,8,11" if is_list else "text in quotes"
        raise InputError(
            f"The value of {name} must be YAML", f"{text} ({_words(error)})", f"Write {example}"
        ) from error


def _words(error: Exception) -> str:
    """The first line of what a parser said; of a file that cannot be opened, why."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(getattr(error, "problem", None) or error).splitlines()[0]
