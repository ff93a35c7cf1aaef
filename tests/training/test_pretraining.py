"""Pretraining of headclip-tiny: painted lesions, batches by step, the same file from the same seed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from small_pretraining import (
    SMALL,
)

from headclip_med import load_engine
from headclip_med.base.errors import CancelledError, InputError, OutputError
from headclip_med.base.files import sha256_file
from headclip_med.datasets.phantom import CONTRASTS, Lesion, make_phantom
from headclip_med.models.domains import get_domain
from headclip_med.models.load import detector_for, load_model
from headclip_med.models.pack import load_pack
from headclip_med.training.pretraining import appearance, lesions
from headclip_med.training.pretraining.batches import PaintedBatch, PaintedSlices
from headclip_med.training.pretraining.config import PretrainConfig, Stage
from headclip_med.training.pretraining.network import DetectionLoss, Judged, PretrainNetwork, start_from_places
from headclip_med.training.pretraining.run import (
    Pretrainer,
    load_pretrain_config,
    preprocessing,
    pretrain,
    read_bank,
    save_pretrained,
)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients with FLAIR, T1 and lesions, and a healthy T1 beside them."""
    root = tmp_path_factory.mktemp("pretraining")
    for number, name in enumerate(("anna", "bert")):
        for sequence, contrast in (("flair", "flair"), ("t1", "t1")):
            lesion = Lesion((20.0, 10.0 * number, 10.0), (9.0, 9.0, 9.0), "bright", 0.6, 0.0)
            head = make_phantom(number, shape=(24, 28, 24), affine=_grid(), contrast=contrast, lesions=(lesion,))
            _save(head.array, root / "ms" / name / f"{sequence}.nii.gz")
            _save(head.truth, root / "ms" / name / "seg.nii.gz")
    healthy = make_phantom(9, shape=(24, 28, 24), affine=_grid(), contrast=CONTRASTS["t1"])
    _save(healthy.array, root / "healthy.nii.gz")
    return root


@pytest.fixture(scope="module")
def recipe(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    return PretrainConfig.model_validate({**SMALL, "sources": sources(patients), "out": tmp_path_factory.mktemp("out")})


def sources(root: Path) -> list[dict[str, Any]]:
    return [
        {"path": f"brats:{root / 'ms'}", "name": "ms", "licence": "CC-BY", "sequences": ["t2f", "t1n"]},
        {"path": str(root / "healthy.nii.gz"), "name": "healthy", "licence": "BSD", "healthy": "t1n", "skull_mm": 16},
    ]


def _grid() -> np.ndarray:
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = [-92, -108, -92]
    return affine


def _save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array.astype(np.float32), _grid()).to_filename(path)


# --- painting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", lesions.SEQUENCES)
def test_lesions_are_painted_where_the_brain_is_and_nowhere_else(sequence: str) -> None:
    images = torch.full((24, 1, 48, 48), 0.5)
    brain = torch.zeros(24, 1, 48, 48, dtype=torch.bool)
    brain[..., 8:40, 8:40] = True
    kinds = torch.full((24,), lesions.SEQUENCES.index(sequence))
    none = torch.zeros_like(brain)
    painted = lesions.paint_lesions(images, brain, none, kinds, torch.Generator().manual_seed(1), most=1)
    assert painted.lesions.flatten(1).any(dim=1).sum() >= 12
    assert not (painted.lesions & ~brain).any()
    # On an even ground mass effect moves nothing, so that whatever changed outside the brain would be paint.
    torch.testing.assert_close(painted.images[~brain], images[~brain])
    changed = (painted.images - images).abs() > 0.05
    assert (changed & painted.lesions).sum() > 0.5 * painted.lesions.sum()
    assert painted.images.min() >= 0
    assert painted.images.max() <= 1


