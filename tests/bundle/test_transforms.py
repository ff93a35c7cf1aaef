"""The steps as MONAI dictionary transforms, in a pipeline that anyone would write."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_series import CtSeries
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    SmartCacheDataset,
    ThreadDataLoader,
    decollate_batch,
)
from monai.data.utils import pickle_hashing
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    Identityd,
    Invertd,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    SaveImaged,
    ScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
)
from oracle import oracle_engine
from PIL import Image
from small_cases import write_volume
from spheres import CENTRE_MM, GRIDS, sphere

from headclip_med import load_engine, read_volume
from headclip_med.base.errors import InputError, ModelError
from headclip_med.bundle.transforms import AnomalyMapd, CutSlicesd, DetectSlicesd, ToPixelsd, WindowIntensityd

# LoadImage builds all of MONAI's readers, and this one says on every machine without its GPU decoder:
pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    # Invertd says so of a pipeline that only reads, and of a lazy one:
    pytest.mark.filterwarnings("ignore:inverse has been called but no invertible:UserWarning"),
    pytest.mark.filterwarnings("ignore:'lazy' is set to True but lazy execution is not supported:UserWarning"),
]

OURS = "headclip_med.reading.VolumeReader"
READERS = pytest.mark.parametrize("reader", [OURS, None], ids=["ours", "monai's"])
MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture(params=["LPS", "oblique", "sagittal"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    array, affine = sphere(request.param)
    nib.Nifti1Image(array, affine).to_filename(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def load() -> list:
    return [LoadImaged("image", reader="headclip_med.reading.NiftiReader"), EnsureChannelFirstd("image")]


def test_load_orient_engine_invert_save_gives_the_sources_own_grid(scan: Path, tmp_path: Path) -> None:
    before = Compose([*load(), Orientationd("image", "RAS", labels=None)])
    after = Compose(
        [
            AnomalyMapd("image", model=oracle_engine(), threshold=0.6, with_result=True),
            Invertd("anomaly_map", transform=before, orig_keys="image"),
            SaveImaged("anomaly_map", output_dir=tmp_path / "out", resample=False, print_log=False),
        ]
    )
    out = after(before({"image": scan}))
    source = nib.load(scan)
    (saved,) = (nib.load(p) for p in (tmp_path / "out").rglob("*.nii.gz"))
    assert saved.shape == source.shape
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
    mask = np.asarray(saved.dataobj) >= 0.6
    centre = nib.affines.apply_affine(saved.affine, np.argwhere(mask).mean(axis=0))
    np.testing.assert_allclose(centre, CENTRE_MM, atol=1.0)
    np.testing.assert_allclose(out["anomaly_map_result"].findings[0].centroid_mm, CENTRE_MM, atol=1.0)


def test_step_by_step_equals_the_engine(scan: Path) -> None:
    engine = oracle_engine()
    mean, std = engine.scorer._detectors["any"].tower.mean, engine.scorer._detectors["any"].tower.std
    steps = Compose([*load(), WindowIntensityd("image"), CutSlicesd("image"), ToPixelsd("image", 64, mean, std)])
    ready = steps({"image": scan})
    out = Compose([DetectSlicesd("image", model=engine), Invertd("anomaly_map", transform=steps, orig_keys="image")])(
        ready
    )
    result = engine.predict(scan)
    inside = result.map_array > 0
    np.testing.assert_allclose(out["anomaly_map"].numpy()[0][inside], result.map_array[inside], atol=1e-6)
    np.testing.assert_allclose(out["anomaly_map"].affine, result.affine, atol=1e-6)
    assert out["anomaly_map_scores"].shape == (len(result.slices),)


def test_cut_slices_there_and_back() -> None:
    for name in GRIDS:
        array, affine = sphere(name)
        volume = MetaTensor(array[None], affine=affine)
        cut = CutSlicesd("image", plane="coronal")
        back = cut.inverse(cut({"image": volume}))["image"]
        np.testing.assert_array_equal(back.numpy(), array[None])


def scan_of(array: np.ndarray, affine: np.ndarray | None = None, **meta: object) -> MetaTensor:
    return MetaTensor(array.astype(np.float32), affine=np.eye(4) if affine is None else affine, meta=dict(meta))


def test_a_plain_image_is_cut_as_the_engine_cuts_it_whatever_plane_is_asked_for() -> None:
    image = scan_of(np.random.default_rng(0).random((1, 12, 10, 1)), is_2d=True)
    cut = CutSlicesd("image", plane="coronal")({"image": image})["image"]
    assert cut.shape == (1, 1, 10, 12)
    assert cut.meta["plane_reason"] == "a 2-D image has one plane"


def test_a_single_sagittal_slice_is_not_cut_into_strips() -> None:
    volume = scan_of(np.random.default_rng(0).random((1, 1, 12, 10)))
    cut = CutSlicesd("image")({"image": volume})["image"]
    assert cut.shape == (1, 1, 10, 12)
    assert cut.meta["plane_reason"] == "a single slice"


def test_ct_without_a_window_gets_the_brain_window_and_says_so() -> None:
    """Brain 40/80: 0 HU is black, 40 HU mid grey, 80 HU white; the warning of an earlier step stays."""
    hu = np.array([-1000.0, 0, 40, 80, 1000]).reshape(1, 5, 1, 1)
    out = WindowIntensityd("image")({"image": scan_of(hu, modality="CT", reader_warnings=["first"])})["image"]
    assert out.numpy().ravel().tolist() == [0, 0, 0.5, 1, 1]
    first, place, said = out.meta["reader_warnings"].splitlines()
    assert place.startswith("the affine is the identity")
    assert first == "first"
    assert "brain window 40/80" in said
    bone = WindowIntensityd("image", window="bone")({"image": scan_of(hu, modality="CT")})["image"]
    assert bone.numpy().ravel()[3] == pytest.approx((80 + 800) / 2800)
    assert bone.meta["reader_warnings"] == place


def test_monochrome1_is_windowed_as_monochrome2() -> None:
    rng = np.random.default_rng(0)
    mono2 = rng.integers(0, 6, (1, 24, 24, 24)).astype(float)
    mono2[0, 6:18, 6:18, 6:18] = rng.integers(60, 120, (12, 12, 12))
    step = WindowIntensityd("image")
    one = step({"image": scan_of(4095 - mono2, modality="MR", display_inverted=True)})["image"]
    two = step({"image": scan_of(mono2, modality="MR")})["image"]
    np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-5)
    assert two.numpy()[0, 0].max() == 0  # air is below the patient's darkest voxels


def test_a_wrong_window_or_plane_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="A window must be one of"):
        WindowIntensityd("image", window="brian")
    with pytest.raises(InputError, match="A plane must be one of"):
        CutSlicesd("image", plane="oblique")({"image": scan_of(np.arange(8.0).reshape(1, 2, 2, 2))})


# --- pipelines as people write them ---------------------------------------------------------------------------------


def loading(reader: str | None = OURS) -> list[Any]:
    return [LoadImaged("image", reader=reader), EnsureChannelFirstd("image")]


def picture(path: Path, *, colour: bool, seed: int = 0) -> Path:
    """24 rows, 30 columns, a bright block to the upper right."""
    array = np.random.default_rng(seed).integers(20, 90, (24, 30, 3)).astype(np.uint8)
    array[4:9, 20:27] = (250, 240, 200)
    Image.fromarray(array if colour else array[..., 0]).save(path)
    return path


def in_place(before: Compose, source: Any, out: Path, **saving: Any) -> Path:
    """Map, inverse and file of a source; the file."""
    after = Compose(
        [
            AnomalyMapd("image", model=oracle_engine()),
            Invertd("anomaly_map", transform=before, orig_keys="image", nearest_interp=False),
            SaveImaged("anomaly_map", output_dir=out, resample=False, print_log=False, **saving),
        ]
    )
    after(before({"image": source}))
    return next(path for path in out.rglob("*") if path.is_file())


STEPS = {
    "as read": lambda is_picture: Identityd("image"),
    "oriented": lambda is_picture: Identityd("image") if is_picture else Orientationd("image", "RAS", labels=None),
    "scaled and resized": lambda is_picture: Compose(
        [ScaleIntensityd("image"), Resized("image", (24, 20, -1)[: 2 if is_picture else 3])]
    ),
    "cropped": lambda is_picture: CropForegroundd("image", source_key="image"),
    "spaced": lambda is_picture: Identityd("image") if is_picture else Spacingd("image", (1.5, 1.5, 3)),
}


@READERS
@pytest.mark.parametrize("kind", ["volume", "colour", "grey"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_map_comes_back_to_the_sources_grid_with_monais_own_writer(
    steps: str, kind: str, reader: str | None, tmp_path: Path
) -> None:
    """Of a colour picture SaveImage found no writer; of a scaled one the map was black."""
    is_picture = kind != "volume"
    source = write_volume(tmp_path / "scan.nii.gz")
    if is_picture:
        source = picture(tmp_path / "scan.png", colour=kind == "colour")
    before = Compose([*loading(reader), STEPS[steps](is_picture and reader is None)])
    found = nib.load(in_place(before, source, tmp_path / "out"))
    expected = oracle_engine().predict(source).map_array
    values = np.asarray(found.dataobj).reshape(expected.shape)
    assert np.unravel_index(values.argmax(), values.shape) in np.argwhere(expected > 0.8 * expected.max())
    if steps in ("as read", "oriented"):
        np.testing.assert_allclose(values, expected, atol=1e-6)
    if not is_picture:
        np.testing.assert_allclose(found.affine, nib.load(source).affine, atol=1e-6)


def test_a_lazy_pipeline_comes_back_too(tmp_path: Path) -> None:
    source = write_volume(tmp_path / "scan.nii.gz")
    steps = [Orientationd("image", "RAS", labels=None), Spacingd("image", (1.5, 1.5, 3))]
    found = nib.load(in_place(Compose([*loading(), *steps], lazy=True), source, tmp_path / "out"))
    assert found.shape == nib.load(source).shape
    np.testing.assert_allclose(found.affine, nib.load(source).affine, atol=1e-5)


@READERS
def test_three_sequences_give_one_map_on_their_grid(reader: str | None, tmp_path: Path) -> None:
    source = write_volume(tmp_path / "scan.nii.gz")
    found = nib.load(in_place(Compose(loading(reader)), [source] * 3, tmp_path / "out"))
    assert found.shape == nib.load(source).shape
    np.testing.assert_allclose(found.affine, nib.load(source).affine)


@READERS
def test_the_map_of_a_picture_is_also_a_picture(reader: str | None, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.b.png", colour=True)
    writer = "headclip_med.writing.monai_writer.NiftiMapWriter"
    in_place(Compose(loading(reader)), source, tmp_path / "both", writer=writer, output_postfix="map")
    (png,) = (tmp_path / "both").rglob("*.png")
    (nifti,) = (tmp_path / "both").rglob("*.nii.gz")
    assert (png.name, nifti.name) == ("a.b_map.png", "a.b_map.nii.gz")
    expected = oracle_engine().predict(source).map_array
    np.testing.assert_allclose(np.asarray(Image.open(png)) / 255, expected[:, :, 0].T, atol=0.5 / 255 + 1e-6)
    assert nib.load(nifti).shape == (30, 24, 1)
    alone = in_place(Compose(loading(reader)), source, tmp_path / "one", writer=writer, output_ext=".png")
    assert [path for path in (tmp_path / "one").rglob("*") if path.is_file()] == [alone]


def test_a_volume_is_no_picture_in_words(tmp_path: Path) -> None:
    source = write_volume(tmp_path / "scan.nii.gz")
    writer = "headclip_med.writing.monai_writer.NiftiMapWriter"
    with pytest.raises(RuntimeError) as caught:
        in_place(Compose(loading()), source, tmp_path / "out", writer=writer, output_ext=".png")
    assert "Only the map of a plain picture can be a PNG" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "scaling",
    [
        ScaleIntensityd("image"),
        ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True),
        ScaleIntensityRanged("image", -1000, 1000, -1, 1),
        NormalizeIntensityd("image"),
    ],
)
def test_a_ct_that_was_scaled_is_refused_instead_of_windowed_black(scaling: Any, tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "ct")
    data = Compose([*loading(), scaling])({"image": tmp_path / "ct"})
    with pytest.raises(InputError, match=r"image: .* in the units of the window 40/80, such as HU; given: values from"):
        WindowIntensityd("image")(data)
    with pytest.raises(InputError, match="Leave out what scales intensities before, or give the window"):
        AnomalyMapd("image", model=oracle_engine())(data)
    assert AnomalyMapd("image", model=oracle_engine(), window=(0, 2))(data)["anomaly_map"].shape == (1, 8, 9, 6)


@READERS
def test_colour_in_0_to_1_is_colour_and_normalised_colour_is_refused(reader: str | None, tmp_path: Path) -> None:
    data = Compose(loading(reader))({"image": picture(tmp_path / "a.png", colour=True)})
    step = AnomalyMapd("image", model=oracle_engine())
    expected = step(data)["anomaly_map"]
    part = step({"image": data["image"] / 255})["anomaly_map"]
    np.testing.assert_allclose(part.numpy(), expected.numpy(), atol=1e-5)
    assert part.meta["reader_warnings"] == "colour in [0, 1] is taken as parts of 255"
    for wrong in (NormalizeIntensityd("image"), ScaleIntensityd("image", -1, 1), ScaleIntensityd("image", 0, 65535)):
        with pytest.raises(InputError, match=r"Colour must lie in \[0, 255\] or \[0, 1\]; given: values from"):
            step(wrong(dict(data)))


# --- between a loader and the post-transforms -----------------------------------------------------------------------


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    """Two of one shape; the second one's header has something to be warned of."""
    first = write_volume(tmp_path / "a.nii.gz")
    image = nib.load(write_volume(tmp_path / "b.nii.gz", value=700))
    image.header.set_sform(np.diag([1.0, 1.0, 3.0, 1.0]), 2)
    image.header.set_qform(np.diag([1.0, 1.0, 4.0, 1.0]), 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "odd.nii.gz")
    return [first, tmp_path / "odd.nii.gz"]


