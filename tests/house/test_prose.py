"""Names and docstrings follow the house's rules.

``python tests/house/test_prose.py [room ...]`` prints the measures and the offenders by room. The rules are read from
the source with ``ast``, and nothing is imported. A room is a folder of ``headclip_med``, or the plugin.

Public is what has no leading underscore in its own name, its class's name or its module's name: functions, methods,
and constructors (``__init__`` and ``__call__`` count). Not counted are

- properties: they are described as what they are, in a noun phrase;
- fields of dataclasses and models: their class's docstring or a comment beside them describes them;
- methods that override one of a class of this source, where that one is described, and Qt's hooks (``closeEvent``);
- ``cli``, in the share of complete docstrings only: its functions are commands whose help text is the docstring and
  whose arguments are described to Typer, and the screens that only they draw.

A docstring is complete when Args names every argument, Returns stands where something is returned (Yields where the
function yields), and Raises where the body raises an error of its own.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("headclip_med", "napari_plugin")
UNCOUNTED = {"cli"}
SHARE = 0.9
RIDDLES = {
    *("ahead", "looks", "kinds", "quiet", "finished", "evenly", "choices", "prepare", "front", "any_network", "told"),
    *("misc", "stuff", "things", "utils", "helpers", "common"),
}
# The first word of a function's docstring, in the imperative. A verb that is missing is added here.
_VERBS = """
    accept add adopt advance align allow announce answer append apply arrange ask assemble assign attach average
    avoid backpropagate balance begin bind blend blur bound bring build calibrate call cancel carry cast centre
    change check choose clamp classify clean clear clip close collect colour combine compare compile complete
    compute condense connect consume continue convert copy correct count cover create crop cut deal decide declare
    decode deduplicate de-identify delete derive describe detect digest disable discard disconnect divide do
    download draw drop embed empty enable encode end enforce enlarge enter erase estimate evaluate exclude execute
    expand explain export extract fail fetch fill filter find finish fit flatten flip fold follow forbid force
    forget format forward free freeze fuse gather generate get give go group guard guess halve hand hash have hide
    highlight hold identify ignore import infer inflate initialise initialize insert inspect install instantiate
    interpolate invert iterate join judge jump keep label lay learn leave let limit list listen load locate lock log
    look lower make mark mask match measure merge mirror mix move multiply name narrow normalise note notice number
    offer open order overlay pack pad pair paint parse pass pick place plan play pool predict prefer prepare
    preserve press print process project propose protect pull push put quantise query queue quote raise rank read
    rebuild receive record redirect reduce refresh refuse register reject release reload remember remove rename
    render reorder repeat replace report request rescale reset reshape resize resample resolve restart restore
    resume retry return reverse review rewrite rotate round run sample save say scale scan score search see segment
    select send separate serve set share shift shorten show shrink shuffle simulate size skip smooth sort sound
    split stack stamp start state step stop store stream stretch strip submit subtract suggest sum summarise supply
    swap switch synthesise take tell test threshold throw tile tokenise total trace track train transform translate
    treat trim truncate try turn undo unfold unite unlock unpack unwrap update upload use validate verify view visit
    wait walk warn warp watch weigh widen window wrap write yield zip
    """
VERBS = set(_VERBS.split())
NOUN_AFTER = {"of", "per"}  # "score of a slice" opens with a noun

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Described:
    """A public class or function, and the class it belongs to."""

    room: str
    path: Path
    name: str
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None

    @property
    def text(self) -> str:
        own = ast.get_docstring(self.node) or ""
        if self.node.name == "__init__" and self.owner is not None:
            return (ast.get_docstring(self.owner) or "") + "\n" + own
        return own

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno} {self.name}"


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "headclip_med" and len(parts) > 2 else parts[0]


@lru_cache(maxsize=1)
def _trees() -> dict[Path, ast.Module]:
    paths = (path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py")))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def _public(name: str) -> bool:
    return not name.startswith("_")


@lru_cache(maxsize=1)
def _described() -> tuple[Described, ...]:
    return tuple(_found())


def _found() -> Iterator[Described]:
    for path, tree in _trees().items():
        if not all(_public(part) for part in path.relative_to(ROOT).parts if not part.startswith("__")):
            continue
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef) and _public(node.name):
                yield Described(_room(path), path, node.name, node, None)
                if isinstance(node, ast.ClassDef):
                    yield from _methods(path, node)


def _methods(path: Path, owner: ast.ClassDef) -> Iterator[Described]:
    for node in owner.body:
        if isinstance(node, Function) and (_public(node.name) or node.name in {"__init__", "__call__"}):
            yield Described(_room(path), path, f"{owner.name}.{node.name}", node, owner)


# ---- what is counted


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _decorators(node: Function) -> set[str]:
    return {_last_name(decorator) for decorator in node.decorator_list}


def _is_property(node: Function) -> bool:
    return bool(_decorators(node) & {"property", "cached_property", "setter", "abstractproperty"})


@lru_cache(maxsize=1)
def _classes() -> dict[str, list[ast.ClassDef]]:
    found: dict[str, list[ast.ClassDef]] = defaultdict(list)
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return found


def _overridden(owner: ast.ClassDef, name: str) -> bool:
    """Whether a class above in this source has the method, with a docstring."""
    for base in (
        found for above in owner.bases for found in _classes().get(_last_name(above), []) if found is not owner
    ):
        for node in base.body:
            if isinstance(node, Function) and node.name == name and ast.get_docstring(node):
                return True
        if _overridden(base, name):
            return True
    return False


def _is_told_elsewhere(item: Described) -> bool:
    node = item.node
    if isinstance(node, ast.ClassDef):
        return False
    if _is_property(node) or "overload" in _decorators(node) or node.name != node.name.lower():
        return True
    return item.owner is not None and node.name != "__init__" and _overridden(item.owner, node.name)


# ---- what a docstring must hold


def _arguments(item: Described) -> list[str]:
    node = item.node
    assert isinstance(node, Function)
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    if item.owner is not None and "staticmethod" not in _decorators(node):
        names = names[1:]
    names += [argument.arg for argument in given.kwonlyargs]
    names += [argument.arg for argument in (given.vararg, given.kwarg) if argument is not None]
    return [name for name in names if _public(name)]


def _returns(node: Function) -> bool:
    if node.returns is None or node.name == "__init__":
        return False
    words = ast.unparse(node.returns).strip("'\"")
    return words not in {"None", "NoReturn", "Never"} and not re.match(r"[\w.]+\[None\b", words)


def _own_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements and expressions of a body without those of the functions in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own_statements(child)


def _raises(node: Function) -> bool:
    for statement in _own_statements(node):
        raised = isinstance(statement, ast.Raise) and isinstance(statement.exc, ast.Call) and _last_name(statement.exc)
        if raised and raised not in {"NotImplementedError", "AssertionError"} and not raised.startswith("_"):
            return True
    return False


def _section(text: str, *titles: str) -> str:
    found = re.search(rf"^(?:{'|'.join(titles)}):\n((?:[ \t].*\n|\n)*)", text + "\n", re.MULTILINE)
    return found[1] if found else ""


def _described_arguments(text: str) -> set[str]:
    entries = re.findall(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", _section(text, "Args"), re.MULTILINE)
    return {name.strip(" *") for entry in entries for name in entry.split(",")}


def _missing(item: Described) -> list[str] | None:
    """What a docstring lacks; None where nothing is asked of it."""
    node = item.node
    if isinstance(node, ast.ClassDef) or _is_told_elsewhere(item):
        return None
    arguments, returns, raises = _arguments(item), _returns(node), _raises(node)
    if not (arguments or returns or raises):
        return None
    told = _described_arguments(item.text)
    missing = [name for name in arguments if name not in told]
    missing += ["Returns"] if returns and not _section(item.text, "Returns", "Yields") else []
    missing += ["Raises"] if raises and not _section(item.text, "Raises") else []
    return missing


def _opens_with_a_verb(text: str) -> bool:
    words = [word.strip(",:.") for word in text.split()[:2]]
    return bool(words) and words[0].lower() in VERBS and words[-1] not in NOUN_AFTER


def _lacks_a_verb(item: Described) -> bool:
    """Whether a function's docstring is missing or opens with something else; a class may open with what it is."""
    if isinstance(item.node, ast.ClassDef):
        return not ast.get_docstring(item.node)
    if item.node.name == "__init__" or (_is_told_elsewhere(item) and not ast.get_docstring(item.node)):
        return False
    return not _is_property(item.node) and not _opens_with_a_verb(ast.get_docstring(item.node) or "")


