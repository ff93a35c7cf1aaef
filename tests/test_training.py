"""The scripts that make the shipped packs: small, but the same code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from headclip_med import load_engine
from headclip_med.encoders.image import EncodeOptions
from headclip_med.encoders.timm_vit import TimmVitSpec
from headclip_med.packs.pack import TowerRecord, load_pack
from headclip_med.phantom import Phantom, centred_affine
from headclip_med.training import calibration, synthetic, tiny
from headclip_med.training.class_vectors import ClassVectors, fit_class_vectors, ranking_quality, write_pack


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> synthetic.SliceBank:
    """A small architecture and small heads, so that training takes seconds."""
    spec = TimmVitSpec(img_size=64, patch_size=8, embed_dim=64, depth=2, num_heads=4)
    monkeypatch.setattr(tiny, "ARCHITECTURE", spec)
    monkeypatch.setattr(tiny, "ENCODE", replace(tiny.ENCODE, layers=(1,), local_start=1))
    monkeypatch.setattr(tiny, "PIXELS", replace(tiny.PIXELS, image_size=64))
    return synthetic.build_bank(3, range(2), 12, tiny.PIXELS)


def test_a_bank_holds_lesions_and_healthy_slices_in_the_models_window(small: synthetic.SliceBank) -> None:
    assert small.images.shape == small.masks.shape == (24, 64, 64)
    assert small.images.max() > 200
    assert set(np.unique(small.masks)) <= {0, 1}
    again = synthetic.build_bank(3, range(2), 12, tiny.PIXELS)
    np.testing.assert_array_equal(small.images, again.images)


def test_training_writes_a_pack_that_the_engine_loads(small: synthetic.SliceBank, tmp_path: Path) -> None:
    recipe = tiny.TinyTraining(minutes=0.05, batch=16, crop=32)
    model = tiny.train_tiny(recipe, small, lambda _: None)
    tiny.save_tiny(model, tmp_path / "headclip-tiny")
    array = small.images[:6].astype(np.float32).transpose(1, 2, 0)
    result = load_engine(tmp_path / "headclip-tiny", "cpu").predict(array, affine=np.eye(4))
    assert result.map_array.shape == (64, 64, 6)
    assert "not calibrated" in result.threshold_origin


def test_the_loss_falls_when_lesions_score_high(small: synthetic.SliceBank) -> None:
    masks = torch.zeros(1, 16, 16)
    masks[0, :8, :8] = 1
    good, bad = torch.tensor([[[0.9, 0.1], [0.1, 0.1]]]), torch.full((1, 2, 2), 0.5)
    logits = torch.zeros(1, 2)
    better, parts = tiny.detection_loss(good, logits, masks, tiny.TinyTraining())
    worse, _ = tiny.detection_loss(bad, logits, masks, tiny.TinyTraining())
    assert better < worse
    assert parts["patches"] == pytest.approx(-np.log(0.9), rel=1e-5)
    assert parts["image"] == pytest.approx(np.log(2), rel=1e-5)


def test_tokens_start_as_the_spectrum_of_their_patch(small: synthetic.SliceBank) -> None:
    patchify = torch.nn.Conv2d(3, 64, 8, stride=8, bias=False)
    tiny.start_from_local_spectra(patchify)
    flat = patchify(torch.full((1, 3, 8, 8), 0.5)).detach().flatten()
    assert flat[0] == pytest.approx(0.5, rel=1e-5)  # mean brightness
    assert flat[1:].abs().max() < 1e-5


def test_class_vectors_separate_what_is_separable() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.ones(60), torch.zeros(300)])
    features = torch.randn(360, 12, generator=generator) + labels[:, None] * torch.eye(12)[3] * 4 + 7
    vectors = fit_class_vectors(features, labels)
    assert ranking_quality(vectors, features, labels) > 0.98
    assert int(vectors.abnormal.argmax()) == 3
    # The softmax over (−a, a) at the returned scale is the fitted logistic function.
    cosine = F.normalize(features - vectors.centre, dim=-1) @ vectors.abnormal
    softmax = torch.stack([-cosine, cosine], -1).mul(vectors.logit_scale).softmax(-1)[:, 1]
    torch.testing.assert_close(softmax, torch.sigmoid(2 * vectors.logit_scale * cosine))


def test_class_vectors_are_written_in_the_order_of_the_layers(tmp_path: Path) -> None:
    """They used to be sorted, apart from the list of layers beside them."""
    fits = {n: ClassVectors(torch.full((4,), float(n)), torch.eye(4)[n], 5.0) for n in (1, 2)}
    tower = TowerRecord(kind="timm", name="any")
    write_pack(tmp_path / "own", "own", tower, tiny.PIXELS, EncodeOptions((2, 1)), fits)
    pack = load_pack(tmp_path / "own")
    assert pack.config().feature_layers == (2, 1)
    assert pack.tensors["centre"][:, 0].tolist() == [2, 1]
    assert pack.tensors["patch_classes"][:, 1].argmax(dim=1).tolist() == [2, 1]


def test_ranking_quality_by_hand() -> None:
    points = torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0], [-0.8, 0.2]])
    vectors = fit_class_vectors(points, torch.tensor([1.0, 1, 0, 0]))
    # Lesions at +1 and −0.7 along the first axis, the rest at −1 and +0.7: three of four pairs are in order.
    features = torch.tensor([[3.0, 0], [-3, 0], [2, 2], [-2, 2]])
    assert ranking_quality(vectors, features, torch.tensor([1.0, 0, 0, 1])) == 0.75


def test_dice_by_threshold_by_hand() -> None:
    volume_map = np.array([0.9, 0.6, 0.3, 0.0], np.float32)
    truth = np.array([1, 0, 1, 0], np.uint8)
    dice = dict(zip(calibration.CANDIDATES.tolist(), calibration.dice_by_threshold(volume_map, truth), strict=True))
    assert dice[0.2] == pytest.approx(2 * 2 / (3 + 2))
    assert dice[0.5] == pytest.approx(2 * 1 / (2 + 2))
    assert dice[0.8] == pytest.approx(2 * 1 / (1 + 2))
    assert dice[0.95] == 0


def test_calibration_takes_the_threshold_with_the_best_mean_dice() -> None:
    class Ideal:
        def predict(self, array: np.ndarray, affine: np.ndarray) -> object:
            return type("Result", (), {"map_array": array})

    truth = np.zeros((8, 8, 8), np.uint8)
    truth[2:5, 2:5, 2:5] = 1
    array = np.where(truth, 0.7, 0.4).astype(np.float32)
    heads = [Phantom(array, centred_affine((8, 8, 8), (1, 1, 1)), truth)]
    outcome = calibration.calibrate(Ideal(), heads)  # type: ignore[arg-type]
    assert 0.4 < outcome.threshold <= 0.7
    assert outcome.dice == 1


def test_calibration_heads_are_never_training_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def record(rng: np.random.Generator, seed: int) -> Phantom:
        seeds.append(seed)
        truth = np.ones((2, 2, 2), np.uint8)
        return Phantom(truth.astype(np.float32), np.eye(4), truth)

    monkeypatch.setattr(calibration, "random_phantom", record)
    calibration.calibration_heads(5)
    assert all(synthetic.TRAINING_SEED_LIMIT <= seed < synthetic.CALIBRATION_SEED_LIMIT for seed in seeds)
