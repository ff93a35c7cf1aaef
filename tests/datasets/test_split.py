"""Splits: no patient and no copy is parted, shares are kept, and the CSV says the same again."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from dataset_trees import pairs_tree, put_image, put_label, put_mask, put_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from headclip_med.base.errors import InputError, OutputError
from headclip_med.datasets import Case, CaseDataset, open_dataset
from headclip_med.datasets.split import split_patients, write_split


def _dataset(cases: list[Case]) -> CaseDataset:
    return CaseDataset("set", "csv", Path(), tuple(cases))


def _patients(count: int, *, abnormal: int = 0, each: int = 1) -> CaseDataset:
    """``count`` patients of ``each`` cases; the last case of the first ``abnormal`` patients is abnormal."""
    return _dataset(
        [
            Case(f"{p}_{i}", (), label=p < abnormal and i == each - 1, patient=f"p{p}")
            for p in range(count)
            for i in range(each)
        ]
    )


def _count(splits: dict[str, str], names: list[str]) -> list[int]:
    return [sum(splits[name] == split for name in names) for split in ("train", "val", "test")]


def test_shares_are_kept_for_patients_with_and_without_lesions() -> None:
    dataset = _patients(40, abnormal=20)
    splits = split_patients(dataset)
    abnormal = [case.name for case in dataset if case.label]
    normal = [case.name for case in dataset if not case.label]
    assert _count(splits, abnormal) == _count(splits, normal) == [14, 3, 3]


def test_a_patient_is_abnormal_if_any_case_is() -> None:
    dataset = _patients(20, abnormal=10, each=3)
    splits = split_patients(dataset, fractions={"train": 0.5, "test": 0.5})
    abnormal = {case.patient for case in dataset if case.label}
    for split in ("train", "test"):
        patients = {case.patient for case in dataset if splits[case.name] == split}
        assert (len(patients), len(patients & abnormal)) == (10, 5)


def test_labels_that_reading_told_count() -> None:
    dataset = _dataset([Case(f"{i}", ()) for i in range(20)])
    labels = {f"{i}": i < 10 for i in range(20)}
    splits = split_patients(dataset, labels, fractions={"train": 0.5, "test": 0.5})
    assert sum(splits[f"{i}"] == "train" for i in range(10)) == 5


def test_the_seed_decides() -> None:
    dataset = _patients(30)
    assert split_patients(dataset, seed=3) == split_patients(dataset, seed=3)
    assert split_patients(dataset, seed=3) != split_patients(dataset, seed=4)


def _families(cases: list[tuple[int, int]]) -> int:
    """Groups of patients who share an image, directly or through others."""
    families: list[tuple[set[int], set[int]]] = []
    for patient, image in cases:
        touched = [family for family in families if patient in family[0] or image in family[1]]
        joined = ({patient}.union(*(f[0] for f in touched)), {image}.union(*(f[1] for f in touched)))
        families = [family for family in families if family not in touched] + [joined]
    return len(families)


@settings(max_examples=60, deadline=None)
@given(
    cases=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.booleans()), min_size=1, max_size=30),
    seed=st.integers(0, 2**31),
)
def test_no_patient_and_no_copy_is_parted(cases: list[tuple[int, int, bool]], seed: int) -> None:
    dataset = _dataset([Case(f"{i}", (), label=label, patient=f"p{p}") for i, (p, _, label) in enumerate(cases)])
    images = {f"{i}": f"image {image}" for i, (_, image, _) in enumerate(cases)}
    if _families([(patient, image) for patient, image, _ in cases]) < 3:
        with pytest.raises(InputError, match="at least one patient for each of train, val, test"):
            split_patients(dataset, images=images, seed=seed)
        return
    splits = split_patients(dataset, images=images, seed=seed)
    assert set(splits) == {case.name for case in dataset}
    assert set(splits.values()) == {"train", "val", "test"}
    together: dict[str, set[str]] = defaultdict(set)
    for case in dataset:
        together[case.patient].add(splits[case.name])
        together[images[case.name]].add(splits[case.name])
    assert all(len(found) == 1 for found in together.values())


def test_patients_who_share_an_image_are_one() -> None:
    dataset = _patients(3)
    with pytest.raises(InputError, match=r"given: 2 patient\(s\) that share no image\. Ask for fewer splits"):
        split_patients(dataset, images={"0_0": "x", "1_0": "x", "2_0": "y"})
    assert split_patients(dataset, images={"0_0": "x", "1_0": "y", "2_0": "z"})


def test_a_split_of_no_share_stays_empty() -> None:
    splits = split_patients(_patients(10), fractions={"train": 0.8, "val": 0.0, "test": 0.2})
    assert _count(splits, list(splits)) == [8, 0, 2]


@pytest.mark.parametrize("shares", [(0.5, 0.2), (1.2, -0.2), (float("nan"), 1.0)])
def test_fractions_that_make_no_sense_are_told(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="Fractions must be 0 or more and add up to 1"):
        split_patients(_patients(10), fractions=dict(zip(("train", "test"), shares, strict=True)))


def test_the_csv_says_the_same_again(tmp_path: Path) -> None:
    for number in range(4):
        case = f"BraTS-GLI-0000{number // 2}-00{number % 2}"
        put_volume(tmp_path / "set" / case / f"{case}-t2f.nii.gz", seed=number)
        put_volume(tmp_path / "set" / case / f"{case}-t1c.nii.gz", seed=number + 10)
        put_label(tmp_path / "set" / case / f"{case}-seg.nii.gz", [(1, 1, 1)] if number else [])
    dataset = open_dataset(tmp_path / "set", sequences=["t2f", "t1c"])
    labels = {case.name: dataset.load(case).gt_label for case in dataset}
    splits = split_patients(dataset, labels, fractions={"train": 0.5, "test": 0.5})
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "split.csv"
    write_split(dataset, splits, path, labels)
    assert "../set/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz;../set/" in path.read_text()
    again = open_dataset(path)
    assert again.layout == "csv"
    assert {case.name: case.split for case in again} == splits
    assert [case.patient for case in again] == [case.patient for case in dataset]
    assert [case.label for case in again] == [False, True, True, True]
    for before, after in zip(dataset, again, strict=True):
        assert again.load(after).sha256 == dataset.load(before).sha256


def test_columns_and_categories_are_kept(tmp_path: Path) -> None:
    for seed, kind in enumerate(("good", "crack")):
        put_image(tmp_path / "skull" / "test" / kind / "0.png", seed=seed)
    put_mask(tmp_path / "skull" / "ground_truth" / "crack" / "0_mask.png")
    dataset = open_dataset(tmp_path / "skull")
    write_split(dataset, dict.fromkeys(("crack_0", "good_0"), "val"), tmp_path / "list.csv")
    crack, good = open_dataset(tmp_path / "list.csv")
    assert (crack.name, crack.label, crack.category, crack.split) == ("crack_0", True, "skull", "val")
    assert (crack.columns["kind"], good.columns["kind"], crack.has_mask, good.has_mask) == ("crack", "", True, False)


def test_what_a_csv_cannot_list_is_told(tmp_path: Path) -> None:
    stacked = _dataset([Case("vol", (Path("a.png"), Path("b.png")), stacked=True)])
    with pytest.raises(InputError, match=r"must list whole images; given: vol, a volume of slices"):
        write_split(stacked, {"vol": "train"}, tmp_path / "list.csv")
    in_one_file = _dataset([Case("two", (Path("a.nii"), Path("a.nii")), volumes=(0, 1))])
    with pytest.raises(InputError, match=r"must list whole files; given: two, a volume of a 4-D file"):
        write_split(in_one_file, {"two": "train"}, tmp_path / "list.csv")
    separated = _dataset([Case("odd", (Path("a;b.png"),))])
    with pytest.raises(InputError, match=r"The files of odd must have no ; in their names"):
        write_split(separated, {"odd": "train"}, tmp_path / "list.csv")
    assert not list(tmp_path.iterdir())


def test_a_csv_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    dataset = open_dataset(pairs_tree(tmp_path / "set"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_split(dataset, {case.name: "train" for case in dataset}, tmp_path / "file" / "list.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]