def items(paths: list[Path]) -> list[dict[str, Any]]:
    return [{"image": str(path), "id": number, "site": "north"} for number, path in enumerate(paths)]


LOADERS: dict[str, Callable[[list[Any], Compose], Any]] = {
    "one by one": lambda data, steps: DataLoader(Dataset(data, steps), batch_size=1),
    "a batch": lambda data, steps: DataLoader(Dataset(data, steps), batch_size=2),
    "worker processes": lambda data, steps: DataLoader(Dataset(data, steps), batch_size=2, num_workers=2),
    "threads": lambda data, steps: ThreadDataLoader(
        Dataset(data, steps), batch_size=2, num_workers=2, use_thread_workers=True
    ),
    "a cache": lambda data, steps: DataLoader(CacheDataset(data, steps, num_workers=2, progress=False), batch_size=2),
}


@READERS
@pytest.mark.parametrize("loader", LOADERS)
def test_maps_are_made_in_a_dataset_of_any_kind(
    loader: str, reader: str | None, volumes: list[Path], tiny_pack: Path
) -> None:
    """No DataLoader could collate an AnomalyResult, nor files with different numbers of warnings."""
    steps = Compose([*loading(reader), AnomalyMapd("image", model=tiny_pack)])
    cases = [case for batch in LOADERS[loader](items(volumes), steps) for case in decollate_batch(batch)]
    engine = load_engine(tiny_pack)
    for case, path in zip(cases, volumes, strict=True):
        expected = engine.predict(path)
        np.testing.assert_allclose(case["anomaly_map"][0].numpy(), expected.map_array, atol=1e-6)
        assert case["anomaly_map_score"] == pytest.approx(expected.pred_score, abs=1e-6)
        assert case["site"] == "north"
    if reader is not None:
        assert [case["anomaly_map"].meta["reader_warnings"] for case in cases] == [
            "",
            "sform and qform disagree by up to 5 mm: the sform is used",
        ]


