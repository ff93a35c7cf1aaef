"""An image file → the map of the published codes: their own transforms and their equations, on random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from family_reference import enlarge, image_paths, project, smooth, text_features
from PIL import Image
from prompt_files import learner_state, small_clip, write_prompts
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from small_cases import write_volume
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from training_case import train_config
from typer.testing import CliRunner
from weight_formats import QUICK, tiny_state

from headclip_med import load_engine
from headclip_med.base.errors import InputError
from headclip_med.cli.main import app
from headclip_med.encoders.build import build_tower
from headclip_med.encoders.text import prompt_tokens
from headclip_med.engine.engine import Engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.convert import convert_prompts, read_prompts
from headclip_med.models.new_pack import write_pack
from headclip_med.models.pack import load_pack
from headclip_med.models.record import write_record
from headclip_med.training.run import train

SIZE = 64


def picture(path: Path, size: tuple[int, int] = (180, 218), mode: str = "L", seed: int = 0) -> Path:
    """A head-like picture of ``(width, height)``: dark around, structure within, full 8-bit range."""
    rng = np.random.default_rng(seed)
    channels = 3 if mode == "RGB" else 1
    rows, columns = np.mgrid[: size[1], : size[0]]
    inside = ((rows / size[1] - 0.5) / 0.42) ** 2 + ((columns / size[0] - 0.5) / 0.4) ** 2 < 1
    texture = gaussian_filter(rng.normal(size=(size[1], size[0], channels)), (5, 5, 0))
    values = np.clip(110 + 700 * texture, 3, 255) * inside[..., None] + rng.integers(0, 3, (size[1], size[0], 1))
    array = np.clip(values, 0, 255).astype(np.uint8)
    Image.fromarray(array if channels == 3 else array[..., 0], mode=None).save(path)
    return path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def published_pixels(path: Path, size: int, mean: Any, std: Any) -> Tensor:
    """The transforms of the released datasets, word for word but for the names of our sizes."""
    preprocess = transforms.Compose(
        [
            transforms.Resize((size, size), interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop((size, size)),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return preprocess(opened(path))[None]


def in_the_picture(maps: Tensor, path: Path) -> np.ndarray:
    """A square map in the picture's own pixels, as our results have it: columns first."""
    width, height = opened(path).size
    return F.interpolate(maps[None], (height, width), mode="bilinear")[0, 0].T.numpy()


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted AnomalyCLIP prompts for a tiny CLIP, at 64 px, which its positions are interpolated to."""
    folder = tmp_path_factory.mktemp("family")
    save_file(tiny_state(), folder / "clip.safetensors")
    file = write_prompts(folder / "epoch_15.pth", learner_state(small_clip(width=64)))
    made = convert_prompts(read_prompts(file), build_tower(f"{QUICK}@{folder / 'clip.safetensors'}"))
    write_pack(folder / "pack", made)
    record = made.record.model_copy(update={"config": {**made.record.config, "image_size": SIZE, "map_sigma": 24.0}})
    write_record(folder / "pack", record)
    return folder / "pack"


@pytest.fixture(scope="module")
def engine(pack: Path) -> Engine:
    return load_engine(pack, "cpu", precision="float32", weights=pack.parent / "clip.safetensors")


def published(engine: Engine, pack: Path, path: Path) -> tuple[Tensor, Tensor]:
    """AnomalyCLIP written out: map ``(1, 64, 64)`` and image score."""
    built, tensors = engine.scorer.model.built, load_pack(pack).tensors
    clip, pixels = built.clip, published_pixels(path, SIZE, built.tower.mean, built.tower.std)
    classes = text_features(clip, prompt_tokens(built.tokenizer), tensors["prompt.context"], tensors["prompt.deep"])
    paths = image_paths(clip, pixels, "vv")
    patches = project(clip, paths.local[-1])[:, 1:]
    abnormal = torch.softmax(patches @ classes.T / 0.07, -1)[..., 1]
    image = F.normalize(paths.cls_token @ clip.visual.proj, dim=-1)
    return smooth(enlarge(abnormal, SIZE), 24 * SIZE / 518), torch.softmax(image @ classes.T / 0.07, -1)[:, 1]


PICTURES = {
    "brain, 180 × 218": {},
    "wide": {"size": (218, 90)},
    "square and small": {"size": (40, 40)},
    "larger than the model": {"size": (300, 500), "seed": 2},
    "colour": {"mode": "RGB"},
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_picture_gets_the_released_map(kind: str, suffix: str, engine: Engine, pack: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / f"scan{suffix}", **PICTURES[kind])
    maps, score = published(engine, pack, path)
    result = engine.predict(path, preprocessing="released")
    assert maps.std() > 0.005, "a constant map would compare nothing"
    np.testing.assert_allclose(result.map_array[..., 0], in_the_picture(maps, path), atol=1e-5)
    assert result.pred_score == pytest.approx(float(score), abs=1e-5)
    assert any("released preprocessing as asked: the threshold" in each for each in result.warnings)
    own = engine.predict(path).map_array[..., 0]
    assert np.abs(own - in_the_picture(maps, path)).max() > 0.01, "ours is another map"


def test_the_real_brain_picture_gets_the_released_map(engine: Engine, pack: Path, shared: Path) -> None:
    for path in sorted((shared / "data" / "brain_mri_2d" / "yes").iterdir())[:3]:
        maps, _ = published(engine, pack, path)
        found = engine.predict(path, preprocessing="released").map_array[..., 0]
        np.testing.assert_allclose(found, in_the_picture(maps, path), atol=1e-4)


def test_the_command_line_writes_the_released_map_and_says_so(engine: Engine, pack: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "scan.png")
    words = ["predict", str(path), "--model", str(pack), "--weights", str(pack.parent / "clip.safetensors")]
    words += ["--device", "cpu", "--precision", "float32", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, [*words, "--preprocessing", "released"])
    assert ran.exit_code == 0, ran.output
    folder = tmp_path / "out" / "scan"
    record = json.loads((folder / "result.json").read_text())
    assert record["provenance"]["preprocessing"]["kind"] == "released"
    assert record["provenance"]["options"]["preprocessing"] == "released"
    (file,) = folder.glob("*map*.nii.gz")
    stored = nib.load(file)
    assert isinstance(stored, nib.Nifti1Image)
    maps, _ = published(engine, pack, path)
    expected = in_the_picture(maps, path)
    found = np.asarray(stored.dataobj).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = CliRunner().invoke(app, [*words, "--preprocessing", "released", "--resume"])
    assert "finished earlier" in again.output
    other = CliRunner().invoke(app, [*words, "--resume"])
    assert "finished earlier" not in other.output, "another preprocessing is another result"


def test_evaluate_takes_it_too(pack: Path, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in range(3):
        picture(tmp_path / "set" / "images" / f"{number}.png", seed=number)
        mask = np.zeros((218, 180), dtype=np.uint8)
        mask[80:120, 60:100] = 255 if number else 0
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{number}.png")
    words = ["evaluate", "--data", f"pairs:{tmp_path / 'set'}", "--model", str(pack), "--bootstrap", "0", "--json"]
    words += ["--weights", str(pack.parent / "clip.safetensors"), "--device", "cpu"]
    found = []
    for kind in ("released", "own"):
        ran = CliRunner().invoke(app, [*words, "--preprocessing", kind, "--out", str(tmp_path / kind)])
        assert ran.exit_code == 0, ran.output
        found.append(ran.stdout)
    assert found[0] != found[1]
    wrong = CliRunner().invoke(app, [*words, "--preprocessing", "relased", "--out", str(tmp_path / "x")])
    assert wrong.exit_code == 2
    assert "Did you mean released" in wrong.output


def test_a_pack_can_begin_with_it_and_a_user_can_leave_it(pack: Path, tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "epoch_15.pth", learner_state(small_clip(width=64)))
    clip = pack.parent / "clip.safetensors"
    words = ["models", "convert", str(file), "--tower", f"{QUICK}@{clip}", "--out", str(tmp_path / "released")]
    ran = CliRunner().invoke(app, [*words, "--preprocessing", "released"])
    assert ran.exit_code == 0, ran.output
    record = load_pack(tmp_path / "released").record
    assert record.preprocessing == "released"
    assert "preprocessing" not in (pack / "pack.json").read_text(), "a pack of ours says nothing about it"
    path = picture(tmp_path / "scan.png")
    own, released = (load_engine(folder, "cpu", weights=f"{QUICK}@{clip}") for folder in (pack, tmp_path / "released"))
    small = {"config": {**record.config, "image_size": SIZE, "map_sigma": 24.0}}
    write_record(tmp_path / "released", record.model_copy(update=small))
    released = load_engine(tmp_path / "released", "cpu", precision="float32", weights=f"{QUICK}@{clip}")
    own = load_engine(pack, "cpu", precision="float32", weights=f"{QUICK}@{clip}")
    for kind in ("own", "released"):
        expected = own.predict(path, preprocessing=kind)  # type: ignore[arg-type]
        asked = released.predict(path, preprocessing=kind)  # type: ignore[arg-type]
        np.testing.assert_array_equal(asked.map_array, expected.map_array)
    np.testing.assert_array_equal(released.predict(path).map_array, expected.map_array)


def test_a_training_sees_the_pixels_that_its_pack_will_see(tmp_path: Path) -> None:
    config = train_config(tmp_path / "out", method="vectors", feature_layers=[5], steps=2, preprocessing="released")
    train(config)
    assert load_pack(tmp_path / "out").record.preprocessing == "released"
    other = train_config(tmp_path / "own", method="vectors", feature_layers=[5], steps=2)
    train(other)
    tensors = [load_pack(tmp_path / name).tensors for name in ("out", "own")]
    assert not all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


def test_normal_images_are_prepared_as_the_case_is(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "healthy").mkdir()
    for number in range(2):
        picture(tmp_path / "healthy" / f"{number}.png", seed=number)
    engine = load_engine("headclip-tiny", "cpu", method="memory", normals=tmp_path / "healthy")
    seen = picture(tmp_path / "scan.png", seed=1)
    released, own = (engine.predict(seen, preprocessing=kind) for kind in ("released", "own"))  # type: ignore[arg-type]
    other = engine.predict(picture(tmp_path / "other.png", seed=9), preprocessing="released")
    assert released.map_array.max() < other.map_array.max(), "an image that it saw is near"
    assert own.map_array.max() < other.map_array.max()


@pytest.mark.parametrize(
    ("make", "asked", "words"),
    [
        (lambda d: write_volume(d / "flair.nii.gz"), {}, "must be given 8-bit images, whole numbers from 0 to 255"),
        (lambda d: _deep(d / "deep.png"), {}, r"given: deep.png with values from 0 to \d{4,}"),
        (lambda d: picture(d / "x.png"), {"window": "brain"}, "used as it is.*given: a window"),
        (lambda d: picture(d / "x.png"), {"channels": "neighbours"}, "given: channels"),
        (
            lambda d: picture(d / "x.png"),
            {"window": (40, 80), "channels": "neighbours"},
            "given: a window and channels. Leave them out",
        ),
    ],
    ids=["a volume", "16 bits", "a window", "neighbours", "both"],
)
def test_what_the_published_codes_could_not_read_is_refused_in_words(
    engine: Engine, tmp_path: Path, make: Any, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        engine.predict(make(tmp_path), preprocessing="released", **asked)


def _deep(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 4000, (60, 50)).astype(np.uint16)).save(path)
    return path


def test_an_8_bit_volume_is_taken_slice_by_slice(engine: Engine, pack: Path, tmp_path: Path) -> None:
    """Pictures of slices, kept as one file; its voxels' size counts for nothing."""
    path = picture(tmp_path / "scan.png")
    array = np.asarray(opened(path)).T[..., None].repeat(3, axis=2)
    array = np.ascontiguousarray(array[::-1, ::-1])  # columns to the left, rows to the back: RAS
    nib.Nifti1Image(array.astype(np.uint8), np.diag([2.0, 0.5, 3.0, 1.0])).to_filename(tmp_path / "stack.nii.gz")
    result = engine.predict(tmp_path / "stack.nii.gz", preprocessing="released", plane="axial")
    maps, _ = published(engine, pack, path)
    for index in range(3):
        found = result.map_array[::-1, ::-1, index]
        np.testing.assert_allclose(found, in_the_picture(maps, path), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("side", [240, 60])
def test_mvfa_gets_the_map_of_its_release_from_a_file(tmp_path: Path, side: int) -> None:
    """Resize, ToTensor and nothing else; a convolution drops what fills no patch; GELU; a map of the whole square."""
    from method_case import clip_built, parts
    from plain_mvfa import plain_logits, plain_read_outs

    from headclip_med.detectors.mvfa.mvfa import MVFA
    from headclip_med.models.load import Model

    built = clip_built()
    path = picture(tmp_path / "scan.png")
    detector = MVFA(parts(built, image_size=side))
    engine = Engine(TorchScorer(Model("m", "mvfa", built), device="cpu", precision="float32"))
    engine.scorer._detectors = {("generic", None): detector}
    pixels = transforms.ToTensor()(opened(path).resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))[None]
    grid, patch = side // 8, 8
    assert built.clip.visual.conv1(pixels).shape[-1] == grid
    read = plain_read_outs(built.clip.visual, detector.state(), pixels[..., : grid * patch, : grid * patch])
    maps = torch.zeros(1, side, side)
    for logits in plain_logits(read["segmentation"], detector.texts):
        square = logits.transpose(1, 2).unflatten(-1, (grid, grid))
        large = F.interpolate(square, size=side, mode="bilinear", align_corners=True)
        maps += torch.softmax(large, dim=1)[:, 1] / 4
    found = engine.predict(path, preprocessing="released").map_array[..., 0]
    np.testing.assert_allclose(found, in_the_picture(maps, path), atol=1e-4)


def test_an_exported_model_takes_either_preprocessing(pack: Path, engine: Engine, tmp_path: Path) -> None:
    """Pixels are made outside the graph: the same ones without torch."""
    pytest.importorskip("onnxruntime")
    from onnx_model import export

    from headclip_med import load_onnx_engine

    exported = load_onnx_engine(export(engine, tmp_path / "model.onnx"), device="cpu")
    for mode in ("L", "RGB"):
        path = picture(tmp_path / f"{mode}.png", mode=mode)
        for kind in ("own", "released"):
            ours, theirs = (each.predict(path, preprocessing=kind) for each in (engine, exported))  # type: ignore[arg-type]
            np.testing.assert_allclose(theirs.map_array, ours.map_array, atol=1e-5)
            assert theirs.provenance["preprocessing"]["kind"] == kind