@pytest.mark.parametrize(("sequence", "brighter"), [("t2f", True), ("t2w", True), ("t1n", False)])
def test_most_lesions_are_bright_on_flair_and_t2_and_dark_on_t1(sequence: str, brighter: bool) -> None:
    images = torch.full((200, 1, 32, 32), 0.5)
    kinds = torch.full((200,), lesions.SEQUENCES.index(sequence))
    everywhere = torch.ones_like(images, dtype=torch.bool)
    painted = lesions.paint_lesions(images, everywhere, ~everywhere, kinds, torch.Generator().manual_seed(0), most=1)
    inside = painted.lesions.float()
    mean = (painted.images * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    seen = painted.lesions.flatten(1).any(dim=1)
    assert ((mean[seen] > 0.5).float().mean() > 0.6) == brighter


def test_a_lesion_that_changes_nothing_is_no_lesion() -> None:
    white = torch.ones(64, 1, 32, 32)
    bright = torch.zeros(64, dtype=torch.long)
    everywhere = torch.ones_like(white, dtype=torch.bool)
    painted = lesions.paint_lesions(white, everywhere, ~everywhere, bright, torch.Generator().manual_seed(0), most=1)
    unchanged = (painted.images - white).abs().flatten(1).amax(dim=1) == 0
    assert unchanged.any()
    assert not painted.lesions[unchanged].any()


def test_mass_effect_moves_a_known_lesion_and_its_mask_together() -> None:
    images = torch.zeros(32, 1, 48, 48)
    images[..., 20:24, 20:24] = 1
    known, brain = images > 0.5, torch.ones(32, 1, 48, 48, dtype=torch.bool)
    size, push = torch.full((32, 1, 1, 1), 12.0), torch.full((32, 1, 1, 1), 0.5)
    offset = lesions._offsets(brain, torch.Generator().manual_seed(0))
    moved, mask = lesions._displaced(images, known, offset, size, push)
    assert not torch.equal(mask, known)
    assert ((moved > 0.5) != mask).sum() < 0.3 * mask.sum()


def test_foreign_tissue_takes_the_level_of_its_surroundings() -> None:
    # A membrane between equal borders is flat: 0.2 in a host of 0.5 becomes 0.5, its own structure kept.
    host, patch = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.2)
    patch[..., 8, 8] = 0.3
    where = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    where[..., 5:12, 5:12] = True
    blended = lesions._blended(host, patch, where)
    assert blended[0, 0, 6, 6] == pytest.approx(0.5, abs=0.01)
    assert blended[0, 0, 8, 8] == pytest.approx(0.6, abs=0.01)


def test_a_view_moves_image_and_mask_together() -> None:
    images = torch.zeros(8, 1, 64, 64)
    images[..., 20:44, 26:50] = 1
    centre = torch.full((8, 2), 31.5)
    seen, masks = appearance.random_view(images, images.clone(), centre, 48, torch.Generator().manual_seed(0))
    assert ((seen - masks).abs() > 0.5).float().mean() < 0.01
    assert masks.flatten(1).any(dim=1).all()


def test_the_background_stays_black_whatever_the_look() -> None:
    images = torch.zeros(16, 1, 32, 32)
    images[..., 8:24, 8:24] = 0.6
    looked = appearance.random_look(images, torch.Generator().manual_seed(0))
    assert looked[..., :8, :].abs().max() == 0
    assert looked[..., 8:24, 8:24].mean() > 0.2


# --- loss and network ------------------------------------------------------------------------------------------------


def test_the_loss_by_hand() -> None:
    # Two slices of four pixels: one lesion pixel in the first, four in the second; every logit 0, every patch 0.5.
    lesion = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 1]]]).bool()
    batch = PaintedBatch(
        torch.zeros(2, 2, 2), lesion, torch.ones(2, 2, 2, dtype=torch.bool), ~torch.ones(2, 2, 2, dtype=torch.bool)
    )
    judged = Judged(torch.full((2, 2, 2), 0.5), torch.zeros(2, 2, 2))
    # pixels ln 2; Dice 1 − (2·2.5 + 1) / (4 + 5 + 1); patches 0.25 · (½ + ½) ln 2
    assert float(DetectionLoss(0.0)(judged, batch)) == pytest.approx(1.25 * np.log(2) + 0.4, rel=1e-5)


