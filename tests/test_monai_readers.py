"""The readers inside MONAI's own loaders give what ``read_volume`` gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import CtSeries
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd, SaveImaged
from PIL import Image

from headclip_med.errors import InputError
from headclip_med.reading import DicomSeriesReader, NiftiReader, RasterReader, SitkReader, read_volume

# LoadImage builds all of MONAI's readers, and this one says on every machine without its GPU decoder:
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

VALUES = np.random.default_rng(0).integers(0, 200, (5, 6, 4)).astype(np.int16)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """One source for each reader, by the reader's name."""
    affine = np.diag([-0.5, -0.7, 2.0, 1.0])
    nib.save(nib.Nifti1Image(VALUES, affine), tmp_path / "scan.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(tmp_path / "scan.nrrd"))
    Image.fromarray(VALUES[:, :, 0].astype(np.uint8)).save(tmp_path / "scan.png")
    CtSeries(orientation="oblique").write(tmp_path / "series")
    return {
        "NiftiReader": tmp_path / "scan.nii.gz",
        "SitkReader": tmp_path / "scan.nrrd",
        "RasterReader": tmp_path / "scan.png",
        "DicomSeriesReader": tmp_path / "series",
    }


READERS = {r.__name__: r for r in (NiftiReader, SitkReader, RasterReader, DicomSeriesReader)}


def _assert_same(loaded: MetaTensor, expected: MetaTensor) -> None:
    """Same values, geometry and metadata; a single channel has its axis only after EnsureChannelFirst, as in MONAI."""
    array = expected.numpy() if loaded.ndim == expected.ndim else expected.numpy()[0]
    np.testing.assert_array_equal(loaded.numpy(), array)
    np.testing.assert_array_equal(loaded.affine.numpy(), expected.affine.numpy())
    assert loaded.affine.dtype == expected.affine.dtype
    ours = set(expected.meta) - {"filename_or_obj"}  # LoadImage always sets the path it was given
    assert ours <= set(loaded.meta)
    for key in ours:
        np.testing.assert_array_equal(np.asarray(loaded.meta[key]), np.asarray(expected.meta[key]), str(key))


@pytest.mark.parametrize("ensure", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_an_instance_in_load_image(sources: dict[str, Path], name: str, ensure: bool) -> None:
    loader = LoadImage(reader=READERS[name](), image_only=True, ensure_channel_first=ensure)
    _assert_same(loader(sources[name]), read_volume(sources[name]))


@pytest.mark.parametrize("name", READERS)
def test_a_dotted_name_in_load_imaged_with_ensure_channel_first(sources: dict[str, Path], name: str) -> None:
    pipeline = Compose(
        [LoadImaged(keys="image", reader=f"headclip_med.reading.{name}"), EnsureChannelFirstd(keys="image")]
    )
    _assert_same(pipeline({"image": str(sources[name])})["image"], read_volume(sources[name]))


def test_a_list_of_slices_is_the_series(sources: dict[str, Path]) -> None:
    files = sorted(sources["DicomSeriesReader"].iterdir())
    _assert_same(LoadImage(reader=DicomSeriesReader())(files), read_volume(sources["DicomSeriesReader"]))


def test_a_list_of_sequences_is_channels(sources: dict[str, Path]) -> None:
    pair = [sources["NiftiReader"]] * 2
    loaded = LoadImage(reader=NiftiReader(), ensure_channel_first=True)(pair)
    assert loaded.shape == (2, *VALUES.shape)


def test_choices_go_through_the_constructor(tmp_path: Path) -> None:
    CtSeries(series_number=4).write(tmp_path / "two", "a")
    CtSeries(series_number=7, slices=3).write(tmp_path / "two", "b")
    assert LoadImage(reader=DicomSeriesReader(series=7))(tmp_path / "two").shape[-1] == 3
    nib.save(nib.Nifti1Image(np.stack([VALUES, VALUES + 1], axis=-1), np.eye(4)), tmp_path / "4d.nii")
    np.testing.assert_array_equal(LoadImage(reader=NiftiReader(time=1))(tmp_path / "4d.nii"), VALUES + 1)


def test_our_refusal_reaches_the_user_instead_of_a_silent_fallback(tmp_path: Path) -> None:
    CtSeries(missing=(3,)).write(tmp_path)
    with pytest.raises(InputError, match="evenly spaced"):
        LoadImage(reader=DicomSeriesReader())(tmp_path)
    with pytest.raises(InputError, match="exists"):
        LoadImage(reader=NiftiReader())(tmp_path / "nowhere.nii")


def test_each_format_finds_its_reader_among_several(sources: dict[str, Path]) -> None:
    loader = LoadImage(reader=[reader() for reader in READERS.values()])
    for source in sources.values():
        _assert_same(loader(source), read_volume(source))


def test_a_sagittal_volume_saves_through_monai_on_its_own_grid(tmp_path: Path) -> None:
    """MONAI's SaveImage took a stated channel axis for a 2-D grid and found its affine singular."""
    sagittal = np.array([[0, 0, -4.0, 49], [1.5, 0, 0, -49], [0, -1.5, 0, 45], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(VALUES, sagittal), tmp_path / "s.nii.gz")
    pipeline = Compose(
        [
            LoadImaged("image", reader=NiftiReader()),
            EnsureChannelFirstd("image"),
            SaveImaged("image", output_dir=tmp_path / "out", resample=False, print_log=False),
        ]
    )
    pipeline({"image": tmp_path / "s.nii.gz"})
    (saved,) = (nib.load(p) for p in (tmp_path / "out").rglob("*.nii.gz"))
    np.testing.assert_allclose(saved.affine, sagittal)


def test_suffixes_are_judged_by_content(sources: dict[str, Path]) -> None:
    for name, source in sources.items():
        assert [n for n, reader in READERS.items() if reader().verify_suffix(source)] == [name]


def test_a_batch_can_be_collated_and_reoriented(sources: dict[str, Path]) -> None:
    pipeline = Compose(
        [
            LoadImaged(keys="image", reader=DicomSeriesReader()),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
        ]
    )
    data = Dataset([{"image": sources["DicomSeriesReader"]}] * 2, pipeline)
    batch = next(iter(DataLoader(data, batch_size=2)))["image"]
    assert batch.shape[:2] == (2, 1)
    assert np.diag(batch.affine[0].numpy())[:3].min() > 0


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, headclip_med.reading; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