def test_a_smart_cache_makes_the_same_maps(volumes: list[Path], tiny_pack: Path) -> None:
    steps = Compose([*loading(), AnomalyMapd("image", model=tiny_pack)])
    data = SmartCacheDataset(items(volumes), steps, replace_rate=1.0, cache_num=1, progress=False, shuffle=False)
    data.start()
    seen = [data[0]]
    data.update_cache()
    seen.append(data[0])
    data.shutdown()
    for case, path in zip(seen, volumes, strict=True):
        expected = load_engine(tiny_pack).predict(path).map_array
        np.testing.assert_allclose(case["anomaly_map"][0].numpy(), expected, atol=1e-6)


@READERS
@pytest.mark.parametrize("together", [1, 2])
def test_a_decollated_case_is_taken_as_before_the_batch(
    together: int, reader: str | None, volumes: list[Path], tiny_pack: Path
) -> None:
    """An empty list of warnings came back from a batch as None, and the transforms failed on it."""
    loader = DataLoader(Dataset(items(volumes), Compose(loading(reader))), batch_size=together)
    steps = Compose([WindowIntensityd("image"), CutSlicesd("image"), ToPixelsd("image", 32, MEAN, STD)])
    alone = [Compose(loading(reader))({"image": path}) for path in volumes]
    batched = [case for batch in loader for case in decollate_batch(batch)]
    for one, other in zip(alone, batched, strict=True):
        found = [AnomalyMapd("image", model=tiny_pack)(data)["anomaly_map"] for data in (one, other)]
        assert torch.equal(found[0].as_tensor(), found[1].as_tensor())
        assert found[0].meta["reader_warnings"] == found[1].meta["reader_warnings"]
        assert torch.equal(steps(one)["image"].as_tensor(), steps(other)["image"].as_tensor())