def test_small_lesions_weigh_as_much_as_large_ones_at_exponent_one() -> None:
    lesion = torch.zeros(2, 4, 4, dtype=torch.bool)
    lesion[0, 0, 0] = True
    lesion[1, :, :2] = True
    batch = PaintedBatch(
        torch.zeros(2, 4, 4), lesion, torch.ones(2, 4, 4, dtype=torch.bool), ~torch.ones(2, 4, 4, dtype=torch.bool)
    )

    def missing(slice_: int, exponent: float) -> float:
        logits = torch.where(lesion, 6.0, -6.0)
        logits[slice_] = -6.0
        judged = Judged(torch.full((2, 2, 2), 0.5), logits)
        return float(DetectionLoss(exponent)(judged, batch)) - _dice(logits, batch)

    assert missing(0, 1.0) == pytest.approx(missing(1, 1.0), rel=1e-3)
    assert missing(0, 0.0) < 0.3 * missing(1, 0.0)


def _dice(logits: torch.Tensor, batch: PaintedBatch) -> float:
    found, truth = logits.sigmoid(), batch.lesions.float()
    return float(1 - (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1))


def test_nothing_outside_the_patient_counts() -> None:
    lesion = torch.zeros(1, 4, 4, dtype=torch.bool)
    lesion[0, 0, 0] = True
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[0, :2, :2] = True
    batch = PaintedBatch(torch.zeros(1, 4, 4), lesion, inside)
    logits = torch.zeros(1, 4, 4)
    shouting = logits.clone()
    shouting[0, 2:] = 9.0
    patches = torch.full((1, 2, 2), 0.5)
    loss = DetectionLoss(0.7)
    assert float(loss(Judged(patches, logits), batch)) == pytest.approx(
        float(loss(Judged(patches, shouting), batch)), rel=1e-5
    )


def test_neighbouring_places_start_more_alike_than_distant_ones() -> None:
    positions = torch.zeros(1, 1 + 64, 32)
    start_from_places(positions, 8)
    at = positions[0, 1:].view(8, 8, 32)
    assert torch.dist(at[3, 3], at[3, 4]) < torch.dist(at[3, 3], at[3, 7])
    assert positions[0, 0].abs().max() == 0


