"""``headclip-med bundle run``, ``path`` and ``list`` as a user meets them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import headclip_med_workflows
import pytest
from tiny_bundle import change_config, write_bundle, write_config
from typer.testing import CliRunner, Result

from headclip_med.cli.main import app


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delitem(logging.root.manager.loggerDict, "tiny", raising=False)  # its handler has an earlier stdout


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle as headclip_med ships them, ``tiny``, and data beside it."""
    monkeypatch.setattr(headclip_med_workflows, "_ROOT", tmp_path / "shipped")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii").touch()
    monkeypatch.chdir(tmp_path)
    return write_bundle(tmp_path / "shipped" / "tiny")


def _bundle(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bundle", *map(str, arguments)])


def _run(*arguments: object) -> Result:
    return _bundle("run", *arguments, "--bundle", "tiny")


def _flat(ran: Result) -> str:
    assert "Traceback" not in ran.output
    return " ".join(ran.stderr.split())


def test_overrides_reach_the_component_and_the_files_land_where_the_user_is(bundle: Path, tmp_path: Path) -> None:
    words = ("--dataset_dir", "scans", "--output_dir=out", "--train#trainer#max_epochs", 5, "--amp", "true")
    ran = _run("train", *words, "--train::trainer::note", "[1, a]")
    assert ran.exit_code == 0, ran.output
    told = json.loads((tmp_path / "out" / "trained.json").read_text())
    assert told == {"cases": 1, "max_epochs": 5, "amp": True, "note": [1, "a"]}
    assert "tiny train: done in 0 s" in ran.stderr
    assert ran.stdout.splitlines() == ["tiny: epoch 1 of 1", "printed by the bundle"]


def test_a_config_is_laid_over_those_that_it_names(bundle: Path) -> None:
    assert _run("evaluate", "--dataset_dir", "scans", "--output_dir", "out").exit_code == 0
    assert json.loads(Path("out/evaluated.json").read_text())["note"] == "evaluated"


def test_bundles_of_the_zoo_need_not_name_what_they_are_laid_over(bundle: Path) -> None:
    change_config(bundle / "configs" / "evaluate.yaml", overrides=...)
    (bundle / "configs" / "evaluate.yaml").rename(bundle / "configs" / "evaluate.yml")
    write_config(bundle / "configs" / "multi_gpu_evaluate.json", {"train#trainer#amp": True})
    told = json.loads(_run("multi_gpu_evaluate", "--dataset_dir", "scans", "--dry-run", "--json").stdout)
    names = [Path(file).name for file in told["config_files"]]
    assert names == ["train.yaml", "evaluate.yml", "multi_gpu_evaluate.json"]


def test_from_another_folder_in_a_process_of_its_own(bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "headclip_med", "bundle", "run", "inference", "--bundle", str(bundle), "--trust"]
    options = ["--dataset_dir", "../scans", "--json"]
    ran = subprocess.run([*command, *options], cwd=elsewhere, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["workflow"], told["dry_run"], told["files"]) == ("inference", False, ["inferred.json"])
    assert told["overrides"] == {"dataset_dir": "../scans", "bundle_root": str(bundle)}
    assert told["output_dir"] == str(bundle / "eval")
    assert told["seconds"] >= 0
    assert ran.stderr.count("printed by the bundle") == 1
    assert ran.stderr.count("runs as code") == 1
    assert "GHSA" not in ran.stderr
    assert list(elsewhere.iterdir()) == []


def test_a_dry_run_builds_and_writes_nothing(bundle: Path) -> None:
    ran = _run("train", "--dataset_dir", "scans", "--output_dir", "out", "--dry-run")
    assert ran.exit_code == 0, ran.output
    assert "nothing was run" in ran.stderr
    assert not Path("out").exists()
    _spoil(bundle, network_def={"_target_": "tiny_parts.stumble"}, run=["$@network_def.run()"])
    ran = _run("train", "--dataset_dir", "scans", "--dry-run")
    assert ran.exit_code == 2
    assert "network_def (tiny_parts.stumble) must be built without an error; given: ValueError" in _flat(ran)


def test_config_files_can_be_chosen_one_by_one(bundle: Path) -> None:
    write_config(Path("mine.json"), {"train#trainer#note": "mine"})
    arguments = (
        "--config-file",
        "train",
        "--config-file",
        "mine.json",
        "--dataset_dir",
        "scans",
        "--output_dir",
        "out",
    )
    refused = _run(*arguments)
    assert refused.exit_code == 2
    assert "--trust" in refused.stderr  # mine.json is not part of the bundle
    ran = _run(*arguments, "--trust")
    assert ran.exit_code == 0, ran.output
    assert json.loads(Path("out/trained.json").read_text())["note"] == "mine"


BAD = {
    "misspelt key": (["--output_dirr", "x"], ["what is in the config", "--output_dirr", "Did you mean --output_dir."]),
    "misspelt argument": (["--train#trainer#max_epoch", "1"], ["train#trainer (tiny_parts.Trainer)", "'max_epoch'"]),
    "misspelt part": (["--train#datasets#data", "1"], ["Did you mean --train#dataset#data."]),
    "misspelt section": (["--trian#trainer#amp", "1"], ["Did you mean --train#trainer#amp."]),
    "key of a section": (["--max_epochs", "1"], ["Did you mean --train#trainer#max_epochs."]),
    "no such place in a list": (["--run#3", "x"], ["what is in the config", "--run#3"]),
    "inside a reference": (["--train#trainer#dataset#data", "1"], ["Did you mean --train#dataset#data."]),
    "inside an expression": (["--cases#0", "1"], ["what is in the config", "--cases#0"]),
    "text for a number": (["--learning_rate", "fast"], ["--learning_rate must be a number", "0.1", "fast"]),
    "no truth value": (["--amp", "ture"], ["--amp must be true or false", "ture"]),
    "text for a component": (["--network_def", "UNet"], ["must be a component", "tiny_parts.Net"]),
    "missing data": (["--dataset_dir", "gone"], ["dataset_dir must be a path that exists; given: gone."]),
    "missing checkpoint": (["--ckpt_path", "gone.pt"], ["ckpt_path must be a path that exists; given: gone.pt."]),
    "output below a file": (
        ["--output_dir", "scans/a.nii/out"],
        ["'out' must be writable", "a file where a folder must be"],
    ),
    "a lone word": (["--amp", "1", "fast"], ["An override must be --KEY VALUE; given: fast"]),
    "no such run list": (["--run_id", "training"], ["no 'training' in its config"]),
}


@pytest.mark.parametrize(("words", "said"), BAD.values(), ids=BAD)
def test_a_bad_override_is_refused_in_one_message_and_nothing_is_run(
    words: list[str], said: list[str], bundle: Path
) -> None:
    data = [] if "--dataset_dir" in words else ["--dataset_dir", "scans"]
    ran = _run("train", *data, *words)
    flat = _flat(ran)
    assert [word for word in said if word not in flat] == [], flat
    assert flat.count("error:") == 1
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert not (bundle / "eval").exists()


def test_what_is_legal_is_not_refused(bundle: Path) -> None:
    legal = ["--amp", "0", "--learning_rate", "$1e-3 * 2", "--train#trainer#note", "null", "--device", "cpu"]
    more = [
        "--network_def#_disabled_",
        "true",
        "--train#trainer#_desc_",
        "x",
        "--_meta_#version",
        "9",
        "--cases",
        "[1]",
    ]
    ran = _run("train", "--dataset_dir", "scans", "--output_dir", "2024", *legal, *more)
    assert ran.exit_code == 0, ran.output
    assert json.loads(Path("2024/trained.json").read_text())["note"] is None


def test_the_data_of_the_config_must_be_there_too(bundle: Path) -> None:
    ran = _run("train", "--output_dir", "out")
    assert ran.exit_code == 2
    assert "Give the folder of your images with --dataset_dir" in _flat(ran)
    assert not Path("out").exists()


def test_an_error_that_is_its_own_cause_is_told() -> None:
    """A failed case was, and the search for the first cause had no end."""
    from headclip_med.bundle.failures import BundleRunError, explain_error, was_stopped

    error = BundleRunError("Every case must be scored", "1 failed")
    error.__cause__ = RuntimeError("Failed to evaluate")
    error.__cause__.__cause__ = error
    assert explain_error(error) is error
    assert not was_stopped(error)


def test_data_that_nothing_reads_need_not_exist(bundle: Path) -> None:
    ran = _run("train", "--cases", "[1, 2]", "--output_dir", "out")
    assert ran.exit_code == 0, ran.output
    assert json.loads(Path("out/trained.json").read_text())["cases"] == 2


def test_an_unknown_workflow_or_bundle_is_refused_with_the_nearest(bundle: Path) -> None:
    ran = _run("infrence")
    assert ran.exit_code == 2
    assert "must be one of evaluate, inference, train; given: infrence. Did you mean inference." in _flat(ran)
    assert "Choose one of evaluate, inference, train" in _flat(_run("--amp", "1"))
    ran = _bundle("run", "train", "--bundle", "tinny")
    assert ran.exit_code == 2
    assert "Did you mean tiny" in _flat(ran)


def test_configs_in_a_circle_are_refused(bundle: Path) -> None:
    _spoil(bundle, overrides=["evaluate"])
    assert "train → evaluate → train" in _flat(_run("train"))


def test_a_foreign_bundle_is_not_run_unasked(bundle: Path, tmp_path: Path) -> None:
    foreign = write_bundle(tmp_path / "foreign")
    arguments = ("run", "train", "--bundle", foreign, "--dataset_dir", "scans", "--output_dir", "out")
    ran = _bundle(*arguments)
    assert ran.exit_code == 2
    assert "must be trusted, for its config is code" in _flat(ran)
    assert not Path("out").exists()
    ran = _bundle(*arguments, "--trust")
    assert ran.exit_code == 0, ran.output
    assert ran.output.count("runs as code") == 1


FAILING: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "a refusing component": (
        {"cases": {"_target_": "tiny_parts.refuse"}},
        2,
        ["error: cases (tiny_parts.refuse): A scan must be a scan; given: a poem. Give a scan."],
    ),
    "a stumbling component": (
        {"cases": {"_target_": "tiny_parts.stumble"}},
        2,
        ["cases (tiny_parts.stumble) must be built without an error; given: ValueError: no such thing."],
    ),
    "a wrong argument": (
        {"cases": {"_target_": "tiny_parts.stumble", "dept": 1}},
        2,
        ["cases (tiny_parts.stumble)", "unexpected keyword argument 'dept'"],
    ),
    "an unknown target": (
        {"cases": {"_target_": "tiny_parts.Nothing"}},
        2,
        ["cases (tiny_parts.Nothing) must be built without an error", "Cannot locate class or function"],
    ),
    "a bad expression": ({"cases": "$1 / 0"}, 2, ["cases ($1 / 0) must be built", "ZeroDivisionError"]),
    "a word that MONAI takes for an import": (
        {"cases": "$[@dataset_dir, 'important']"},
        2,
        ["cases ($[@dataset_dir, 'important']) must be built", "SyntaxError"],
    ),
    "a missing reference": ({"cases": "@nothing"}, 2, ["cases (@nothing) must be built", "'nothing'"]),
    "nothing to run": ({"run": ...}, 2, ["must have a list of what to run; given: no 'run'"]),
    "a run that fails": (
        {"run": ["$@train#trainer.walk()"]},
        1,
        ["run#0 ($@train#trainer.walk()) must run to its end; given: AttributeError"],
    ),
    "an engine that fails": (
        {
            "engine": {"_target_": "tiny_parts.Engine", "act": "$__import__('tiny_parts').refuse"},
            "run": ["$@engine.run()"],
        },
        1,
        ["error: run#0 ($@engine.run()): A scan must be a scan; given: a poem. Give a scan."],
    ),
    "a component after the first step": (
        {"late": {"_target_": "tiny_parts.stumble"}, "run": ["$@train#trainer.run()", "$@late"]},
        1,
        ["late (tiny_parts.stumble) must", "ValueError: no such thing."],
    ),
}


