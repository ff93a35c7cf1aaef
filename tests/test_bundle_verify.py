"""``headclip-med bundle verify``: a good bundle passes, and each thing that can be wrong fails its own check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headclip_med_workflows
import pytest
import yaml
from tiny_bundle import change_config, inference_config, metadata, train_config, write_bundle
from typer.testing import CliRunner, Result

from headclip_med.bundle.folder import BundleFolder
from headclip_med.bundle.verify import Check, verify
from headclip_med.cli.main import app

STATIC = [
    "licence",
    "metadata",
    "changelog",
    "versions",
    "weights",
    "file sizes",
    "configs",
    "bundle_root",
    "personal paths",
    "readme",
    "data licence",
    "logging.conf",
    "references",
]
RUNNING = ["targets", "properties", "network input and output"]


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle as headclip_med ships them, and data beside it."""
    monkeypatch.setattr(headclip_med_workflows, "_ROOT", tmp_path / "shipped")
    (tmp_path / "scans").mkdir()
    return write_bundle(tmp_path / "shipped" / "tiny")


def _verify(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bundle", "verify", *map(str, arguments)])


def _checks(bundle: Path, **options: Any) -> dict[str, Check]:
    return {check.name: check for check in verify(BundleFolder(bundle, own=True), **options)}


def test_a_good_bundle_passes_every_check(bundle: Path, tmp_path: Path) -> None:
    ran = _verify("tiny", "--dataset_dir", tmp_path / "scans", "--json")
    told = json.loads(ran.stdout)
    assert [check for check in told["checks"] if check["status"] != "ok"] == []
    assert [check["name"] for check in told["checks"]] == [*STATIC, *RUNNING]
    assert (ran.exit_code, told["ok"], told["bundle"]) == (0, True, str(bundle))
    assert not (bundle / "eval").exists()


def test_without_data_no_workflow_is_built_and_the_table_says_so(bundle: Path) -> None:
    ran = _verify("tiny")
    assert ran.exit_code == 0, ran.output
    assert "add --dataset_dir DIR" in ran.stdout
    assert "15 ok, 1 skipped" in ran.stdout


def test_code_of_a_foreign_bundle_is_not_run_unasked(bundle: Path, tmp_path: Path) -> None:
    foreign = write_bundle(tmp_path / "foreign")
    told = json.loads(_verify(foreign, "--json").stdout)
    assert [check["name"] for check in told["checks"] if check["status"] == "skipped"] == RUNNING
    trusted = json.loads(_verify(foreign, "--json", "--trust").stdout)
    assert [check["name"] for check in trusted["checks"] if check["status"] == "skipped"] == ["properties"]


def test_data_that_do_not_exist_are_refused(bundle: Path, tmp_path: Path) -> None:
    ran = _verify("tiny", "--dataset_dir", tmp_path / "gone")
    assert ran.exit_code == 2
    assert "dataset_dir must be a folder that exists" in ran.stderr


def _remove(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def _meta(**changes: Any) -> Callable[[Path], None]:
    return lambda bundle: change_config(bundle / "configs" / "metadata.json", **changes)


def _train(**changes: Any) -> Callable[[Path], None]:
    return lambda bundle: change_config(bundle / "configs" / "train.yaml", **changes)


def _inference(**changes: Any) -> Callable[[Path], None]:
    return lambda bundle: change_config(bundle / "configs" / "inference.json", **changes)


def _large_file(bundle: Path) -> None:
    with (bundle / "models" / "big.onnx").open("wb") as file:
        file.truncate(26_000_000)


def _pickle(bundle: Path) -> None:
    import pickle

    (bundle / "models" / "model.pt").write_bytes(pickle.dumps(print))


def _text(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).write_text((bundle / name).read_text().replace(old, new))


def _without(config: dict[str, Any], section: str, key: str) -> dict[str, Any]:
    return {name: value for name, value in config[section].items() if name != key}


WRONG: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "no licence": (_remove("LICENSE"), "licence", ["LICENSE"]),
    "no metadata": (_remove("configs/metadata.json"), "metadata", ["must have configs/metadata.json"]),
    "a missing key": (_meta(task=...), "metadata", ["'task' is a required property"]),
    "a wrong kind": (_meta(authors=["A", "B"]), "metadata", ["authors: ['A', 'B'] is not of type 'string'"]),
    "half a tensor": (
        _meta(network_data_format={"inputs": {"image": {"type": "image"}}, "outputs": {}}),
        "metadata",
        ["network_data_format#inputs#image"],
    ),
    "an untold version": (_meta(version="0.3.0"), "changelog", ["0.3.0"]),
    "a later monai": (_meta(monai_version="99.0"), "versions", ["monai 99.0, installed is"]),
    "an early torch": (_meta(pytorch_version="1.13.0"), "versions", ["torch 1.13.0 is older than headclip_med can"]),
    "an absent package": (
        _meta(required_packages_version={"no-such-package": "1.0"}),
        "versions",
        ["no-such-package 1.0 is not installed"],
    ),
    "no version": (_meta(numpy_version="newest"), "versions", ["numpy newest is no version"]),
    "no weights": (_remove("models/model.pt"), "weights", ["models/model.pt"]),
    "weights that run code": (_pickle, "weights", ["must load with weights_only"]),
    "a large file": (_large_file, "file sizes", ["models/big.onnx (26 MB)"]),
    "an unreadable config": (_text("configs/train.yaml", "run:", "run: ]"), "configs", ["train.yaml"]),
    "a base that is not there": (
        lambda bundle: change_config(bundle / "configs" / "evaluate.yaml", overrides=["trian"]),
        "configs",
        ["'overrides' in evaluate.yaml", "trian"],
    ),
    "a personal root": (_train(bundle_root="work"), "bundle_root", ["'work' in evaluate, 'work' in train"]),
    "a personal path": (
        _inference(output_dir="$'/home/me' + '/out'"),
        "personal paths",
        ["given: /home/me in inference"],
    ),
    "no readme": (_remove("docs/README.md"), "readme", ["docs/README.md"]),
    "a heading less": (_text("docs/README.md", "## **Performance**", "Performance"), "readme", ["no Performance"]),
    "no disclaimer": (
        _text("docs/README.md", "not to be used for diagnostic", "for any"),
        "readme",
        ["diagnostic use"],
    ),
    "no data licence": (_remove("docs/data_license.txt"), "data licence", ["docs/data_license.txt"]),
    "half a logging.conf": (
        _text("configs/logging.conf", "[handler_screen]", "[handler_other]"),
        "logging.conf",
        ["[handler_screen]"],
    ),
    "a lost reference": (
        _train(amp="@nothing"),
        "references",
        ["@nothing of amp in evaluate", "@nothing of amp in train"],
    ),
    "a lost target": (
        _inference(inferer={"_target_": "monai.inferers.NoInferer"}),
        "targets",
        ["monai.inferers.NoInferer of inferer in inference"],
    ),
    "a lost property": (_inference(inferer=...), "properties", ["inference must have", "no inferer"]),
    "a lost property of training": (
        _train(train=_without(train_config(), "train", "inferer")),
        "properties",
        ["no train#inferer"],
    ),
    "a component that cannot be built": (
        _inference(dataset={"_target_": "tiny_parts.refuse"}),
        "properties",
        ["inference: dataset (tiny_parts.refuse): A scan must be a scan"],
    ),
    "a network of another width": (
        _inference(network_def={**inference_config()["network_def"], "width": 2}),
        "network input and output",
        ["output channel number `2` doesn't match: `1`"],
    ),
}


@pytest.mark.parametrize(("spoil", "name", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_fails_its_own_check(
    spoil: Callable[[Path], None], name: str, said: list[str], bundle: Path, tmp_path: Path
) -> None:
    spoil(bundle)
    check = _checks(bundle, dataset_dir=tmp_path / "scans")[name]
    assert check.status == "fail", check
    assert [word for word in said if word not in check.words] == [], check.words


def test_weights_may_come_later_when_the_bundle_says_how(bundle: Path) -> None:
    (bundle / "models" / "model.pt").unlink()
    listed = {"large_files": [{"path": "models/model.pt", "url": "https://example.org/model.pt"}]}
    (bundle / "large_files.yml").write_text(yaml.safe_dump(listed))
    assert "large_files" in _checks(bundle)["weights"].words
    (bundle / "large_files.yml").unlink()
    with (bundle / "docs" / "README.md").open("a") as file:
        file.write("\n```\nmake models/model.pt\n```\n")
    check = _checks(bundle)["weights"]
    assert (check.status, "README" in check.words) == ("skipped", True)


def test_a_listed_file_may_be_large(bundle: Path) -> None:
    _large_file(bundle)
    (bundle / "large_files.yml").write_text(yaml.safe_dump({"large_files": [{"path": "models/big.onnx"}]}))
    assert _checks(bundle)["file sizes"].status == "ok"


def test_workflows_of_several_processes_are_checked_by_name_only(bundle: Path, tmp_path: Path) -> None:
    over = {"overrides": ["train"], "device": "$torch.device('cuda:' + os.environ['LOCAL_RANK'])"}
    (bundle / "configs" / "multi_gpu_train.yaml").write_text(yaml.safe_dump(over))
    check = _checks(bundle, dataset_dir=tmp_path / "scans")["properties"]
    assert (check.status, check.words) == ("ok", "built evaluate, inference, train")


def test_a_failed_check_is_exit_code_1_and_a_row_with_what_to_do(bundle: Path) -> None:
    (bundle / "LICENSE").unlink()
    ran = _verify("tiny")
    assert ran.exit_code == 1
    assert "Add the text of the licence" in ran.stdout
    assert "1 fail" in ran.stdout


def test_the_schema_wants_what_the_specification_lists() -> None:
    from headclip_med.bundle.verify_files import SCHEMA

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert set(schema["required"]) <= set(metadata())
    assert "required_packages_version" in schema["required"]


def test_a_folder_that_is_no_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.rmtree(bundle / "configs")
    ran = _verify(bundle)
    assert ran.exit_code == 2
    assert "a folder that holds configs/" in ran.stderr
