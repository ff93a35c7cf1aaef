"""The shipped bundle under the model zoo's checks and MONAI's own commands, offline."""

from __future__ import annotations

import json
from pathlib import Path

import monai.bundle
import pytest
import torch
from bundle_case import INFERENCE, ROOT, TRAIN, write_patients
from typer.testing import CliRunner

import headclip_med
from headclip_med.bundle import build_network
from headclip_med.cli.main import app

META = str(ROOT / "configs" / "metadata.json")
SCHEMA = Path(headclip_med.__file__).parent / "bundle" / "meta_schema_20240725.json"


def test_every_check_passes_with_data(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients")
    ran = CliRunner().invoke(app, ["bundle", "verify", "--dataset_dir", str(patients), "--json"])
    checks = {row["name"]: row["status"] for row in json.loads(ran.stdout)["checks"]}
    assert set(checks.values()) == {"ok"}, checks
    assert ran.exit_code == 0
    assert not (ROOT / "eval").exists()


@pytest.mark.filterwarnings("ignore:No hash value provided")  # the file is here, nothing is downloaded
def test_verify_metadata_passes_offline() -> None:
    monai.bundle.verify_metadata(meta_file=META, filepath=str(SCHEMA))


@pytest.mark.parametrize("config", [INFERENCE[0], TRAIN[0]])
def test_verify_net_in_out_passes(config: str) -> None:
    monai.bundle.verify_net_in_out("network_def", meta_file=META, config_file=config, bundle_root=str(ROOT))


def test_metadata_tells_the_network_as_it_is() -> None:
    metadata = json.loads(Path(META).read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    network = build_network("headclip-tiny")
    assert image["spatial_shape"] == [network.image_size] * 2
    assert metadata["required_packages_version"]["headclip-med"] == headclip_med.base.versions.__version__
    tower = network.model.built.tower
    low, high = ((value - tower.mean[0]) / tower.std[0] for value in (0, 1))
    assert image["value_range"] == [low, high]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_monais_own_export_gives_a_torchscript_file(tiny_pack: Path, tmp_path: Path) -> None:
    """With the tensors of the checkpoint in it, and for other batches than the one that was traced."""
    network = build_network(tiny_pack, precision="float32").eval()
    with torch.no_grad():
        network.patch_classes.mul_(0.5).add_(0.1)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=META,
        config_file=INFERENCE[0],
        use_trace=True,
        input_shape=[1, 3, 32, 32],
        precision="float32",
        bundle_root=str(ROOT),
        model=str(tiny_pack),
    )
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(pixels)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(pixels), expected, atol=1e-6, rtol=0)
        assert not torch.allclose(build_network(tiny_pack)(pixels), expected, atol=1e-3)


def test_monais_own_export_gives_an_onnx_file(tiny_pack: Path, tmp_path: Path) -> None:
    import onnxruntime

    network = build_network(tiny_pack, precision="float32").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    monai.bundle.onnx_export(
        "network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=META,
        config_file=INFERENCE[0],
        use_trace=True,
        input_shape=[1, 3, 32, 32],
        precision="float32",
        bundle_root=str(ROOT),
        model=str(tiny_pack),
    )
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(pixels), atol=1e-5, rtol=0)