@pytest.mark.parametrize(("changes", "code", "said"), FAILING.values(), ids=FAILING)
def test_a_failure_is_one_message_that_names_the_component(
    changes: dict[str, Any], code: int, said: list[str], bundle: Path
) -> None:
    _spoil(bundle, **changes)
    ran = _run("train", "--dataset_dir", "scans", "--output_dir", "out")
    flat = _flat(ran)
    assert [word for word in said if word not in flat] == [], flat
    assert ran.exit_code == code, ran.output
    assert flat.count("error:") == 1
    assert "terminating" not in ran.output
    assert "_mode_" not in ran.output


def test_debug_shows_all_of_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADCLIP_DEBUG", "1")
    _spoil(bundle, **FAILING["an engine that fails"][0])
    ran = _run("train", "--dataset_dir", "scans")
    assert "run is terminating due to exception" in ran.output
    assert "Traceback" in ran.output
    assert isinstance(ran.exception, RuntimeError)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["EOFError: the end", "headclip_med.base.errors.InputError: A scan must be a scan; given: a poem."],
            "given: A scan must be a scan; given: a poem.",
        ),
        (["EOFError: the end"], "given: EOFError: the end."),
    ],
)
def test_an_error_in_a_loading_process_is_told_without_its_traceback(lines: list[str], said: str) -> None:
    from headclip_med.bundle.failures import BundleRunError, explain_error

    start = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):"
    last = "RuntimeError: applying transform <monai.transforms.io.dictionary.LoadImaged object at 0x1>"
    told = str(
        explain_error(RuntimeError("\n".join([start, '  File "x.py", line 1, in f', *lines, last])), BundleRunError)
    )
    assert said in told
    assert "Traceback (" not in told


