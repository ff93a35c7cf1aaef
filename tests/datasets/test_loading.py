"""A case as it is read: the mask on the image's grid, which values mean lesion, labels, stacks and digests."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dataset_trees import LPS, pairs_tree, put_array, put_image, put_label, put_mask, put_volume
from PIL import Image

from headclip_med import read_volume
from headclip_med.base.errors import InputError
from headclip_med.datasets import Case, LabelledVolume, open_dataset
from headclip_med.datasets.loading import load_labelled
from headclip_med.datasets.truth import GridError, MaskError


def _load(image: Path, mask: Path | None = None, label: bool | None = None, *, known: bool = True) -> LabelledVolume:
    return load_labelled(Case("case", (image,), () if mask is None else (mask,), label), masks_known=known)


def _truth(image: Path, mask: Path) -> np.ndarray:
    truth = _load(image, mask).gt_mask
    assert truth is not None
    assert truth.dtype == bool
    return truth


def _lesion(truth: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in voxel) for voxel in np.argwhere(truth)]


def _array(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


# --- masks of pictures -------------------------------------------------------------------------------------------


def test_a_mask_lies_where_the_reader_puts_the_image(tmp_path: Path) -> None:
    rows, columns = 8, 6
    array = np.zeros((rows, columns), dtype=np.uint8)
    array[3, 1] = array[7, 5] = 255
    image, mask = _array(tmp_path / "i.png", array), _array(tmp_path / "m.png", array)
    labelled = _load(image, mask)
    assert labelled.gt_mask is not None
    assert labelled.gt_mask.shape == (columns, rows, 1) == tuple(labelled.volume.shape[1:])
    assert np.array_equal(labelled.gt_mask, np.asarray(labelled.volume)[0] == 255)
    assert _lesion(labelled.gt_mask) == [(1, 3, 0), (5, 7, 0)]


def test_a_mask_is_turned_as_exif_says(tmp_path: Path) -> None:
    array = np.zeros((8, 6), dtype=np.uint8)
    array[0, 0:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    image, mask = _array(tmp_path / "i.png", array, exif=exif), _array(tmp_path / "m.png", array, exif=exif)
    labelled = _load(image, mask)
    assert labelled.gt_mask is not None
    assert labelled.gt_mask.shape == (8, 6, 1)
    assert np.array_equal(labelled.gt_mask, np.asarray(labelled.volume)[0] == 255)
    assert _lesion(labelled.gt_mask) == [(7, 0, 0), (7, 1, 0), (7, 2, 0)]


@pytest.mark.parametrize(("dtype", "step", "half"), [(np.uint8, 16, 128), (np.uint16, 1400, 32768)])
def test_a_smoothed_mask_counts_from_half_of_its_range(tmp_path: Path, dtype: type, step: int, half: int) -> None:
    array = np.zeros((8, 6), dtype=dtype)
    array[:, :2] = np.arange(16).reshape(8, 2) * step
    if dtype is np.uint16:
        array[0, 0] = half
    labelled = _load(put_image(tmp_path / "i.png"), _array(tmp_path / "m.png", array))
    assert labelled.gt_mask is not None
    assert np.array_equal(labelled.gt_mask[..., 0].T, array >= half)
    assert 0 < labelled.gt_mask.sum() < 16
    count = len(np.unique(array))
    words = f"the mask is not binary: m.png has {count} values, from {half} on they count as lesion"
    assert labelled.warnings == (words,)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    mask = put_mask(tmp_path / "m.png", size=(8, 6))
    with pytest.raises(GridError, match=r"size of its image; given: 8 × 6 for an image of 6 × 8 pixels\. Resample"):
        _load(put_image(tmp_path / "i.png"), mask)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken", b"plain text"])
def test_a_damaged_mask_is_an_error_of_the_mask(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(MaskError, match=r"m\.png"):
        _load(put_image(tmp_path / "i.png"), tmp_path / "m.png")


def test_a_missing_mask_is_an_error_of_the_mask(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"must be a file or folder that exists; given: m\.png"):
        _load(put_image(tmp_path / "i.png"), tmp_path / "m.png")


# --- labels ------------------------------------------------------------------------------------------------------


def test_the_mask_decides_the_label(tmp_path: Path) -> None:
    image, full = put_image(tmp_path / "i.png"), put_mask(tmp_path / "full.png")
    empty = put_mask(tmp_path / "empty.png", [])
    assert (_load(image, full).gt_label, _load(image, empty).gt_label) == (True, False)
    normal, abnormal = _load(image, full, False), _load(image, empty, True)
    assert (normal.gt_label, abnormal.gt_label) == (True, False)
    assert normal.warnings == ("labelled normal, but its mask is not empty: the mask decides",)
    assert abnormal.warnings == ("labelled abnormal, but its mask is empty: the mask decides",)
    assert _load(image, full, True).warnings == _load(image, empty, False).warnings == ()


@pytest.mark.parametrize(
    ("label", "known", "empty"), [(False, True, True), (False, False, False), (True, True, False), (None, True, False)]
)
def test_only_a_normal_case_of_a_set_with_masks_has_an_empty_one(
    tmp_path: Path, label: bool | None, known: bool, empty: bool
) -> None:
    labelled = _load(put_image(tmp_path / "i.png"), None, label, known=known)
    assert labelled.gt_label is label
    assert (labelled.gt_mask is not None) is empty
    if labelled.gt_mask is not None:
        assert labelled.gt_mask.shape == (6, 8, 1)
        assert not labelled.gt_mask.any()


def test_a_set_knows_whether_it_has_masks(tmp_path: Path) -> None:
    dataset = open_dataset(pairs_tree(tmp_path))
    found = [dataset.load(case) for case in dataset]
    assert [labelled.gt_label for labelled in found] == [False, True, True]
    assert all(labelled.gt_mask is not None for labelled in found)


# --- masks of volumes --------------------------------------------------------------------------------------------


def test_nonzero_labels_are_lesion(tmp_path: Path) -> None:
    truth = _truth(put_volume(tmp_path / "i.nii.gz"), put_label(tmp_path / "m.nii.gz", [(1, 2, 0), (3, 4, 2)]))
    assert _lesion(truth) == [(1, 2, 0), (3, 4, 2)]


def test_an_empty_label_volume_is_a_normal_case(tmp_path: Path) -> None:
    labelled = _load(put_volume(tmp_path / "i.nii.gz"), put_label(tmp_path / "m.nii.gz", []))
    assert labelled.gt_label is False
    assert labelled.gt_mask is not None
    assert labelled.gt_mask.shape == (4, 5, 3)


def test_the_same_grid_in_another_order_is_put_in_order(tmp_path: Path) -> None:
    turn = np.array([[0.96, -0.28, 0, 30], [0.28, 0.96, 0, -8], [0, 0, 1, 12], [0, 0, 0, 1]])  # oblique
    affine = turn @ np.diag([-1.0, -2.0, 3.0, 1.0])
    image = put_volume(tmp_path / "i.nii.gz", affine=affine)
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    array[0, 3, 2] = array[1, 3, 2] = 1
    original = nib.Nifti1Image(array, affine)
    assert _lesion(_truth(image, put_array(tmp_path / "m.nii.gz", array, affine))) == [(0, 3, 2), (1, 3, 2)]
    for code in ("RAS", "SPL", "AIR"):
        change = nib.orientations.ornt_transform(
            nib.io_orientation(affine), nib.orientations.axcodes2ornt(code)
        )  # another order of axes, the same place in the patient
        moved = original.as_reoriented(change)
        moved.to_filename(tmp_path / f"{code}.nii.gz")
        assert _lesion(_truth(image, tmp_path / f"{code}.nii.gz")) == [(0, 3, 2), (1, 3, 2)]


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    image = put_volume(tmp_path / "i.nii.gz")
    shifted = LPS.copy()
    shifted[0, 3] = 2.5
    with pytest.raises(GridError, match=r"image's grid; given: affines 2\.5 mm apart\. Resample the mask"):
        _load(image, put_label(tmp_path / "shifted.nii.gz", affine=shifted))
    small = put_array(tmp_path / "small.nii.gz", np.ones((4, 5, 2), dtype=np.uint8))
    with pytest.raises(GridError, match=r"given: \(4, 5, 2\) for \(4, 5, 3\)"):
        _load(image, small)
    with pytest.raises(GridError, match=r"must be a volume as its image is; given: a picture"):
        _load(image, put_mask(tmp_path / "m.png"))


def test_a_shift_within_the_tolerance_of_grids_is_none(tmp_path: Path) -> None:
    nearly = LPS.copy()
    nearly[0, 3] = 5e-4
    truth = _truth(put_volume(tmp_path / "i.nii.gz"), put_label(tmp_path / "m.nii.gz", affine=nearly))
    assert _lesion(truth) == [(1, 2, 0)]


def test_units_of_the_header_count_for_masks_too(tmp_path: Path) -> None:
    for name, array in (("i", np.random.default_rng(0).normal(size=(4, 5, 3))), ("m", np.eye(4, 5)[..., None] > 0)):
        values = np.broadcast_to(array, (4, 5, 3)).astype(np.float32)
        image = nib.Nifti1Image(values, np.diag([-0.001, -0.001, 0.002, 1.0]))
        image.header.set_xyzt_units("meter")
        image.to_filename(tmp_path / f"{name}.nii.gz")
    assert _truth(tmp_path / "i.nii.gz", tmp_path / "m.nii.gz").sum() == 12


def test_fractions_and_nan_in_a_label_volume_are_told(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 3), dtype=np.float32)
    array[0, 0, 0], array[0, 0, 1], array[1, 1, 1], array[2, 2, 2] = 0.25, 0.5, 1, np.nan
    labelled = _load(put_volume(tmp_path / "i.nii.gz"), put_array(tmp_path / "m.nii.gz", array))
    assert labelled.gt_mask is not None
    assert _lesion(labelled.gt_mask) == [(0, 0, 1), (1, 1, 1)]
    assert labelled.warnings == (
        "the mask is not binary: m.nii.gz holds NaN or Inf, which count as no lesion",
        "the mask is not binary: m.nii.gz holds fractions, from 0.5 on they count as lesion",
    )


def test_labels_of_a_scaled_header_are_whole(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 3), dtype=np.float32)
    array[1, 1, 1], array[2, 2, 2] = 0.9998, 1.0002
    labelled = _load(put_volume(tmp_path / "i.nii.gz"), put_array(tmp_path / "m.nii.gz", array))
    assert (labelled.mask_values, labelled.warnings) == ((1,), ())


def test_labels_mixed_by_interpolation_are_refused(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 3), dtype=np.float32)
    array[1, 1, 1], array[2, 2, 2] = 1.5, 2
    with pytest.raises(MaskError, match=r"must hold whole numbers; given: fractions between 0 and 2"):
        _load(put_volume(tmp_path / "i.nii.gz"), put_array(tmp_path / "m.nii.gz", array))


def test_an_nrrd_mask_of_a_nifti_volume(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, -5], [0, 0, 0, 1]])
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    array[3, 0, 1] = 1
    picture = sitk.GetImageFromArray(array.T)
    picture.SetSpacing((2, 2, 3))
    picture.SetOrigin((-10, -20, -5))  # LPS
    sitk.WriteImage(picture, str(tmp_path / "m.nrrd"))
    assert _lesion(_truth(put_volume(tmp_path / "i.nii.gz", affine=affine), tmp_path / "m.nrrd")) == [(3, 0, 1)]


def test_sequences_share_one_mask(tmp_path: Path) -> None:
    images = tuple(put_volume(tmp_path / f"{number}.nii.gz", seed=number) for number in range(2))
    labelled = load_labelled(Case("c", images, (put_label(tmp_path / "m.nii.gz"),)), masks_known=True)
    assert tuple(labelled.volume.shape) == (2, 4, 5, 3)
    assert labelled.gt_mask is not None
    assert labelled.gt_mask.shape == (4, 5, 3)


# --- stacks ------------------------------------------------------------------------------------------------------


def _stack(images: list[Path], masks: tuple[Path | None, ...] = ()) -> LabelledVolume:
    return load_labelled(Case("vol", tuple(images), masks, stacked=True), masks_known=True)


def test_slices_become_a_volume_in_order(tmp_path: Path) -> None:
    images = [put_image(tmp_path / f"{number}.png", seed=number) for number in range(3)]
    Image.fromarray(np.zeros((8, 6), dtype=np.uint8)).save(images[1])  # a blank slice is a slice
    labelled = _stack(images, (None, None, put_mask(tmp_path / "m.png", [(1, 7)])))
    assert tuple(labelled.volume.shape) == (1, 6, 8, 3)
    for k in (0, 2):
        assert np.array_equal(np.asarray(labelled.volume)[..., k], np.asarray(read_volume(images[k]))[..., 0])
    assert np.asarray(labelled.volume)[..., 1].max() == 0
    assert labelled.gt_mask is not None
    assert _lesion(labelled.gt_mask) == [(1, 7, 2)]
    meta = labelled.volume.meta
    assert (meta["is_2d"], meta["slice_normal"], meta["source_name"]) == (False, [0.0, 0.0, 1.0], "vol")
    assert "modality" not in meta
    assert np.array_equal(np.abs(np.diag(labelled.volume.affine)), np.ones(4))


def test_grey_slices_saved_in_colour_are_grey(tmp_path: Path) -> None:
    grey = [put_image(tmp_path / f"g{number}.png", seed=number) for number in range(2)]
    for number, path in enumerate(grey):
        Image.open(path).convert("RGB").save(tmp_path / f"c{number}.png")
    coloured = [tmp_path / f"c{number}.png" for number in range(2)]
    assert tuple(_stack(coloured).volume.shape) == (1, 6, 8, 2)
    assert _stack(coloured).image_sha256 == _stack(grey).image_sha256


def test_slices_of_several_sizes_are_refused(tmp_path: Path) -> None:
    images = [put_image(tmp_path / "a.png"), put_image(tmp_path / "b.png", size=(7, 8))]
    with pytest.raises(
        InputError, match=r"slices of vol must have one size; given: b\.png with 7 × 8, the first with 6"
    ):
        _stack(images)


# --- digests -----------------------------------------------------------------------------------------------------


def test_copies_have_one_digest_whatever_their_files_say(tmp_path: Path) -> None:
    grey = put_image(tmp_path / "a.png")
    Image.open(grey).save(tmp_path / "a.bmp")
    Image.open(grey).convert("RGB").save(tmp_path / "a.tif")
    copies = [_load(path).image_sha256 for path in (grey, tmp_path / "a.bmp", tmp_path / "a.tif")]
    assert len(set(copies)) == 1
    assert _load(put_image(tmp_path / "b.png", seed=1)).image_sha256 != copies[0]


def test_three_equal_channels_count_as_one(tmp_path: Path) -> None:
    grey = put_image(tmp_path / "a.png")
    plane = np.asarray(Image.open(grey)).T
    colour = np.zeros((*plane.shape, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for channel in ("R", "G", "B"):
        colour[channel][..., 0] = plane
    labelled = _load(put_array(tmp_path / "a.nii.gz", colour))
    assert labelled.volume.shape[0] == 3
    assert labelled.image_sha256 == _load(grey).image_sha256


def test_shape_and_mask_are_part_of_a_digest(tmp_path: Path) -> None:
    array = np.arange(48, dtype=np.uint8)
    tall, wide = (_array(tmp_path / f"{n}.png", array.reshape(n, -1)) for n in (8, 6))
    assert _load(tall).image_sha256 != _load(wide).image_sha256
    one = _load(tall, put_mask(tmp_path / "m1.png", [(0, 0)]))
    other = _load(tall, put_mask(tmp_path / "m2.png", [(0, 1)]))
    assert one.image_sha256 == other.image_sha256 == _load(tall).image_sha256
    assert len({one.sha256, other.sha256, _load(tall).sha256}) == 3
