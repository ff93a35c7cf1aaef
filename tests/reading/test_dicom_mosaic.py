"""One stored image that tiles many slices: a mosaic was read as one large slice of no anatomy at a wrong place."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_mosaics import Mosaic
from dicom_oracles import assert_same, dcm2niix
from dicom_results import result_of
from dicom_series import ORIENTATIONS, CtSeries
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading import list_series, load
from headclip_med.reading.dicom import pixels as dicom_pixels
from headclip_med.writing.dicom.objects import write_dicom

TO_RAS = np.array([-1.0, -1.0, 1.0])


def _check(volume: LoadedVolume, mosaic: Mosaic) -> None:
    """Every tile is a slice, at its place."""
    assert volume.array.shape == (1, mosaic.columns, mosaic.rows, mosaic.slices)
    for k, plane in enumerate(mosaic.stack):
        index = np.linalg.inv(volume.affine) @ [*(mosaic.lps(k) * TO_RAS), 1]
        np.testing.assert_allclose(index[:3], [0, 0, round(index[2])], atol=1e-5)
        np.testing.assert_array_equal(volume.array[0, :, :, round(index[2])].T, plane)


@pytest.mark.parametrize("vendor", ["siemens", "uih"])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_tile_of_a_mosaic_is_a_slice_in_its_place(
    tmp_path: Path, orientation: str, inverted: bool, vendor: str
) -> None:
    mosaic = Mosaic(orientation=orientation, inverted=inverted, vendor=vendor).write(tmp_path / "a.dcm")
    volume = load(tmp_path / "a.dcm")
    _check(volume, mosaic)
    assert volume.meta["reader_warnings"] == []
    assert volume.meta["is_2d"] is False
    assert volume.meta["tiled"] is True
    assert sorted(volume.meta["slice_frames"]) == [0] * 7
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, [1.5, 2.0, 4.0], atol=1e-6)
    assert [info.images for info in list_series(tmp_path)] == [7]


@pytest.mark.parametrize(
    "shape",
    [
        {"slices": 9},
        {"slices": 2, "down": 2, "across": 2},
        {"slices": 17, "down": 5, "across": 5},
        {"slices": 6, "rows": 12, "vendor": "uih"},
        {"slices": 6, "down": 2, "vendor": "uih"},
        {"slices": 27, "down": 5, "across": 6, "rows": 12, "vendor": "uih"},
        {"slices": 27, "down": 6, "across": 6, "rows": 12, "vendor": "uih"},
    ],
)
def test_mosaics_of_every_layout(tmp_path: Path, shape: dict[str, Any]) -> None:
    mosaic = Mosaic(**shape).write(tmp_path / "a.dcm")
    _check(load(tmp_path / "a.dcm"), mosaic)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_mosaic_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    mosaic = Mosaic().write(tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(tmp_path / "a.dcm")
    genuine, calls = dicom_pixels.pixel_array, []
    monkeypatch.setattr(dicom_pixels, "pixel_array", lambda *a, **k: calls.append(1) or genuine(*a, **k))
    _check(load(tmp_path / "a.dcm"), mosaic)
    assert len(calls) == 1


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mosaic_equals_dcm2niix(tmp_path: Path, orientation: str, inverted: bool) -> None:
    Mosaic(orientation=orientation, inverted=inverted, rows=12).write(tmp_path / "in" / "a.dcm")
    image = dcm2niix(tmp_path / "in", tmp_path / "out")
    assert_same(load(tmp_path / "in"), np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize("name", ["siemens_dwi_0.dcm.gz", "csa_slice_norm.dcm"])
def test_a_real_header_of_a_mosaic_equals_nibabel(tmp_path: Path, name: str) -> None:
    """The headers in nibabel's wheel have no pixels of a patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its DICOM readers call themselves experimental
        nicom = pytest.importorskip("nibabel.nicom.dicomwrappers")
    file = Path(nicom.__file__).parent / "tests" / "data" / name
    if not file.exists():
        pytest.skip("nibabel came without its test data")
    content = file.read_bytes()
    ds = dcmread(io.BytesIO(gzip.decompress(content) if name.endswith(".gz") else content))
    pixels = np.random.default_rng(0).integers(0, 4000, (ds.Rows, ds.Columns)).astype("<u2")
    ds.PixelRepresentation = 0
    ds.add_new("PixelData", "OW", pixels.tobytes())
    ds.save_as(tmp_path / "a.dcm")
    theirs = nicom.wrapper_from_file(tmp_path / "a.dcm")
    volume = load(tmp_path / "a.dcm")
    assert volume.array.shape[3] in (32, 48)
    assert_same(volume, np.asarray(theirs.get_data()), np.diag([-1.0, -1, 1, 1]) @ theirs.affine)


@pytest.mark.parametrize("vendor", ["siemens", "uih"])
def test_a_time_series_of_mosaics_is_one_volume_a_file(tmp_path: Path, vendor: str) -> None:
    mosaics = [Mosaic(vendor=vendor, instance=n + 1, seed=n).write(tmp_path / f"{9 - n}.dcm") for n in range(3)]
    infos = list_series(tmp_path)
    assert [(info.images, info.label) for info in infos] == [(7, f"instance {n}") for n in (1, 2, 3)]
    for info, mosaic in zip(infos, mosaics, strict=True):
        _check(load(tmp_path, series=f"#{info.number}"), mosaic)
    assert len({load(tmp_path, series=f"#{n}").meta["content_sha256"] for n in (1, 2, 3)}) == 3


