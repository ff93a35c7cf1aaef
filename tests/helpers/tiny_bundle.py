"""A bundle that does next to nothing, with everything that a bundle must have; tests spoil one part of it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

PARTS = '''
import json
import logging
from pathlib import Path

import torch

from headclip_med.base.errors import InputError


class Net(torch.nn.Conv2d):
    def __init__(self, width=1):
        super().__init__(1, width, 3, padding=1)


class Trainer:
    def __init__(self, dataset, folder, max_epochs=3, amp=False, note=None):
        self.told = {"cases": len(dataset), "max_epochs": max_epochs, "amp": amp, "note": note}
        self.folder = Path(folder)

    def run(self, name="trained.json"):
        logging.getLogger("tiny").info("epoch 1 of 1")
        print("printed by the bundle")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(json.dumps(self.told))


def refuse():
    raise InputError("A scan must be a scan", "a poem", "Give a scan")


def stumble(depth=0):
    raise ValueError("no such thing")


class Engine:
    """An engine of ignite that fails in its first iteration."""

    def __init__(self, act):
        from ignite.engine import Engine
        from monai.handlers import StatsHandler

        self.engine = Engine(lambda engine, batch: act())
        StatsHandler(name="tiny").attach(self.engine)

    def run(self):
        self.engine.run([1], max_epochs=1)
'''

LOGGING = """
[loggers]
keys=root

[handlers]
keys=screen

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=screen

[handler_screen]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(name)s: %(message)s
"""

README = """
# Tiny
### **Authors**
Nobody
### **Tags**
none
## **Model Description**
Does next to nothing. This is an example, not to be used for diagnostic purposes.
## **Data**
None.
## **Performance**
None.
## **System Configuration**
Any.
"""


def _common() -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "dataset_dir": "data",
        "output_dir": "$@bundle_root + '/eval'",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "network_def": {"_target_": "tiny_parts.Net", "width": 1},
    }


def train_config() -> dict[str, Any]:
    return {
        **_common(),
        "learning_rate": 0.1,
        "amp": False,
        "imports": ["$import os"],
        "cases": "$sorted(os.listdir(@dataset_dir))",
        "train": {
            "dataset": {"_target_": "monai.data.Dataset", "data": "@cases"},
            "inferer": {"_target_": "monai.inferers.SimpleInferer"},
            "handlers": [],
            "trainer": {
                "_target_": "tiny_parts.Trainer",
                "dataset": "@train#dataset",
                "folder": "@output_dir",
                "max_epochs": 3,
                "amp": "@amp",
            },
        },
        "run": ["$@train#trainer.run()"],
    }


def inference_config() -> dict[str, Any]:
    return {
        **_common(),
        "dataset": {"_target_": "monai.data.Dataset", "data": "$[@dataset_dir]"},
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "evaluator": {"_target_": "tiny_parts.Trainer", "dataset": "@dataset", "folder": "@output_dir"},
        "run": ["$@evaluator.run('inferred.json')"],
    }


def metadata() -> dict[str, Any]:
    return {
        "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
        "version": "0.2.0",
        "changelog": {"0.2.0": "second", "0.1.0": "first"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel")},
        "name": "Tiny",
        "task": "None",
        "description": "Does next to nothing",
        "authors": "Nobody",
        "copyright": "Nobody",
        "network_data_format": {
            "inputs": {"image": _tensor()},
            "outputs": {"pred": _tensor()},
        },
    }


def _tensor() -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "num_channels": 1,
        "spatial_shape": [8, "*"],
        "dtype": "float32",
        "value_range": [0, 1],
    }


def write_bundle(root: Path) -> Path:
    """The bundle: train (YAML), evaluate over it, inference (JSON)."""
    for folder in ("configs", "docs", "models"):
        (root / folder).mkdir(parents=True)
    write_config(root / "configs" / "train.yaml", train_config())
    over = {"overrides": ["train"], "train#trainer#note": "evaluated", "run": ["$@train#trainer.run('evaluated.json')"]}
    write_config(root / "configs" / "evaluate.yaml", over)
    write_config(root / "configs" / "inference.json", inference_config())
    write_config(root / "configs" / "metadata.json", metadata())
    (root / "configs" / "logging.conf").write_text(LOGGING)
    (root / "docs" / "README.md").write_text(README)
    (root / "docs" / "data_license.txt").write_text("There are no data.\n")
    (root / "LICENSE").write_text("Free for all\n")
    (root / "tiny_parts.py").write_text(PARTS)
    torch.save(torch.nn.Conv2d(1, 1, 3).state_dict(), root / "models" / "model.pt")
    return root


def write_config(file: Path, content: dict[str, Any]) -> None:
    """A config, in the format that its name promises."""
    file.write_text(json.dumps(content, indent=1) if file.suffix == ".json" else yaml.safe_dump(content))


def change_config(file: Path, **changes: Any) -> None:
    """Set top-level keys of a config; a key set to ``...`` is removed."""
    content = yaml.safe_load(file.read_text())
    content |= changes
    write_config(file, {key: value for key, value in content.items() if value is not ...})
