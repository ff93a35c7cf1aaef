"""The map on disk lies where the source lies: shape, affine, codes and units."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from writing_phantom import SHAPE, make_result, oblique_affine

from headclip_med.base.errors import OutputError
from headclip_med.engine.result import AnomalyResult
from headclip_med.writing.nifti import write_map, write_mask

SHARED = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[3] / "shared"))

AFFINES = {
    "RAS": np.diag([1.0, 2.0, 3.0, 1.0]),
    "LPS": np.array([[-1.0, 0, 0, 90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]]),
    "sagittal": np.array([[0, 0, 1.2, -80], [-0.9, 0, 0, 100.3], [0, -0.9, 0, 90.7], [0, 0, 0, 1]]),
    "oblique": oblique_affine(),
}
CODES = {"both": (1, 4), "sform only": (0, 2), "qform only": (1, 0), "none": (0, 0)}


def _source(path: Path, affine: np.ndarray, qform: int, sform: int) -> AnomalyResult:
    """A source file as any scanner's converter writes it, and a result on it as a reader would give it."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.header.set_qform(affine, code=qform)
    image.header.set_sform(affine, code=sform)
    nib.Nifti1Image(np.zeros(SHAPE, np.int16), None, image.header).to_filename(path)
    header = nib.load(path).header
    codes = {"qform_code": int(header["qform_code"]), "sform_code": int(header["sform_code"])}
    assert codes == {"qform_code": qform, "sform_code": sform}
    return make_result(affine=header.get_best_affine(), meta=codes)


@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_the_map_has_the_sources_affine_and_codes(tmp_path: Path, affine: np.ndarray, codes: tuple[int, int]) -> None:
    source = tmp_path / "source.nii.gz"
    result = _source(source, affine, *codes)
    write_map(result, tmp_path / "map.nii.gz")
    before, after = nib.load(source), nib.load(tmp_path / "map.nii.gz")
    assert after.shape == SHAPE
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == codes
    np.testing.assert_allclose(after.affine, before.affine, rtol=0, atol=1e-6)
    if codes[1] > 0:
        np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(after.header.get_zooms(), before.header.get_zooms(), atol=1e-6)


def test_map_and_mask_hold_the_values_in_their_own_types(tmp_path: Path) -> None:
    result = make_result()
    write_map(result, tmp_path / "map.nii.gz")
    write_mask(result, tmp_path / "mask.nii.gz")
    amap, mask = nib.load(tmp_path / "map.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert amap.get_data_dtype() == np.float32
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(amap.dataobj), result.map_array)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:4, 5:8, 3:5] = 1
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
    assert amap.header.get_intent()[0] == "estimate"
    assert mask.header.get_intent()[0] == "label"
    assert b"research use only" in amap.header["descrip"].item()


@pytest.mark.parametrize(("source_format", "code"), [("dicom", 1), ("nrrd", 1), ("mha", 1), ("png", 2), ("array", 2)])
def test_sources_without_codes_get_one_by_their_format(tmp_path: Path, source_format: str, code: int) -> None:
    affine = oblique_affine()
    affine[:3, 3] = [-123.456789, 210.987654, -1043.111111]  # more digits than float32 holds
    write_map(make_result(affine=affine, meta={"source_format": source_format}), tmp_path / "map.nii")
    header = nib.load(tmp_path / "map.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (code, code)
    np.testing.assert_allclose(header.get_best_affine(), affine, rtol=1e-6, atol=1e-6)


def test_a_qform_that_cannot_hold_the_affine_is_joined_by_an_sform(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 1] = 0.004  # a shear within the tolerance; a quaternion knows no shear
    write_map(make_result(affine=affine, meta={"qform_code": 1, "sform_code": 0}), tmp_path / "map.nii")
    header = nib.load(tmp_path / "map.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_best_affine(), affine, atol=1e-6)


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = tmp_path / "a" / "map.nii.gz", tmp_path / "b" / "map.nii.gz"
    for path in paths:
        path.parent.mkdir()
        write_map(make_result(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_foreign_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.nii"):
        write_map(make_result(), tmp_path / "map.tiff")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ms_flair/patient07/flair.nii.gz", "templates/ch2.nii.gz"])
def test_real_headers_round_trip_exactly(tmp_path: Path, name: str) -> None:
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip("no shared data")
    source = nib.load(path)
    codes = {key: int(source.header[key]) for key in ("qform_code", "sform_code")}
    write_mask(make_result(affine=source.affine, meta=codes), tmp_path / "mask.nii.gz")
    written = nib.load(tmp_path / "mask.nii.gz")
    assert {key: int(written.header[key]) for key in codes} == codes
    np.testing.assert_array_equal(written.affine, source.affine)
