"""The bundle where others take it up: ``monai.bundle.load``, MONAI Label's keys, federated learning."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from bundle_case import INFERENCE, ROOT, TRAIN, training, write_patients
from monai.bundle import ConfigParser, create_workflow, load, run
from monai.data import MetaTensor, decollate_batch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from monai.inferers import Inferer
from monai.transforms import Compose, SaveImaged

from headclip_med import load_engine
from headclip_med.bundle import HeadCLIPNetwork, build_network, read_ledger

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # that a config is code
    pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is provisioned by the FL system:UserWarning"),
]


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("data") / "patients")


def test_monai_bundle_load_puts_the_weights_into_the_network() -> None:
    network = build_network("headclip-tiny", precision="float32")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    loaded = load(ROOT.name, model=network, bundle_dir=str(ROOT.parent), device="cpu")
    pixels = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    expected = load_engine("headclip-tiny", precision="float32").scorer.score_pixels(pixels).maps
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pixels)[:, 0], expected)


def test_create_workflow_gives_an_inference_workflow(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=INFERENCE[0],
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(ROOT),
        dataset_dir=str(patients / "patient0"),
        output_dir=str(tmp_path),
        model=str(tiny_pack),
        pattern="*flair.nii.gz",
        load_pretrain=False,
    )
    assert isinstance(workflow.network_def, HeadCLIPNetwork)
    workflow.run()
    assert (tmp_path / "scores.csv").is_file()


# --- MONAI Label: the keys that its tasks take from a bundle (monailabel/tasks/{infer,train}/bundle.py) --------------


def test_monai_label_infers_with_the_parts_it_looks_for(patients: Path) -> None:
    """Its task: transforms without a batch, ``network_def`` with ``models/model.pt`` by hand, the inferer, and the
    post-transforms without ``SaveImaged``."""
    config = ConfigParser()
    config.read_config(INFERENCE[0])
    config.config.update({"bundle_root": str(ROOT), "device": "cpu"})
    before, after = (config.get_parsed_content(key, instantiate=True) for key in ("preprocessing", "postprocessing"))
    inferer = config.get_parsed_content("inferer", instantiate=True)
    network = config.get_parsed_content("network_def", instantiate=True).to("cpu")
    assert isinstance(before, Compose)
    assert isinstance(inferer, Inferer)
    checkpoint = torch.load(ROOT / "models" / "model.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(checkpoint.get("model", checkpoint), strict=False)
    data = {"image": str(patients / "patient0" / "flair.nii.gz")}
    for transform in before.transforms:
        data = transform(data)
    with torch.no_grad():
        batch = inferer(data["image"][None], network.eval())
    data["pred"] = decollate_batch(batch)[0] if isinstance(batch, MetaTensor) and batch.is_batch else batch[0]
    for transform in after.transforms:
        if not isinstance(transform, SaveImaged):
            data = transform(data)
    expected = load_engine("headclip-tiny").predict(patients / "patient0" / "flair.nii.gz")
    assert torch.allclose(data["pred"].as_tensor()[0], torch.as_tensor(expected.map_array), atol=1e-6)
    assert data["pred_score"] == pytest.approx(expected.pred_score, abs=1e-6)


def test_monai_label_trains_on_its_own_lists(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    """Its task gives ``{"image", "label"}`` lists, a number of epochs, a device by name, and no ``initialize``."""
    items = [
        {"image": str(patients / f"patient{n}" / "flair.nii.gz"), "label": str(patients / f"patient{n}" / "seg.nii.gz")}
        for n in range(4)
    ]
    overrides = training(tmp_path / "nothing_here", tmp_path, tiny_pack)
    del overrides["max_epochs"]
    run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(ROOT / "configs" / "metadata.json"),
        config_file=TRAIN[0],
        logging_file=False,
        **overrides,
        **{
            "train#trainer#max_epochs": 1,
            "train#dataset#data": items[:3],
            "validate#dataset#data": items[3:],
            "device": "cpu",
        },
    )
    trained = torch.load(tmp_path / "models" / "model_trained.pt", weights_only=True)
    assert {"head_weights", "patch_classes"} <= set(trained)
    [entry] = read_ledger(tmp_path / "models" / "model_trained.pt")
    assert (entry["name"], entry["count"]) == ("nothing_here", 3), "the set is told by the folder that was named"


# --- federated learning ---------------------------------------------------------------------------------------------


def client(name: str, patients: Path, pack: Path, folder: Path) -> MonaiAlgo:
    """One hospital with its own copy of the bundle."""
    root = folder / name / ROOT.name
    shutil.copytree(ROOT / "configs", root / "configs")
    options = training(patients, folder / name, pack)
    del options["bundle_root"]
    algo = MonaiAlgo(
        bundle_root=str(root),
        local_epochs=1,
        config_train_filename="configs/train.yaml",
        config_evaluate_filename=["configs/train.yaml", "configs/evaluate.yaml"],
        train_kwargs=dict(options),
        eval_kwargs={**options, "allow_overlap": True, "save_maps": False},
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return algo


def test_a_federated_round_moves_the_learned_tensors_only(
    tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients train on their own patients; the server adds the mean of their differences to the weights."""
    sites = [client(name, write_patients(tmp_path / name / "data"), tiny_pack, tmp_path) for name in ("north", "south")]
    weights = {name: value.clone() for name, value in build_network(tiny_pack).state_dict().items()}
    sent = []
    for site in sites:
        site.train(data=ExchangeObject(weights={name: value.numpy() for name, value in weights.items()}), extra={})
        found = site.get_weights(extra={})
        assert found.weight_type == WeightType.WEIGHT_DIFF
        sent.append(found.weights)
    mean = {name: sum(torch.as_tensor(part[name]) for part in sent) / len(sent) for name in weights}
    moved = {name for name, value in mean.items() if value.abs().max() > 0}
    assert moved == {"head_weights", "patch_classes"}
    fused = {name: (weights[name] + mean[name]).numpy() for name in weights}
    metrics = sites[0].evaluate(data=ExchangeObject(weights=fused), extra={}).metrics
    assert 0 < metrics["val_pixel_auroc"] <= 1
    for site in sites:
        site.finalize()