def _has_a_semicolon(item: Described) -> bool:
    return ";" in re.sub(r"``.*?``|`[^`]*`|>>>.*", "", ast.get_docstring(item.node) or "", flags=re.DOTALL)


@dataclass
class Measure:
    """Offenders of one room, and how many docstrings were counted."""

    counted: int
    incomplete: list[str]
    no_verb: list[str]
    semicolon: list[str]

    @property
    def share(self) -> float:
        return 1 - len(self.incomplete) / self.counted if self.counted else 1.0


@lru_cache
def _measure(room: str) -> Measure:
    items = [item for item in _described() if item.room == room]
    asked = [] if room in UNCOUNTED else [(item, lack) for item in items if (lack := _missing(item)) is not None]
    return Measure(
        counted=len(asked),
        incomplete=[f"{item}: {', '.join(lack)}" for item, lack in asked if lack],
        no_verb=[f"{item}: {item.text[:60]!r}" for item in items if _lacks_a_verb(item)],
        semicolon=[str(item) for item in items if _has_a_semicolon(item)],
    )


def _rooms() -> list[str]:
    return sorted({_room(path) for path in _trees()})


def _in_two_rooms() -> dict[str, list[str]]:
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for item in _described():
        if item.owner is None and item.name != "main":  # what a module that is run as a script calls
            places[item.name][item.room] = str(item)
    return {name: sorted(found.values()) for name, found in sorted(places.items()) if len(found) > 1}


