"""What a command refuses before anything heavy is imported, and what a refusal leaves behind: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_cases import write_tiny_pack, write_volume
from training_case import write_pairs
from typer.testing import CliRunner, Result

from headclip_med.base.errors import HeadclipError, InputError, ModelError, OutputError
from headclip_med.base.fields import parse_settings
from headclip_med.cli import checks as cli_checks
from headclip_med.cli.main import app
from headclip_med.reading.inputs import expand_inputs
from headclip_med.training.config import load_config

# Command lines below a folder with scan.nii.gz, set/ (pairs), file and pack/, and what each is told; EMPTY is "".
REFUSED = [
    ("predict gone.nii -o out", "must be a file or folder that exists; given: gone.nii."),
    ("predict empty -o out", "The folder must hold images; given: empty without any."),
    ("predict words -o out", "The folder must hold images; given: words without any."),
    ("predict file -o out", "file must not be empty"),
    ("predict ~nobody-here/scan.nii -o out", "must be a file or folder that exists; given: scan.nii."),
    ("predict scan.nii.gz -o out -m ~nobody-here/pack", "must be a file or folder that exists; given: pack."),
    ("predict scan.nii.gz -o file", "a file where a folder must be"),
    ("predict scan.nii.gz -o file/deeper", "a file where a folder must be"),
    ("predict set -o set", "The output folder must not be the input itself; given: set."),
    ("predict taken/scan.nii.gz -o taken", "must be empty or hold nothing but an earlier result"),
    ("predict scan.nii.gz -o other_run", "run.json in the output folder must be of earlier runs of headclip-med"),
    ("predict scan.nii.gz -o out -m headclip-tinny", "Did you mean headclip-tiny"),
    ("predict scan.nii.gz -o out -m HeadCLIP-Tiny", "Did you mean headclip-tiny"),
    ("predict scan.nii.gz -o out -m pakc", "Did you mean pack"),
    ("predict scan.nii.gz -o out -m clpi:headclip-tiny", "Did you mean clip:headclip-tiny"),
    ("predict scan.nii.gz -o out -m ./towr.safetensors", "Did you mean tower.safetensors"),
    ("predict scan.nii.gz -o out -m ViT-B-16@gone.pt", "The weight file must exist; given: gone.pt."),
    ("predict scan.nii.gz -o out -m model.onnx", "must be a file or folder that exists; given: model.onnx."),
    ("predict scan.nii.gz -o out -m empty", "A model folder must be a pack with a pack.json; given: empty."),
    (r"predict scan.nii.gz -o out -m C:\packs\mine", "must be a file or folder that exists"),
    ("predict scan.nii.gz -o out --weights gone.safetensors", "The weight file must exist; given: gone.safetensors."),
    (
        "predict scan.nii.gz -o out --normals gone",
        "The normal images must be a file or folder that exists; given: gone.",
    ),
    ("evaluate --data gone -o out", "must be a file or folder that exists; given: gone."),
    ("evaluate --data pair:set -o out", "Did you mean pairs:set"),
    ("evaluate --data pairs:set -o set", "must be new, empty, or hold an earlier evaluation"),
    ("evaluate --data pairs:set -o out -m headclip-tinny", "Did you mean headclip-tiny"),
    ("evaluate --data pairs:set -o out -m control:edgs", "Did you mean edges"),
    ("evaluate --data pairs:set -o out --groups gone.csv", "The table of groups must be a file that exists"),
    ("evaluate --data pairs:set -o out --weights gone.pt", "The weight file must exist"),
    ("evaluate --data pairs:set -o out --curves", "--curves must come with --json"),
    ("train --data pairs:gone -m tower.safetensors -o out", "must be a file or folder that exists; given: gone."),
    ("train --data pairs:set -m gone.safetensors -o out", "The weight file must exist; given: gone."),
    ("train --data pairs:set -m tower.safetensors -o file", "a file where a folder must be"),
    ("train -c gone.yaml -o out", "The configuration must be a readable YAML file; given: gone.yaml: No such file"),
    ("train -c wrong.yaml -o out", "The configuration must be a readable YAML file; given: wrong.yaml: "),
    ("train -c paths.yaml -o out", "must be a file or folder that exists; given: gone."),
    ("train --data pairs:set -m tower.safetensors -o out --domain brain", "Did you mean brain-mri"),
    ("train -o out", "A training run must be given data, a tower and a folder; given: no data, model."),
    ("train --data pairs:set -o out", "given: no model."),
    ("train --data EMPTY -m tower.safetensors -o out", "A set must be named; given: an empty name."),
    ("evaluate --data EMPTY -o out", "A set must be named; given: an empty name."),
    ("predict scan.nii.gz -o out -m EMPTY", "A model must be named; given: an empty name."),
    ("predict EMPTY -o out", "An input must be a file or a folder; given: an empty name."),
    ("demo -o file", "a file where a folder must be"),
    ("demo -o out -m gone.onnx", "must be a file or folder that exists; given: gone.onnx."),
    ("models info headclip-tinny", "Did you mean headclip-tiny"),
    ("models info gone.safetensors", "The weight file must exist"),
    ("models pull headclip-tinny", "Did you mean headclip-tiny"),
    ("models push gone.json org/name", "must be a file or folder that exists; given: gone.json."),
    ("models export headclip-tinny out.safetensors", "Did you mean headclip-tiny"),
    ("models convert gone.pth -o out", "The file to convert must be a file that exists; given: gone.pth."),
    ("models convert scan.nii.gz -o out --tower gone.pt", "The weight file must exist; given: gone.pt."),
    ("models heads headclip-tinny -o out.png", "Did you mean headclip-tiny"),
    ("models heads headclip-tiny -o out.png --slice gone.nii", "The scan must be a file or folder that exists"),
    ("bundle export out -m headclip-tinny", "Did you mean headclip-tiny"),
    ("bundle export out --ckpt gone.pt", "The checkpoint must be a file that exists; given: gone.pt."),
    ("bundle run train --bundle gone", "gone"),
    ("review gone --list", "gone"),
    ("review-tables gone -o out", "gone"),
    ("data check gone", "must be a file or folder that exists; given: gone."),
    ("data split gone -o out.csv", "must be a file or folder that exists; given: gone."),
]

_RUN_ALL = """
import json, sys
from typer.testing import CliRunner
from headclip_med.cli.main import app
told = []
for line in json.load(sys.stdin):
    ran = CliRunner().invoke(app, line)
    heavy = sorted({"torch", "monai", "timm", "open_clip"} & set(sys.modules))
    told.append([ran.exit_code, ran.stdout, ran.stderr, heavy, str(ran.exception or "")])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    write_volume(root / "scan.nii.gz")
    write_pairs(root / "set", 2)
    write_tiny_pack(root / "pack")
    (root / "pack" / "tower.safetensors").rename(root / "tower.safetensors")
    write_volume(root / "taken" / "scan.nii.gz")
    (root / "taken" / "scan").mkdir()
    for name in ("file", "taken/scan/thesis.docx"):
        (root / name).touch()
    (root / "empty").mkdir()
    (root / "words").mkdir()
    (root / "words" / "notes.txt").write_text("no image")
    (root / "other_run").mkdir()
    (root / "other_run" / "run.json").write_text('{"epochs": 3}')
    (root / "wrong.yaml").write_text("steps: [1\n")
    (root / "paths.yaml").write_text("data: [{path: 'pairs:gone'}]\nmodel: tower.safetensors\n")
    return root


