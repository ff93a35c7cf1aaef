"""Voxels about which nothing is known: they enter no metric at any level, and no training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import put_array, put_json
from sklearn.metrics import average_precision_score, roc_auc_score

from headclip_med import evaluate, open_dataset
from headclip_med.engine.result import AnomalyResult
from headclip_med.evaluation import Settings
from headclip_med.evaluation.case_picture import key_slice_picture
from headclip_med.evaluation.controls import make_control
from headclip_med.evaluation.measure import CaseStatistics, measure
from headclip_med.reading.sources import with_meta

SHAPE = (20, 20, 8)
SETTINGS = Settings(exact=True, replicates=0)
LESION, UNKNOWN, OTHER = np.s_[4:8, 4:8, 2:4], np.s_[12:16, 12:16, 5:7], np.s_[2:5, 12:15, 1:2]


def _scan(seed: int = 0) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.float32)
    array[1:-1, 1:-1] = np.random.default_rng(seed).normal(400, 20, (18, 18, SHAPE[2]))
    return array


def _labels(*, lesion: bool, unknown: bool, whole: bool = False) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    if lesion:
        labels[LESION] = 1
    if unknown:
        labels[UNKNOWN] = 2
    if whole:
        labels[labels == 0] = 2
    return labels


def _set(root: Path, *labels: np.ndarray) -> Path:
    """nnU-Net's folders with an ignore label; lesions, what is ignored and one more place are bright."""
    for number, mask in enumerate(labels):
        array = _scan(number)
        array[mask == 1] = 700
        array[UNKNOWN] = 900  # bright whether it is ignored or not
        array[OTHER] = 650
        put_array(root / "imagesTr" / f"x_{number:03}_0000.nii.gz", array)
        put_array(root / "labelsTr" / f"x_{number:03}.nii.gz", mask)
    facts = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1, "ignore": 2}}
    put_json(root / "dataset.json", {**facts, "numTraining": len(labels), "file_ending": ".nii.gz"})
    return root


def _measured(root: Path, number: int = 0, change: float | None = None) -> CaseStatistics:
    """One case under the control of brightness; ``change``: the map in the ignored voxels."""
    dataset = open_dataset(root)
    labelled = dataset.load(dataset[number])
    result = make_control("intensity").predict(labelled.volume)
    if change is not None:
        assert labelled.ignored is not None
        result = _with_map(result, np.where(labelled.ignored, change, result.map_array))
    return measure(dataset[number], labelled, result, SETTINGS, 0)


def _with_map(result: AnomalyResult, array: np.ndarray) -> AnomalyResult:
    values = torch.from_numpy(array.astype(np.float32)[None])
    return replace(result, volume_map=with_meta(values, result.affine, result.volume.meta))


