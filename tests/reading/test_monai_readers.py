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
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch, pad_list_data_collate
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImage,
    LoadImaged,
    Orientationd,
    Resized,
    SaveImaged,
)
from PIL import Image

from headclip_med import load_engine
from headclip_med.base.errors import InputError
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import flat_meta, volume_meta
from headclip_med.reading import DicomSeriesReader, NiftiReader, RasterReader, SitkReader, load_volume, read_volume

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
    ours = flat_meta(expected.meta)
    del ours["filename_or_obj"]  # LoadImage always sets the path it was given
    assert set(ours) <= set(loaded.meta)
    for key, value in ours.items():
        np.testing.assert_array_equal(np.asarray(loaded.meta[key]), np.asarray(value), str(key))


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


# --- metadata that a batch can carry --------------------------------------------------------------------------------


@pytest.fixture
def everything(sources: dict[str, Path], tmp_path: Path) -> dict[str, Path | list[Path]]:
    """A source of every kind whose metadata differs from that of the others."""
    odd = nib.Nifti1Image(VALUES, None)
    odd.header.set_sform(np.diag([-0.5, -0.7, 2.0, 1.0]), 2)
    odd.header.set_qform(np.diag([-0.5, -0.7, 3.0, 1.0]), 1)
    nib.save(nib.Nifti1Image(VALUES, None, odd.header), tmp_path / "odd.nii")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(rng.integers(0, 255, (6, 5, 4), dtype=np.uint8)).save(tmp_path / "see_through.png")
    CtSeries(missing=(2, 3), seed=1).write(tmp_path / "gaps")
    CtSeries(modality="MR", photometric="MONOCHROME1", slices=4, seed=2).write(tmp_path / "mr")
    return {
        "nifti": sources["NiftiReader"],
        "nrrd": sources["SitkReader"],
        "grey": sources["RasterReader"],
        "dicom": sources["DicomSeriesReader"],
        "odd nifti": tmp_path / "odd.nii",
        "colour": tmp_path / "colour.png",
        "see-through": tmp_path / "see_through.png",
        "gaps": tmp_path / "gaps",
        "monochrome1": tmp_path / "mr",
        "sequences": [sources["NiftiReader"], tmp_path / "odd.nii"],
    }


def reading(first_channel: bool = False, shape: tuple[int, ...] | None = None) -> Compose:
    reader = "headclip_med.reading.VolumeReader"
    steps = [LoadImaged("image", reader=reader, on_irregular="keep"), EnsureChannelFirstd("image")]
    steps += [Lambdad("image", lambda image: image[:1])] if first_channel else []
    return Compose(steps + ([] if shape is None else [Resized("image", shape)]))


def test_metadata_is_of_the_same_keys_and_kinds_for_every_source(everything: dict[str, Path]) -> None:
    """Lists of other lengths, None, and keys that only some files had could not be in one batch."""
    read = {name: reading()({"image": path})["image"].meta for name, path in everything.items()}
    kinds = {name: {str(key): type(value) for key, value in meta.items()} for name, meta in read.items()}
    channel = {name: found.pop("original_channel_dim") for name, found in kinds.items()}
    assert set(channel.values()) == {int, float}  # as MONAI has it: a number, or NaN for none
    for name, found in kinds.items():
        assert found == kinds["nifti"], name
        assert not {list, tuple, dict, type(None)} & set(found.values())


@pytest.mark.parametrize("of", ["read_volume", "LoadImaged"])
def test_nothing_is_lost_in_flat_metadata(of: str, everything: dict[str, Path]) -> None:
    for path in everything.values():
        expected = load_volume(path, on_irregular="keep").meta
        if of == "read_volume":
            found = volume_meta(read_volume(path, on_irregular="keep"))
        else:
            found = volume_meta(reading()({"image": path})["image"])
        for key, value in expected.items():
            assert found.get(key) == value or (value in (None, False) and not found.get(key)), key
        known = {key: found[key] for key in VolumeMeta.__annotations__ if key in found}
        assert flat_meta(known) == flat_meta(flat_meta(known))


PAIRS = [
    ("nifti", "odd nifti"),
    ("colour", "grey"),
    ("colour", "see-through"),
    ("dicom", "nifti"),
    ("dicom", "gaps"),
    ("gaps", "monochrome1"),
    ("nrrd", "odd nifti"),
    ("grey", "dicom"),
    ("sequences", "nifti"),
]


def assert_pair_shares_a_batch(pair: tuple[str, str], everything: dict[str, Path], workers: int = 0) -> None:
    data = [{"image": everything[name], "name": name} for name in pair]
    steps = reading(first_channel=True, shape=(8, 9, 4))
    alone = [steps(dict(item))["image"] for item in data]
    batch = next(iter(DataLoader(Dataset(data, steps), batch_size=2, num_workers=workers)))
    assert batch["image"].shape == (2, 1, 8, 9, 4)
    for one, other in zip(alone, (case["image"] for case in decollate_batch(batch)), strict=True):
        assert volume_meta(one)["reader_warnings"] == volume_meta(other)["reader_warnings"]
        for key in ("modality", "is_rgb", "is_2d", "slice_positions", "default_window", "display_inverted"):
            assert volume_meta(one).get(key) == volume_meta(other).get(key), key


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_sources_of_different_kinds_share_a_batch(pair: tuple[str, str], everything: dict[str, Path]) -> None:
    assert_pair_shares_a_batch(pair, everything)


def test_they_share_a_batch_from_another_process(everything: dict[str, Path]) -> None:
    assert_pair_shares_a_batch(("dicom", "colour"), everything, workers=1)


def test_other_ways_to_make_a_batch(everything: dict[str, Path]) -> None:
    pair = [{"image": everything[name]} for name in ("nifti", "dicom")]
    padded = next(iter(DataLoader(Dataset(pair, reading()), batch_size=2, collate_fn=pad_list_data_collate)))
    assert padded["image"].shape == (2, 1, 8, 9, 6)
    both = Compose([LoadImaged("image", reader="headclip_med.reading.VolumeReader", image_only=False)])
    data = Dataset([{"image": everything[name]} for name in ("nifti", "odd nifti")], both)
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert [case["image_meta_dict"]["reader_warnings"] for case in decollate_batch(batch)] == [
        "",
        "sform and qform disagree by up to 3 mm: the sform is used",
    ]


@pytest.mark.parametrize("source", ["dicom", "gaps", "monochrome1", "colour"])
def test_a_batched_source_gives_the_map_of_its_file(source: str, everything: dict[str, Path], tiny_pack: Path) -> None:
    """Window, plane and empty slices are told by metadata, so none of it may be lost on the way."""
    engine = load_engine(tiny_pack)
    expected = engine.predict(everything[source], on_irregular="keep")
    loader = DataLoader(Dataset([{"image": everything[source]}], reading()), batch_size=1)
    found = engine.predict(decollate_batch(next(iter(loader)))[0]["image"])
    assert np.array_equal(found.map_array, expected.map_array)
    assert found.warnings == expected.warnings
    assert [s.uid for s in found.slices] == [s.uid for s in expected.slices]
    assert found.meta.get("slice_files") == expected.meta.get("slice_files")


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, headclip_med.reading; print(sorted({'torch', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
