"""File names that no text can hold, or that would disturb a screen, a page or a table: in every output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cases import write_volume
from typer.testing import CliRunner

from headclip_med.base.errors import InputError, OutputError, readable
from headclip_med.cli.main import app
from headclip_med.reading import load
from headclip_med.reading.inputs import case_name
from headclip_med.review.sources import match_source
from headclip_med.writing.record import load_result

NAMES = {  # bytes on the disk, without an ending, and what is shown of them
    "Latin-1": (b"caf\xe9", "caf%E9"),
    "broken UTF-8": (b"a\xf0\x9f\x98", "a%F0%9F%98"),
    "a line's end": (b"line\nbreak", "line%0Abreak"),
    "a terminal's commands": (b"tab\tred\x1b[31m", "tab%09red%1B[31m"),
    "turned letters": ("a\u202egnp".encode(), "a%E2%80%AEgnp"),
    "UTF-8": ("größe 😀👩‍🔬 שלום".encode(), "größe 😀👩‍🔬 שלום"),
    "markup": (b"[bold]a & <b> $x_1$ {b}", "[bold]a & <b> $x_1$ {b}"),
    "a table's signs": (b'a,b;"c"', 'a,b;"c"'),
    "per cent": (b"dose 50%", "dose 50%"),
}


def _path(folder: Path, name: bytes, ending: str) -> Path:
    """A path whose name is these bytes; skips where the file system takes no such name."""
    path = folder / (os.fsdecode(name) + ending)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        pytest.skip("no such name on this file system")
    return path


def _picture(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 60, (40, 50)).astype(np.uint8)
    values[10:20, 20:32] = 230
    Image.fromarray(values).save(path, format="PNG")
    return path


def _predict(tiny_pack: Path, *arguments: str | Path) -> str:
    options = ["--model", str(tiny_pack), "--device", "cpu", "--threshold", "0.3"]
    ran = CliRunner().invoke(app, ["predict", *map(str, arguments), *options])
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.parametrize("case", NAMES)
def test_a_name_is_shown_so_that_everything_can_hold_it(case: str) -> None:
    name, shown = NAMES[case]
    assert readable(os.fsdecode(name)) == shown
    assert readable(shown) == shown
    shown.encode()


@pytest.mark.parametrize("kind", ["volume", "picture"])
@pytest.mark.parametrize("case", NAMES)
def test_every_output_takes_every_name(tmp_path: Path, tiny_pack: Path, case: str, kind: str) -> None:
    name, shown = NAMES[case]
    ending = ".nii.gz" if kind == "volume" else ".png"
    path = _path(tmp_path / "in", name, ending)
    if kind == "picture":
        _picture(path)
    else:
        write_volume(tmp_path / "good.nii.gz").replace(path)
    out = tmp_path / "out"
    said = _predict(tiny_pack, tmp_path / "in", "--out", out)
    assert f"{shown}: score" in said
    assert [folder.name for folder in out.iterdir() if folder.is_dir()] == [shown]
    record, map_path, _ = load_result(out / shown)
    assert record.source.name == shown + ending
    assert map_path is not None
    np.testing.assert_array_equal(load(map_path).array.shape, load(path).array[:1].shape)
    assert json.loads((out / "run.json").read_text("utf-8"))["cases"][0]["name"] == shown
    assert (out / shown / "report.html").read_text("utf-8").count("<h1>") == 1
    assert (out / shown / "preview.png").stat().st_size > 1000
    assert match_source(record, [tmp_path / "in"]).volume is not None


@pytest.mark.parametrize("case", ["Latin-1", "a line's end", "markup"])
def test_a_folder_of_any_name_takes_results(tmp_path: Path, tiny_pack: Path, case: str) -> None:
    name, _ = NAMES[case]
    out = _path(tmp_path, name, "")
    out.unlink()
    _picture(tmp_path / "a.png")
    _predict(tiny_pack, tmp_path / "a.png", "--out", out)
    assert load_result(out / "a")[0].source.name == "a.png"


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_done(tmp_path: Path, tiny_pack: Path) -> None:
    bad = _path(tmp_path / "in", b"bad\xfe\nname", ".nii.gz")
    bad.write_text("no image\n" * 100)
    _picture(tmp_path / "in" / "good.png")
    options = ["--out", str(tmp_path / "out"), "--model", str(tiny_pack), "--device", "cpu"]
    ran = CliRunner().invoke(app, ["predict", str(tmp_path / "in"), *options])
    assert ran.exit_code == 1
    assert "error: bad%FE%0Aname: bad%FE%0Aname.nii.gz must be a NIfTI" in ran.output
    cases = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["cases"]
    assert [(case["name"], case["status"]) for case in cases] == [("bad%FE%0Aname", "failed"), ("good", "done")]


def test_an_evaluation_takes_every_name(tmp_path: Path, tiny_pack: Path) -> None:
    root = tmp_path / "set"
    for number, name in enumerate((b"bild\xff", b"a\nb", "größe".encode())):
        picture = _picture(_path(root / "images", name, ".png"), number)
        mask = np.zeros((40, 50), np.uint8)
        mask[10:20, 20 : 32 - number] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / picture.name, format="PNG")
    root = root.rename(tmp_path / os.fsdecode(b"s\xe9t"))
    options = ["--out", str(tmp_path / "out"), "--model", str(tiny_pack), "--device", "cpu"]
    ran = CliRunner().invoke(app, ["evaluate", "--data", str(root), *options])
    assert ran.exit_code == 0, ran.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["dataset"]["name"] == "s%E9t"
    assert (tmp_path / "out" / "cases.csv").read_text("utf-8").count("\n") == 4
    ran = CliRunner().invoke(app, ["data", "split", str(root), "--out", str(tmp_path / "split.csv")])
    assert ran.exit_code == 2
    assert "A list must name files whose names are UTF-8" in ran.output
    assert not (tmp_path / "split.csv").exists()


@pytest.mark.parametrize(("letters", "bytes_"), [("x" * 240, 80), ("😀" * 60, 200), ("ß" * 120, 160)])
def test_a_long_name_is_cut_to_what_file_systems_take(letters: str, bytes_: int) -> None:
    assert len(case_name(Path(f"{letters}.nii.gz")).encode()) == bytes_


def test_an_error_names_a_file_in_one_line_that_can_be_printed() -> None:
    error = InputError("The file a\udce9.nii must exist", "b\x1b[31m\nc", "Look for a\udce9.nii")
    assert str(error) == "The file a%E9.nii must exist; given: b%1B[31m%0Ac. Look for a%E9.nii."
    assert str(OutputError("Two must be corrected", "\n  a: b\n  c: d")).count("\n  ") == 2
