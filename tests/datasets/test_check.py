"""What the check of a labelled set finds, how bad it calls it, and what it says can be done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import pairs_tree, put_image, put_label, put_mask, put_text, put_volume
from PIL import Image

from headclip_med.datasets import Case, LabelledVolume, open_dataset
from headclip_med.datasets.check import DataReport, Problem, check_dataset
from headclip_med.datasets.loading import load_labelled


def _check(root: Path) -> DataReport:
    return check_dataset(open_dataset(root))


def _found(report: DataReport) -> dict[str, Problem]:
    """Problems by kind, of which there is one each."""
    kinds = {problem.kind: problem for problem in report.problems}
    assert len(kinds) == len(report.problems)
    assert all(problem.mend for problem in report.problems)
    return kinds


def _set(root: Path, rows: str) -> Path:
    """Five images and two masks with a CSV of these rows; what lies there is told by the names."""
    for seed, name in enumerate(("a", "b", "c", "d", "e")):
        put_image(root / f"{name}.png", seed=seed)
    put_image(root / "copy_of_a.png", seed=0)
    put_mask(root / "lesion.png")
    put_mask(root / "empty.png", [])
    return put_text(root / "list.csv", "image,mask,label,patient,split\n" + rows)


def test_a_good_set_has_no_problem(tmp_path: Path) -> None:
    report = _check(_set(tmp_path, "a.png,lesion.png,1,p1,train\nb.png,,0,p2,test\nc.png,empty.png,,p2,test\n"))
    assert report.ok
    assert report.problems == ()
    assert report.counts == {
        "cases": 3,
        "readable": 3,
        "unique": 3,
        "patients": 2,
        "volumes": 0,
        "images": 3,
        "normal": 2,
        "abnormal": 1,
        "unlabelled": 0,
        "with_mask": 2,
    }
    assert report.splits == {"train": 1, "test": 2}


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    report = _check(_set(tmp_path, "a.png,empty.png,1,p1,train\n"))
    content = json.loads(json.dumps(report.as_json()))
    assert content["ok"] is False
    assert content["layout"] == "csv"
    assert content["problems"] == [
        {
            "severity": "error",
            "kind": "contradiction",
            "what": "labelled abnormal, but its mask is empty: the mask decides",
            "cases": ["a"],
            "mend": "Correct the label or the mask",
        }
    ]


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    path = _set(tmp_path, "gone.png,,0,,\na.png,gone.png,,,\nbroken.png,,0,,\nb.png,broken.png,,,\nc.png,,0,,\n")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    report = _check(path)
    found = _found(report)
    assert not report.ok
    assert report.counts["readable"] == 1
    assert found["missing_file"].cases == ("gone", "a")
    assert found["missing_file"].what == "1 of its files are missing, such as gone.png"
    assert found["unreadable_image"].cases == ("broken",)
    assert found["unreadable_image"].what.startswith("the file must be a readable PNG")
    assert found["unreadable_mask"].cases == ("b",)
    assert found["unreadable_mask"].severity == "error"


def test_a_case_that_fails_unforeseen_does_not_stop_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(case: Case, *, masks_known: bool) -> LabelledVolume:
        if case.name == "01":
            raise ZeroDivisionError("/secret/path")
        return load_labelled(case, masks_known=masks_known)

    monkeypatch.setattr("headclip_med.datasets.loading.load_labelled", fail)
    report = _check(pairs_tree(tmp_path))
    problem = _found(report)["unreadable_image"]
    assert problem.cases == ("01",)
    assert "internal error (ZeroDivisionError)" in problem.what
    assert "secret" not in problem.what
    assert report.counts["readable"] == 2


def test_a_name_that_is_too_long_is_a_missing_file(tmp_path: Path) -> None:
    assert _found(_check(_set(tmp_path, f"{'n' * 300}.png,,0,,\n")))["missing_file"].severity == "error"


def test_masks_that_do_not_fit_are_gathered(tmp_path: Path) -> None:
    put_volume(tmp_path / "one" / "flair.nii.gz", seed=1)
    put_volume(tmp_path / "two" / "flair.nii.gz", seed=2)
    for name in ("one", "two"):
        put_label(tmp_path / name / "seg.nii.gz", affine=np.diag([-2.0, -1.0, 1.0, 1.0]))
    found = _found(_check(tmp_path))
    assert found["mask_grid"].cases == ("one", "two")
    assert found["mask_grid"].what == "The mask must lie on its image's grid; given: affines 1 mm apart"
    assert found["mask_grid"].mend == "Resample the mask to the image with nearest neighbours"


def test_masks_of_odd_values(tmp_path: Path) -> None:
    for number, values in enumerate((np.full(48, 255), np.full(48, 255), np.arange(48) * 5)):
        put_image(tmp_path / "images" / f"{number}.png", seed=number)
        array = values.astype(np.uint8).reshape(8, 6)
        if number == 1:
            array[0, 0] = 0
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "masks" / f"{number}.png")
    report = _check(tmp_path)
    by_case = {(problem.kind, problem.severity): problem.cases for problem in report.problems}
    assert by_case == {
        ("mask_full", "error"): ("0",),
        ("mask_full", "warning"): ("1",),
        ("mask_values", "warning"): ("2",),
    }
    assert [problem.severity for problem in report.problems] == ["error", "warning", "warning"]


def test_halves_without_the_other(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    put_image(tmp_path / "images" / "alone.png", seed=9)
    put_mask(tmp_path / "masks" / "stray.png")
    report = _check(tmp_path)
    found = _found(report)
    assert report.ok  # worth a look, but no number is wrong
    assert found["no_mask"].cases == ("alone",)
    assert found["no_label"].cases == ("alone",)
    assert found["stray_mask"].cases == ("stray.png",)


@pytest.mark.parametrize(
    ("labels", "splits", "patients", "kinds"),
    [
        (("0", "0"), ("", ""), ("p1", "p2"), {"copies": "warning"}),
        (("0", ""), ("", ""), ("p1", "p2"), {"copies": "warning", "no_label": "warning"}),
        (("0", "1"), ("", ""), ("p1", "p2"), {"copies_across_labels": "error"}),
        (("0", "0"), ("train", "test"), ("p1", "p2"), {"copies_across_splits": "error"}),
        (
            ("0", "1"),
            ("train", "test"),
            ("p1", "p1"),
            {"copies_across_labels": "error", "copies_across_splits": "error", "patients_across_splits": "error"},
        ),
    ],
)
def test_copies(
    tmp_path: Path,
    labels: tuple[str, str],
    splits: tuple[str, str],
    patients: tuple[str, str],
    kinds: dict[str, str],
) -> None:
    names = ("a.png", "copy_of_a.png")
    rows = [",".join((names[i], "", labels[i], patients[i], splits[i])) for i in range(2)]
    report = _check(_set(tmp_path, "\n".join(rows) + "\n"))
    assert {problem.kind: problem.severity for problem in report.problems} == kinds
    copies = [problem for problem in report.problems if problem.kind.startswith("copies")]
    assert {problem.cases for problem in copies} == {("a = copy_of_a",)}
    assert report.counts["unique"] == 1


def test_a_patient_in_two_splits(tmp_path: Path) -> None:
    found = _found(_check(_set(tmp_path, "a.png,,0,p1,train\nb.png,,0,p1,val\nc.png,,1,p2,val\n")))
    assert found["patients_across_splits"].cases == ("p1",)
    assert found["patients_across_splits"].mend == "Split by patient: `headclip-med data split`"


def test_progress_is_told_case_by_case(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_dataset(open_dataset(pairs_tree(tmp_path)), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_the_reader_found_odd_is_passed_on(tmp_path: Path) -> None:
    for kind, seed in (("good", 0), ("defect", 1)):
        path = put_image(tmp_path / kind / "1.png", seed=seed)
        path.rename(path.with_suffix(".jpg"))
    found = _found(_check(tmp_path))
    assert found["reader"].what == "the name promises jpeg but the content is png: read as png"
    assert found["reader"].cases == ("defect_1", "good_1")