# --- one case ----------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_known_voxels(tmp_path: Path) -> None:
    root = _set(tmp_path, _labels(lesion=True, unknown=True))
    dataset = open_dataset(root)
    labelled = dataset.load(dataset[0])
    assert labelled.gt_mask is not None
    assert labelled.ignored is not None
    result = make_control("intensity").predict(labelled.volume)
    statistics = measure(dataset[0], labelled, result, SETTINGS, 0)
    assert statistics.inside is not None
    assert statistics.outside is not None
    known = ~labelled.ignored
    counted = sum(part.n_negatives + part.n_positives for part in (statistics.inside, statistics.outside))
    assert counted == known.sum() == labelled.gt_mask.size - 32
    assert statistics.row.ignored_voxels == 32
    found = (result.map_array >= result.threshold) & known
    truth = labelled.gt_mask
    assert statistics.row.dice == pytest.approx(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.parametrize("change", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lesion", [True, False])
def test_nothing_depends_on_the_map_in_ignored_voxels(tmp_path: Path, change: float, lesion: bool) -> None:
    root = _set(tmp_path, _labels(lesion=lesion, unknown=True))
    as_it_is, changed = _measured(root), _measured(root, change=change)
    assert changed.row == as_it_is.row
    for first, second in ((as_it_is.inside, changed.inside), (as_it_is.outside, changed.outside)):
        assert first is not None
        assert second is not None
        for name in ("scores", "negatives", "positives", "regions"):
            assert np.array_equal(getattr(first, name), getattr(second, name))
    assert as_it_is.lesions is not None
    assert changed.lesions is not None
    assert np.array_equal(as_it_is.lesions.confidence, changed.lesions.confidence)
    assert np.array_equal(as_it_is.slice_scores, changed.slice_scores)


def test_a_finding_in_ignored_voxels_is_not_false(tmp_path: Path) -> None:
    labels = _labels(lesion=True, unknown=True)
    with_unknown = _measured(_set(tmp_path / "ignored", labels))
    without = _measured(_set(tmp_path / "known", np.where(labels == 1, 1, 0).astype(np.uint8)))
    assert with_unknown.lesions is not None
    assert without.lesions is not None
    assert (with_unknown.lesions.lesions, int(with_unknown.lesions.is_hit.sum())) == (1, 1)
    assert (with_unknown.row.false_positives, without.row.false_positives) == (1, 2)  # the third bright place is false


def test_a_finding_that_reaches_beyond_them_counts_with_the_rest(tmp_path: Path) -> None:
    root = _set(tmp_path, _labels(lesion=False, unknown=True))
    dataset = open_dataset(root)
    labelled = dataset.load(dataset[0])
    assert labelled.ignored is not None
    array = np.zeros(SHAPE, dtype=np.float32)
    array[10:16, 12:16, 5:7] = 0.9  # two rows lie outside
    array[12:14, 12:16, 5:7] = 1.0  # the peak inside does not count
    result = _with_map(make_control("intensity").predict(labelled.volume), array)
    statistics = measure(dataset[0], labelled, result, SETTINGS, 0)
    assert statistics.lesions is not None
    assert statistics.lesions.confidence == pytest.approx([0.9])


def test_slices_that_are_not_known_to_be_normal_do_not_count(tmp_path: Path) -> None:
    labels = _labels(lesion=True, unknown=True)
    labels[0, 0, 3] = 2  # a slice with a lesion counts all the same
    statistics = _measured(_set(tmp_path, labels))
    assert len(statistics.slice_scores) == SHAPE[2] - 2
    assert int(statistics.slice_labels.sum()) == 2


def test_the_score_of_a_case_rests_on_the_slices_that_count(tmp_path: Path) -> None:
    root = _set(tmp_path, _labels(lesion=False, unknown=True))
    dataset = open_dataset(root)
    labelled = dataset.load(dataset[0])
    result = make_control("intensity").predict(labelled.volume)
    statistics = measure(dataset[0], labelled, result, SETTINGS, 0)
    kept = [part.score for part in result.slices if part.index not in (5, 6) and not part.background]
    assert statistics.row.pred_score == pytest.approx(max(kept))  # the top 5 % of six is one
    assert statistics.row.label is False
    assert result.pred_score > statistics.row.pred_score  # what is ignored is the brightest


def test_a_case_of_which_nothing_is_known_has_no_label(tmp_path: Path) -> None:
    statistics = _measured(_set(tmp_path, _labels(lesion=False, unknown=False, whole=True)))
    assert statistics.row.label is None
    assert "counts neither as normal nor as abnormal" in statistics.row.warnings[0]
    assert len(statistics.slice_scores) == 0
    with_lesion = _measured(_set(tmp_path / "b", _labels(lesion=True, unknown=False, whole=True)))
    assert (with_lesion.row.label, len(with_lesion.slice_scores)) == (True, 2)


def test_without_ignored_voxels_nothing_changes(tmp_path: Path) -> None:
    root = _set(tmp_path, _labels(lesion=True, unknown=False))
    statistics = _measured(root)
    dataset = open_dataset(root)
    result = make_control("intensity").predict(dataset.load(dataset[0]).volume)
    assert (statistics.row.ignored_voxels, statistics.row.pred_score) == (None, result.pred_score)
    assert len(statistics.slice_scores) == SHAPE[2]


# --- a whole evaluation ------------------------------------------------------------------------------------------


def test_metrics_of_a_set_equal_those_of_its_known_voxels(tmp_path: Path) -> None:
    masks = [_labels(lesion=n % 2 == 0, unknown=n != 3) for n in range(4)]
    dataset = open_dataset(_set(tmp_path, *masks))
    done = evaluate("control:intensity", dataset, settings=Settings(exact=True, replicates=0))
    scores, truths = [], []
    for case, mask in zip(dataset, masks, strict=True):
        result = make_control("intensity").predict(dataset.load(case).volume)
        scores.append(result.map_array[mask != 2])
        truths.append(mask[mask != 2] == 1)
    flat, truth = np.concatenate(scores), np.concatenate(truths)
    assert done.metric("pixel", "auroc").value == pytest.approx(roc_auc_score(truth, flat))
    assert done.metric("pixel", "average_precision").value == pytest.approx(average_precision_score(truth, flat))
    levels = done.record.models[0].levels
    assert (levels["pixel"].counts["ignored"], levels["pixel"].counts["regions"]) == (96, 2)
    assert levels["slice"].counts == {"normal": 4 * 8 - 3 * 2 - 4, "abnormal": 4}
    assert (levels["case"].counts["normal"], levels["case"].counts["abnormal"]) == (2, 2)
    assert levels["lesion"].counts["false_positives"] == 4 + 1  # the third place, and the one that is not ignored
    assert done.metric("pixel", "dice_best_threshold").value > 0.5
    assert any("ignored: 2 ignore" in note for note in done.record.dataset.notes)


def test_another_choice_of_values_is_measured_anew(tmp_path: Path) -> None:
    root = _set(tmp_path / "set", _labels(lesion=True, unknown=True), _labels(lesion=False, unknown=True))
    quick = Settings(replicates=0)
    first = evaluate("control:intensity", open_dataset(root), tmp_path / "out", settings=quick)
    again = evaluate(
        "control:intensity", open_dataset(root, lesion_values="1,2"), tmp_path / "out", settings=quick, resume=True
    )
    regions = [done.record.models[0].levels["pixel"].counts["regions"] for done in (first, again)]
    assert regions == [1, 3]
    assert first.record.dataset.content_sha256 != again.record.dataset.content_sha256


def test_the_picture_outlines_what_is_ignored(tmp_path: Path) -> None:
    dataset = open_dataset(_set(tmp_path, _labels(lesion=False, unknown=True)))
    labelled = dataset.load(dataset[0])
    result = make_control("intensity").predict(labelled.volume)
    array = np.zeros(SHAPE, dtype=np.float32)
    array[UNKNOWN] = 1
    array[OTHER] = 0.99
    result = _with_map(result, array)
    plain = key_slice_picture(result, labelled.gt_mask)
    told = key_slice_picture(result, labelled.gt_mask, labelled.ignored)
    assert plain.convert("RGB").tobytes() != told.convert("RGB").tobytes()  # another slice: that of the third place


# --- training ----------------------------------------------------------------------------------------------------


def _slices(root: Path) -> list:
    from headclip_med.models.domains import get_domain
    from headclip_med.slicing.intensity import Preprocessing
    from headclip_med.training.config import SliceConfig
    from headclip_med.training.slices import cut_case

    dataset = open_dataset(root)
    labelled = dataset.load(dataset[0])
    assert labelled.gt_mask is not None
    spec = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return cut_case(dataset[0], labelled, labelled.gt_mask, get_domain("generic"), spec, SliceConfig())


def test_training_leaves_out_slices_that_may_hold_a_lesion(tmp_path: Path) -> None:
    labels = _labels(lesion=True, unknown=True)
    labels[14:18, 14:18, 2:3] = 2
    parts = _slices(_set(tmp_path, labels))
    assert sum(part.label for part in parts) == 2
    assert len(parts) == SHAPE[2] - 2
    open_ones = [part for part in parts if (part.mask == 255).any()]
    assert len(open_ones) == 1
    (part,) = open_ones
    assert part.label
    assert not (part.valid & (part.mask == 255)).any()
    assert set(part.mask.unique().tolist()) == {0, 1, 255}


def test_no_loss_comes_from_ignored_pixels(tmp_path: Path) -> None:
    from headclip_med.training.augment import augmented
    from headclip_med.training.batches import collate

    labels = _labels(lesion=True, unknown=False)
    labels[14:18, 14:18, 2:4] = 2
    part = next(part for part in _slices(_set(tmp_path, labels)) if (part.mask == 255).any())
    batch = collate([part])
    assert set(batch.mask.unique().tolist()) == {0, 1}
    assert batch.known is not None
    assert torch.equal(batch.known[0], part.mask != 255)
    maps = torch.rand(1, 32, 32, requires_grad=True)
    batch.where_known(maps).sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad[0] > 0, part.mask != 255)
    for copy in range(3):
        turned = augmented(part, copy, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert set(turned.mask.unique().tolist()) <= {0, 1, 255}
        assert not (turned.valid & (turned.mask == 255)).any()
        assert turned.label == bool((turned.mask == 1).any())


def test_patches_with_ignored_pixels_are_not_learned_from(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from headclip_med.training.features import FeatureBank

    labels = _labels(lesion=True, unknown=False)
    labels[14:18, 14:18, 2:4] = 2
    parts = [part for part in _slices(_set(tmp_path, labels)) if (part.mask == 255).any()]
    tower = SimpleNamespace(patch_size=8)
    for foreground_only in (True, False):
        bank = FeatureBank(tower, None, parts, "fixed", 0, foreground_only)  # type: ignore[arg-type]
        truth = bank.truth([0])
        is_open = (parts[0].mask == 255).unfold(0, 8, 8).unfold(1, 8, 8).flatten(2).any(dim=2)
        assert is_open.any()
        assert not (truth.valid[0].bool() & is_open).any()
        assert float(truth.lesion.max()) <= 1


def test_the_bundle_ignores_them_too(tmp_path: Path) -> None:
    from headclip_med.bundle import LoadCase, find_cases
    from headclip_med.bundle.metrics import AnomalyMetrics

    root = _set(tmp_path, _labels(lesion=True, unknown=True), _labels(lesion=False, unknown=True))
    cases = find_cases(root, val_fraction=0.5)
    items = [*cases.train, *cases.held_out]
    assert all(item["values"] == {"lesion": [1], "ignored": [2]} for item in items)
    seen = []
    for change in (0.2, 1.0):
        metric = AnomalyMetrics()
        for item in sorted(items, key=lambda item: item["name"]):
            data = LoadCase()(item)
            label = np.asarray(data["label"])
            assert set(np.unique(label)) == ({-1, 0, 1} if item["abnormal"] else {-1, 0})
            found = np.where(label < 0, change, np.asarray(data["image"]) / 1000).clip(0, 1).astype(np.float32)
            metric.update([{"pred": torch.from_numpy(found), "label": data["label"]}])
        seen.append({name: value for name, value in metric.compute().items() if name.startswith(("pixel", "dice"))})
    assert seen[0] == seen[1]
    both = find_cases(root, val_fraction=0.5, lesion_values=[1, 2])
    assert all(item["abnormal"] for item in [*both.train, *both.held_out])