def test_tracking_keeps_the_config_that_was_run_beside_the_results(bundle: Path) -> None:
    ran = _run("train", "--dataset_dir", "scans", "--output_dir", "out", "--tracking", "mlflow", "--json")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    config, trained = told["files"]
    assert trained == "trained.json"
    assert told["overrides"]["save_execute_config"] == str(Path("out").absolute() / config)
    assert json.loads((Path("out") / config).read_text())["output_dir"] == "out"


def test_of_several_processes_the_first_one_speaks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    ran = _run("train", "--dataset_dir", "scans", "--json")
    assert (ran.exit_code, ran.stdout) == (0, "")


def test_ctrl_c_exits_130(bundle: Path) -> None:
    _spoil(bundle, run=["$__import__('signal').raise_signal(2)"])
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ran = _run("train", "--dataset_dir", "scans")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ran.exit_code == 130
    assert "error: stopped; checkpoints and results that were written before are kept" in _flat(ran)
    assert not list(Path().rglob("trained.json"))


def test_logging_is_put_back(bundle: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, list(sys.path))
    assert _run("train", "--dataset_dir", "scans").exit_code == 0
    assert (list(root.handlers), root.level, list(sys.path)) == before


def test_missing_packages_name_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med.bundle import folder

    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    ran = _run("train", "--dataset_dir", "scans")
    assert ran.exit_code == 2
    assert "pip install 'headclip-med[bundle]'" in _flat(ran)


