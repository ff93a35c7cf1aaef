"""The scripts that make the shipped packs: small, but the same code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from headclip_med.datasets.phantom import Phantom, centred_affine
from headclip_med.encoders.image import EncodeOptions
from headclip_med.models.pack import load_pack
from headclip_med.models.record import TowerRecord
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training import synthetic
from headclip_med.training import threshold as calibration
from headclip_med.training.class_vectors import ClassFit, fit_class_vectors, ranking_quality, write_vectors_pack

PIXELS = Preprocessing(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_bank_holds_lesions_and_healthy_slices_in_the_models_window() -> None:
    bank = synthetic.build_slice_bank(3, range(2), 12, PIXELS)
    assert bank.images.shape == bank.masks.shape == (24, 64, 64)
    assert bank.images.max() > 200
    assert set(np.unique(bank.masks)) <= {0, 1}
    again = synthetic.build_slice_bank(3, range(2), 12, PIXELS)
    np.testing.assert_array_equal(bank.images, again.images)


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
    fits = {n: ClassFit(torch.full((4,), float(n)), torch.eye(4)[n], 5.0) for n in (1, 2)}
    tower = TowerRecord(kind="timm", name="any")
    write_vectors_pack(tmp_path / "own", "own", tower, PIXELS, EncodeOptions((2, 1)), fits)
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
