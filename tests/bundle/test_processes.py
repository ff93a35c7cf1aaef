"""The bundle as users start it: ``python -m monai.bundle`` from another folder, and two processes under torchrun."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundle_case import EVALUATE, INFERENCE, ROOT, TRAIN, training, write_patients

from headclip_med.bundle import build_network

MULTI_TRAIN = [*TRAIN, str(ROOT / "configs" / "multi_gpu_train.yaml")]
MULTI_EVALUATE = [*EVALUATE, str(ROOT / "configs" / "multi_gpu_evaluate.yaml")]


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("data") / "patients")


@pytest.fixture(scope="module")
def checkpoint(tiny_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    torch.save(build_network(tiny_pack).state_dict(), path)
    return path


# What gloo's threads sometimes make of a process that ends after its last step, with everything written.
_ABORTED = "terminate called without an active exception"


def bundle_run(configs: list[str], folder: Path, processes: int = 1, **overrides: object) -> str:
    """Run ``monai.bundle`` in ``folder``, which is none of the bundle's, and give what it printed."""
    start = [sys.executable]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    files = configs[0] if len(configs) == 1 else str(configs)
    keys = [text for key, value in overrides.items() for text in (f"--{key}", str(value))]
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        done = subprocess.run(
            [*start, "-m", "monai.bundle", "run", "--config_file", files, *keys],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if processes == 1 or _ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def metrics_of(folder: Path) -> dict[str, float]:
    rows = list(csv.reader((folder / "metrics.csv").read_text().splitlines()))
    return {name: float(value) for name, value in rows}


def test_the_three_commands_from_another_folder(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    common = training(patients, tmp_path / "out", tiny_pack)
    printed = bundle_run(TRAIN, tmp_path / "elsewhere", **{**common, "max_epochs": 1})
    assert "train_loss" in printed
    trained = tmp_path / "out" / "models" / "model_trained.pt"
    evaluation = {**common, "ckpt_path": trained, "output_dir": tmp_path / "eval", "held_out_only": True}
    bundle_run(EVALUATE, tmp_path / "elsewhere", **evaluation)
    assert 0 < metrics_of(tmp_path / "eval")["val_pixel_auroc"] <= 1
    inference = {key: common[key] for key in ("bundle_root", "model")}
    inference |= {"dataset_dir": patients / "patient0", "output_dir": tmp_path / "maps", "ckpt_path": trained}
    bundle_run(INFERENCE, tmp_path / "elsewhere", **inference, pattern="*flair.nii.gz")
    assert (tmp_path / "maps" / "flair" / "flair_anomaly_map.nii.gz").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_processes_evaluate_as_one(patients: Path, tiny_pack: Path, checkpoint: Path, tmp_path: Path) -> None:
    common = training(patients, tmp_path / "one", tiny_pack, ckpt_path=str(checkpoint), precision="float32")
    bundle_run(EVALUATE, tmp_path, **common)
    bundle_run(MULTI_EVALUATE, tmp_path, processes=2, **{**common, "output_dir": str(tmp_path / "two")})
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert one == pytest.approx(two, abs=1e-6)
    assert "val_case_f1_max" not in one  # every case is abnormal: undefined, so not told
    saved = [len(list((tmp_path / name).rglob("*.nii.gz"))) for name in ("one", "two")]
    assert saved == [4, 4]


def test_two_processes_train(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    common = training(patients, tmp_path / "out", tiny_pack)
    bundle_run(MULTI_TRAIN, tmp_path, processes=2, **common)
    state = torch.load(tmp_path / "out" / "models" / "model_trained.pt", weights_only=True)
    assert set(state) == set(build_network(tiny_pack).state_dict())  # no "module." of the wrapper
    assert (tmp_path / "out" / "models" / "pack" / "pack.json").is_file()