def test_no_name_stands_in_two_rooms() -> None:
    assert _in_two_rooms() == {}


def test_no_file_name_is_a_riddle() -> None:
    assert {path.relative_to(ROOT).as_posix() for path in _trees() if path.stem in RIDDLES} == set()


@pytest.mark.parametrize("room", _rooms())
def test_docstrings_of_the_public_are_complete(room: str) -> None:
    found = _measure(room)
    assert found.share >= SHARE, "\n".join(found.incomplete)


@pytest.mark.parametrize("room", _rooms())
def test_docstrings_open_with_a_verb(room: str) -> None:
    found = _measure(room).no_verb
    assert not found, "no such verb yet? add it to VERBS\n" + "\n".join(found)


@pytest.mark.parametrize("room", _rooms())
def test_docstrings_hold_no_semicolon(room: str) -> None:
    found = _measure(room).semicolon
    assert not found, "\n".join(found)


def test_docstrings_name_no_argument_that_is_not_there() -> None:
    wrong = []
    for item in _described():
        if isinstance(item.node, Function):
            told = _described_arguments(item.text)
            wrong += [f"{item}: {name}" for name in sorted(told - set(_arguments(item)))]
    assert wrong == []


def _of(source: str) -> Described:
    node = ast.parse(source).body[0]
    assert isinstance(node, Function)
    return Described("room", ROOT / "file.py", node.name, node, None)


def test_a_docstring_that_lacks_something_is_found() -> None:
    bare = 'def f(a, b: int = 1, *rest) -> int:\n    """Add them."""\n    raise ValueError(a)\n'
    assert _missing(_of(bare)) == ["a", "b", "rest", "Returns", "Raises"]
    args = "Args:\n        a, b: Numbers, mm.\n        *rest: More."
    sections = args + "\n\n    Returns:\n        Sum.\n\n    Raises:\n        ValueError: Always.\n"
    assert _missing(_of(bare.replace("Add them.", f"Add them.\n\n    {sections}    "))) == []
    assert _missing(_of('def f() -> None:\n    """Do nothing."""\n')) is None


def test_a_noun_is_told_from_a_verb() -> None:
    assert _opens_with_a_verb("Score a slice.")
    assert not _opens_with_a_verb("Score of a slice.")
    assert not _opens_with_a_verb("The score of a slice.")
    assert _has_a_semicolon(_of('def f():\n    """Do this; then ``a;b``."""\n'))
    assert not _has_a_semicolon(_of('def f():\n    """Do ``a;b``."""\n'))


def _print(rooms: list[str]) -> None:
    total: Counter[str] = Counter()
    found = {room: _measure(room) for room in rooms}
    for room, measure in found.items():
        for what, offenders in vars(measure).items():
            if isinstance(offenders, list) and offenders:
                print(f"\n{room}: {what}", *offenders, sep="\n  ")  # noqa: T201
    print(f"\n{'room':15} counted complete  share no_verb semicolon")  # noqa: T201
    for room, measure in found.items():
        complete = measure.counted - len(measure.incomplete)
        total.update(counted=measure.counted, complete=complete)
        total.update(no_verb=len(measure.no_verb), semicolon=len(measure.semicolon))
        counts = (
            f"{measure.counted:7} {complete:8} {measure.share:6.3f} {len(measure.no_verb):7} {len(measure.semicolon):9}"
        )
        print(f"{room:15} {counts}")  # noqa: T201
    share = total["complete"] / max(total["counted"], 1)
    counts = f"{total['counted']:7} {total['complete']:8} {share:6.3f} {total['no_verb']:7} {total['semicolon']:9}"
    print(f"{'all':15} {counts}")  # noqa: T201
    for name, places in _in_two_rooms().items():
        print(f"in two rooms: {name}", *places, sep="\n  ")  # noqa: T201


if __name__ == "__main__":
    _print(sys.argv[1:] or _rooms())
