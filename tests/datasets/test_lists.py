"""Sets that a file lists: AnomalyCLIP's meta.json, JSON lines, dataset.json, a CSV; and what they must not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_trees import put_array, put_image, put_json, put_label, put_mask, put_text, put_volume

from headclip_med.base.errors import InputError
from headclip_med.datasets import CaseDataset, open_dataset


def _entry(**changes: object) -> dict[str, object]:
    return {
        "img_path": "test/crack/1.png",
        "mask_path": "gt/1.png",
        "cls_name": "skull",
        "specie_name": "crack",
        "anomaly": 1,
    } | changes


# --- meta.json ---------------------------------------------------------------------------------------------------


def _meta(root: Path, *entries: dict[str, object]) -> Path:
    return put_json(root / "meta.json", {"train": {}, "test": {"skull": list(entries)}})


def test_meta(tmp_path: Path) -> None:
    normal = _entry(img_path="test/good/1.png", mask_path="", specie_name="good", anomaly=0)
    path = _meta(tmp_path, _entry(), normal)
    for place in (tmp_path, path):
        dataset = open_dataset(place)
        assert dataset.layout == "meta"
        crack, good = dataset
        assert (crack.name, crack.label, crack.category, crack.split) == ("crack_1", True, "skull", "test")
        assert crack.images == (tmp_path / "test" / "crack" / "1.png",)  # it does not exist and stays a case
        assert crack.masks == (tmp_path / "gt" / "1.png",)
        assert (good.name, good.label, good.masks) == ("good_1", False, ())


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../b.png", "C:\\scans\\1.png"])
@pytest.mark.parametrize("field", ["img_path", "mask_path"])
def test_a_json_list_cannot_name_files_elsewhere(tmp_path: Path, path: str, field: str) -> None:
    _meta(tmp_path, _entry(), _entry(**{field: path}))
    with pytest.raises(InputError, match="must lie below the folder of the list") as caught:
        open_dataset(tmp_path)
    assert caught.value.given == "meta.json, test/skull entry 2"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"test": {"skull": [{"anomaly": 1}]}}', "Every entry must name its image"),
        (
            '{"test": {"skull": [{"img_path": "a.png", "anomaly": "maybe"}]}}',
            "'maybe' in meta.json, test/skull entry 1",
        ),
        ('{"test": {"skull": 3}}', "must hold a JSON array here; given: int"),
        ('{"test": {"skull": [3]}}', "must hold a JSON object here; given: int"),
        ('{"test": [', "meta.json must be valid JSON"),
        ("[]", "meta.json must hold a JSON object here"),
    ],
)
def test_a_broken_meta_is_told(tmp_path: Path, content: str, said: str) -> None:
    put_text(tmp_path / "meta.json", content)
    with pytest.raises(InputError) as caught:
        open_dataset(f"meta:{tmp_path}")
    assert said in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


# --- jsonl -------------------------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    first = '{"image_path": "a/1.png", "label": 1, "class_name": "liver", "mask_path": "m/1.png"}'
    second = '{"image_path": "b/1.png", "label": 0.0, "class_name": "brain", "mask_path": ""}'
    path = put_text(tmp_path / "full.jsonl", f"\ufeff{first}\n\n{second}\n")
    for place in (tmp_path, path):
        dataset = open_dataset(place)
        assert dataset.layout == "jsonl"
        assert {case.name: (case.label, case.category) for case in dataset} == {
            "liver_1": (True, "liver"),
            "brain_1": (False, "brain"),
        }


def test_jsonl_names_the_line(tmp_path: Path) -> None:
    put_text(tmp_path / "full.jsonl", '{"image_path": "1.png"}\n{"image_path": "2.png", "label": "maybe"}\n')
    with pytest.raises(InputError, match=r"A label must be 0, 1, .*'maybe' in full.jsonl, line 2"):
        open_dataset(tmp_path)


# --- dataset.json ------------------------------------------------------------------------------------------------


def test_decathlon(tmp_path: Path) -> None:
    rows = [{"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"}]
    put_json(tmp_path / "dataset.json", {"modality": {"0": "CT"}, "training": rows, "test": ["./imagesTs/l_2.nii.gz"]})
    put_volume(tmp_path / "imagesTr" / "liver_1.nii.gz")
    put_label(tmp_path / "labelsTr" / "liver_1.nii.gz")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "msd"
    (case,) = dataset
    assert (case.name, case.patient, case.split, case.label) == ("liver_1", "liver_1", "train", None)
    assert dataset.load(case).gt_label is True
    assert open_dataset(tmp_path, sequences=["ct"]).cases == dataset.cases


def test_decathlon_sequences_are_volumes_of_one_file(tmp_path: Path) -> None:
    names = {"0": "T1w", "1": "FLAIR", "2": "T2w"}
    rows = [{"image": "./imagesTr/brain.nii.gz", "label": "./labelsTr/brain.nii.gz"}]
    put_json(tmp_path / "dataset.json", {"modality": names, "training": rows})
    array = np.random.default_rng(0).normal(size=(4, 5, 3, 3)).astype(np.float32)
    put_array(tmp_path / "imagesTr" / "brain.nii.gz", array)
    put_label(tmp_path / "labelsTr" / "brain.nii.gz")
    usual = open_dataset(tmp_path)
    assert usual.notes == ("channel flair is used, of t1w, flair, t2w",)
    assert np.array_equal(np.asarray(usual.load(usual[0]).volume), array[..., 1][None])
    both = open_dataset(tmp_path, sequences=["t2w", "t1w"])
    labelled = both.load(both[0])
    assert np.array_equal(np.asarray(labelled.volume), array[..., [2, 0]].transpose(3, 0, 1, 2))
    assert labelled.gt_label is True
    with pytest.raises(InputError, match="A sequence must be one of t1w, flair, t2w; given: dwi"):
        open_dataset(tmp_path, sequences=["dwi"])


def _nnunet(root: Path, channels: dict[str, str]) -> Path:
    put_json(root / "dataset.json", {"channel_names": channels, "numTraining": 1, "file_ending": ".nii.gz"})
    for number in (0, 1):
        put_volume(root / "imagesTr" / f"case_7_000{number}.nii.gz", seed=number)
    put_volume(root / "imagesTs" / "case_8_0001.nii.gz")
    put_label(root / "labelsTr" / "case_7.nii.gz")
    put_label(root / "labelsTr" / "case_9.nii.gz")
    return root


def test_nnunet(tmp_path: Path) -> None:
    dataset = open_dataset(_nnunet(tmp_path, {"0": "T1", "1": "FLAIR"}))
    assert dataset.layout == "msd"
    assert {case.name: case.split for case in dataset} == {"case_7": "train", "case_8": "test"}
    assert [path.name for path in dataset[0].images] == ["case_7_0001.nii.gz"]
    assert dataset.notes == ("channel flair is used, of t1, flair",)
    assert dataset.strays == ("case_9.nii.gz",)
    both = open_dataset(tmp_path, sequences=["flair", "t1"])
    assert [path.name for path in both[0].images] == ["case_7_0001.nii.gz", "case_7_0000.nii.gz"]
    assert both.notes == ("1 case left out: a channel is missing, such as case_8",)
    with pytest.raises(InputError, match="A sequence must be one of t1, flair; given: dwi"):
        open_dataset(tmp_path, sequences=["dwi"])


def test_channels_without_numbers_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The channels of dataset.json must be numbered; given: T1\."):
        open_dataset(_nnunet(tmp_path, {"T1": "0"}))


# --- csv ---------------------------------------------------------------------------------------------------------


def _csv(root: Path, text: str) -> CaseDataset:
    return open_dataset(put_text(root / "list.csv", text))


@pytest.mark.parametrize("separator", [",", "\t"])
def test_csv(tmp_path: Path, separator: str) -> None:
    rows = [
        ["Image", "mask", "label", "patient", "name", "category", "split", "site"],
        ["a_0.nii;a_1.nii", "sub/a.nii", "", "p1", "first", "brain", "Validation", "north"],
        [str(tmp_path / "elsewhere.png"), "", "normal", "p2", "", "brain", "train", "south"],
    ]
    dataset = _csv(tmp_path, "\ufeff" + "\n".join(separator.join(row) for row in rows) + "\n\n")
    assert (dataset.layout, dataset.name, dataset.notes) == ("csv", "list", ())
    first, second = dataset
    assert first.images == (tmp_path / "a_0.nii", tmp_path / "a_1.nii")
    assert first.masks == (tmp_path / "sub" / "a.nii",)
    assert (first.name, first.patient, first.category, first.split) == ("first", "p1", "brain", "val")
    assert (first.label, first.columns) == (None, {"site": "north"})
    assert (second.name, second.label, second.images) == ("elsewhere", False, (tmp_path / "elsewhere.png",))
    assert [case.name for case in open_dataset(tmp_path, split="valid")] == ["first"]


def test_csv_with_semicolons_and_quotation_marks(tmp_path: Path) -> None:
    dataset = _csv(tmp_path, 'image;label;remark\n"a.nii;b.nii";1;"two\nlines; and more"\n')
    assert [path.name for path in dataset[0].images] == ["a.nii", "b.nii"]
    assert dataset[0].columns == {"remark": "two\nlines; and more"}
    assert dataset.notes == ("patients are not known: every image counts as its own patient",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\na.png,0\nb.png,maybe\n", "'maybe' in list.csv, row 3"),
        ("image,label\n,0\n", "Every row must name its image; given: list.csv, row 2"),
        ("image,label\na.png,0,1\n", "at most 2 fields; given: 3 in list.csv, row 2"),
        ("image,site,site\na.png,0,1\n", "must have a name of its own"),
        ("picture,label\na.png,0\n", "must have a column image; given: list.csv with picture, label"),
        ("", "must have a column image"),
        ("image,label\na.png," + "x" * 200_000 + "\n", "must be a readable CSV; given: line 2: field larger"),
        ("image\n", "at least one case"),
    ],
)
def test_a_broken_csv_is_told(tmp_path: Path, text: str, said: str) -> None:
    put_text(tmp_path / "list.csv", text)
    with pytest.raises(InputError) as caught:
        open_dataset(f"csv:{tmp_path / 'list.csv'}")
    assert said in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_list_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"image\n\xff\xfe\x00")
    with pytest.raises(InputError, match=r"readable text file in UTF-8; given: list.csv\."):
        open_dataset(f"csv:{tmp_path}")


def test_what_a_list_names_is_read(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    put_mask(tmp_path / "m.png", [(0, 7)])
    dataset = _csv(tmp_path, "image,mask\na.png,m.png\n")
    truth = dataset.load(dataset[0]).gt_mask
    assert truth is not None
    assert truth[0, 7, 0]
    assert truth.sum() == 1


# --- names and labels --------------------------------------------------------------------------------------------


def _named(root: Path, header: str, *cells: str) -> Path:
    for number in range(len(cells)):
        put_image(root / "imgs" / f"{number}.png", seed=number)
    put_text(root / "labels.csv", "\n".join([header, *(f"{number},{cell}" for number, cell in enumerate(cells))]))
    return root


@pytest.mark.parametrize(
    ("column", "cells", "one"),
    [
        *((name, "0 1", "normal") for name in ("healthy", "Normal", "is_normal", "benign", "negative", "good")),
        *(
            (name, "0 1", "normal")
            for name in ("control", "no_tumor", "tumor_free", "healthy control", "label (1=normal)")
        ),
        ("Healthy", "no yes", "normal"),
        ("normal", "False True", "normal"),
        *((name, "0 1", "abnormal") for name in ("hemorrhage", "label", "Target", "y", "abnormal", "is_sick")),
        *((name, "0 1", "abnormal") for name in ("covid_positive", "not_normal", "image_label", "binary label")),
        ("result", "negative positive", "abnormal"),
        ("tumor", "n y", "abnormal"),
        ("male", "normal tumor", "abnormal"),  # the cells say it themselves
        ("healthy", "normal tumor", "abnormal"),
    ],
)
def test_a_column_of_labels_means_what_it_is_called(tmp_path: Path, column: str, cells: str, one: str) -> None:
    zero, other = cells.split()
    dataset = open_dataset(_named(tmp_path, f"id,{column}", zero, other, other))
    assert dataset.layout == "csv"
    assert [case.label for case in dataset] == ([True, False, False] if one == "normal" else [False, True, True])
    means = "" if zero == "normal" else f": 1 is {one}"
    assert dataset.notes[0] == f"labels from the column {column} of labels.csv{means}"
    kind = other if zero == "normal" else column if one == "abnormal" else ""
    assert {case.columns.get("kind", "") for case in dataset} == {"", kind}


@pytest.mark.parametrize("given", ["{}", "csv:{}", "{}/labels.csv"])
@pytest.mark.parametrize(
    "column", ["male", "age,male", "fold", "contrast", "left", "contrast_positive", "quality good", "cancer history"]
)
def test_a_column_that_says_neither_is_asked_about(tmp_path: Path, column: str, given: str) -> None:
    ages = ["40,"] if "," in column else [""]
    _named(tmp_path, f"id,{column}", *(f"{age}{number % 2}" for number in range(4) for age in ages))
    with pytest.raises(InputError, match=f"labels.csv must say by its name .* given: {column.split(',')[-1]}"):
        open_dataset(given.format(tmp_path))


def test_of_two_columns_the_one_that_says_it_counts(tmp_path: Path) -> None:
    dataset = open_dataset(_named(tmp_path, "id,male,healthy", "0,1", "1,0", "1,1"))
    assert [case.label for case in dataset] == [False, True, False]


def test_a_table_of_patients_beside_class_folders_says_nothing(tmp_path: Path) -> None:
    for number, kind in enumerate(("yes", "no")):
        put_image(tmp_path / kind / f"{number}.png", seed=number)
    put_text(tmp_path / "patients.csv", "id,male\n0,0\n1,1\n")
    assert open_dataset(tmp_path).layout == "folders"