@pytest.fixture(scope="module")
def told(place: Path) -> dict[str, list[Any]]:
    """Every line, run in one process of its own: exit code, output, and what had been imported by then."""
    lines = [line for line, _ in REFUSED]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    ran = subprocess.run(
        [sys.executable, "-c", _RUN_ALL],
        input=json.dumps([["" if word == "EMPTY" else word for word in line.split()] for line in lines]),
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(zip(lines, json.loads(ran.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_paths_are_looked_at_before_torch_is_imported(line: str, words: str, told: dict[str, list[Any]]) -> None:
    code, stdout, stderr, heavy, _ = told[line]
    assert code == 2, stderr
    assert words in stderr
    assert stdout == ""
    assert heavy == []


def test_a_refusal_leaves_no_folder_and_no_file(place: Path, told: dict[str, list[Any]]) -> None:
    there = {"scan.nii.gz", "set", "pack", "tower.safetensors", "taken", "file", "empty", "words", "other_run"}
    assert {entry.name for entry in place.iterdir()} == {*there, "wrong.yaml", "paths.yaml"}
    assert [entry.name for entry in (place / "empty").iterdir()] == []
    assert sorted(entry.name for entry in (place / "set").iterdir()) == ["images", "masks"]


def _run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_model_that_is_refused_once_it_is_read_leaves_no_folder_either(place: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    lines = [
        ("predict", place / "scan.nii.gz", "-o", tmp_path / "out", "-m", tmp_path / "damaged.safetensors"),
        (
            "evaluate",
            "--data",
            f"pairs:{place / 'set'}",
            "-o",
            tmp_path / "out",
            "-m",
            tmp_path / "damaged.safetensors",
        ),
        ("models", "convert", tmp_path / "damaged.safetensors", "-o", tmp_path / "out", "--base", "headclip-tiny"),
        ("bundle", "export", tmp_path / "out", "-m", tmp_path / "damaged.safetensors"),
        ("demo", "-o", tmp_path / "out", "-m", tmp_path / "damaged.safetensors"),
    ]
    for line in lines:
        ran = _run(*line)
        assert ran.exit_code == 2, (line, ran.output)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["damaged.safetensors"], line


@pytest.mark.parametrize(
    ("inputs", "refused"),
    [
        (["gone.nii"], True),
        (["gone.nii", "notes.txt"], True),
        (["gone.nii", "scan.nii.gz"], False),  # the good one runs, the other fails by itself
        (["scan.nii.gz,gone.nii"], True),
    ],
)
def test_a_run_begins_if_any_case_can(inputs: list[str], refused: bool, tmp_path: Path) -> None:
    write_volume(tmp_path / "scan.nii.gz")
    (tmp_path / "notes.txt").write_text("no image")
    cases = expand_inputs([",".join(str(tmp_path / part) for part in text.split(",")) for text in inputs])
    if refused:
        with pytest.raises(HeadclipError):
            cli_checks.check_inputs([], cases, tmp_path / "out")
    else:
        cli_checks.check_inputs([], cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_may_lie_below_the_inputs_but_not_among_them(tmp_path: Path) -> None:
    scan = write_volume(tmp_path / "scan.nii.gz")
    cli_checks.check_inputs([str(scan)], expand_inputs([scan]), tmp_path)
    cli_checks.check_inputs([str(tmp_path)], expand_inputs([tmp_path]), tmp_path / "results")
    for same in (tmp_path, tmp_path / "x" / "..", Path(os.path.relpath(tmp_path))):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="must not be the input itself"):
            cli_checks.check_inputs([str(same)], expand_inputs([tmp_path]), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["headclip-tiny", "clip-vv:headclip-tiny", "ViT-B-16/openai", "hf-hub:org/name", "hf-pack:org/name", "timm:vit_x"],
)
def test_names_that_may_be_right_are_left_to_those_who_know(name: str) -> None:
    cli_checks.check_model(name)


def test_a_file_of_a_model_is_found_with_its_method_and_architecture(place: Path) -> None:
    tower = place / "tower.safetensors"
    for name in (tower, f"vit_small_patch14_dinov2@{tower}", f"vectors:{place / 'pack'}", place / "pack"):
        cli_checks.check_model(str(name))
    with pytest.raises(ModelError, match=r"Did you mean .*tower\.safetensors"):
        cli_checks.check_model(str(place / "tower.safetensor.pt"))


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("feature_layers=5,8,11", (5, 8, 11)),
        ("feature_layers=[5, 8]", (5, 8)),
        ("feature_layers=-1", (-1,)),
        ("heads.lr=1e-3", 0.001),
        ("heads.train=no", False),
        ("classes.kind=prompts", "prompts"),
        ("name=on", "on"),
        ("name=12", "12"),
        ("name=[draft] a: b", "[draft] a: b"),
        ("image_size=null", None),
        ("cache_dir=/tmp/x: y", Path("/tmp/x: y")),
        ("options.anything=[1, 2]", [1, 2]),
        ("slices.lesion=3", 3),
        ("scope.modalities=MR", ("MR",)),
        ("scope.sequences=flair,t2", ("flair", "t2")),
    ],
)
def test_a_setting_means_what_its_field_is(pair: str, value: object) -> None:
    config = load_config(None, parse_settings([pair]), data=[{"path": "pairs:x"}], model="m", out=Path("o"))
    found: Any = config
    for part in pair.partition("=")[0].split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("heads.lr=[", "The value of heads.lr must be YAML; given: [ ("),
        ("heads.lr={a", "must be YAML"),
        ("heads.lr=*alias", "must be YAML"),
        ("heads.lr=2020-13-45", "must be YAML"),
        ('heads.lr="open', "must be YAML"),
        ("feature_layers=5,[8", "Write a list as 5,8,11"),
        ("feature_layers=five", "feature_layers.0: "),
        ("heads.lr=fast", "heads.lr: "),
        ("heads.rl=1", "Did you mean heads.lr"),
        ("head.lr=1", "Did you mean heads.lr"),
        ("lr=1", "Did you mean heads.lr or classes.lr"),
        ("step=5", "Did you mean steps"),
        ("steps.x=5", "given: steps.x"),
        ("scope.modality=MR", "Did you mean scope.modalities"),
        ("scope.sequences=fair", "scope.sequences.0: "),
        ("data.path=x", "given: data.path"),
        ("qqqqqq=1", "Fields are data, model"),
        ("heads", "A setting must be FIELD=VALUE; given: heads"),
        ("=1", "A setting must be FIELD=VALUE"),
    ],
)
def test_a_setting_that_means_nothing_is_told_in_words(pair: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, parse_settings([pair]), data=[{"path": "pairs:x"}], model="m", out=Path("o"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near"),
    [("stepz: 3", "steps"), ("heads: {lrr: 1}", "lr"), ("data: [{pth: x}]", "path"), ("q: 1", "Fields")],
)
def test_an_unknown_field_of_a_file_is_told_with_the_nearest(text: str, near: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"model: m\nout: o\n{text}\n")
    with pytest.raises(InputError, match=near):
        load_config(tmp_path / "run.yaml", **({} if "data" in text else {"data": [{"path": "x"}]}))
