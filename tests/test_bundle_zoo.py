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
def test_monais_own_export_gives_a_torchscript_file(tmp_path: Path) -> None:
    target = tmp_path / "model.ts"
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(target),
        ckpt_file=str(ROOT / "models" / "model.pt"),
        meta_file=META,
        config_file=INFERENCE[0],
        use_trace=True,
        input_shape=[1, 3, 256, 256],
        precision="float32",
        bundle_root=str(ROOT),
    )
    pixels = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = build_network("headclip-tiny", precision="float32").eval()(pixels)
        assert torch.allclose(torch.jit.load(target)(pixels), expected, atol=1e-4)
