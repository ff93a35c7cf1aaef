"""README and docs: every command parses, every Python example runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from dicom_series import CtSeries
from small_cases import write_volume
from typer.main import get_command

from headclip_med.base import names as choices
from headclip_med.cli.main import app
from headclip_med.models.pack import builtin_packs, load_pack

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "workflows").glob("*/docs/README.md")),
]


def _blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def _commands() -> list[tuple[str, str]]:
    """Each ``headclip-med`` line of each page, without comments and optional brackets."""
    lines = []
    for page in PAGES:
        for block in _blocks(page, "bash", "sh", ""):
            for line in block.replace("\\\n", " ").splitlines():
                words = re.sub(r"[\[\]]", " ", line.partition(" # ")[0])
                if (place := words.find("headclip-med ")) >= 0 and not words.lstrip().startswith(("pip ", "#")):
                    lines.append((page.name, words[place:].strip()))
    return lines


@pytest.mark.parametrize(("page", "line"), _commands())
def test_a_command_of_the_docs_parses(page: str, line: str) -> None:
    command: Any = get_command(app)
    _, *words = shlex.split(line)
    context = command.make_context("headclip-med", words[:1])
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    parsed = command.make_context(command.name, words, parent=context)
    names = [parsed.params.get("model"), *(parsed.params.get("models") or ()), parsed.params.get("pack")]
    for name in [
        inner for given in names if given for inner in (given if isinstance(given, (list, tuple)) else [given])
    ]:
        known = name in choices.pack_names() or re.search(r"[/@:_.]|^[A-Z]+$|^(vectors|probe|out)$", name)
        assert known, f"{page} names the model {name}"


def test_pages_that_are_linked_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


@pytest.fixture
def flair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name, as small as they can be scored."""
    write_volume(tmp_path / "flair.nii.gz")
    CtSeries(modality="MR", rows=24, columns=20).write(tmp_path / "flair_series")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", range(len(_blocks(ROOT / "README.md", "python"))))
def test_a_python_example_of_the_readme_runs_as_it_stands(number: int, flair: Path) -> None:
    names: dict[str, Any] = {}
    exec(_blocks(ROOT / "README.md", "python")[number], names)
    if "result" in names:
        assert [words for words in names["result"].warnings if words.startswith("out of scope")] == []
    else:
        assert [path.name for path in (flair / "out").rglob("*.nii.gz")] == ["flair_series_trans.nii.gz"]


def test_examples_name_a_model_that_is_for_their_image() -> None:
    """The default model is for FLAIR of brains: no example may give it a picture, a CT or a T1."""
    for page, line in _commands():
        words = shlex.split(line)
        if words[1] not in ("predict", "evaluate") or "--model" in words or "-m" in words:
            continue
        assert re.search(r"flair|STUDY|dicomweb:|brats", line), f"{page}: {line}"
    scope = load_pack(builtin_packs()["headclip-tiny"]).record.scope
    assert scope is not None
    assert scope.sequences == ("flair",)


def test_method_names_of_the_readme_are_those_there_are() -> None:
    [line] = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("headclip-med models methods")
    ]
    assert line.partition("# ")[2].split(", ") == list(choices.METHODS)