def test_the_pack_says_what_the_network_said(recipe: PretrainConfig, tmp_path: Path) -> None:
    config = recipe.model_copy(update={"out": tmp_path})
    network = PretrainNetwork(config).eval()
    with torch.no_grad():
        network.head_weights.add_(0.3 * torch.randn(network.head_weights.shape))
        levels = torch.rand(3, 32, 32)
        expected = network(levels).logits.sigmoid()
    fusion = tuple(float(v) for v in network.fusion.detach())
    save_pretrained(network, fusion, config, (), [])  # type: ignore[arg-type]
    detector = detector_for(load_model(tmp_path), get_domain("brain-mri"))
    maps = detector.score(((levels - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1)).maps
    torch.testing.assert_close(maps, expected, atol=0.03, rtol=0)


# --- batches and runs ------------------------------------------------------------------------------------------------


def test_a_step_always_gives_the_same_batch(recipe: PretrainConfig) -> None:
    slices = PaintedSlices(read_bank(recipe)[0], recipe)
    first, second = slices[3], slices[4]
    slices[0]
    again = slices[3]
    assert torch.equal(first.levels, again.levels)
    assert torch.equal(first.lesions, again.lesions)
    assert not torch.equal(first.levels, second.levels)
    assert first.levels.shape == (4, 16, 16)
    assert slices[7].levels.shape == (2, 32, 32)
    assert len(slices) == 8
    with pytest.raises(IndexError):
        slices[8]


def test_the_bank_knows_planes_lesions_and_the_brain_below_the_skull(recipe: PretrainConfig) -> None:
    bank, ledger = read_bank(recipe)
    assert [(entry.name, entry.count) for entry in ledger] == [("ms", 4), ("healthy", 1)]
    assert len({entry for line in ledger for entry in line.image_sha256}) == 5
    healthy = bank.share == bank.share[-1]
    assert not bank.lesions[healthy].any()
    assert bank.brain[healthy].sum() < 0.8 * bank.inside[healthy].sum()
    labelled = bank.lesions.flatten(1).any(dim=1)
    assert labelled.any()
    assert not (bank.lesions & ~bank.inside).any()


def test_the_same_seed_gives_the_same_file_interrupted_or_not(recipe: PretrainConfig, tmp_path: Path) -> None:
    whole, parted, other = (tmp_path / name for name in ("whole", "parted", "other"))
    pretrain(recipe.model_copy(update={"out": whole}))
    config = recipe.model_copy(update={"out": parted})
    bank, ledger = read_bank(config)
    Pretrainer(config, PretrainNetwork(config), PaintedSlices(bank, config), ledger, max_epochs=1).run()
    pretrain(config, resume=True)
    pretrain(recipe.model_copy(update={"out": other, "seed": 1}))
    for name in ("tower.safetensors", "pack.safetensors", "pack.json", "training.json"):
        assert sha256_file(whole / name) == sha256_file(parted / name), name
    assert sha256_file(whole / "tower.safetensors") != sha256_file(other / "tower.safetensors")


def test_the_loss_falls_on_what_can_be_learned(recipe: PretrainConfig, tmp_path: Path) -> None:
    longer = {"stages": (Stage(steps=150, count=4, size=16),), "save_every": 25, "learning_rate": 3e-3}
    pretrain(recipe.model_copy(update={**longer, "out": tmp_path}))
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert history[-1]["loss"] < 0.95 * history[0]["loss"]


def test_a_trained_pack_scores_a_scan_and_lists_its_data(
    recipe: PretrainConfig, patients: Path, tmp_path: Path
) -> None:
    config = recipe.model_copy(update={"out": tmp_path, "leave_out": ("bert",)})
    pretrain(config)
    record = load_pack(tmp_path).record
    assert record.threshold.value == 0.5
    assert [entry.count for entry in record.ledger] == [2, 1]
    assert record.config["intensity_fusion"] is not None
    result = load_engine(tmp_path, "cpu").predict(patients / "ms" / "bert" / "flair.nii.gz")
    assert result.map_array.shape == (24, 28, 24)
    assert 0 <= result.map_array.min() <= result.map_array.max() <= 1


def test_without_labels_brightness_is_left_out(recipe: PretrainConfig, tmp_path: Path) -> None:
    config = recipe.model_copy(update={"out": tmp_path, "sources": recipe.sources[1:]})
    pretrain(config)
    record = load_pack(tmp_path).record
    assert record.config["intensity_fusion"] is None
    assert [(entry.name, entry.count) for entry in record.ledger] == [("healthy", 1)]


def test_without_a_threshold_one_is_chosen_on_synthetic_heads(
    recipe: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from headclip_med.training import threshold as calibration

    heads = [make_phantom(5, shape=(24, 28, 24), affine=_grid(), lesions=(Lesion((20, 0, 10), (12, 12, 12)),))]
    monkeypatch.setattr(calibration, "calibration_heads", lambda count: heads)
    caplog.set_level(logging.INFO)
    pretrain(recipe.model_copy(update={"out": tmp_path, "threshold": None}))
    assert "synthetic heads" in load_pack(tmp_path).record.threshold.origin


# --- what cannot be meant --------------------------------------------------------------------------------------------


def test_a_patient_to_leave_out_must_exist(recipe: PretrainConfig) -> None:
    with pytest.raises(InputError, match=r"must be in a source; given: carl"):
        read_bank(recipe.model_copy(update={"leave_out": ("carl",)}))


def test_a_source_of_lesions_must_have_masks(recipe: PretrainConfig, patients: Path, tmp_path: Path) -> None:
    case = tmp_path / "ms" / "anna"
    case.mkdir(parents=True)
    (case / "flair.nii.gz").write_bytes((patients / "ms" / "anna" / "flair.nii.gz").read_bytes())
    source = recipe.sources[0].model_copy(update={"path": f"brats:{tmp_path / 'ms'}", "sequences": ("t2f",)})
    with pytest.raises(InputError, match="anna has no mask"):
        read_bank(recipe.model_copy(update={"sources": (source,)}))


def test_nothing_to_learn_from_is_refused(recipe: PretrainConfig) -> None:
    with pytest.raises(InputError, match="Pretraining must have something to learn from"):
        read_bank(recipe.model_copy(update={"sources": ()}))


def test_a_folder_with_a_checkpoint_is_not_begun_anew(recipe: PretrainConfig, tmp_path: Path) -> None:
    config = recipe.model_copy(update={"out": tmp_path})
    pretrain(config)
    with pytest.raises(OutputError, match=r"without a checkpoint; given: .*Add --resume to go on"):
        pretrain(config)
    with pytest.raises(InputError, match="configuration differ"):
        pretrain(config.model_copy(update={"painted": 0.1}), resume=True)


def test_a_stopped_run_says_where_it_stopped(recipe: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CancelledError, match="after step 0 of 8"):
        pretrain(recipe.model_copy(update={"out": tmp_path}), cancel=lambda: True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("width: zero", "width: Input should be a valid integer"),
        ("stages: [{steps: 1, count: 1, size: 12}]", "multiples of the patch size 8, not 256, 12"),
        ("heads: 7", "width must be a multiple of heads, not 128 with 7"),
        (
            "patch_size: 16\nstages: [{steps: 1, count: 1, size: 48}]\nimage_size: 96\ntaps: [1]",
            "taps must lie from local",
        ),
        ("patch_size: 6\nimage_size: 96\nstages: [{steps: 1, count: 1, size: 48}]", "power of two, not 6"),
        ("colour: red", "colour: Extra inputs"),
        ("sources: [{path: a, name: b, licence: c}]", "either sequences with masks or healthy volumes"),
        ("{", "readable YAML"),
        ("[1, 2]", "YAML mapping"),
        (None, "readable YAML"),
    ],
)
def test_configurations_that_cannot_be_meant(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "pretrain.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        load_pretrain_config(path, out=tmp_path)


def test_a_configuration_is_read_from_yaml(recipe: PretrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "pretrain.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_pretrain_config(path, seed=4) == recipe.model_copy(update={"seed": 4})


# --- the bundle ------------------------------------------------------------------------------------------------------


def test_the_bundle_pretrains_by_the_command(patients: Path, tmp_path: Path) -> None:
    recipe = {**{f"recipe#{key}": value for key, value in SMALL.items()}, "recipe#sources": sources(patients)}
    words = [word for key, value in recipe.items() for word in (f"--{key}", json.dumps(value))]
    run = ["bundle", "run", "train", "--bundle", "headclip_tiny_pretraining", "--dataset_dir", str(patients)]
    more = ["--output_dir", str(tmp_path / "out"), "--leave_out", "['anna']", *words]
    done = subprocess.run([sys.executable, "-m", "headclip_med", *run, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [entry.count for entry in load_pack(tmp_path / "out").record.ledger] == [2, 1]


def test_the_preprocessing_is_that_of_the_engine(recipe: PretrainConfig, tmp_path: Path) -> None:
    pretrain(recipe.model_copy(update={"out": tmp_path}))
    detector = detector_for(load_model(tmp_path), get_domain("brain-mri"))
    spec = preprocessing(recipe)
    assert (detector.image_size, detector.tower.mean, detector.tower.std) == (spec.image_size, spec.mean, spec.std)
