"""``headclip-med bundle verify``: MONAI's own verification, in one line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import headclip_med_workflows
import pytest
from tiny_bundle import change_config, inference_config, metadata, write_bundle
from typer.testing import CliRunner, Result

from headclip_med.bundle.verify import SCHEMA
from headclip_med.cli.main import app


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle as headclip_med ships them."""
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(headclip_med_workflows, "_ROOT", tmp_path / "shipped")
    return write_bundle(tmp_path / "shipped" / "tiny")


def _verify(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bundle", "verify", *map(str, arguments)])


def _statuses(ran: Result) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(ran.stdout)["checks"]}


def test_a_good_bundle_passes(bundle: Path) -> None:
    ran = _verify("tiny", "--json")
    assert _statuses(ran) == {"verify_metadata": "ok", "verify_net_in_out": "ok"}
    assert (ran.exit_code, json.loads(ran.stdout)["bundle"]) == (0, str(bundle))
    assert "2 ok" in _verify("tiny").stdout
    assert not (bundle / "eval").exists()


def test_code_of_a_foreign_bundle_is_not_run_unasked(bundle: Path, tmp_path: Path) -> None:
    foreign = write_bundle(tmp_path / "foreign")
    ran = _verify(foreign, "--json")
    assert _statuses(ran) == {"verify_metadata": "ok", "verify_net_in_out": "skipped"}
    assert "add --trust" in ran.stdout
    assert set(_statuses(_verify(foreign, "--json", "--trust")).values()) == {"ok"}


WRONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a missing key": ("metadata", {"task": ...}, "verify_metadata", "'task' is a required property"),
    "a wrong kind": ("metadata", {"authors": ["A", "B"]}, "verify_metadata", "is not of type 'string'"),
    "a network of another width": (
        "inference",
        {"network_def": {**inference_config()["network_def"], "width": 2}},
        "verify_net_in_out",
        "output channel number `2` doesn't match: `1`",
    ),
    "a network that cannot be built": (
        "inference",
        {"network_def": {"_target_": "tiny_parts.refuse"}},
        "verify_net_in_out",
        "network_def (tiny_parts.refuse): A scan must be a scan; given: a poem.",
    ),
}


@pytest.mark.parametrize(("file", "changes", "name", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line_and_exit_code_1(
    file: str, changes: dict[str, Any], name: str, words: str, bundle: Path
) -> None:
    change_config(bundle / "configs" / f"{file}.json", **changes)
    ran = _verify("tiny", "--json")
    assert ran.exit_code == 1
    (found,) = (check for check in json.loads(ran.stdout)["checks"] if check["name"] == name)
    assert found["status"] == "fail"
    assert words in found["words"]
    assert "Traceback" not in ran.output


def test_a_bundle_without_metadata_or_configs_is_told(bundle: Path) -> None:
    (bundle / "configs" / "metadata.json").unlink()
    ran = _verify(bundle, "--trust")
    assert ran.exit_code == 1
    assert "must have configs/metadata.json" in ran.stdout
    (bundle / "configs").rename(bundle / "settings")
    ran = _verify(bundle)
    assert ran.exit_code == 2
    assert "a folder that holds configs/" in ran.stderr


def test_the_schema_wants_what_the_specification_lists() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert set(schema["required"]) <= set(metadata())
    assert "required_packages_version" in schema["required"]