def test_none_in_the_metadata_is_nothing_known() -> None:
    known = dict.fromkeys(("reader_warnings", "modality", "is_rgb", "is_2d", "volume_details", "slice_normal"))
    image = scan_of(np.random.default_rng(0).random((1, 12, 10, 6)), **known, default_window=None, slice_pixel_mm=None)
    out = AnomalyMapd("image", model=oracle_engine())({"image": image})["anomaly_map"]
    plain = scan_of(np.random.default_rng(0).random((1, 12, 10, 6)))
    expected = AnomalyMapd("image", model=oracle_engine())({"image": plain})["anomaly_map"]
    assert torch.equal(out.as_tensor(), expected.as_tensor())
    steps = Compose([WindowIntensityd("image"), CutSlicesd("image"), ToPixelsd("image", 32, MEAN, STD)])
    assert torch.equal(steps({"image": image})["image"].as_tensor(), steps({"image": plain})["image"].as_tensor())


@READERS
@pytest.mark.parametrize("track_meta", [False, True])
def test_a_persistent_dataset_gives_the_same_again(
    reader: str | None, track_meta: bool, volumes: list[Path], tiny_pack: Path, tmp_path: Path
) -> None:
    def dataset() -> PersistentDataset:
        steps = Compose([*loading(reader), AnomalyMapd("image", model=tiny_pack)])
        return PersistentDataset(
            items(volumes), steps, tmp_path / "cache", hash_transform=pickle_hashing, track_meta=track_meta
        )

    first, second = dataset(), dataset()
    made = [case["anomaly_map"] for case in first]
    with warnings.catch_warnings():
        if reader is None and track_meta:  # MONAI's own metadata cannot be loaded again, and is made anew
            warnings.filterwarnings("ignore", message="Corrupt cache file")
        again = [case["anomaly_map"] for case in second]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert first.transform_hash == second.transform_hash
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(made, again, strict=True))


