"""Overrides of a bundle's config from the command line: read as MONAI reads them, and refused where it is silent.

MONAI sets whatever key it is given: a misspelt one makes a new entry that nothing looks at, and the run goes
on with the default. Here a key must be one that the config has, or an argument that its component takes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pydoc import ErrorDuringImport, locate
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

RUN_KEYS = ("run_id", "init_id", "final_id", "meta_file", "logging_file")  # arguments of monai.bundle run
COMPONENT_KEYS = ("_disabled_", "_requires_", "_desc_", "_mode_")  # of any component

_PATH_ENDINGS = ("_dir", "_path", "_file", "_root", "_name")
_DYNAMIC = ("$", "@", "%")  # an expression, a reference, a macro: its kind is known only when it is evaluated
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Given:
    """One override: its key with ``::`` between parts, as it was typed, the text, and the text's value."""

    key: str
    typed: str
    text: str
    value: Any


def read_overrides(words: Sequence[str]) -> list[Given]:
    """``["--a#b", "1", "--c=x", "--flag"]`` → a::b = 1, c = "x", flag = True.

    Values are Python literals where they are ones and text otherwise, as MONAI's command line has it; so is
    ``null``, YAML's word for None.

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
    """Every override as MONAI takes it, after it was found to mean something; they are set in ``parser`` too.

    Raises:
        InputError: keys that do not exist, or values of another kind; one message names all of them.
    """
    checked, wrong = {}, []
    for given in overrides:
        try:
            checked[given.key] = _set(parser, given)
        except InputError as error:
            wrong.append(error)
    if not wrong:
        return checked
    if len(wrong) == 1:
        raise wrong[0]
    raise InputError(
        f"{len(wrong)} overrides must be corrected",
        "".join(f"\n  {error.given}: {error.must}. {error.do}." for error in wrong).rstrip("."),
    )


def _set(parser: ConfigParser, given: Given) -> Any:
    if given.key in RUN_KEYS:
        return given.value
    parent_key, _, name = given.key.rpartition("::")
    parent = parser.config if not parent_key else parser.get(parent_key)
    known, expected = _expected(parser, parent, name)
    if not known:
        raise _unknown(parser, given)
    value = _checked_value(given, name, expected)
    parser[given.key] = value
    return value


def _expected(parser: ConfigParser, parent: Any, name: str) -> tuple[bool, Any]:
    """Whether ``parent`` has a place of that name, and what stands there (an argument's default otherwise)."""
    if isinstance(parent, list):
        known = name.isdigit() and int(name) < len(parent)
        return known, parent[int(name)] if known else None
    if not isinstance(parent, dict):
        return False, None
    if name in parent:
        return True, parent[name]
    if "_target_" not in parent:
        return False, None
    if name in COMPONENT_KEYS:
        return True, None
    arguments = component_arguments(parser, parent)
    return arguments is None or name in arguments, (arguments or {}).get(name)


def component_arguments(parser: ConfigParser, config: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments of a component's ``_target_`` with their defaults; None where it takes any, or is not known."""
    from monai.bundle import ConfigComponent

    target = ConfigComponent(config, locator=parser.locator).resolve_module_name()
    if not isinstance(target, str) or target.startswith(_DYNAMIC):
        return None
    try:
        parameters = inspect.signature(locate(target)).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError, ErrorDuringImport):  # building it will say what is wrong
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {
        parameter.name: None if parameter.default is parameter.empty else parameter.default
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _checked_value(given: Given, name: str, expected: Any) -> Any:
    """The value, as the kind of what stands there now where the text leaves a choice.

    Raises:
        InputError: it is of another kind.
    """
    value = given.value
    if _is_path(name, expected) and not isinstance(value, str | None) and not given.text.startswith(("[", "(", "{")):
        return given.text  # a folder may be called 2024 or a,b
    if value is None or expected is None or _is_dynamic(value) or _is_dynamic(expected):
        return value
    if isinstance(expected, bool):
        if isinstance(value, str):
            value = _WORDS.get(value.lower(), value)
        if not isinstance(value, bool) and value not in (0, 1):
            raise _wrong_kind(given, "true or false", expected)
    elif isinstance(expected, int | float):
        if isinstance(value, str):
            raise _wrong_kind(given, "a number", expected)
    elif isinstance(expected, dict) and "_target_" in expected and not isinstance(value, dict):
        raise _wrong_kind(given, "a component, an @reference or a $expression", expected["_target_"])
    return value


def _wrong_kind(given: Given, kind: str, expected: Any) -> InputError:
    return InputError(
        f"--{given.typed} must be {kind}, as {expected!r} in the config is",
        f"--{given.typed} {given.text}",
        "Correct the value, or write a $expression",
    )


def _unknown(parser: ConfigParser, given: Given) -> InputError:
    *above, _ = given.key.split("::")
    depth = next(n for n in range(len(above), -1, -1) if not n or "::".join(above[:n]) in parser)
    section = "::".join(above[:depth])
    inside = parser.get(section) if section else parser.config
    where = f"{shown(section)} of the config" if section else "the config"
    if isinstance(inside, str):
        reference = inside[1:] if re.fullmatch(r"@[\w#:]+", inside) else None
        last = "#".join(given.key.split("::")[depth:])
        return InputError(
            f"The parts of {shown(section)} must be set where they are written, for it is {inside!r}",
            f"--{given.typed}",
            f"Set --{shown(reference)}#{last}" if reference else f"Set --{shown(section)} as a whole",
        )
    wrong = given.key.split("::")[depth]
    near = _nearest(parser, given.key, section, wrong, list(_names(parser, inside)))
    return InputError(
        f"An override must name what is in {where}",
        f"--{given.typed}",
        f"Did you mean --{shown(near)}" if near else "See the config for the names there are",
    )


def _nearest(parser: ConfigParser, key: str, section: str, wrong: str, names: list[str]) -> str | None:
    """The right key nearest to a wrong one: a sibling, else one of that name elsewhere."""
    if near := get_close_matches(wrong, names, 1):
        return f"{section}::{near[0]}" if section else near[0]
    ids = list(all_ids(parser.config))
    last = key.split("::")[-1]
    named = [id_ for id_ in ids if id_.split("::")[-1] == last]
    if named:
        return min(named, key=lambda id_: id_.count("::"))
    return next(iter(get_close_matches(key, ids, 1, cutoff=0.8)), None)


def _names(parser: ConfigParser, inside: Any) -> Iterator[str]:
    if isinstance(inside, list):
        yield from map(str, range(len(inside)))
    elif isinstance(inside, dict):
        yield from (str(key) for key in inside if key != "_meta_")
        if "_target_" in inside:
            yield from (*(component_arguments(parser, inside) or ()), *COMPONENT_KEYS)
        elif "_meta_" in inside:
            yield from RUN_KEYS


def all_ids(config: Any, id_: str = "") -> Iterator[str]:
    """Every id of a config, outermost first, without the metadata."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if key == "_meta_":
            continue
        child = f"{id_}::{key}" if id_ else str(key)
        yield child
        yield from all_ids(value, child)


def shown(id_: str | None) -> str:
    """An id as the command line writes it: ``train#trainer``."""
    return (id_ or "").replace("::", "#")


def _is_key(word: str) -> bool:
    return re.match(r"--|-[a-zA-Z]", word) is not None


def _is_path(name: str, expected: Any) -> bool:
    return isinstance(expected, str) and name.endswith(_PATH_ENDINGS)


def _is_dynamic(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_DYNAMIC)


def _value(text: str) -> Any:
    from fire.parser import DefaultParseValue

    return None if text == "null" else DefaultParseValue(text)
