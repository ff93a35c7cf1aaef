"""The rooms import one way: no file and no room reaches itself through others, lazy and typing imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "headclip_med": "headclip_med",
    "workflows": "headclip_med_workflows",
    "napari_plugin": "napari_headclip_med",
}
Arrows = dict[str, set[str]]


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def _imported(name: str, path: Path) -> Iterator[str]:
    """Dotted names that a module imports anywhere in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _arrows() -> Arrows:
    modules = _modules()
    arrows: Arrows = {name: set() for name in modules}
    for name, path in modules.items():
        for target in _imported(name, path):
            home = target if target in modules else target.rpartition(".")[0]
            if home in modules and home != name:
                arrows[name].add(home)
    return arrows


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("headclip_med.") else module.split(".")[0]


def _rooms(arrows: Mapping[str, set[str]]) -> Arrows:
    rooms: Arrows = {}
    for module, targets in arrows.items():
        rooms.setdefault(_room(module), set()).update(_room(target) for target in targets)
    return {room: targets - {room} for room, targets in rooms.items()}


def _circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """What is left once everything that imports nothing that is left was taken away."""
    left = {name: set(targets) for name, targets in arrows.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_file_reaches_itself() -> None:
    arrows = _arrows()
    assert sum(map(len, arrows.values())) > 1000
    assert _circle(arrows) == []


def test_no_room_reaches_itself() -> None:
    rooms = _rooms(_arrows())
    assert len(rooms) < 25
    assert _circle(rooms) == []


@pytest.mark.parametrize("room", ["base", "slicing", "reading", "encoders", "detectors", "models", "engine", "writing"])
def test_the_path_of_a_volume_knows_nothing_of_those_who_use_it(room: str) -> None:
    above = {"cohort", "evaluation", "training", "review", "bundle", "cli"}
    assert not {name.rpartition(".")[2] for name in _rooms(_arrows())[f"headclip_med.{room}"]} & above


def test_a_circle_is_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]


def test_nothing_else_is_loose() -> None:
    assert {path.name for path in (ROOT / "headclip_med").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "transforms.py",
    }


# ---- the picture in docs/architecture.md: python tests/house/test_imports.py draws it anew

PAGE = ROOT / "docs" / "architecture.md"
_BEGIN, _END = "```mermaid\n", "```\n"


def _reached(rooms: Arrows, room: str) -> set[str]:
    return rooms[room].union(*(_reached(rooms, other) for other in rooms[room])) if rooms[room] else set()


def _picture() -> str:
    """Arrows between rooms that no longer way says already."""
    rooms = {room: targets for room, targets in _rooms(_arrows()).items() if room != "headclip_med.transforms"}
    lines = ["graph BT"]
    for room in sorted(rooms):
        for other in sorted(rooms[room]):
            if not any(other in _reached(rooms, between) for between in rooms[room] - {other}):
                lines.append(f"    {room.rpartition('.')[2]} --> {other.rpartition('.')[2]}")
    return "\n".join(lines) + "\n"


def test_the_picture_of_the_rooms_is_of_the_imports() -> None:
    drawn = PAGE.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    assert drawn == _picture(), "draw it again: python tests/house/test_imports.py"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    PAGE.write_text(before + _BEGIN + _picture() + _END + rest.partition(_END)[2], encoding="utf-8")