def test_slices_from_a_persistent_cache_still_know_their_way_back(volumes: list[Path], tmp_path: Path) -> None:
    steps = Compose([*loading(), WindowIntensityd("image"), CutSlicesd("image"), ToPixelsd("image", 64, MEAN, STD)])
    data = PersistentDataset(items(volumes), steps, tmp_path / "cache", track_meta=True)
    after = Compose(
        [
            DetectSlicesd("image", model=oracle_engine()),
            Invertd("anomaly_map", transform=steps, orig_keys="image", nearest_interp=False),
        ]
    )
    made, again = after(data[0])["anomaly_map"], after(data[0])["anomaly_map"]
    assert made.shape == (1, 20, 24, 6)
    assert torch.equal(made.as_tensor(), again.as_tensor())


def test_a_transform_is_pickled_without_the_model_that_it_loaded(tiny_pack: Path, volumes: list[Path]) -> None:
    step = AnomalyMapd("image", model=tiny_pack)
    before = pickle_hashing(step)
    found = step(Compose(loading())({"image": volumes[0]}))["anomaly_map"]
    assert pickle_hashing(step) == before
    assert len(pickle.dumps(step)) < 5000
    copy = pickle.loads(pickle.dumps(step))
    assert torch.equal(copy(Compose(loading())({"image": volumes[0]}))["anomaly_map"].as_tensor(), found.as_tensor())


