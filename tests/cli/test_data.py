"""``headclip-med data``: tables, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_trees import pairs_tree, put_image, put_mask, put_volume
from typer.testing import CliRunner, Result

from headclip_med.cli.data import _complete_layout
from headclip_med.cli.main import app
from headclip_med.datasets import LAYOUTS, open_dataset


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_layouts_are_listed() -> None:
    shown = _run("layouts")
    assert shown.exit_code == 0
    assert all(f"{name}  {layout.words}" in shown.stdout for name, layout in LAYOUTS.items())
    assert json.loads(_run("layouts", "--json").stdout).keys() == LAYOUTS.keys()


def test_layouts_are_completed() -> None:
    assert sorted(_complete_layout("b")) == ["bids:", "bmad:", "brats:"]
    assert _complete_layout("/data") == []


def test_a_good_set(tmp_path: Path) -> None:
    done = _run("check", f"pairs:{pairs_tree(tmp_path / 'colon')}")
    assert done.exit_code == 0
    assert "colon, layout pairs" in done.stdout
    assert "nothing is wrong" in done.stdout
    assert "note: patients are not known" in done.stdout
    assert done.stderr == ""


def test_a_set_with_an_error(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    put_mask(tmp_path / "masks" / "01.png", size=(8, 6))
    done = _run("check", tmp_path)
    assert done.exit_code == 1
    assert "error: The mask must have the size of its image; given: 8 × 6" in done.stdout
    assert "pixels: 01\n  → Resample the mask" in done.stdout
    content = json.loads(_run("check", tmp_path, "--json").stdout)
    assert (content["ok"], content["counts"]["readable"], content["problems"][0]["kind"]) == (False, 2, "mask_grid")


def test_many_cases_are_counted_not_listed(tmp_path: Path) -> None:
    for number in range(12):
        put_image(tmp_path / "no" / f"{number:02}.png", seed=number)
        (tmp_path / "no" / f"{number:02}.png").rename(tmp_path / "no" / f"{number:02}.jpg")
    put_image(tmp_path / "yes" / "1.png", seed=99)
    done = _run("check", tmp_path)
    assert "no_00, no_01, no_02, no_03, no_04, no_05, no_06, no_07 and 4 more" in done.stdout


@pytest.mark.parametrize("spec", ["missing", "pears:missing", "pairs:missing"])
def test_nothing_is_run_for_a_wrong_name(spec: str) -> None:
    done = _run("check", spec)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "; given: " in done.stderr


def test_sequences_are_chosen(tmp_path: Path) -> None:
    for name in ("flair", "t1"):
        put_volume(tmp_path / "case" / f"{name}.nii.gz", seed=len(name))
    assert _run("check", tmp_path, "--sequences", "t1, flair").exit_code == 0
    refused = _run("check", tmp_path, "--sequences", "dwi")
    assert (refused.exit_code, "must be one of t2f, t1n; given: dwi" in refused.stderr) == (2, True)


def test_split(tmp_path: Path) -> None:
    pairs_tree(tmp_path / "set", count=10)
    out = tmp_path / "list.csv"
    done = _run("split", tmp_path / "set", "--out", out, "--fractions", "0.6,0.2,0.2", "--seed", "1")
    assert done.exit_code == 0
    assert done.stdout.startswith("6 train, 2 val, 2 test → ")
    first = out.read_bytes()
    again = _run("split", tmp_path / "set", "--out", out, "--fractions", "0.6,0.2,0.2", "--seed", "1", "--json")
    assert json.loads(again.stdout)["cases"] == {"train": 6, "val": 2, "test": 2}
    assert out.read_bytes() == first
    dataset = open_dataset(f"csv:{out}")
    assert [case.label for case in dataset] == [False] + [True] * 9  # as the masks say
    assert _run("check", f"csv:{out}").exit_code == 0


def test_a_case_that_cannot_be_read_is_split_all_the_same(tmp_path: Path) -> None:
    pairs_tree(tmp_path / "set", count=5)
    (tmp_path / "set" / "images" / "03.png").write_bytes(b"nothing")
    done = _run("split", tmp_path / "set", "--out", tmp_path / "list.csv")
    assert done.exit_code == 0
    assert "03 is split by its patient alone: 03.png must be a" in done.stderr
    assert len(open_dataset(tmp_path / "list.csv")) == 5


def test_what_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    put_image(tmp_path / "bmad" / "test" / "Ungood" / "img" / "7_1.png")
    put_mask(tmp_path / "bmad" / "test" / "Ungood" / "label" / "7_1.png")
    stacks = _run("split", tmp_path / "bmad", "--out", tmp_path / "list.csv")
    assert (stacks.exit_code, "7, a volume of slices" in stacks.stderr) == (2, True)
    (tmp_path / "file").write_text("")
    place = _run("split", pairs_tree(tmp_path / "set"), "--out", tmp_path / "file" / "list.csv")
    assert (place.exit_code, "a file where a folder must be" in place.stderr) == (2, True)


@pytest.mark.parametrize("fractions", ["0.5,0.5", "a,b,c", "0.5,0.1,0.1"])
def test_fractions_that_make_no_sense(tmp_path: Path, fractions: str) -> None:
    done = _run("split", pairs_tree(tmp_path / "set"), "--out", tmp_path / "list.csv", "--fractions", fractions)
    assert (done.exit_code, "Fractions must be" in done.stderr) == (2, True)
    assert not (tmp_path / "list.csv").exists()
