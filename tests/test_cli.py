"""The command line as a user or a script meets it."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headclip_med import __version__, choices, reading
from headclip_med.cli import app
from headclip_med.console import TerminalWatcher


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _predict(pack: Path, *arguments: object) -> Result:
    return _run("predict", "--model", pack, "--device", "cpu", "--format", "json", *arguments)


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from headclip_med.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'monai', 'matplotlib', 'timm', 'open_clip', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, "predict", "--help"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Research use only" in ran.stdout
    assert "headclip-tiny" in ran.stdout
    assert _run("--version").output == f"headclip-med {__version__}\n"


def test_the_module_runs_as_the_script_does() -> None:
    ran = subprocess.run([sys.executable, "-m", "headclip_med", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f"headclip-med {__version__}\n")


def test_one_line_per_case_on_stdout_and_failures_on_stderr(tmp_path: Path, tiny_pack: Path, volume: Path) -> None:
    out = tmp_path / "out"
    ran = _predict(tiny_pack, volume, tmp_path / "gone.nii", "--out", out, "--threshold", "0.01")
    assert ran.exit_code == 1
    [line] = ran.stdout.splitlines()
    place = r"-?\d+\.\d, -?\d+\.\d, -?\d+\.\d"
    shape = rf"good: score 0\.\d{{3}}, \d+ findings?, highest 0\.\d{{3}} at RAS {place} mm \(\d+\.\d mL\) → (.+)"
    assert (match := re.fullmatch(shape, line))
    assert match[1] == str(out / "good")
    assert "error: gone: The input must be a file or folder that exists; given: gone.nii." in ran.stderr
    assert f"1 failed; see {out / 'run.json'}" in ran.stderr


def test_json_is_the_only_thing_on_stdout(tmp_path: Path, tiny_pack: Path, volume: Path) -> None:
    out = tmp_path / "out"
    ran = _predict(tiny_pack, volume, tmp_path / "gone.nii", "--out", out, "--threshold", "0.01", "--json")
    assert ran.exit_code == 1
    told = json.loads(ran.stdout)
    good, gone = told["cases"]
    assert told["cases_given"] == 2
    record = json.loads((out / "good" / "result.json").read_text())
    assert (good["status"], good["pred_score"]) == ("done", record["pred_score"])
    assert good["findings"] == len(record["findings"])
    assert good["top_finding"]["centroid_mm"] == record["findings"][0]["centroid_mm"]
    assert good["folder"] == str(out / "good")
    assert (gone["status"], gone["folder"], gone["pred_score"]) == ("failed", None, None)
    assert gone["error"].startswith("The input must be")


def test_bars_appear_on_a_terminal_only_and_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med import console
    from headclip_med.cohort import CaseOutcome

    def shown(is_terminal: bool) -> str:
        drawn = io.StringIO()
        screen = console.Screen(file=drawn, force_terminal=is_terminal, width=100)
        monkeypatch.setattr(console, "err", screen)
        with console.TerminalWatcher(quiet=True) as watcher:
            watcher.case_started(1, 2, "flair [odd name]")
            watcher.slices_done(3, 155)
            watcher.case_ended(CaseOutcome("flair [odd name]", "done", 1.0))
        return drawn.getvalue()

    assert "slices of flair [odd name]" in shown(is_terminal=True)
    assert "3/155" in shown(is_terminal=True)
    assert shown(is_terminal=False) == "case 1 of 2: flair [odd name]\n"


def test_options_reach_the_engine(
    tmp_path: Path, tiny_pack: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headclip_med.engine import Engine

    seen: dict[str, Any] = {}
    begin, read = Engine.begin, reading.load_volume

    def spy(self: Engine, volume: Any, ask: Any, **more: Any) -> Any:
        seen.update(asdict(ask), batch_size=self.batch_size, dtype=str(self.dtype), method=self.model.method)
        seen.update(speed=self.speed.name)
        return begin(self, volume, ask, **more)

    def spy_on_reading(source: Any, **options: Any) -> Any:
        seen.update(options)
        return read(source, **options)

    monkeypatch.setattr(Engine, "begin", spy)
    monkeypatch.setattr(reading, "load_volume", spy_on_reading)
    text = "--domain brain-mri --plane axial,coronal --window 40/80 --threshold 0.3 --smooth-mm 2.5 --time 0"
    more = (
        "--precision float32 --batch-size 3 --method anomalyclip --series #1 --channels neighbours --on-irregular keep"
        " --speed balanced"
    )
    ran = _predict(tiny_pack, volume, "--out", tmp_path / "out", *text.split(), *more.split())
    assert ran.exit_code == 0, ran.output
    assert seen == {
        "domain": "brain-mri",
        "on_irregular": "keep",
        "plane": "axial,coronal",
        "window": "40/80",
        "series": "#1",
        "time": 0,
        "threshold": 0.3,
        "smooth_mm": 2.5,
        "channels": "neighbours",
        "batch_size": 3,
        "dtype": "torch.float32",
        "method": "anomalyclip",
        "speed": "balanced",
    }


def test_resume_says_what_was_finished_earlier(tmp_path: Path, tiny_pack: Path, volume: Path) -> None:
    arguments = (tiny_pack, volume, "--out", tmp_path / "out", "--resume")
    assert "finished earlier" not in _predict(*arguments).stdout
    again = _predict(*arguments)
    assert again.exit_code == 0
    assert again.stdout.rstrip().endswith("(finished earlier)")
    assert json.loads(_predict(*arguments, "--json").stdout)["cases"][0]["status"] == "skipped"


def test_ctrl_c_exits_130_keeps_what_is_done_and_leaves_nothing_half_written(
    tmp_path: Path,
    tiny_pack: Path,
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    from headclip_med.engine import Engine

    finish = Engine.finish

    def interrupt_at_the_second(self: TerminalWatcher, number: int, cases: int, name: str) -> None:
        if number == 2:
            signal.raise_signal(signal.SIGINT)

    def slow(self: Engine, case: Any) -> Any:
        time.sleep(0.5)  # the second case is at its slices while the first is being written
        return finish(self, case)

    monkeypatch.setattr(Engine, "finish", slow)
    monkeypatch.setattr(TerminalWatcher, "case_started", interrupt_at_the_second)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    out = tmp_path / "out"
    ran = _predict(tiny_pack, volume, volume, volume, "--out", out, "--json")
    assert ran.exit_code == 130
    assert [case["name"] for case in json.loads(ran.stdout)["cases"]] == ["good"]
    assert "stopped" in ran.stderr
    assert sorted(path.name for path in out.iterdir()) == ["good", "run.json"]


_WAITING_ENGINE = """
import signal, sys, time, types

signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell starts a foreground command

class Engine:
    identity = setting = dict

    def begin(self, volume, ask, **more):
        return types.SimpleNamespace(bytes=0)

    def score_each(self, cases, **more):
        for case in cases:
            print("ready", file=sys.stderr, flush=True)
            time.sleep(60)
            yield case

sys.modules["headclip_med.engine"] = types.ModuleType("engine")
sys.modules["headclip_med.engine"].load_engine = lambda *_, **__: Engine()
from headclip_med.cli import main
main()
"""


def test_a_real_interrupt_of_a_real_process(tmp_path: Path, volume: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", _WAITING_ENGINE, "predict", str(volume), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "ready" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "stopped" in said
    assert "Traceback" not in said
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_debug_shows_the_traceback_of_an_internal_error(
    tmp_path: Path,
    tiny_pack: Path,
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from headclip_med.engine import Engine

    def stumble(self: Engine, volume: Any, ask: Any, **more: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Engine, "begin", stumble)
    monkeypatch.setenv("HEADCLIP_DEBUG", "1")
    with caplog.at_level("DEBUG", logger="headclip_med"):
        ran = _predict(tiny_pack, volume, "--out", tmp_path / "out")
    assert ran.exit_code == 1
    assert "ZeroDivisionError: a bug" in caplog.text


def test_wrong_usage_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from headclip_med.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    arguments = ["predict", "scan.nii", "--out", str(tmp_path / "out"), "--format", "pdf"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ran.returncode == 2, ran.stderr
    assert "A format must be one of nifti, png, html, json, seg, segscore, pm, sr, sc, dicom; given: pdf." in ran.stderr
    assert ran.stdout == ""
    assert _run("predict", "scan.nii").exit_code == 2  # --out is missing


def test_completion_offers_what_exists() -> None:
    from headclip_med.detectors import DETECTORS
    from headclip_med.encoders.build import open_clip
    from headclip_med.intensity import CHANNELS, WINDOWS
    from headclip_med.packs import builtin_packs
    from headclip_med.packs.domains import DOMAINS
    from headclip_med.types import PLANES
    from headclip_med.writing import DICOM_FORMATS, FORMATS

    assert set(choices.METHODS) == set(DETECTORS)
    assert set(choices.DOMAINS) == set(DOMAINS)
    assert set(choices.WINDOWS) == set(WINDOWS)
    assert choices.CHANNELS == CHANNELS
    assert set(choices.PLANES) == {*PLANES, "all"}
    assert choices.FORMATS == FORMATS
    assert choices.DICOM_FORMATS == DICOM_FORMATS
    assert set(choices.pack_names()) == set(builtin_packs())
    for name in choices.RECOMMENDED_TOWERS:
        if not name.startswith("timm:"):
            assert tuple(name.split("/")) in open_clip.list_pretrained()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("predict --domain brain", ["brain-mri"]),
        ("predict --window l", ["lung", "liver"]),
        ("predict --plane axial,s", ["axial,sagittal"]),
        ("predict --format nifti,s", ["nifti,seg", "nifti,segscore", "nifti,sr", "nifti,sc"]),
        ("predict --formats nifti,h", ["nifti,html"]),
        ("predict --model timm:", ["timm:vit_small_patch14_dinov2.lvd142m"]),
        ("models info ViT-B", ["ViT-B-16-quickgelu/openai"]),
    ],
)
def test_the_shell_completes_names(words: str, offered: list[str]) -> None:
    line = f"headclip-med {words}"
    environment = {
        "_HEADCLIP_MED_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    ran = CliRunner().invoke(app, [], env=environment, prog_name="headclip-med")
    assert ran.stdout.split() == offered


def test_demo_prints_where_the_lesion_is_and_where_it_was_found(
    tmp_path: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headclip_med import demo

    monkeypatch.setattr(demo, "SHAPE", (48, 54, 42))
    monkeypatch.setattr(demo, "SPACING_MM", 4.0)
    arguments = ("demo", "--out", tmp_path / "out", "--model", tiny_pack, "--device", "cpu")
    ran = _run(*arguments)
    assert ran.exit_code == 0, ran.output
    assert all(word in ran.stdout for word in ("lesion", "highest finding", "distance", "Dice of the mask"))
    assert all(str(tmp_path / "out" / "demo_volume" / name) in ran.stdout for name in ("result.json", "report.html"))
    told = json.loads(_run(*arguments, "--json").stdout)
    assert 0 <= told["dice"] <= 1
    assert told["lesion_mm"] == pytest.approx(demo.LESION.centre_mm, abs=1.5)
    assert told["files"]["map"] == str(tmp_path / "out" / "demo_volume" / "anomaly_map.nii.gz")


def test_doctor_exits_1_when_anything_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med import doctor

    fine = doctor.Check("torch", "ok", "1.0")
    monkeypatch.setattr(doctor, "diagnose", lambda: [fine])
    assert _run("doctor").exit_code == 0
    monkeypatch.setattr(doctor, "diagnose", lambda: [fine, doctor.Check("x", "fail", "gone [x]", "pip install x[y]")])
    ran = _run("doctor")
    assert ran.exit_code == 1
    assert "gone [x]" in ran.stdout
    assert "→ pip install x[y]" in ran.stdout
    told = json.loads(_run("doctor", "--json").stdout)
    assert told["ok"] is False
    assert told["checks"][1] == {
        "name": "x",
        "status": "fail",
        "detail": "gone [x]",
        "fix": "pip install x[y]",
    }


def test_models_list_and_info(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med import catalogue
    from headclip_med.encoders.build import sha256_file

    monkeypatch.setattr(catalogue, "builtin_packs", lambda: {"tiny-random": tiny_pack})
    listed = _run("models", "list")
    assert listed.exit_code == 0
    assert "tiny-random" in listed.stdout
    assert "not calibrated: random weights" in listed.stdout
    assert "ViT-L-14-336-quickgelu/openai" in listed.stdout
    (tiny_pack / "README.md").write_text("# A card\n\nNot for medical use.\n")
    shown = _run("models", "info", "tiny-random")
    (tiny_pack / "README.md").unlink()
    assert "Not for medical use." in shown.stdout
    weights = sha256_file(tiny_pack / "tower.safetensors")
    assert f"sha256 of the weights: {weights}" in shown.stdout
    by_folder = json.loads(_run("models", "info", tiny_pack, "--json").stdout)
    assert by_folder["sha256"]["weights"] == weights
    hub = json.loads(_run("models", "info", "ViT-B-16/openai", "--json").stdout)
    assert (hub["record"]["architecture"], hub["record"]["tag"]) == ("ViT-B-16", "openai")
    unknown = _run("models", "info", "ViT-Q-99/openai")
    assert unknown.exit_code == 2
    assert "headclip-med models list" in unknown.stderr


def test_pull_reports_the_hash_or_one_clear_message(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    from headclip_med import catalogue
    from headclip_med.encoders.build import sha256_file

    monkeypatch.setattr(catalogue, "builtin_packs", lambda: {})
    monkeypatch.setattr(open_clip, "download_pretrained", _unreachable)
    offline = _run("models", "pull", "ViT-B-16/openai")
    assert offline.exit_code == 1
    assert offline.stdout == ""
    assert "must be in the cache or on a hub that can be reached" in offline.stderr
    assert "Traceback" not in offline.output
    monkeypatch.undo()
    pulled = json.loads(_run("models", "pull", tiny_pack, "--json").stdout)
    assert pulled["sha256"] == sha256_file(tiny_pack / "tower.safetensors")


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("no route to host")
