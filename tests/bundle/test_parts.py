"""The parts that a bundle names, one by one: network, inferer, data, loss, metrics, writer."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_case import write_patients
from dicom_series import CtSeries
from ignite.engine import Engine as IgniteEngine
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, SaveImaged
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from headclip_med import load_engine
from headclip_med.base.errors import HeadclipError
from headclip_med.bundle import (
    AnomalyMetrics,
    HeadCLIPInferer,
    LoadCase,
    MapLoss,
    TakeScoresd,
    TrainingSlices,
    build_network,
    find_cases,
    find_images,
)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    return write_patients(tmp_path / "patients")


# --- network --------------------------------------------------------------------------------------------------------


def test_head_weights_at_one_change_no_number(tiny_pack: Path) -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = build_network(tiny_pack, learn=["heads", "classes"]).eval()
    assert torch.equal(network.head_weights, torch.ones(1, 2))
    with torch.no_grad():
        assert torch.equal(network(pixels)[:, 0], load_engine(tiny_pack).scorer.score_pixels(pixels).maps)


def test_only_what_is_learned_gets_gradients_and_the_tower_stays_in_evaluation(tiny_pack: Path) -> None:
    network = build_network(tiny_pack, learn=["heads", "classes"], precision="float32").train()
    network(torch.randn(1, 3, 32, 32), patch_grid=True).mean().backward()
    learned = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert learned == {"head_weights", "patch_classes"}
    assert not any(module.training for module in network.tower.modules())


def test_a_changed_weight_changes_the_engine(tiny_pack: Path) -> None:
    network = build_network(tiny_pack, learn=["heads"], precision="float32")
    before = network.as_engine()
    assert network.as_engine() is before
    with torch.no_grad():
        network.head_weights[0, 0] = 3.0
    after = network.as_engine()
    assert after is not before
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before.scorer.score_pixels(pixels).maps, after.scorer.score_pixels(pixels).maps)
    assert after.scorer.model.provenance()["pack_sha256"] == ""  # no longer the pack on disk
    assert before.scorer.model.provenance()["pack_sha256"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learn": ["head"]}, "must be among heads, classes; given: head"),
        ({"domain": "head-ct"}, "must stay generic; given: head-ct"),
    ],
)
def test_networks_that_cannot_be_made(tiny_pack: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(HeadclipError, match=words):
        build_network(tiny_pack, **options)


# --- inferer --------------------------------------------------------------------------------------------------------


def load(reader: str | None = "headclip_med.reading.VolumeReader") -> Compose:
    return Compose([LoadImaged("image", reader=reader), EnsureChannelFirstd("image")])


def test_pictures_go_through_as_volumes_do(tiny_pack: Path, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = load_engine(tiny_pack).predict(tmp_path / "a.png")
    network, inferer = build_network(tiny_pack), HeadCLIPInferer()
    ours = inferer(load()({"image": tmp_path / "a.png"})["image"][None], network)
    assert ours.shape == (1, 1, 56, 40, 1)
    assert np.array_equal(ours[0, 0].numpy(), expected.map_array)
    monais = inferer(load("PILReader")({"image": tmp_path / "a.png"})["image"][None], network)
    assert monais.shape == (1, 1, 56, 40)
    assert np.array_equal(monais[0, 0].numpy(), expected.map_array[..., 0])
    plain = inferer(torch.from_numpy(array.transpose(2, 1, 0).astype(np.float32))[None], network)
    assert np.array_equal(plain[0, 0].numpy(), expected.map_array[..., 0])


def test_every_member_of_a_batch_is_scored_by_itself(tiny_pack: Path) -> None:
    batch = torch.rand(3, 1, 20, 24, 5, generator=torch.Generator().manual_seed(0)) * 100
    network, inferer = build_network(tiny_pack), HeadCLIPInferer(plane="axial")
    maps = inferer(batch, network)
    assert maps.shape == (3, 1, 20, 24, 5)
    assert maps.meta["slice_scores"].shape == (3, 5)
    for number in range(3):
        alone = inferer(batch[number : number + 1], network)
        assert torch.equal(alone[0].as_tensor(), maps[number].as_tensor())
        assert float(alone.meta["pred_score"][0]) == float(maps.meta["pred_score"][number])


def test_scores_and_their_axis_follow_the_plane(tiny_pack: Path, patients: Path) -> None:
    volume = load()({"image": patients / "patient0" / "flair.nii.gz"})["image"][None]
    for plane, axis, count in (("axial", 2, 6), ("coronal", 1, 24), ("sagittal", 0, 20)):
        maps = HeadCLIPInferer(plane=plane)(volume, build_network(tiny_pack))
        taken = TakeScoresd("pred")({"pred": decollate_batch(maps)[0]})
        assert taken["pred_slice_axis"] == axis
        assert taken["pred_slice_scores"].shape == taken["pred_slice_background"].shape == (count,)
        assert taken["pred_score"] == pytest.approx(float(maps.meta["pred_score"][0]))


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 20, 24), r"\(B, C, I, J, K\), or \(B, C, I, J\)"), ((1, 2, 20, 24, 3), "one channel, or three")],
)
def test_inputs_that_cannot_be_scored(tiny_pack: Path, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(HeadclipError, match=words):
        HeadCLIPInferer()(torch.rand(shape), build_network(tiny_pack))


def test_another_network_is_refused() -> None:
    with pytest.raises(HeadclipError, match="given: Identity"):
        HeadCLIPInferer()(torch.rand(1, 1, 8, 8), torch.nn.Identity())


def test_scores_must_be_there_to_be_taken() -> None:
    with pytest.raises(HeadclipError, match="must be a map of HeadCLIPInferer"):
        TakeScoresd("pred")({"pred": MetaTensor(torch.zeros(1, 2, 2, 2))})


# --- data -----------------------------------------------------------------------------------------------------------


def test_copies_count_once_and_no_patient_is_on_both_sides(patients: Path, caplog: pytest.LogCaptureFixture) -> None:
    (patients / "patient8").mkdir()
    for name in ("flair", "seg"):
        (patients / "patient8" / f"{name}.nii.gz").write_bytes(b"cut off")
    (patients / "patient9").mkdir()
    for name in ("flair", "seg"):
        (patients / "patient9" / f"{name}.nii.gz").write_bytes((patients / "patient0" / f"{name}.nii.gz").read_bytes())
    cases = find_cases(patients, val_fraction=0.5)
    names = [[item["name"] for item in part] for part in (cases.training, cases.validation)]
    assert len(names[0]) == len(names[1]) == 2
    assert sorted([*names[0], *names[1]]) == ["patient0", "patient1", "patient2", "patient3"]
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "patient8 is left out: flair.nii.gz must be" in told
    assert "patient9 is left out: it repeats patient0" in told
    assert find_cases(patients, val_fraction=0.5, seed=0).train == cases.train


def test_what_the_ledger_names_is_not_evaluated(patients: Path, tiny_pack: Path) -> None:
    cases = find_cases(patients, val_fraction=0.5)
    slices = TrainingSlices(cases.training, build_network(tiny_pack), name="ours")
    ledger = [slices.entry.model_dump(mode="json")]
    assert slices.entry.count == 2
    with pytest.raises(HeadclipError, match="2 of 4 images are in ours in its training ledger"):
        cases.everything(ledger)
    assert len(cases.everything(ledger, allow_overlap=True)) == 4
    assert len(cases.everything()) == 4


def test_one_patient_cannot_be_validated_on(tmp_path: Path) -> None:
    cases = find_cases(write_patients(tmp_path / "one", 1))
    assert len(cases.training) == 1
    with pytest.raises(HeadclipError, match="Validation must have a patient of its own"):
        _ = cases.validation


def test_training_slices_hold_lesion_patient_and_the_rest(patients: Path, tiny_pack: Path) -> None:
    slices = TrainingSlices(find_cases(patients).training, build_network(tiny_pack), lesion=2, free=2)
    part = slices[0]
    assert part["image"].shape == (3, 32, 32)
    assert part["image"].dtype == torch.float32
    assert part["label"].shape == (1, 32, 32)
    assert set(torch.cat([slices[i]["label"].unique() for i in range(len(slices))]).tolist()) == {0, 1, 255}
    lesion = sum(int((slices[i]["label"] == 1).sum()) for i in range(len(slices)))
    inside = sum(int((slices[i]["label"] != 255).sum()) for i in range(len(slices)))
    assert slices.lesion_share == pytest.approx(lesion / inside)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"label": "seg.nii.gz"}, "An item must name its image"),
        ({"image": "nothing.nii.gz"}, "nothing.nii.gz"),
    ],
)
def test_items_that_cannot_be_loaded(item: dict[str, str], words: str) -> None:
    with pytest.raises(HeadclipError, match=words):
        LoadCase()(item)


def test_a_case_without_a_mask_is_refused(patients: Path) -> None:
    with pytest.raises(HeadclipError, match="must say where its lesions are"):
        LoadCase()({"image": str(patients / "patient0" / "flair.nii.gz")})


def test_a_pattern_chooses_files_and_must_choose_some(patients: Path) -> None:
    assert [item["name"] for item in find_images(patients, "*flair*")] == ["flair", "flair_2", "flair_3", "flair_4"]
    with pytest.raises(HeadclipError, match=r"fits the pattern '\*t1\*'; given: 8 others in patients"):
        find_images(patients, "*t1*")


# --- loss and metrics -----------------------------------------------------------------------------------------------


def test_map_loss_by_hand() -> None:
    """Four patches at 0.5: one is lesion, one lies outside the patient.

    Focal: 0.25 · ln 2 on each of three patches. Dice: 1 − (2 · 0.5 + 1) / (1.5 + 1 + 1) of abnormal, and
    1 − (2 · 1 + 1) / (1.5 + 2 + 1) of normal.
    """
    label = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    label[..., :2, :2], label[..., 2:, 2:] = 1, 255
    found = MapLoss()(torch.full((1, 1, 2, 2), 0.5), label)
    assert float(found) == pytest.approx(0.25 * np.log(2) + (1 - 2 / 3.5) + (1 - 3 / 4.5), abs=1e-6)
    with pytest.raises(HeadclipError, match="must be"):
        MapLoss()(torch.zeros(1, 2, 2), label)


def metric_data(number: int, lesion: bool) -> dict[str, object]:
    rng = np.random.default_rng(number)
    pred, label = rng.random((1, 6, 5, 4), dtype=np.float32), np.zeros((1, 6, 5, 4), dtype=np.float32)
    if lesion:
        label[0, 1:3, 1:4, 2] = 1
        pred[0, 1:3, 1:4, 2] += 0.3
    pred = np.clip(pred, 0.01, 0.99)
    pred[0, 0] = 0  # outside the patient
    return {
        "pred": torch.from_numpy(pred),
        "label": torch.from_numpy(label),
        "pred_score": float(pred.max()),
        "pred_slice_scores": torch.from_numpy(pred.max(axis=(0, 1, 2))),
        "pred_slice_background": torch.zeros(4, dtype=torch.bool),
        "pred_slice_axis": 2,
    }


def test_metrics_against_scikit_learn() -> None:
    data = [metric_data(number, number % 2 == 0) for number in range(4)]
    metric = AnomalyMetrics(threshold=0.8)
    metric.update(data[:1])
    metric.update(data[1:])
    found = metric.compute()
    pred = np.concatenate([part["pred"].numpy().ravel() for part in data])
    truth = np.concatenate([part["label"].numpy().ravel() for part in data])
    inside = pred > 0
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth[inside], pred[inside]), abs=1e-3)
    assert found["pixel_average_precision"] == pytest.approx(
        average_precision_score(truth[inside], pred[inside]), abs=1e-3
    )
    slices = np.concatenate([part["pred_slice_scores"].numpy() for part in data])
    labels = np.concatenate([part["label"].numpy()[0].any(axis=(0, 1)) for part in data])
    assert found["slice_auroc"] == pytest.approx(roc_auc_score(labels, slices), abs=1e-3)
    cases = [part["pred_score"] for part in data]
    assert found["case_auroc"] == pytest.approx(roc_auc_score([1, 0, 1, 0], cases), abs=1e-3)
    dice = []
    for part in data[::2]:
        mask, lesion = part["pred"].numpy() >= 0.8, part["label"].numpy() > 0
        dice.append(2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()))
    assert found["dice"] == pytest.approx(np.mean(dice))


def test_undefined_metrics_are_left_out_and_the_key_is_nan() -> None:
    metric = AnomalyMetrics("case_auroc")
    metric.update([metric_data(0, True)])
    engine = IgniteEngine(lambda engine, batch: None)
    metric.completed(engine, "key")
    assert np.isnan(engine.state.metrics["key"])
    assert "val_case_auroc" not in engine.state.metrics
    assert "val_pixel_auroc" in engine.state.metrics


def test_an_unknown_key_metric_is_refused() -> None:
    with pytest.raises(HeadclipError, match="must be one of pixel_auroc, "):
        AnomalyMetrics("auroc")


# --- writer and reader ----------------------------------------------------------------------------------------------


def save_map(source: Path, out: Path, pack: Path) -> Path:
    before = Compose([*load().transforms, Orientationd("image", "RAS", labels=None)])
    data = before({"image": source})
    data["pred"] = HeadCLIPInferer()(data["image"][None], build_network(pack))[0]
    after = Compose(
        [
            Invertd("pred", transform=before, orig_keys="image", nearest_interp=False),
            SaveImaged(
                "pred",
                output_dir=out,
                output_postfix="map",
                output_ext=".nii.gz",
                resample=False,
                separate_folder=False,
                print_log=False,
                writer="headclip_med.writing.monai_writer.NiftiMapWriter",
            ),
        ]
    )
    after(data)
    return next(out.glob("*.nii.gz"))


@pytest.mark.parametrize("shape", [(20, 24, 6), (24, 20, 1)])
def test_oblique_grids_and_single_slices_come_back_exactly(tiny_pack: Path, tmp_path: Path, shape: tuple) -> None:
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.1, 0.9, 3.3])
    affine[:3, 3] = (12.345, -67.89, 1.5)
    image = nib.Nifti1Image(np.random.default_rng(0).normal(100, 30, shape).astype(np.float32), affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 1)
    image.to_filename(tmp_path / "oblique.nii.gz")
    found = nib.load(save_map(tmp_path / "oblique.nii.gz", tmp_path / "out", tiny_pack))
    source = nib.load(tmp_path / "oblique.nii.gz")
    assert found.shape == shape
    assert np.array_equal(found.affine, source.affine)
    assert (int(found.header["qform_code"]), int(found.header["sform_code"])) == (1, 4)
    assert found.header.get_xyzt_units()[0] == "mm"
    expected = load_engine(tiny_pack).predict(tmp_path / "oblique.nii.gz")
    assert np.abs(found.get_fdata(dtype=np.float32) - expected.map_array).max() <= 1e-6


def test_a_dicom_series_is_read_by_content(tiny_pack: Path, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    CtSeries().write(folder)
    found = nib.load(save_map(folder, tmp_path / "out", tiny_pack))
    expected = load_engine(tiny_pack).predict(folder)
    assert np.allclose(found.affine, expected.affine, atol=1e-6)
    assert np.abs(found.get_fdata(dtype=np.float32) - expected.map_array).max() <= 1e-6
