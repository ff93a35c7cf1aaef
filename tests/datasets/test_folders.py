"""Folders that say what is normal: which are classes, which are not, and when the user has to say it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import put_image, put_mask, put_text
from PIL import Image

from headclip_med import evaluate
from headclip_med.base.errors import InputError
from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.datasets.names import label_of, split_of
from headclip_med.evaluation import Settings


def _put(root: Path, *folders: str, count: int = 3) -> Path:
    """Three pictures, all different, in each of these folders."""
    for f, folder in enumerate(folders):
        for number in range(count):
            put_image(root / folder / f"{folder[-1]}{number}.png", seed=100 * f + number)
    return root


def _labels(dataset: CaseDataset) -> tuple[int, int]:
    counts = Counter(case.label for case in dataset)
    return counts[False], counts[True]


# --- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("no", "normal", "NORMAL", "good", "Healthy", "negative", "controls", "notumor", "no_tumor", "no tumor"),
        *("non-COVID", "NonDemented", "Uninfected", "No_DR", "no finding", "negativeOnly", "test_normal", "ok"),
        *("lesion_free", "tumor-free", "LesionFree", "tumorfree", "defect-free", "free_of_defects", "anomaly_free"),
        *("tumour_absent", "hemorrhage_absent", "Absence of stroke", "defect_none", "polyp_false", "stoneless"),
        *("no_pituitary_tumor", "without brain tumor", "not_bad", "pituitary tumor free", "no_abnormality"),
    ],
)
def test_normal_names(name: str) -> None:
    assert label_of(name) is False


@pytest.mark.parametrize(
    "name",
    [
        *("yes", "abnormal", "AbNormal", "Ungood", "tumor", "glioma_tumor", "meningioma", "pituitary", "lesion"),
        *("benign", "malignant", "positive", "COVID-19", "Viral Pneumonia", "Lung_Opacity", "MildDemented", "CNV"),
        *("abnormal_cataract", "Parasitized", "defect", "crack", "ko", "Tuberculosis", "Kidney_stone"),
        *("not_normal", "not-good", "unhealthy", "non healthy", "false_positive", "tumor_present"),
    ],
)
def test_abnormal_names(name: str) -> None:
    assert label_of(name) is True


@pytest.mark.parametrize(
    "name",
    [
        *("pred", "Br35H-Mask-RCNN", "mask", "images", "test", "0", "1", "CT-0", "patient1", "sub-01", "HGG", "nodes"),
        *(
            "MT_Free",
            "free",
            "absent",
            "none",
            "not_lesion_free",
            "non-COVID pneumonia",
            "no_normal",
            "nook",
            "not_normal_tumor",
        ),
        *("normal_vs_tumor", "brain_tumor_dataset", "noise", "nothing", "normalised", "class1", "Kidney", ""),
    ],
)
def test_names_that_say_neither(name: str) -> None:
    assert label_of(name) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"),
        ("TestDataset", "test"),
        ("trainval", "train"),
        ("Training Set", "train"),
        ("a. Training Set", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("testing_data", "test"),
        ("contest", "contest"),
        ("train_normal", "train_normal"),
        ("values", "values"),
    ],
)
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(name) == split


# --- a third folder ----------------------------------------------------------------------------------------------


def _nested_copy(root: Path) -> None:
    _put(root, "yes", "no")
    _put(root / "brain_tumor_dataset", "yes", "no")


def _predicted(root: Path) -> None:
    _put(root, "yes", "no", "pred", "Br35H-Mask-RCNN/TRAIN", "Br35H-Mask-RCNN/TEST")


def _unlabelled(root: Path) -> None:
    _put(root, "yes", "no", "unlabelled", "test")


def _masks_apart(root: Path) -> None:
    _put(root, "normal", "tumor")
    for number in range(3):
        put_mask(root / "mask" / f"r{number}_mask.png")


def _masks_by_class(root: Path) -> None:
    _put(root, "normal", "tumor")
    for number in range(3):
        put_mask(root / "masks" / "tumor" / f"r{number}.png")


def _masks_beside(root: Path) -> None:
    _put(root, "normal", "tumor")
    for number in range(3):
        put_mask(root / "tumor" / f"r{number}_mask.png")
    put_mask(root / "tumor" / "r0_mask_1.png", [(0, 0)])


def _masks_within(root: Path) -> None:
    _put(root, "normal", "abnormal/images")
    for number in range(3):
        put_mask(root / "abnormal" / "masks" / f"s{number}.png")


def _overlays(root: Path) -> None:
    _put(root, "no", "yes", "yes/overlay", "results")


def _wrapped(root: Path) -> None:
    _put(root / "chest_xray", "train/NORMAL", "train/PNEUMONIA")
    _put(root / "chest_xray" / "chest_xray", "train/NORMAL", "train/PNEUMONIA")
    _put(root / "__MACOSX", "train/NORMAL")


@pytest.mark.parametrize(
    ("make", "masks"),
    [
        (_nested_copy, 0),
        (_predicted, 0),
        (_unlabelled, 0),
        (_masks_apart, 3),
        (_masks_by_class, 3),
        (_masks_beside, 3),
        (_masks_within, 3),
        (_overlays, 0),
        (_wrapped, 0),
    ],
)
def test_a_third_folder_is_no_class(tmp_path: Path, make, masks: int) -> None:
    make(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert _labels(dataset) == (3, 3)
    assert sum(case.has_mask for case in dataset) == masks
    assert all(case.label for case in dataset if case.has_mask)
    rows = evaluate("control:intensity", dataset, settings=Settings(replicates=0)).record.models[0].cases
    assert sorted(row.label for row in rows if row.status == "done") == [False] * 3 + [True] * 3  # type: ignore[type-var]


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    _nested_copy(tmp_path)
    _put(tmp_path, "pred")
    notes = open_dataset(tmp_path).notes
    assert "6 files in brain_tumor_dataset passed over: it is no class, such as brain_tumor_dataset/no/o0.png" in notes
    assert "3 files in pred passed over: it is no class, such as pred/d0.png" in notes


@pytest.mark.parametrize("stranger", ["sarcoidosis", "crops", "0", "other"])
def test_a_folder_that_says_nothing_is_asked_for_by_name(tmp_path: Path, stranger: str) -> None:
    _put(tmp_path, "normal", "tumor", stranger)
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path)
    assert caught.value.must == "Every folder of images must say whether they are normal"
    assert caught.value.given == f"{stranger} (3 images)"
    assert "'folders:ROOT?normal=A,B&abnormal=C'" in caught.value.do
    said = open_dataset(f"folders:{tmp_path}?normal=normal&abnormal=tumor,{stranger}")
    assert _labels(said) == (3, 6)
    left = open_dataset(f"folders:{tmp_path}?normal=normal&abnormal=tumor")
    assert _labels(left) == (3, 3)
    assert any("3 files passed over" in note and stranger in note for note in left.notes)


def test_folders_of_which_none_says_anything_are_told(tmp_path: Path) -> None:
    _put(tmp_path, "0", "1")
    with pytest.raises(InputError, match=r"must say that its images are normal or abnormal; given: the folders 0, 1\."):
        open_dataset(f"folders:{tmp_path}")
    assert _labels(open_dataset(f"folders:{tmp_path}?normal=0&abnormal=1")) == (3, 3)
    with pytest.raises(InputError, match=r"must say that .* given: the folders 0, 1\."):
        open_dataset(f"folders:{tmp_path}?normal=zero")


def test_one_class_alone_is_a_set(tmp_path: Path) -> None:
    _put(tmp_path, "train_normal", "test_normal")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, _labels(dataset)) == ("folders", (6, 0))
    assert Counter(case.split for case in dataset) == {"train": 3, "test": 3}


def test_a_class_beside_splits_belongs_to_its_own(tmp_path: Path) -> None:
    _put(tmp_path, "train_normal", "test/normal", "test/abnormal_cataract")
    dataset = open_dataset(tmp_path)
    assert _labels(dataset) == (6, 3)
    assert Counter((case.split, case.label) for case in dataset) == {
        ("train", False): 3,
        ("test", False): 3,
        ("test", True): 3,
    }


def test_several_sets_below_one_folder_are_categories(tmp_path: Path) -> None:
    for organ in ("brain", "lung"):
        _put(tmp_path / organ, "normal", "tumor", count=2 if organ == "brain" else 3)
    dataset = open_dataset(tmp_path)
    assert Counter(case.category for case in dataset) == {"brain": 4, "lung": 6}


def test_black_masks_of_normal_images_are_lesion_masks(tmp_path: Path) -> None:
    _masks_beside(tmp_path)
    for number in range(3):
        put_mask(tmp_path / "normal" / f"l{number}_mask.png", [])
    dataset = open_dataset(tmp_path)
    assert sum(case.has_mask for case in dataset) == 6


def test_masks_of_organs_are_not_used(tmp_path: Path) -> None:
    for kind in ("Normal", "COVID", "Viral Pneumonia"):
        for number in range(2):
            put_image(tmp_path / kind / "images" / f"{kind}-{number}.png", seed=len(kind) * 10 + number)
            put_mask(tmp_path / kind / "masks" / f"{kind}-{number}.png")
    put_text(tmp_path / "COVID.metadata.xlsx", "")
    dataset = open_dataset(tmp_path)
    assert (_labels(dataset), dataset.has_masks) == ((2, 4), False)
    assert any(note.startswith("6 masks not used: normal images have some too") for note in dataset.notes)


def test_a_mask_without_its_image_is_no_image(tmp_path: Path) -> None:
    _masks_beside(tmp_path)
    put_mask(tmp_path / "tumor" / "gone_mask.png")
    put_mask(tmp_path / "mask" / "lost.png")
    dataset = open_dataset(tmp_path)
    assert _labels(dataset) == (3, 3)
    assert sorted(dataset.strays) == ["gone_mask.png", "lost.png"]


def test_images_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    _put(tmp_path, "yes", "no")
    put_image(tmp_path / "example.png", seed=999)
    assert "1 file passed over, neither image nor mask of a case, such as example.png" in open_dataset(tmp_path).notes


def test_options_of_another_layout_are_refused(tmp_path: Path) -> None:
    _put(tmp_path, "yes", "no")
    with pytest.raises(InputError, match=r"must be one of normal, abnormal in the layout folders; given: image"):
        open_dataset(f"folders:{tmp_path}?image=*.png")
    with pytest.raises(InputError, match=r"must be none in the layout brats; given: image"):
        open_dataset(f"brats:{tmp_path}?image=*.png")


@pytest.mark.parametrize(("photograph", "truth"), [(".jpg", ".png"), (".JPG", ".PNG"), (".jpeg", ".bmp")])
def test_masks_called_as_their_photographs_are_no_images(tmp_path: Path, photograph: str, truth: str) -> None:
    """Magnetic tiles: exp1.jpg and exp1.png in one folder; each mask was a case of its own."""
    for part, number in ((part, number) for part in ("MT_Free", "MT_Crack") for number in range(3)):
        folder = tmp_path / part / "Imgs"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (30, 40)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"exp{number}{photograph}")
        mask = np.zeros((30, 40), np.uint8)
        mask[5:10, 5:12] = 255 if part == "MT_Crack" else 0
        Image.fromarray(mask).save(folder / f"exp{number}{truth}")
    dataset = open_dataset(f"folders:{tmp_path}?normal=MT_Free&abnormal=MT_Crack")
    assert len(dataset) == 6
    assert [len(case.masks) for case in dataset if case.label] == [1, 1, 1]
    assert {case.images[0].suffix for case in dataset} == {photograph}


def test_photographs_in_two_formats_are_no_masks(tmp_path: Path) -> None:
    for part in ("normal", "tumor"):
        (tmp_path / part).mkdir()
        for number, ending in ((0, ".jpg"), (0, ".png"), (1, ".jpg")):
            noise = np.random.default_rng(number).integers(0, 255, (30, 40)).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / part / f"a{number}{ending}")
    assert not any(case.masks for case in open_dataset(f"folders:{tmp_path}"))
