"""Every folder layout: what is recognised, and which cases, labels, masks, patients and splits are in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_trees import pairs_tree, put_image, put_label, put_mask, put_text, put_volume

from headclip_med.base.errors import InputError
from headclip_med.datasets import CaseDataset, open_dataset


def _names(dataset: CaseDataset) -> list[str]:
    return [case.name for case in dataset]


def _files(dataset: CaseDataset) -> dict[str, list[str]]:
    return {case.name: [path.name for path in case.images] for case in dataset}


# --- brats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "flair", "t1c", "seg", "patient"),
    [
        ("BraTS20_Training_001", "{}_flair", "{}_t1ce", "{}_seg", "BraTS20_Training_001"),
        ("BraTS-GLI-00001-000", "{}-t2f", "{}-t1c", "{}-seg", "BraTS-GLI-00001"),
        ("TCGA-DU-7294", "{}-t2f", "{}-t1c", "{}-seg", "TCGA-DU-7294"),
        ("patient07", "flair", "t1ce", "seg", "patient07"),
    ],
)
def test_brats_names_old_new_and_bare(tmp_path: Path, case: str, flair: str, t1c: str, seg: str, patient: str) -> None:
    files = {name: f"{text.format(case)}.nii.gz" for name, text in (("flair", flair), ("t1c", t1c), ("seg", seg))}
    put_volume(tmp_path / "set" / case / files["flair"])
    put_volume(tmp_path / "set" / case / files["t1c"])
    put_label(tmp_path / "set" / case / files["seg"])
    for place in (tmp_path / "set", tmp_path / "set" / case):  # the set, and one case folder itself
        dataset = open_dataset(place)
        assert dataset.layout == "brats"
        (found,) = dataset
        assert (found.name, found.patient, found.label) == (case, patient, None)
        assert [path.name for path in found.images] == [files["flair"]]
        assert [path.name for path in found.masks if path] == [files["seg"]]
        assert dataset.notes[0] == "sequence t2f is used, of t2f, t1c"
    both = open_dataset(f"brats:{tmp_path / 'set'}", sequences=["t1ce", "FLAIR"])
    assert [path.name for path in both[0].images] == [files["t1c"], files["flair"]]


def test_brats_two_time_points_are_one_patient(tmp_path: Path) -> None:
    for case in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001"):
        put_volume(tmp_path / case / f"{case}-t2f.nii.gz")
    assert [case.patient for case in open_dataset(tmp_path)] == ["BraTS-GLI-00005"] * 2


def test_brats_without_flair_everywhere_takes_what_all_have(tmp_path: Path) -> None:
    put_volume(tmp_path / "a" / "a_flair.nii.gz")
    put_volume(tmp_path / "a" / "a_t1.nii.gz")
    put_volume(tmp_path / "b" / "b_t1.nii")
    dataset = open_dataset(tmp_path)
    assert _files(dataset) == {"a": ["a_t1.nii.gz"], "b": ["b_t1.nii"]}
    assert "2 cases without a mask, and so without truth, such as a" in dataset.notes
    assert not dataset.has_masks
    flair = open_dataset(tmp_path, sequences=["flair"])
    assert _names(flair) == ["a"]
    assert "1 case left out: not every one of t2f is there, such as b" in flair.notes


def test_brats_in_grades_as_until_2019(tmp_path: Path) -> None:
    put_volume(tmp_path / "HGG" / "one" / "one_flair.nii.gz")
    put_volume(tmp_path / "LGG" / "two" / "two_flair.nii.gz")
    assert _names(open_dataset(tmp_path)) == ["one", "two"]


def test_a_sequence_that_no_case_has_is_refused(tmp_path: Path) -> None:
    put_volume(tmp_path / "a" / "a_flair.nii.gz")
    with pytest.raises(InputError, match=r"A sequence must be one of t2f; given: dwi\."):
        open_dataset(tmp_path, sequences=["dwi"])


# --- pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks", "mask_name", "split"),
    [
        ("images", "masks", "a.png", ""),
        ("image", "mask", "a_mask.png", ""),
        ("Images", "ground_truth", "a_segmentation.png", ""),
        ("original", "Ground Truth", "A-mask.bmp", ""),
        ("test-image", "test-mask", "a.jpg", "test"),
    ],
)
def test_pairs(tmp_path: Path, images: str, masks: str, mask_name: str, split: str) -> None:
    put_image(tmp_path / images / "a.tif")
    put_mask(tmp_path / masks / mask_name)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "pairs"
    (case,) = dataset
    assert (case.name, case.label, case.patient, case.split) == ("a", None, "", split)
    assert case.masks[0] is not None
    assert case.masks[0].name == mask_name
    assert dataset.notes == ("patients are not known: every image counts as its own patient",)


def test_pairs_that_lack_one_half(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    put_image(tmp_path / "images" / "alone.png")
    put_mask(tmp_path / "masks" / "stray.png")
    dataset = open_dataset(tmp_path)
    assert [case.name for case in dataset if not case.has_mask] == ["alone"]
    assert dataset.strays == ("stray.png",)


def test_tn3k_has_both_splits(tmp_path: Path) -> None:
    for split in ("trainval", "test"):
        put_image(tmp_path / f"{split}-image" / "0000.jpg")
        put_mask(tmp_path / f"{split}-mask" / "0000.png")
    dataset = open_dataset(tmp_path)
    assert {case.name: case.split for case in dataset} == {"0000_train": "train", "0000_test": "test"}
    assert _names(open_dataset(tmp_path, split="test")) == ["0000_test"]


# --- folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normal", "abnormal"),
    [("no", "yes"), ("good", "Ungood"), ("normal", "abnormal"), ("NORMAL", "COVID"), ("good", "defect")],
)
def test_folders(tmp_path: Path, normal: str, abnormal: str) -> None:
    put_image(tmp_path / normal / "1.png")
    put_image(tmp_path / abnormal / "1.jpg", seed=1)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert {case.name: case.label for case in dataset} == {f"{normal}_1": False, f"{abnormal}_1": True}
    assert not dataset.has_masks
    kinds = {case.columns.get("kind") for case in dataset if case.label}
    assert kinds == ({"COVID"} if abnormal == "COVID" else {None})


def test_folders_below_splits(tmp_path: Path) -> None:
    for split in ("train", "Test"):
        for kind in ("healthy", "glioma", "meningioma"):
            put_image(tmp_path / split / kind / "1.png")
    dataset = open_dataset(tmp_path)
    assert sorted({case.split for case in dataset}) == ["test", "train"]
    assert _names(open_dataset(tmp_path, split="test")) == ["glioma_1_test", "healthy_1_test", "meningioma_1_test"]


def test_masks_of_lungs_are_no_images(tmp_path: Path) -> None:
    for kind in ("NORMAL", "COVID"):
        put_image(tmp_path / kind / "images" / "1.png")
        put_mask(tmp_path / kind / "masks" / "1.png")
    dataset = open_dataset(tmp_path)
    assert _names(dataset) == ["COVID_1", "NORMAL_1"]
    said = "2 masks not used: normal images have some too, so they show no lesions, such as COVID/masks/1.png"
    assert said in dataset.notes
    assert not dataset.has_masks


# --- mvtec -------------------------------------------------------------------------------------------------------


def _mvtec(root: Path) -> Path:
    put_image(root / "train" / "good" / "000.png")
    put_image(root / "test" / "good" / "000.png", seed=1)
    put_image(root / "test" / "crack" / "000.png", seed=2)
    put_mask(root / "ground_truth" / "crack" / "000_mask.png")
    put_mask(root / "ground_truth" / "crack" / "009_mask.png")
    return root


def test_mvtec_one_object(tmp_path: Path) -> None:
    dataset = open_dataset(_mvtec(tmp_path / "skull"))
    assert dataset.layout == "mvtec"
    by_name = {case.name: case for case in dataset}
    assert sorted(by_name) == ["crack_000", "good_000_test", "good_000_train"]
    crack = by_name["crack_000"]
    assert (crack.label, crack.split, crack.category, crack.columns["kind"]) == (True, "test", "skull", "crack")
    assert [mask.name for mask in crack.masks if mask] == ["000_mask.png"]
    assert [by_name[f"good_000_{split}"].label for split in ("train", "test")] == [False, False]
    assert dataset.strays == ("009_mask.png",)


def test_mvtec_several_objects(tmp_path: Path) -> None:
    for name in ("skull", "tooth"):
        _mvtec(tmp_path / name)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 6
    assert _names(open_dataset(tmp_path, category="tooth", split="test")) == ["tooth_crack_000", "tooth_good_000_test"]


# --- bmad --------------------------------------------------------------------------------------------------------


def test_bmad_slices_become_volumes_again(tmp_path: Path) -> None:
    for number in (9, 10):
        put_image(tmp_path / "test" / "good" / "img" / f"BraTS2021_00003_{number}.png", seed=number)
    put_image(tmp_path / "test" / "Ungood" / "img" / "BraTS2021_00003_8.png", seed=8)
    put_mask(tmp_path / "test" / "Ungood" / "anomaly_mask" / "BraTS2021_00003_8.png")
    put_image(tmp_path / "valid" / "good" / "img" / "00000057_82.png", seed=20)
    put_image(tmp_path / "valid" / "good" / "img" / "00000057_85.png", seed=21)
    put_image(tmp_path / "valid" / "good" / "img" / "00000057_86.png", seed=22)
    put_image(tmp_path / "train" / "good" / "img" / "plain.png", seed=30)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "bmad"
    by_name = {case.name: case for case in dataset}
    assert sorted(by_name) == ["00000057", "BraTS2021_00003", "plain"]
    case = by_name["BraTS2021_00003"]
    assert [path.name for path in case.images] == [f"BraTS2021_00003_{number}.png" for number in (8, 9, 10)]
    assert [mask is not None for mask in case.masks] == [True, False, False]
    assert (case.stacked, case.label, case.patient, case.split) == (True, True, "BraTS2021_00003", "test")
    assert (by_name["00000057"].label, by_name["00000057"].split) == (False, "val")
    assert not by_name["plain"].stacked
    assert dataset.notes == ("00000057 (val): slice numbers have gaps; what there is stands one after the other",)


def test_bmad_slices_that_are_doubtful_are_noted(tmp_path: Path) -> None:
    for kind in ("good", "Ungood"):
        put_image(tmp_path / "test" / kind / "img" / "7_1.png")
    put_image(tmp_path / "test" / "Ungood" / "img" / "7_2.png")
    put_mask(tmp_path / "test" / "Ungood" / "label" / "7_2.png")
    put_mask(tmp_path / "test" / "Ungood" / "label" / "7_3.png")
    dataset = open_dataset(tmp_path)
    assert dataset.notes == (
        "7 (test): a slice number occurs twice",
        "7 (test): 1 abnormal slices have no mask and count as without lesion",
    )
    assert dataset.strays == ("7_3.png",)


def test_bmad_without_masks_keeps_single_images_but_their_patients(tmp_path: Path) -> None:
    for kind, number in (("good", 1), ("good", 2), ("Ungood", 3)):
        put_image(tmp_path / "test" / kind / "img" / f"eye4_{number}.png", seed=number)
    dataset = open_dataset(tmp_path)
    assert {case.name: case.label for case in dataset} == {"eye4_1": False, "eye4_2": False, "eye4_3": True}
    assert {case.patient for case in dataset} == {"eye4"}
    assert "no masks: every image is a case, and images are not stacked to volumes" in dataset.notes


# --- bids --------------------------------------------------------------------------------------------------------


def test_bids(tmp_path: Path) -> None:
    put_text(tmp_path / "dataset_description.json", "{}")
    put_volume(tmp_path / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    put_volume(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    put_volume(tmp_path / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_FLAIR.nii.gz")
    put_volume(tmp_path / "sub-02" / "ses-b" / "anat" / "sub-02_ses-b_T1w.nii.gz")
    derived = tmp_path / "derivatives" / "lesions" / "sub-01" / "anat"
    put_label(derived / "sub-01_desc-brain_mask.nii.gz")  # comes first, and is no lesion
    put_label(derived / "sub-01_label-lesion_mask.nii.gz")
    put_label(tmp_path / "derivatives" / "x" / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_dseg.nii.gz")
    put_label(tmp_path / "derivatives" / "x" / "sub-03" / "anat" / "sub-03_label-lesion_mask.nii.gz")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "bids"
    assert {case.name: case.patient for case in dataset} == {"sub-01": "sub-01", "sub-02_ses-a": "sub-02"}
    masks = [mask.name for case in dataset for mask in case.masks if mask]
    assert masks == ["sub-01_label-lesion_mask.nii.gz", "sub-02_ses-a_dseg.nii.gz"]
    assert dataset.notes == (
        "sequence FLAIR is used, of FLAIR, T1w",
        "1 case left out: no FLAIR, such as sub-02_ses-b",
        "1 file passed over, neither image nor mask of a case, such as derivatives/lesions/sub-01/anat/"
        "sub-01_desc-brain_mask.nii.gz",
    )
    assert dataset.strays == ("sub-03_label-lesion_mask.nii.gz",)
    both = open_dataset(tmp_path, sequences=["t1w", "flair"])
    assert _files(both) == {"sub-01": ["sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"]}


def test_bids_says_what_it_chose(tmp_path: Path) -> None:
    for run in (1, 2):
        put_volume(tmp_path / "sub-01" / "anat" / f"sub-01_run-{run}_T2w.nii.gz")
        put_label(tmp_path / "derivatives" / "r" / "sub-01" / f"sub-01_run-{run}_label-lesion_mask.nii.gz")
    dataset = open_dataset(tmp_path)
    assert [mask.name for mask in dataset[0].masks if mask] == ["sub-01_run-1_label-lesion_mask.nii.gz"]
    assert dataset.notes == (
        "1 file passed over: another run or space of the same suffix is used, such as sub-01/anat/"
        "sub-01_run-2_T2w.nii.gz",
        "1 mask further of a case not used, such as derivatives/r/sub-01/sub-01_run-2_label-lesion_mask.nii.gz",
    )
    with pytest.raises(InputError, match="A sequence must be one of T2w; given: dwi"):
        open_dataset(tmp_path, sequences=["dwi"])


def _bids_masks(root: Path, *files: str) -> dict[str, list[str]]:
    """Masks of each case of a set of two subjects with two sessions each; the files are masks."""
    for subject in ("sub-01", "sub-02"):
        for session in ("ses-1", "ses-2"):
            name = f"{subject}_{session}_FLAIR.nii.gz"
            put_volume(root / subject / session / "anat" / name, seed=len(name) + int(subject[-1] + session[-1]))
    for file in files:
        put_label(root / file)
    dataset = open_dataset(f"bids:{root}")
    assert len(dataset) == 4
    return {case.name: [mask.name for mask in case.masks if mask] for case in dataset if case.has_mask}


@pytest.mark.parametrize(
    "file",
    [
        "sub-01/ses-1/anat/sub-01_ses-1_label-L_desc-T1lesion_mask.nii.gz",  # beside the image
        "sub-01/ses-1/anat/sub-01_ses-1_label-lesion_roi.nii.gz",
        "derivatives/sub-01/ses-1/sub-01_ses-1_msk.nii.gz",
        "derivatives/lesions/sub-01/ses-1/anat/sub-01_ses-1_desc-lesion_mask.nii.gz",
        "derivatives/manual/deep/er/sub-01/ses-1/anat/sub-01_ses-1_FLAIR_lesion_mask.nii.gz",
        "derivatives/nnunet/sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-WMH_dseg.nii.gz",
    ],
)
def test_bids_masks_are_found_wherever_they_lie(tmp_path: Path, file: str) -> None:
    assert _bids_masks(tmp_path, file) == {"sub-01_ses-1": [file.rpartition("/")[2]]}


@pytest.mark.parametrize(
    "file",
    [
        "derivatives/prep/sub-01/ses-1/anat/sub-01_ses-1_desc-brain_mask.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_label-regmask_mask.nii.gz",
        "derivatives/prep/sub-01/ses-1/anat/sub-01_ses-1_label-GM_probseg.nii.gz",
        "derivatives/fs/sub-01/ses-1/anat/sub-01_ses-1_desc-aseg_dseg.nii.gz",
        "derivatives/lesions/sub-03/ses-1/anat/sub-03_ses-1_label-lesion_mask.nii.gz",
    ],
)
def test_bids_masks_of_anatomy_and_of_nobody_are_not(tmp_path: Path, file: str) -> None:
    assert _bids_masks(tmp_path, file) == {}


def test_a_bids_mask_belongs_to_its_session_and_its_space(tmp_path: Path) -> None:
    start = "derivatives/lesions/sub-01/ses-2/anat/sub-01_ses-2"
    masks = _bids_masks(
        tmp_path,
        f"{start}_space-MNI152NLin2009cAsym_label-lesion_mask.nii.gz",
        f"{start}_label-lesion_mask.nii.gz",
        "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz",  # of which session nobody can tell
    )
    assert masks["sub-01_ses-2"][0] == "sub-01_ses-2_label-lesion_mask.nii.gz"
    assert "sub-02_ses-1" not in masks
    dataset = open_dataset(f"bids:{tmp_path}")
    assert dataset.strays == ("sub-02_label-lesion_mask.nii.gz",)
    assert any(note.startswith("1 mask further of a case not used") for note in dataset.notes)


def test_a_bids_mask_without_session_belongs_to_the_only_one(tmp_path: Path) -> None:
    put_volume(tmp_path / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz")
    put_volume(tmp_path / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_bold.nii.gz", seed=1)
    put_label(tmp_path / "derivatives" / "sub-01" / "sub-01_label-lesion_mask.nii.gz")
    (case,) = open_dataset(tmp_path)
    assert (case.name, case.has_mask, case.images[0].name) == ("sub-01_ses-1", True, "sub-01_ses-1_T1w.nii.gz")
