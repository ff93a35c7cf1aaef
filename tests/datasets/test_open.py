"""Which layout a path has, what is said when that cannot be told, and the names of cases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dataset_trees import pairs_tree, put_image, put_json, put_label, put_mask, put_text, put_volume

from headclip_med.base import names as choices
from headclip_med.base.errors import InputError
from headclip_med.datasets import LAYOUTS, Case, open_dataset
from headclip_med.datasets.names import uniquely_named
from headclip_med.datasets.split import check_listable


def _refused(spec: str | Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(spec, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_every_layout_is_offered_for_completion() -> None:
    assert set(LAYOUTS) == set(choices.LAYOUTS)
    assert all(layout.words for layout in LAYOUTS.values())


EXAMPLES = [
    (name, tree)
    for name, layout in LAYOUTS.items()
    for tree in layout.trees
    if not layout.is_list and not tree.startswith("'")
]


@pytest.mark.parametrize(("name", "tree"), EXAMPLES)
def test_every_tree_that_is_shown_is_recognised_as_what_it_is(tmp_path: Path, name: str, tree: str) -> None:
    """``a + b`` are an image and its mask, which lies in the same folder unless it names another."""
    for number, example in enumerate(part.split(" + ") for part in tree.split(", ")):
        root = tmp_path if name == "folders" else tmp_path / str(number)
        for i, file in enumerate(example):
            path = root / (file if i == 0 or "/" in file else Path(example[0]).parent / file)
            is_volume = ".nii" in file
            put = (put_label if i else put_volume) if is_volume else (put_mask if i else put_image)
            put(path)
        dataset = open_dataset(root) if name != "folders" or number else None
        if dataset is not None:
            masks = sum(case.has_mask for case in dataset)
            assert (dataset.layout, masks >= 1) == (name, any(" + " in part for part in tree.split(", ")))


def test_a_path_and_a_named_layout_give_the_same(tmp_path: Path) -> None:
    pairs_tree(tmp_path / "colon")
    plain, named = open_dataset(tmp_path / "colon"), open_dataset(f"pairs:{tmp_path / 'colon'}", name="mine")
    assert plain.cases == named.cases
    assert (plain.name, named.name) == ("colon", "mine")


def test_a_misspelt_layout_names_the_nearest(tmp_path: Path) -> None:
    said = _refused(f"pair:{tmp_path}")
    assert said.startswith("A layout must be one of ")
    assert f"given: pair. Did you mean pairs:{tmp_path.name}." in said
    assert "`headclip-med data layouts` lists them" in _refused("zzz:somewhere")


@pytest.mark.parametrize("spec", ["missing", "pairs:missing", r"C:\missing", "a/b:missing"])
def test_a_missing_path_is_told(spec: str) -> None:
    assert "must be a file or folder that exists; given:" in _refused(spec)


def test_a_layout_without_a_path_is_told() -> None:
    assert _refused("pairs:") == "The layout pairs must be given a path; given: nothing. Write pairs:FOLDER."


def test_a_folder_that_no_layout_fits_lists_them(tmp_path: Path) -> None:
    put_image(tmp_path / "photo.png")
    said = _refused(tmp_path)
    assert said.startswith(f"The layout of {tmp_path.name} must be one of {', '.join(LAYOUTS)}")
    assert "given: none that fits 1 images and volumes, such as photo.png" in said
    assert "'pairs:FOLDER?image=*.jpg&mask=*_mask.png'" in said


def test_two_layouts_that_fit_equally_are_told(tmp_path: Path) -> None:
    put_volume(tmp_path / "case1" / "flair.nii.gz")
    put_label(tmp_path / "case1" / "seg.nii.gz")
    pairs_tree(tmp_path)
    said = _refused(tmp_path)
    assert f"given: it fits brats and pairs. Name the one that is meant, as in brats:{tmp_path.name}." in said
    assert open_dataset(f"pairs:{tmp_path}").layout == "pairs"


def test_a_list_of_files_says_more_than_folders(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    put_text(tmp_path / "chosen.csv", "image,mask\nimages/01.png,masks/01.png\n")
    assert (open_dataset(tmp_path).layout, len(open_dataset(tmp_path))) == ("csv", 1)
    put_json(tmp_path / "dataset.json", {"training": [{"image": "images/01.png"}]})
    assert "it fits msd and csv" in _refused(tmp_path)


def test_tables_that_list_no_images_do_not_matter(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    put_text(tmp_path / "survival.csv", "id,age\n1,64\n")
    put_text(tmp_path / "meta.json", '{"licence": "CC0"}')
    put_text(tmp_path / "dataset.json", "not JSON")
    assert open_dataset(tmp_path).layout == "pairs"


def test_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    for name in ("images/a.webp", "masks/a.gif", "masks/b.gif", "notes.txt"):
        put_text(tmp_path / name, "")
    notes = open_dataset(tmp_path).notes
    assert "2 files ending in .gif passed over" in notes
    assert "1 file ending in .webp passed over" in notes
    assert not any(".txt" in note for note in notes)


def test_an_empty_set_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    put_text(tmp_path / "images" / "1.webp", "")
    assert "none that fits no image or volume (1 .webp)" in _refused(tmp_path)
    assert f"must find at least one case; given: none in {tmp_path.name}" in _refused(f"pairs:{tmp_path}")


def test_a_choice_that_leaves_nothing_says_what_there_is(tmp_path: Path) -> None:
    put_text(tmp_path / "list.csv", "image,split,category\na.png,train,brain\nb.png,test,liver\n")
    said = _refused(tmp_path, split="val", category="brain")
    assert "a case of the split val and the category brain" in said
    assert "given: splits: test, train; categories: brain, liver" in said


def test_a_file_for_a_layout_of_folders_is_told(tmp_path: Path) -> None:
    path = put_image(tmp_path / "a.png")
    assert _refused(f"pairs:{path}") == "The layout pairs must be given a folder; given: a.png."


def test_sequences_of_a_layout_that_has_none_are_told(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    assert (
        "Sequences can be chosen in the layouts brats, wmh, isbi, mslesseg, nnunet, bids, msd; given: pairs."
        in _refused(tmp_path, sequences=["t1"])
    )


def test_names_that_are_no_utf_8_can_be_shown(tmp_path: Path) -> None:
    pairs_tree(tmp_path)
    try:
        (tmp_path / "images" / "00.png").rename(os.fsdecode(os.fsencode(tmp_path / "images") + b"/\xff.png"))
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 3
    assert "images/%FF.png" in dataset.notes[0]
    for text in (*dataset.notes, *dataset.strays, dataset.why, *(case.name for case in dataset)):
        text.encode()
    with pytest.raises(InputError, match="must name files whose names are UTF-8"):
        check_listable(dataset)


def test_names_are_safe_unique_and_do_not_depend_on_the_choice() -> None:
    cases = [
        Case("a/b", ()),
        Case("../x", ()),
        Case("", ()),
        Case("Twin", (), category="brain"),
        Case("twin", (), category="liver"),
        Case("same", (), split="train"),
        Case("same", (), split="test"),
        Case("same", (), split="test"),
        Case("tall", ()),
        Case("Tall", ()),
        Case("n" * 300, ()),
    ]
    names = [case.name for case in uniquely_named(cases)]
    assert names[:-1] == [
        "a_b",
        "_x",
        "case",
        "brain_Twin",
        "liver_twin",
        "same_train",
        "same_test",
        "same_test_2",
        "tall",
        "Tall_2",
    ]
    assert len(names[-1]) == 80