# --- keys and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "data", "made"),
    [
        ({"keys": "a"}, "ab", ["anomaly_map"]),
        ({"keys": ["a"]}, "a", ["anomaly_map"]),
        ({"keys": ["a", "b"]}, "ab", ["a_anomaly_map", "b_anomaly_map"]),
        ({"keys": ["a", "b"], "output_key": "map"}, "ab", ["a_map", "b_map"]),
        ({"keys": ["a", "b"], "output_key": ["one", "two"]}, "ab", ["one", "two"]),
        ({"keys": ["a", "b"], "allow_missing_keys": True}, "b", ["b_anomaly_map"]),
    ],
)
def test_every_key_has_a_map_of_its_own(options: dict[str, Any], data: str, made: list[str]) -> None:
    """Of several keys the last one's map stood under the only output key."""
    rng = np.random.default_rng(0)
    given = {key: scan_of(rng.random((1, 12, 10, 6))) for key in data}
    out = AnomalyMapd(**options, model=oracle_engine())(dict(given))
    scores = [f"{name}_score" for name in made]
    assert set(out) == {*data, *made, *scores}
    alone = AnomalyMapd("image", model=oracle_engine())
    for name, key in zip(made, options["keys"] if len(data) == len(options["keys"]) else data, strict=False):
        expected = alone({"image": given[key]})
        assert torch.equal(out[name].as_tensor(), expected["anomaly_map"].as_tensor())
        assert out[f"{name}_score"] == expected["anomaly_map_score"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_key": ["one"]}, "an output key for each of a, b; given: one"),
        ({"output_key": ["one", "one"]}, "an output key for each of a, b; given: one, one"),
        ({"treshold": 0.4}, "must be among .*threshold.*; given: treshold"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        AnomalyMapd(["a", "b"], model=oracle_engine(), **options)


def test_what_read_volume_gives_can_be_in_a_batch_behind_a_step(volumes: list[Path], tiny_pack: Path) -> None:
    """Its lists of warnings and slices differ from file to file."""
    steps = Compose([Lambdad("image", read_volume), AnomalyMapd("image", model=tiny_pack)])
    batch = next(iter(DataLoader(Dataset(items(volumes), steps), batch_size=2)))
    assert batch["anomaly_map"].shape == batch["image"].shape == (2, 1, 20, 24, 6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said_in_words(volumes: list[Path], tiny_pack: Path) -> None:
    data = Compose(loading())({"image": volumes[0]})
    with pytest.raises(ModelError, match="must be auto, cpu, or one that PyTorch finds here; given: cuda"):
        AnomalyMapd("image", model=tiny_pack, device="cuda")(data)


def test_what_was_assumed_is_still_told_after_the_inverse(tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "ct")
    before = Compose([*loading(), Orientationd("image", "RAS", labels=None)])
    step = AnomalyMapd("image", model=oracle_engine())
    data = step(step(before({"image": tmp_path / "ct"})))
    found = Invertd("anomaly_map", transform=before, orig_keys="image")(data)["anomaly_map"]
    (note,) = found.meta["reader_warnings"].splitlines()
    assert note == "CT without a window or a domain: the file's own window 40/80 is used"


# --- what the steps refuse ------------------------------------------------------------------------------------------


def as_meta(tensor: torch.Tensor, of: MetaTensor) -> MetaTensor:
    return MetaTensor(tensor, meta=dict(of.meta), applied_operations=list(of.applied_operations))


def step_and_input(name: str) -> tuple[Callable[[Any], MetaTensor], MetaTensor]:
    """A step of the pipeline by name, and what it takes."""
    steps: dict[str, Any] = {
        "WindowIntensityd": WindowIntensityd("image"),
        "CutSlicesd": CutSlicesd("image"),
        "ToPixelsd": ToPixelsd("image", 64, MEAN, STD),
        "DetectSlicesd": DetectSlicesd("image", model=oracle_engine(), output_key="image"),
        "AnomalyMapd": AnomalyMapd("image", model=oracle_engine(), output_key="image"),
    }
    data = {"image": scan_of(np.random.default_rng(0).random((1, 12, 10, 6)) * 100, np.diag([1.0, 1, 3, 1]))}
    for before in () if name == "AnomalyMapd" else steps:
        if before == name:
            break
        data = steps[before](data)
    return lambda value: steps[name]({"image": value})["image"], data["image"]


STEP_NAMES = ("WindowIntensityd", "CutSlicesd", "ToPixelsd", "DetectSlicesd", "AnomalyMapd")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.as_tensor(), "image must be a MetaTensor .*, which knows its affine; given: a Tensor"),
        (lambda x: x.numpy(), "given: a ndarray. Load it with LoadImaged and keep track_meta=True"),
        (lambda x: None, "given: a NoneType"),
        (lambda x: "scan.nii.gz", "given: a str"),
        (lambda x: as_meta(x.as_tensor()[0], x), "must have the shape"),
        (lambda x: as_meta(x.as_tensor()[0, 0], x), "must have the shape"),
        (lambda x: as_meta(x.as_tensor()[None], x), "must be one case; given: a batch"),
        (lambda x: next(iter(DataLoader([{"i": x}] * 2, batch_size=2)))["i"], "Take it apart with decollate_batch"),
        (lambda x: as_meta(x.as_tensor()[:, :, :0], x), "must not be empty"),
        (lambda x: as_meta(x.as_tensor() / 0, x), "must be finite; given: NaN or Inf"),
        (lambda x: as_meta(x.as_tensor().index_fill(3, torch.tensor([1]), torch.nan), x), "NaN or Inf among its value"),
        (lambda x: as_meta(x.as_tensor().to(torch.complex64), x), "must hold real numbers; given: dtype torch.complex"),
        (lambda x: as_meta(x.as_tensor().to("meta"), x), "must hold real numbers; given: .* on the device meta"),
        (lambda x: Spacingd("i", (2, 2, 2), lazy=True)({"i": x})["i"], "must have no pending lazy operations"),
    ],
)
@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_step_refuses_in_words(name: str, change: Callable[[MetaTensor], Any], words: str) -> None:
    step, image = step_and_input(name)
    with pytest.raises(InputError, match=words):
        step(change(image))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_step_takes_real_numbers_of_any_kind(name: str, dtype: torch.dtype) -> None:
    step, image = step_and_input(name)
    other = as_meta(image.as_tensor().to(dtype), image)
    expected = step(as_meta(other.as_tensor().float(), image))
    np.testing.assert_allclose(step(other).float().numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_step_takes_what_is_being_learned(name: str) -> None:
    step, image = step_and_input(name)
    found = step(as_meta(image.as_tensor().clone().requires_grad_(), image))
    np.testing.assert_array_equal(found.detach().numpy(), step(image).numpy())


def test_arguments_of_the_steps_that_cannot_be_meant() -> None:
    volume = {"image": scan_of(np.random.default_rng(0).random((1, 12, 10, 6)))}
    for percentiles in ((5,), (99, 1), (-1, 50), ("a", "b"), None):
        with pytest.raises(InputError, match="two numbers that rise from 0 to 100"):
            WindowIntensityd("image", percentiles=percentiles)
    for window in (5, (40, 0), "40/0"):
        with pytest.raises(InputError, match="A window must be"):
            WindowIntensityd("image", window=window)
    for plane in ("all", ["axial", "coronal"]):
        with pytest.raises(InputError, match="must be cut along one plane"):
            CutSlicesd("image", plane=plane)(volume)
    for change in ({"image_size": 0}, {"mean": (0.5,)}, {"std": (0, 1, 1)}, {"fit": "crop"}):
        with pytest.raises(InputError, match="ToPixelsd must have"):
            ToPixelsd("image", **{"image_size": 32, "mean": MEAN, "std": STD, **change})
    with pytest.raises(InputError, match=r"must be slices in \[0, 1\].*Put WindowIntensityd before"):
        ToPixelsd("image", 32, MEAN, STD)(CutSlicesd("image")({"image": volume["image"] * 90}))
    with pytest.raises(InputError, match=r"must be pixels \(N, 3, S, S\)"):
        DetectSlicesd("image", model=oracle_engine())(CutSlicesd("image")(volume))


def test_steps_take_colour_and_all_their_channels_back(tmp_path: Path) -> None:
    """The inverse of CutSlicesd gave back the first channel alone."""
    for reader, shape in ((OURS, (3, 30, 24, 1)), (None, (3, 30, 24))):
        data = Compose(loading(reader))({"image": picture(tmp_path / "a.png", colour=True)})
        cut = CutSlicesd("image")
        back = cut.inverse(cut(data))["image"]
        assert back.shape == shape
        assert torch.equal(back.as_tensor(), data["image"].as_tensor())


def test_a_label_is_cut_with_its_image_even_where_it_is_empty() -> None:
    image = scan_of(np.random.default_rng(0).random((1, 12, 10, 6)))
    label = MetaTensor(torch.zeros(1, 12, 10, 6, dtype=torch.uint8), affine=image.affine)
    out = CutSlicesd(["image", "label"])({"image": image, "label": label})
    assert out["label"].shape == out["image"].shape
    assert out["label"].dtype == torch.uint8


def test_an_identity_affine_is_said_to_be_assumed() -> None:
    image = MetaTensor(torch.rand(1, 12, 10, 6, generator=torch.Generator().manual_seed(0)))
    out = AnomalyMapd("image", model=oracle_engine())({"image": image})["anomaly_map"]
    assert "the affine is the identity: voxels are taken as cubes of 1 mm" in out.meta["reader_warnings"]


def test_channels_that_are_not_first_are_told_how_to_come_there(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", colour=True)
    with pytest.raises(InputError, match=r"given: \(30, 24, 3\). Put EnsureChannelFirstd after LoadImaged"):
        AnomalyMapd("image", model=oracle_engine())(LoadImaged("image")({"image": path}))


def test_what_is_no_metatensor_any_more_says_so() -> None:
    image = scan_of(np.random.default_rng(0).random((1, 12, 10, 6)))
    for step in (EnsureTyped("image", track_meta=False), EnsureTyped("image", data_type="numpy")):
        with pytest.raises(InputError, match="keep track_meta=True"):
            AnomalyMapd("image", model=oracle_engine())(step({"image": image}))
