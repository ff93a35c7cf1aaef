"""Overrides of a bundle's config from the command line: read as MONAI reads them, and refused where it is silent.

MONAI sets whatever key it is given: a misspelt one makes a new entry that nothing looks at, and the run goes
on with the default. Here the key must exist, or be an argument of a component, which refuses those that it lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

RUN_KEYS = ("run_id", "init_id", "final_id", "meta_file", "logging_file")  # arguments of monai.bundle run

_PATH_ENDINGS = ("_dir", "_path", "_file", "_root", "_name")
_DYNAMIC = ("$", "@", "%")  # an expression, a reference, a macro: its kind is known only when it is evaluated
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Given:
    """One override.

    Attributes:
        key: with ``::`` between its parts.
        typed: the key as it was typed.
        text: of the value.
        value: what the text means.
    """

    key: str
    typed: str
    text: str
    value: Any


def read_overrides(words: Sequence[str]) -> list[Given]:
    """Read ``["--a#b", "1", "--c=x", "--flag"]`` as a::b = 1, c = "x", flag = True.

    Values are Python literals where they are ones and text otherwise, as MONAI's command line has it. So is
    ``null``, YAML's word for None.

    Args:
        words: of the command line.

    Returns:
        The overrides in their order.

    Raises:
        InputError: a word is neither a key nor the value of one.
    """
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise InputError("An override must be --KEY VALUE", word, "Write for example --output_dir results")
        typed, equals, text = word[2:].partition("=")
        if not equals:
            text = rest.pop(0) if rest and not _is_key(rest[0]) else "True"
        found.append(Given(typed.replace("#", "::"), typed, text, _value(text)))
    return found


def check_overrides(parser: ConfigParser, overrides: Sequence[Given]) -> dict[str, Any]:
    """Set every override in a config, after it was found to mean something.

    Args:
        parser: of the config. It is changed.
        overrides: of :func:`read_overrides`.

    Returns:
        Key → value, as MONAI takes them.

    Raises:
        InputError: a key that does not exist, with the nearest one that does, or a value of another kind.
    """
    checked: dict[str, Any] = {}
    for given in overrides:
        checked[given.key] = given.value
        if given.key not in RUN_KEYS:
            parser[given.key] = checked[given.key] = _checked_value(given, _present(parser, given))
    return checked


def shown(id_: str) -> str:
    """Write an id as the command line does.

    Args:
        id_: such as ``train::trainer``.

    Returns:
        Such as ``train#trainer``.
    """
    return id_.replace("::", "#")


def _present(parser: ConfigParser, given: Given) -> Any:
    """What stands at the key now, None for an argument that its component may have."""
    above, _, name = given.key.rpartition("::")
    parent = parser.get(above) if above else parser.config
    if isinstance(parent, dict):
        if name in parent or "_target_" in parent:
            return parent.get(name)
    elif isinstance(parent, list) and name.isdigit() and int(name) < len(parent):
        return parent[int(name)]
    near = _nearest(given.key, list(_ids(parser.config)))
    raise InputError(
        "An override must name what is in the config",
        f"--{given.typed}",
        f"Did you mean --{shown(near)}" if near else "See the config for the names there are",
    )


def _nearest(key: str, ids: list[str]) -> str | None:
    """The id nearest to a wrong key: one of the same last name, else one that is spelt nearly so."""
    last = key.split("::")[-1]
    named = [] if last.isdigit() else [id_ for id_ in ids if id_.split("::")[-1] == last]
    return next(iter(get_close_matches(key, named or ids, 1, cutoff=0 if named else 0.75)), None)


def _ids(config: Any, above: str = "") -> Iterator[str]:
    """Every id of a config, outermost first, without the metadata."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if key != "_meta_":
            yield f"{above}{key}"
            yield from _ids(value, f"{above}{key}::")


def _checked_value(given: Given, present: Any) -> Any:
    """The value, as the kind of what stands there now where the text leaves a choice."""
    value = given.value
    is_path = isinstance(present, str) and given.key.endswith(_PATH_ENDINGS)
    if is_path and not isinstance(value, str | None) and not given.text.startswith(("[", "(", "{")):
        return given.text  # a folder may be called 2024 or a,b
    if value is None or _is_dynamic(value) or _is_dynamic(present):
        return value
    if isinstance(present, bool):
        value = _WORDS.get(value.lower(), value) if isinstance(value, str) else value
        if value not in (0, 1):
            raise _wrong_kind(given, "true or false", present)
    elif isinstance(present, int | float) and isinstance(value, str):
        raise _wrong_kind(given, "a number", present)
    elif isinstance(present, dict) and "_target_" in present and not isinstance(value, dict):
        raise _wrong_kind(given, "a component, an @reference or a $expression", present["_target_"])
    return value


def _wrong_kind(given: Given, kind: str, present: Any) -> InputError:
    return InputError(
        f"--{given.typed} must be {kind}, as {present!r} in the config is",
        f"--{given.typed} {given.text}",
        "Correct the value, or write a $expression",
    )


def _is_key(word: str) -> bool:
    return re.match(r"--|-[a-zA-Z]", word) is not None


def _is_dynamic(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_DYNAMIC)


def _value(text: str) -> Any:
    from fire.parser import DefaultParseValue

    return None if text == "null" else DefaultParseValue(text)
