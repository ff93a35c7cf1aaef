"""Which values of masks are lesion: as a set's own names say, as the user says, as the layout knows, or asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import put_array, put_image, put_json, put_label, put_mask, put_text, put_volume
from PIL import Image
from typer.testing import CliRunner, Result

from headclip_med import evaluate
from headclip_med.base.errors import InputError
from headclip_med.cli.main import app
from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.datasets.check import check_dataset
from headclip_med.datasets.fingerprints import fingerprint_case, take_inventory
from headclip_med.datasets.values import values_of_labels
from headclip_med.evaluation import Settings

SHAPE = (8, 8, 6)
QUICK = Settings(replicates=0)


def _label(**places: tuple[slice, ...]) -> np.ndarray:
    """A label volume with these values (``v1``, ``v2``, …) at these places, later ones on top."""
    array = np.zeros(SHAPE, dtype=np.int16)
    for value, place in places.items():
        array[place] = int(value[1:])
    return array


ORGAN, TUMOUR = np.s_[1:7, 1:7, 1:5], np.s_[2:4, 2:4, 2:4]


def _volume(path: Path, seed: int) -> Path:
    return put_array(path, np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32))


def _decathlon(root: Path, labels: object, *masks: np.ndarray) -> Path:
    rows = []
    for number, mask in enumerate(masks):
        _volume(root / "imagesTr" / f"liver_{number}.nii.gz", number)
        put_array(root / "labelsTr" / f"liver_{number}.nii.gz", mask)
        rows.append({"image": f"./imagesTr/liver_{number}.nii.gz", "label": f"./labelsTr/liver_{number}.nii.gz"})
    put_json(root / "dataset.json", {"modality": {"0": "CT"}, "labels": labels, "training": rows, "test": []})
    return root


def _nnunet(root: Path, labels: object, *masks: np.ndarray) -> Path:
    for number, mask in enumerate(masks):
        _volume(root / "imagesTr" / f"x_{number:03}_0000.nii.gz", number)
        put_array(root / "labelsTr" / f"x_{number:03}.nii.gz", mask)
    facts = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(masks), "file_ending": ".nii.gz"}
    put_json(root / "dataset.json", facts)
    return root


def _truths(dataset: CaseDataset) -> list[tuple[int, bool | None, int]]:
    """Lesion voxels, label and ignored voxels of every case."""
    found = [dataset.load(case) for case in dataset]
    return [
        (int(f.gt_mask.sum()), f.gt_label, 0 if f.ignored is None else int(f.ignored.sum()))  # type: ignore[union-attr]
        for f in found
    ]


# --- names in dataset.json ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [_decathlon, _nnunet])
@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "liver", "2": "cancer"},  # the Decathlon, nnU-Net v1
        {"background": 0, "liver": 1, "tumour": 2},  # nnU-Net v2
        {"background": "0", "kidney": "1", "renal mass": "2"},
        {"background": 0, "pancreas": [1, 2], "pancreatic cyst": [2]},  # regions
        ["background", "lung", "nodule"],
    ],
)
def test_an_organ_is_no_lesion(tmp_path: Path, make, labels: object) -> None:
    both = _label(v1=ORGAN, v2=TUMOUR)
    dataset = open_dataset(make(tmp_path, labels, both, _label(v1=ORGAN)))
    assert dataset.layout == "msd"
    assert _truths(dataset) == [(8, True, 0), (0, False, 0)]
    report = check_dataset(dataset)
    assert report.ok
    assert [report.mask_values[value]["means"] for value in ("1", "2")] == ["no lesion", "lesion"]
    assert [report.mask_values[value]["cases"] for value in ("1", "2")] == [2, 1]
    assert any(note.startswith("values of the masks: lesion: 2 ") for note in report.notes)


@pytest.mark.parametrize("name", ["ignore", "Ignore label", "other pathology", "unlabelled", "resection cavity (RC)"])
def test_ignored_voxels_are_neither(tmp_path: Path, name: str) -> None:
    far = np.s_[:, :, 5:]
    root = _nnunet(tmp_path, {"background": 0, "lesion": 1, name: 2}, _label(v2=far, v1=TUMOUR), _label(v2=far))
    assert _truths(open_dataset(root)) == [(8, True, 64), (0, False, 64)]


@pytest.mark.parametrize(
    ("labels", "lesion", "ignored"),
    [
        ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}, (1, 2, 3), ()),
        ({"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, (2, 3), ()),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "resection cavity": 4}, (1, 2, 3), (4,)),
        ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}, (1, 2, 3), ()),
        ({"0": "background", "1": "colon cancer primaries"}, (1,), ()),
        ({"background": 0, "white matter hyperintensities": 1, "ignore": 2}, (1,), (2,)),
        ({"background": 0, "necrotic/non-enhancing tumor core": 1, "oedema and tumour": 2}, (1, 2), ()),
        ({"background": 0, "label": 1}, (1,), ()),  # one label whose name says nothing
        ({"background": 0, "1": 1}, (1,), ()),
        ({"0": "background", "1": "non-tumor tissue", "2": "tumor"}, (2,), ()),
    ],
)
def test_names_of_labels(labels: object, lesion: tuple[int, ...], ignored: tuple[int, ...]) -> None:
    found = values_of_labels(labels, "dataset.json")
    assert (found.lesion, found.ignored) == (lesion, ignored)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ({"0": "background", "1": "spleen"}, "1 spleen"),  # an organ alone
        ({"0": "background", "1": "PZ", "2": "TZ"}, "1 PZ, 2 TZ"),
        ({"background": 0, "frobnia": 1, "tumour": 2}, "1 frobnia, 2 tumour"),  # nobody knows what that is
        ({"background": 0, "kidney and masses": [1, 2], "masses": [2]}, "1 kidney and masses, 2 masses"),
        ({"background": 0, "1": 1, "2": 2}, "1 1, 2 2"),
    ],
)
def test_what_names_do_not_say_is_asked_for_with_the_names(tmp_path: Path, labels: object, shown: str) -> None:
    root = _decathlon(tmp_path, labels, _label(v1=ORGAN, v2=TUMOUR))
    with pytest.raises(InputError) as caught:
        open_dataset(root)
    assert caught.value.given == shown
    assert "--lesion-values 2,4" in caught.value.do
    assert _truths(open_dataset(root, lesion_values=2)) == [(8, True, 0)]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("liver", "must be a JSON object; given: str"),
        ({"liver": "one"}, "must be whole numbers with names; given: liver: one"),
        ({"liver": []}, "must be whole numbers with names; given: liver: []"),
        ({"liver": None}, "given: liver: None"),
        ({"liver": True}, "given: liver: True"),
        ({"liver": [[1]]}, "given: liver: [[1]]"),
        ({"lesion": 99999999999}, "given: lesion: 99999999999"),
        (5, "must be a JSON object; given: int"),
    ],
)
def test_broken_labels_are_told(tmp_path: Path, labels: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset(_decathlon(tmp_path, labels, _label(v1=ORGAN)))
    assert said in str(caught.value)


def test_a_value_that_the_set_does_not_name_is_an_error_of_the_case(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": 1, "tumour": 2}
    root = _nnunet(tmp_path, labels, _label(v1=ORGAN, v2=TUMOUR), _label(v1=ORGAN, v3=TUMOUR))
    report = check_dataset(open_dataset(root))
    (problem,) = (problem for problem in report.problems if problem.severity == "error")
    assert (problem.kind, problem.cases) == ("unreadable_mask", ("x_001",))
    assert "no values but those that the set names (1 liver, 2 tumour); given: 3" in problem.what
    assert _truths(open_dataset(root, lesion_values="2,3")) == [(8, True, 0), (8, True, 0)]


# --- chosen by the user ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "voxels"),
    [("2", 8), (2, 8), ([2], 8), ("1", 136), ("1,2", 144), ([1, 2], 144), ("all", 144), ("cancer", 8), ("0", 240)],
)
def test_values_are_chosen_by_number_name_or_all(tmp_path: Path, chosen: object, voxels: int) -> None:
    labels = {"0": "background", "1": "liver", "2": "cancer"}
    root = _decathlon(tmp_path, labels, _label(v1=ORGAN, v2=TUMOUR))
    assert [found[0] for found in _truths(open_dataset(root, lesion_values=chosen))] == [voxels]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "tumor bearing kidney",
            "peritumoral tissue",
            "perilesional zone",
            "uninfected lung",
            "unaffected",
            "tumor bed",
        ),
        *(
            "benign tissue",
            "contrast enhancing vessels",
            "muscle mass",
            "anti-tumor margin",
            "cancer-associated stroma",
        ),
        *("pre-tumor", "pneumothorax", "diseased kidney", "margin of the tumour"),
    ],
)
def test_what_lies_around_a_lesion_or_has_one_is_asked_about(name: str) -> None:
    assert values_of_labels({"background": 0, name: 1, "tumour": 2}, "dataset.json").lesion is None
    assert values_of_labels({"background": 0, name: 1}, "dataset.json").lesion is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "liver tumor",
            "renal mass",
            "pancreatic cyst",
            "tumor in the liver",
            "Lesion of kidney",
            "peritumoral edema",
        ),
        *(
            "non-enhancing tumor core",
            "tumor_left",
            "lesion 1",
            "GTVp",
            "metastatic lymph nodes",
            "infected area",
            "ED",
        ),
        *("ground glass opacity", "COVID-19 infection", "extradural hematoma", "parathyroid adenoma", "NCR/NET"),
    ],
)
def test_a_lesion_is_a_lesion_wherever_it_lies(name: str) -> None:
    assert values_of_labels({"background": 0, "liver": 1, name: 2}, "dataset.json").lesion == (2,)


@pytest.mark.parametrize("name", ["nonlesion", "non_lesion", "non tumor", "tumor-free", "no lesion"])
def test_without_a_lesion_is_no_lesion(name: str) -> None:
    assert values_of_labels({"background": 0, name: 1, "tumour": 2}, "dataset.json").lesion == (2,)


@pytest.mark.parametrize(("chosen", "ignored"), [("liver", 64 + 136), ("1", 64 + 136), ("3", 64), ([1, 3], 64 + 136)])
def test_what_a_set_ignores_stays_ignored_beside_what_the_user_does(
    tmp_path: Path, chosen: object, ignored: int
) -> None:
    labels = {"background": 0, "liver": 1, "tumor": 2, "ignore": 3}
    root = _nnunet(tmp_path, labels, _label(v1=ORGAN, v2=TUMOUR, v3=np.s_[:, :, 5:]))
    dataset = open_dataset(root, ignore_values=chosen)  # type: ignore[arg-type]
    assert _truths(dataset) == [(8, True, ignored)]
    assert "3 ignore" in dataset.notes[0].partition("ignored: ")[2]


def test_chosen_values_beat_what_is_ignored(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    root = _nnunet(tmp_path, labels, _label(v2=ORGAN, v1=TUMOUR))
    assert _truths(open_dataset(root, lesion_values="1,2")) == [(144, True, 0)]
    assert _truths(open_dataset(root, lesion_values="1")) == [(8, True, 136)]
    assert _truths(open_dataset(root, lesion_values="2", ignore_values="1")) == [(136, True, 8)]


def test_an_ignored_value_need_not_have_a_name(tmp_path: Path) -> None:
    root = _nnunet(tmp_path, {"background": 0, "lesion": 1}, _label(v255=ORGAN, v1=TUMOUR))
    assert _truths(open_dataset(root, ignore_values=255)) == [(8, True, 136)]


@pytest.mark.parametrize(
    ("lesion", "ignored", "said"),
    [
        ("", None, "The lesion values must be named; given: nothing"),
        ("2,,4", None, "The lesion values must be named; given: 2,,4"),
        ("tumour", None, "a colour such as #ff0000, or one of the names liver, cancer; given: tumour"),
        ("2.5", None, "given: 2.5"),
        ("#ff", None, "given: #ff"),
        ("1,2", "2", "must be lesion or ignored, not both; given: 2 cancer"),
        (None, "x", "given: x"),
        (2.5, None, "given: 2.5"),
        ([], None, "The lesion values must be named; given: nothing"),
        (True, None, "given: True"),
        ("99999999999", None, "must be a whole number below 16777216"),
    ],
)
def test_wrong_choices_are_told(tmp_path: Path, lesion: object, ignored: object, said: str) -> None:
    root = _decathlon(tmp_path, {"1": "liver", "2": "cancer"}, _label(v1=ORGAN, v2=TUMOUR))
    with pytest.raises(InputError) as caught:
        open_dataset(root, lesion_values=lesion, ignore_values=ignored)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_a_chosen_value_that_no_mask_holds_is_told(tmp_path: Path) -> None:
    dataset = open_dataset(_decathlon(tmp_path, {"1": "liver", "2": "cancer"}, _label(v1=ORGAN)), lesion_values=7)
    with pytest.raises(InputError, match=r"Some mask must hold a lesion value \(7\); given: the values 1 liver"):
        take_inventory([fingerprint_case(dataset, case) for case in dataset])
    (problem,) = (problem for problem in check_dataset(dataset).problems if problem.kind == "mask_meaning")
    assert problem.severity == "error"


# --- asked for where nothing knows -------------------------------------------------------------------------------


def _kits(root: Path, *masks: np.ndarray) -> Path:
    for number, mask in enumerate(masks):
        _volume(root / f"case_{number:05}" / "imaging.nii.gz", number)
        put_array(root / f"case_{number:05}" / "segmentation.nii.gz", mask)
    return root


def test_values_that_nobody_names_are_asked_for_before_a_number_is_given(tmp_path: Path) -> None:
    root = _kits(tmp_path / "set", _label(v1=ORGAN, v2=TUMOUR), _label(v1=ORGAN))  # the second has but an organ
    dataset = open_dataset(root)
    report = check_dataset(dataset)
    assert not report.ok
    (problem,) = report.problems[:1]
    assert (problem.kind, problem.cases) == ("mask_meaning", ("case_00000", "case_00001"))
    assert problem.what == "It must be known which values of the masks are lesions; given: 1, 2"
    assert {facts["means"] for facts in report.mask_values.values()} == {"not known"}
    with pytest.raises(InputError, match="which values of the masks are lesions; given: 1, 2"):
        evaluate("control:intensity", dataset, tmp_path / "out", settings=QUICK)
    done = evaluate("control:intensity", open_dataset(root, lesion_values=2), settings=QUICK)
    assert [row.label for row in done.record.models[0].cases] == [True, False]


@pytest.mark.parametrize(
    ("values", "asked"),
    [((1, 1), False), ((255, 1), False), ((1, 2), True), ((-1, -1), True), ((7, 7), False)],
)
def test_single_values_are_asked_for_only_where_they_differ(
    tmp_path: Path, values: tuple[int, int], asked: bool
) -> None:
    root = _kits(tmp_path, *(_label(v1=TUMOUR) * np.int16(value) for value in values))
    kinds = {problem.kind for problem in check_dataset(open_dataset(root)).problems}
    assert ("mask_meaning" in kinds) is asked


def test_the_same_is_asked_of_pictures(tmp_path: Path) -> None:
    for number in range(2):
        put_image(tmp_path / "images" / f"{number}.png", seed=number, size=(12, 12))
        array = np.zeros((12, 12), dtype=np.uint8)
        array[2:6, 2:6], array[7:11, 7:11] = 1, 2
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "masks" / f"{number}.png")
    assert "mask_meaning" in {problem.kind for problem in check_dataset(open_dataset(tmp_path)).problems}
    assert check_dataset(open_dataset(tmp_path, lesion_values="all")).ok


# --- what layouts know -------------------------------------------------------------------------------------------


def test_wmh_counts_hyperintensities_and_ignores_other_pathology(tmp_path: Path) -> None:
    for subject, mask in (("0", _label(v1=TUMOUR, v2=np.s_[5:7, 5:7, 4:5])), ("2", _label(v2=TUMOUR))):
        _volume(tmp_path / "Utrecht" / subject / "pre" / "FLAIR.nii.gz", int(subject))
        put_array(tmp_path / "Utrecht" / subject / "wmh.nii.gz", mask)
    dataset = open_dataset(tmp_path)
    assert _truths(dataset) == [(8, True, 4), (0, False, 8)]
    assert "values of the masks: lesion: 1 WMH; ignored: 2 other pathology" in dataset.notes


@pytest.mark.parametrize(
    ("case", "called", "mask", "lesion", "ignored"),
    [
        ("BraTS20_Training_001", "flair", "seg", 9, 0),  # 1, 2 and 4 are tumour
        ("BraTS-GLI-00005-100", "t2f", "seg", 8, 1),  # 4 is the cavity that surgery left
        ("BraTS-MET-00005-000", "t2f", "seg", 8, 1),
        ("BraTS-PED-00005-000", "t2f", "seg", 9, 0),
        ("BraTS-MEN-RT-0000-1", "t1c", "gtv", 9, 0),
    ],
)
def test_brats_knows_its_labels(tmp_path: Path, case: str, called: str, mask: str, lesion: int, ignored: int) -> None:
    joint = "_" if called == "flair" or mask == "gtv" else "-"
    put_volume(tmp_path / case / f"{case}{joint}{called}.nii.gz")
    put_volume(tmp_path / case / f"{case}{joint}{'t1ce' if called == 'flair' else 't1n'}.nii.gz", seed=1)
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    array[0:2, 0:2, 0:2], array[3, 3, 2] = 2, 4
    put_array(tmp_path / case / f"{case}{joint}{mask}.nii.gz", array)
    assert _truths(open_dataset(tmp_path)) == [(lesion, True, ignored)]


def test_a_plain_seg_of_several_values_is_asked_for(tmp_path: Path) -> None:
    put_volume(tmp_path / "patient07" / "flair.nii.gz")
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    array[0, 0, 0], array[1, 1, 1] = 1, 2
    put_array(tmp_path / "patient07" / "seg.nii.gz", array)
    assert "mask_meaning" in {problem.kind for problem in check_dataset(open_dataset(tmp_path)).problems}


# --- command line, and the CSV that data split writes ------------------------------------------------------------


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_data_check_shows_the_values_and_takes_a_choice(tmp_path: Path) -> None:
    root = _kits(tmp_path / "set", _label(v1=ORGAN, v2=TUMOUR), _label(v1=ORGAN))
    asked = _run("check", root)
    assert asked.exit_code == 1
    assert "which values of the masks are lesions; given: 1, 2: case_00000, case_00001" in asked.stdout
    done = _run("check", root, "--lesion-values", "2", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["counts"]["normal"], found["counts"]["abnormal"]) == (1, 1)
    assert found["mask_values"]["1"] == {"name": "", "means": "no lesion", "cases": 2}
    assert "mask value 2" in _run("check", root, "--lesion-values", "2").stdout
    refused = _run("check", root, "--lesion-values", "two")
    assert (refused.exit_code, "must be a whole number below" in refused.stderr) == (2, True)


def test_data_split_keeps_what_the_values_mean(tmp_path: Path) -> None:
    masks = [_label(v1=ORGAN, v2=TUMOUR), _label(v1=ORGAN), _label(v1=ORGAN, v3=TUMOUR)]
    root, out = _kits(tmp_path / "set", *masks), tmp_path / "list.csv"
    assert "which values of the masks are lesions" in _run("split", root, "--out", out).stderr
    assert not out.exists()
    words = ("--lesion-values", "2", "--ignore-values", "3", "--fractions", "1,0,0")
    assert _run("split", root, "--out", out, *words).exit_code == 0
    again = open_dataset(out)
    assert [(case.values.lesion, case.values.ignored) for case in again] == [((2,), (3,))] * 3
    assert _truths(again) == [(8, True, 0), (0, False, 0), (0, False, 8)]


def test_several_masks_of_a_picture_survive_a_split(tmp_path: Path) -> None:
    for number in range(3):
        put_image(tmp_path / "set" / f"{number}.png", seed=number)
        put_mask(tmp_path / "set" / f"{number}_mask.png", [(1, 1)])
        put_mask(tmp_path / "set" / f"{number}_mask_1.png", [(4, 4)])
    assert _run("split", tmp_path / "set", "--out", tmp_path / "list.csv").exit_code == 0
    assert [found[0] for found in _truths(open_dataset(tmp_path / "list.csv"))] == [2, 2, 2]


@pytest.mark.parametrize(("cell", "lesion"), [("", None), ("all", ()), ("1;2", (1, 2)), ("#ff0000", (0x1FF0000,))])
def test_a_csv_says_what_values_mean(tmp_path: Path, cell: str, lesion: tuple[int, ...] | None) -> None:
    put_text(tmp_path / "list.csv", f"image,mask,lesion_values\na.png,m.png,{cell}\n")
    assert open_dataset(tmp_path / "list.csv")[0].values.lesion == lesion


def test_a_csv_that_says_nonsense_about_values_is_told(tmp_path: Path) -> None:
    put_text(tmp_path / "list.csv", "image,mask,lesion_values\na.png,m.png,tumour\n")
    with pytest.raises(InputError, match=r"must be a whole number below .* given: tumour in list.csv, row 2"):
        open_dataset(f"csv:{tmp_path / 'list.csv'}")


def test_evaluate_takes_a_choice(tmp_path: Path) -> None:
    root = _kits(tmp_path / "set", _label(v1=ORGAN, v2=TUMOUR), _label(v1=ORGAN))
    words = ["evaluate", "--data", str(root), "--out", str(tmp_path / "out"), "-m", "control:intensity"]
    asked = CliRunner().invoke(app, [*words, "--bootstrap", "0"])
    assert (asked.exit_code, "which values of the masks are lesions" in asked.stderr) == (2, True)
    done = CliRunner().invoke(app, [*words, "--bootstrap", "0", "--lesion-values", "2", "--json"])
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert "values of the masks: lesion: 2" in record["dataset"]["notes"]


def test_evaluate_tells_how_many_masks_had_to_be_interpreted(tmp_path: Path) -> None:
    for number in range(4):
        put_image(tmp_path / "set" / "images" / f"{number}.png", seed=number, size=(32, 32))
        array = np.zeros((32, 32), dtype=np.uint8)
        array[8:20, 8:20] = 255
        array[7, 8 : 20 - number] = (40, 90, 130, 0)[number]  # a soft edge in three of them
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "set" / "masks" / f"{number}.png")
    words = ["evaluate", "--data", str(tmp_path / "set"), "-m", "control:intensity", "--bootstrap", "0", "--out"]
    ran = CliRunner().invoke(app, [*words, str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert "warning: 3 of 4 cases: the mask is not binary (see the column warnings of cases.csv)" in ran.stderr
    named = CliRunner().invoke(app, [*words, str(tmp_path / "named"), "--lesion-values", "40,255"])
    assert "3 of 4 cases: the mask looks smoothed or once lossy, but its values count as they are" in named.stderr


def test_one_label_of_several_sets_stays_what_it_is(tmp_path: Path) -> None:
    put_volume(tmp_path / "a" / "image.nii.gz")
    put_label(tmp_path / "a" / "mask.nii.gz")  # value 2 alone
    assert _truths(open_dataset(tmp_path)) == [(1, True, 0)]


def test_training_takes_a_choice(tmp_path: Path) -> None:
    from headclip_med.training.auxiliary import auxiliary_parts
    from headclip_med.training.config import load_config

    masks = [_label(v1=ORGAN, v2=TUMOUR), _label(v1=ORGAN), _label(v1=ORGAN, v2=TUMOUR)]
    root = _kits(tmp_path / "set", *masks)
    config = tmp_path / "run.yaml"
    put_text(config, f"model: tower\nout: out\ndata:\n- path: {root}\n  lesion_values: [2]\n")
    (part,) = auxiliary_parts(load_config(config))
    assert [part.dataset.load(case).gt_label for case in part.dataset] == [True, False, True]
    put_text(config, f"model: tower\nout: out\ndata:\n- path: {root}\n")
    with pytest.raises(InputError, match="which values of the masks are lesions; given: 1, 2"):
        auxiliary_parts(load_config(config))


def test_train_passes_the_choice_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop(config, **options):
        seen.append(config.data)
        raise InputError("Enough has been seen", "nothing")

    monkeypatch.setattr("headclip_med.training.run.train", stop)
    for name in ("tower.safetensors", "set"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    words = ["train", "--model", "tower.safetensors", "--out", str(tmp_path / "out"), "--lesion-values", "2,4"]
    assert CliRunner().invoke(app, [*words, "--data", "set", "--ignore-values", "5"]).exit_code == 2
    assert (seen[0][0].lesion_values, seen[0][0].ignore_values) == ("2,4", "5")
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, "Values of masks must go with --data" in refused.stderr) == (2, True)
