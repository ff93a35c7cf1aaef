"""The shipped bundle under the model zoo's checks and MONAI's own commands, offline."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from pydoc import locate
from typing import Any

import monai.bundle
import pytest
import torch
from bundle_case import INFERENCE, ROOT, TRAIN
from headclip_med_workflows import available_bundles
from monai.bundle import ConfigComponent, ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import headclip_med
from headclip_med.bundle import build_network
from headclip_med.bundle.folder import BundleFolder, find_bundle
from headclip_med.bundle.run import read_config
from headclip_med.bundle.verify import SCHEMA, verify

META = str(ROOT / "configs" / "metadata.json")
STATED = {"monai": "monai", "pytorch": "torch", "numpy": "numpy"}


OWN = [find_bundle(name) for name in available_bundles()]
HEADINGS = {"authors", "tags", "model description", "data", "performance", "system configuration"}
LARGEST_BYTES = 25e6  # in MONAI's model zoo; what is larger is downloaded
PERSONAL = re.compile(r"(?:^|[\s'\"=(])(/(?:home|root|Users|mnt|media|work)/|~/|[A-Za-z]:\\)")
each_bundle = pytest.mark.parametrize("bundle", OWN, ids=lambda bundle: bundle.name)


def merged(bundle: BundleFolder) -> dict[str, ConfigParser]:
    """The config of every workflow."""
    return {name: read_config(bundle, bundle.config_files(name)) for name in bundle.workflows()}


def parts(config: Any, id_: str = "") -> Iterator[tuple[str, Any]]:
    """Every id of a config with what stands there."""
    yield id_, config
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if key != "_meta_":
            yield from parts(value, f"{id_}::{key}".removeprefix("::"))


@each_bundle
def test_the_files_of_the_zoo_are_there(bundle: BundleFolder) -> None:
    for name in ("LICENSE", "docs/data_license.txt", "configs/logging.conf"):
        assert (bundle.root / name).read_text(encoding="utf-8").strip(), name
    text = (bundle.root / "docs" / "README.md").read_text(encoding="utf-8")
    assert {line.strip("# ").lower() for line in text.splitlines() if line.startswith("#")} >= HEADINGS
    assert "Research use only" in text
    assert [path for path in bundle.root.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_BYTES] == []
    logging = configparser.RawConfigParser()
    logging.read(bundle.configs / "logging.conf")
    for kind in ("logger", "handler", "formatter"):
        assert all(f"{kind}_{key.strip()}" in logging for key in logging[f"{kind}s"]["keys"].split(","))


@each_bundle
@pytest.mark.filterwarnings("ignore:No hash value provided")  # the file is here, nothing is downloaded
def test_metadata_follows_the_schema_and_fits_what_is_installed(bundle: BundleFolder) -> None:
    monai.bundle.verify_metadata(meta_file=str(bundle.meta_file), filepath=str(SCHEMA))
    told = bundle.metadata()
    assert told["version"] in told["changelog"]
    stated = {package: told[f"{key}_version"] for key, package in STATED.items()} | told["required_packages_version"]
    needed = {need.name: need.specifier for need in map(Requirement, requires("headclip-med")) if need.marker is None}
    for package, at_least in stated.items():
        assert Version(version(package)) >= Version(at_least), package
        assert needed.get(package, SpecifierSet()).contains(at_least, prereleases=True), package


@each_bundle
def test_no_check_of_the_command_fails(bundle: BundleFolder) -> None:
    network = "ok" if "inference" in bundle.workflows() else "skipped"
    statuses = {check.name: check.status for check in verify(bundle)}
    assert statuses == {"verify_metadata": "ok", "verify_net_in_out": network}


@each_bundle
def test_configs_name_what_there_is(bundle: BundleFolder) -> None:
    """Every reference and every class or function, the contract's names, and no folder of one machine."""
    for name, parser in merged(bundle).items():
        wanted = TrainProperties if "train::trainer" in parser else InferProperties
        if bundle.name == "headclip_zero_shot":
            assert [prop["id"] for prop in wanted.values() if prop["required"] and prop["id"] not in parser] == [], name
        assert parser["bundle_root"] == "."
        parser.resolve_macro_and_relative_ids()
        for id_, value in parts(parser.config):
            if isinstance(value, dict) and not str(value.get("_target_", "@")).startswith(("$", "@")):
                target = ConfigComponent(value, locator=parser.locator).resolve_module_name()
                assert locate(target) is not None, f"{target} of {id_} in {name}"
            if isinstance(value, str):
                lost = [found for found in parser.ref_resolver.match_refs_pattern(value) if found not in parser]
                assert lost == [], f"{id_} in {name}"
                assert not PERSONAL.search(value), f"{id_} in {name}"


def test_weights_load_without_running_code() -> None:
    state = torch.load(ROOT / "models" / "model.pt", map_location="cpu", weights_only=True)
    assert {"head_weights", "patch_classes"} <= set(state)


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


def _export_of(pack: Path, folder: Path) -> dict[str, Any]:
    """What MONAI's exporters are told of the network whose checkpoint is ``model.pt``."""
    return {
        "ckpt_file": str(folder / "model.pt"),
        "meta_file": META,
        "config_file": INFERENCE[0],
        "use_trace": True,
        "input_shape": [1, 3, 32, 32],
        "precision": "float32",
        "bundle_root": str(ROOT),
        "model": str(pack),
    }


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_monais_own_export_gives_a_torchscript_file(tiny_pack: Path, tmp_path: Path) -> None:
    """With the tensors of the checkpoint in it, and for other batches than the one that was traced."""
    network = build_network(tiny_pack, precision="float32").eval()
    with torch.no_grad():
        network.patch_classes.mul_(0.5).add_(0.1)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    monai.bundle.ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), **_export_of(tiny_pack, tmp_path))
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(pixels)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(pixels), expected, atol=1e-6, rtol=0)
        assert not torch.allclose(build_network(tiny_pack)(pixels), expected, atol=1e-3)


def test_monais_own_export_gives_an_onnx_file(tiny_pack: Path, tmp_path: Path) -> None:
    import onnxruntime

    network = build_network(tiny_pack, precision="float32").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    monai.bundle.onnx_export("network_def", filepath=str(tmp_path / "model.onnx"), **_export_of(tiny_pack, tmp_path))
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(pixels), atol=1e-5, rtol=0)