def test_the_order_of_slices_that_a_mosaic_does_not_state_is_the_scanners_own_and_said(tmp_path: Path) -> None:
    mosaic = Mosaic(csa={}).write(tmp_path / "a.dcm")
    volume = load(tmp_path / "a.dcm")
    _check(volume, mosaic)
    assert volume.meta["reader_warnings"] == [
        "the order of the mosaic's slices is not in its header: feet to head is assumed"
    ]


NORMAL = {"SliceNormalVector": ("FD", ["0", "0", "1"])}
UNSAID = {
    "number": ({"csa": NORMAL}, "how many slices it tiles"),
    "a number beyond reason": ({"csa": {"NumberOfImagesInMosaic": ("US", ["60000"])}}, "how many slices it tiles"),
    "spacing": ({"tags": {"SpacingBetweenSlices": None}}, "how far its slices lie apart"),
    "empty spacing": ({"tags": {"SpacingBetweenSlices": ""}}, "how far its slices lie apart"),
    "position": ({"tags": {"ImagePositionPatient": None}}, "where it lies in the patient"),
    "order": ({"csa": {}, "orientation": "sagittal"}, "which way its slices run"),
    "fitting normal": ({"csa": {"SliceNormalVector": ("FD", ["1", "0", "0"])}}, "which way its slices run"),
    "fitting size": ({"tags": {"Rows": 29, "Columns": 37}}, "how its size is shared by 7 slices"),
    "frames of a grid": ({"vendor": "uih"}, "where each slice lies"),
    "number of a grid": ({"vendor": "uih"}, "how many slices it tiles"),
}


@pytest.mark.parametrize("case", UNSAID)
def test_a_mosaic_that_does_not_say_enough_is_refused_in_words(tmp_path: Path, case: str) -> None:
    options, words = UNSAID[case]
    Mosaic(**options).write(tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    if case in ("number", "a number beyond reason"):
        del ds[0x0019, 0x100A]
    if case == "frames of a grid":
        ds[0x0065, 0x1051].value = ds[0x0065, 0x1051].value[:5]
    if case == "number of a grid":
        del ds[0x0065, 0x1050]
    ds.save_as(tmp_path / "a.dcm")
    for source in (tmp_path / "a.dcm", tmp_path):
        with pytest.raises(InputError, match=rf"mosaic that does not say {words}.*export it again with its private"):
            load(source)
    CtSeries().write(tmp_path / "ct")
    assert "mosaic" in "".join(load(tmp_path).meta["reader_warnings"])


@pytest.mark.parametrize(
    ("number", "creator"), [(b"\x07\x00", "SIEMENS MR HEADER"), (b"\x07\x00", "Anon"), (b"7 ", "Anon")]
)
def test_a_number_of_slices_in_bare_bytes_counts(tmp_path: Path, number: bytes, creator: str) -> None:
    mosaic = Mosaic(csa={"SliceNormalVector": ("FD", ["0", "0", "1"])}).write(tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    ds[0x0019, 0x0010].value = creator
    ds.add_new(0x0019100A, "UN", number)
    ds.save_as(tmp_path / "a.dcm")
    _check(load(tmp_path / "a.dcm"), mosaic)


@pytest.mark.parametrize("vendor", ["siemens", "uih"])
def test_a_mosaic_of_implicit_representations(tmp_path: Path, vendor: str) -> None:
    """Which leave the private elements, a sequence among them, as bare bytes."""
    mosaic = Mosaic(vendor=vendor).write(tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    _check(load(tmp_path / "a.dcm"), mosaic)


def test_a_mosaic_whose_type_was_lost_is_known_by_its_number(tmp_path: Path) -> None:
    mosaic = Mosaic(tags={"ImageType": ["DERIVED", "PRIMARY"]}).write(tmp_path / "a.dcm")
    _check(load(tmp_path / "a.dcm"), mosaic)


def test_a_mosaic_of_one_slice_is_that_image(tmp_path: Path) -> None:
    one = {"NumberOfImagesInMosaic": ("US", ["1"])}
    Mosaic(slices=1, down=1, across=1, csa=one).write(tmp_path / "a.dcm")
    assert load(tmp_path / "a.dcm").array.shape == (1, 12, 10, 1)


@pytest.mark.parametrize("kind", ["seg", "segscore", "pm", "sr", "sc", "dicom"])
def test_dicom_results_of_a_mosaic_are_refused_in_words(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("highdicom")
    Mosaic().write(tmp_path / "in" / "a.dcm")
    result = result_of(tmp_path / "in")
    with pytest.raises(OutputError, match=r"a mosaic, which tiles many slices in one.*Ask for NIfTI results"):
        write_dicom(result, tmp_path, [kind])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_mosaic_names_its_file_and_nothing_that_cannot_help(tmp_path: Path) -> None:
    Mosaic().write(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[:-100])
    for policy in ("error", "keep"):
        with pytest.raises(InputError, match=r"a\.dcm must hold pixel data") as caught:
            load(tmp_path / "a.dcm", on_irregular=policy)
        assert "--on-irregular" not in str(caught.value)
    Mosaic().write(tmp_path / "b.dcm")
    ds = dcmread(tmp_path / "b.dcm")
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.PixelData = encapsulate([bytes(200)])
    ds.save_as(tmp_path / "b.dcm")
    with pytest.raises(InputError, match=r"b\.dcm must hold pixel data that can be decoded") as caught:
        load(tmp_path / "b.dcm")
    assert "--on-irregular" not in str(caught.value)