def test_path_and_list(bundle: Path, tmp_path: Path) -> None:
    assert _bundle("path", "tiny").stdout.strip() == str(bundle)
    assert json.loads(_bundle("path", "tiny", "--json").stdout) == {"name": "tiny", "folder": str(bundle)}
    assert _bundle("path", "tinny").exit_code == 2
    [listed] = json.loads(_bundle("list", "--json").stdout)["bundles"]
    assert listed == {
        "name": "tiny",
        "version": "0.2.0",
        "title": "Tiny",
        "configs": ["evaluate", "inference", "train"],
        "folder": str(bundle),
    }
    assert "evaluate, inference, train" in _bundle("list").stdout


def test_path_and_list_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from headclip_med.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, "bundle", "list", "--json"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    names = [entry["name"] for entry in json.loads(ran.stdout)["bundles"]]
    assert names == ["headclip_tiny_pretraining", "headclip_zero_shot"]


def _spoil(bundle: Path, **changes: Any) -> None:
    change_config(bundle / "configs" / "train.yaml", **changes)


def test_results_of_an_installed_bundle_go_to_the_working_folder(bundle: Path, tmp_path: Path) -> None:
    assert _run("inference", "--dataset_dir", "scans").exit_code == 0
    assert json.loads((tmp_path / "eval" / "inferred.json").read_text())["cases"] == 1
    assert not (bundle / "eval").exists()
