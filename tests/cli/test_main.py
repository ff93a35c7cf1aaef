"""The command line as a user or a script meets it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from headclip_med import reading
from headclip_med.base import names as choices
from headclip_med.base.versions import __version__
from headclip_med.cli.main import app
from headclip_med.cli.screen.console import TerminalWatcher


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
        "from headclip_med.cli.main import main\n"
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
    from headclip_med.cli.screen import console
    from headclip_med.cohort.outcome import CaseOutcome

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
    from headclip_med.engine.engine import Engine

    seen: dict[str, Any] = {}
    begin, read = Engine.begin, reading.load_volume

    def spy(self: Engine, volume: Any, ask: Any, **more: Any) -> Any:
        seen.update(
            asdict(ask), batch_size=self.batch_size, dtype=str(self.scorer.dtype), method=self.scorer.model.method
        )
        seen.update(speed=self.scorer.speed.name)
        return begin(self, volume, ask, **more)

    def spy_on_reading(source: Any, **options: Any) -> Any:
        seen.update(options)
        return read(source, **options)

    monkeypatch.setattr(Engine, "begin", spy)
    monkeypatch.setattr(reading, "load_volume", spy_on_reading)
    text = "--domain brain-mri --plane axial,coronal --window 40/80 --threshold 0.3 --smooth-mm 2.5 --time 0"
    more = (
        "--precision float32 --batch-size 3 --method anomalyclip --series #1 --channels neighbours --on-irregular keep"
        " --speed balanced --preprocessing own"
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
        "time_index": 0,
        "threshold": 0.3,
        "smooth_mm": 2.5,
        "channels": "neighbours",
        "batch_size": 3,
        "dtype": "torch.float32",
        "method": "anomalyclip",
        "speed": "balanced",
        "preprocessing": "own",
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
    from headclip_med.engine.engine import Engine

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
    scorer = types.SimpleNamespace(identity=dict, setting=dict)

    def begin(self, volume, ask, **more):
        return types.SimpleNamespace(bytes=0)

    def score_each(self, cases, **more):
        for case in cases:
            print("ready", file=sys.stderr, flush=True)
            time.sleep(60)
            yield case

import headclip_med.engine.load

headclip_med.engine.load.load_engine = lambda *_, **__: Engine()
from headclip_med.cli.main import main
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
    from headclip_med.engine.engine import Engine

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
        "from headclip_med.cli.main import main\n"
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
    from headclip_med.base.types import PLANES
    from headclip_med.detectors import DETECTORS
    from headclip_med.encoders.build import open_clip
    from headclip_med.models.domains import DOMAINS
    from headclip_med.models.pack import builtin_packs
    from headclip_med.slicing.intensity import CHANNELS, WINDOWS
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
    from headclip_med.cohort import demo

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
    from headclip_med.cli import doctor

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
    from headclip_med.base.files import sha256_file
    from headclip_med.models import catalogue

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

    from headclip_med.base.files import sha256_file
    from headclip_med.models import catalogue

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


def _commands() -> list[tuple[list[str], Any]]:
    """Every command and group with the words that lead to it."""
    found: list[tuple[list[str], Any]] = []

    def walk(words: list[str], command: Any) -> None:
        found.append((words, command))
        for name, inner in getattr(command, "commands", {}).items():
            walk([*words, name], inner)

    walk([], get_command(app))
    return found


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    ("words", "command"), _commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_help_loses_nothing(words: list[str], command: Any, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets were read as markup: two commands ended in a traceback, others lost words or had them cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    ran = _run(*words, "--help")
    assert ran.exit_code == 0, ran.output
    assert max(map(len, ran.stdout.splitlines())) <= 80
    shown = "".join(ran.stdout.split())
    told = [command.help, command.epilog]
    for part in command.params:
        told += [getattr(part, "help", None), part.metavar, *part.opts]
        told.append(part.show_default if isinstance(getattr(part, "show_default", None), str) else None)
    told += [re.split(r"\.\s|\.$", inner.help)[0] for inner in getattr(command, "commands", {}).values()]
    lost = [text for text in told if text and not text.startswith("_") and "".join(text.split()) not in shown]
    assert lost == [name for name in lost if name in {part.name for part in command.params}]  # an argument's own name
    if not hasattr(command, "commands"):
        assert {"--quiet", "--verbose"} <= {word for part in command.params for word in part.opts}


@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_and_no_warning_of_a_list_is_cut(columns: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", "1")
    listed = _run("models", "list").stdout
    for name in choices.model_names():
        assert name in listed
    flat = " ".join(listed.split())
    assert "highest mean Dice (0.80) over 24 validation cases of the auxiliary data" in flat
    assert "…" not in listed
    methods = _run("models", "methods").stdout
    for name in choices.METHODS:
        assert re.search(rf"(^|\W){re.escape(name)}\W", methods)
    assert "\x1b[3" not in listed  # NO_COLOR, or no terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_the_card_of_a_model_is_whole(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    card = (Path(choices.__file__).parents[1] / "models" / "packs" / "headclip-tiny" / "README.md").read_text()
    assert card in _run("models", "info", "headclip-tiny").stdout


@pytest.mark.parametrize("name", ["[red]x", "[bold] [", ":heart:", r"C:\scans\[a]", "x [y", "%s {0} \\"])
def test_names_are_shown_as_they_are(name: str, tmp_path: Path, tiny_pack: Path, volume: Path) -> None:
    source = volume.rename(volume.with_name(f"{name}.nii.gz"))
    out = tmp_path / f"out {name}"
    ran = _predict(tiny_pack, source, tmp_path / "in" / f"{name} gone.nii", "--out", out)
    assert ran.stdout.startswith(f"{name}: score ")
    assert ran.stdout.rstrip("\n").endswith(f" → {out / name}")
    assert f"error: {name} gone: " in ran.stderr
    assert f"case 1 of 2: {name}\n" in ran.stderr


def test_every_kind_of_output_shows_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from headclip_med.cli.screen import bundle as console_bundle
    from headclip_med.cli.screen import console
    from headclip_med.cli.screen import pacs as console_pacs

    odd = "[b]x[/b] :heart: [/y]"
    console.say_error(odd)
    console.say_warnings([odd])
    console_bundle.show_bundles([{"name": odd, "version": odd, "title": odd, "configs": [odd]}])
    console_pacs.show_found([{"name": odd, "description": odd}], "dimse://A@b:1")
    monkeypatch.setattr(console, "_EVERY", 0.0)
    with console.steps(odd, 2) as progress, console.waiting(odd):
        progress(1, 2)
        progress(2, 2)
    said = capsys.readouterr()
    assert said.out.count(odd) == 6
    assert said.err == f"error: {odd}\nwarning: {odd}\n{odd}: 2 of 2\n"


def test_a_reader_that_has_gone_ends_no_run() -> None:
    from headclip_med.cli.screen import console

    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        screen = console.Screen(file=stream)
        os.close(reading)
        for number in range(3):
            screen.print(f"case {number}")
            stream.flush()
        assert screen.quiet


def test_a_pipe_that_is_closed_leaves_exit_code_and_words_alone() -> None:
    code = "from headclip_med.cli.main import main; main()"
    command = f'"{sys.executable}" -c "{code}" data layouts | head -1; echo ${{PIPESTATUS[0]}}'
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (len(ran.stdout.splitlines()), ran.stdout.splitlines()[-1], ran.stderr) == (2, "0", "")


def test_a_stream_that_cannot_show_a_name_ends_no_run() -> None:
    code = (
        "from headclip_med.cli import main as cli\nfrom headclip_med.cli.screen import console\n"
        "cli.app = lambda: console.say_result('→ b\\udcff')\ncli.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "\\u2192 b\\udcff\n", "")


def test_progress_is_told_in_lines_where_no_bar_can_be_drawn(
    tmp_path: Path, tiny_pack: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headclip_med.cli.screen import console

    monkeypatch.setattr(console, "_EVERY", 0.0)
    lines = _predict(tiny_pack, volume, volume, "--out", tmp_path / "out", "--batch-size", "2").stderr.splitlines()
    for number, name in enumerate(("good", "good_2"), start=1):
        begin = lines.index(f"case {number} of 2: {name}")
        assert lines[begin + 1 : begin + 4] == [f"{name}: {done} of 6 slices" for done in (2, 4, 6)]


def test_lines_of_progress_are_seconds_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from headclip_med.cli.screen import console

    now = iter([0.0, 5.0, 9.0, 11.0, 11.0, 20.0, 22.0, 22.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    pulse = console.Pulse()
    for number in range(6):
        pulse.beat(str(number))
    assert capsys.readouterr().err.split() == ["3", "5"]


@pytest.mark.parametrize("flag", ["--quiet", "-q"])
def test_quiet_says_nothing_but_warnings_and_errors(flag: str, tmp_path: Path, tiny_pack: Path, volume: Path) -> None:
    ran = _predict(tiny_pack, volume, volume, "--out", tmp_path / "out", flag)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "", "")
    bad = _predict(tiny_pack, volume, tmp_path / "gone.nii", "--out", tmp_path / "out", flag)
    assert bad.stdout == ""
    assert [line[:12] for line in bad.stderr.splitlines()] == ["error: gone:"]
    assert json.loads(_predict(tiny_pack, volume, "--out", tmp_path / "out", flag, "--json").stdout)["cases_given"] == 1
    assert "headclip" in _run("models", "methods", flag).stdout
    assert "case 1 of 2" in _predict(tiny_pack, volume, volume, "--out", tmp_path / "out").stderr  # not for ever


def test_verbose_says_model_device_and_seconds(tmp_path: Path, tiny_pack: Path, volume: Path) -> None:
    said = _predict(tiny_pack, volume, "--out", tmp_path / "out", "--verbose").stderr
    assert re.search(
        r"model tiny-random, method headclip, .*precision \w+, speed exact, device cpu, batch_size \d", said
    )
    assert re.search(r"good: done after \d+\.\d s", said)


def test_resume_with_everything_finished_loads_no_model(
    tmp_path: Path, tiny_pack: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headclip_med.engine import load as engine

    out = tmp_path / "out"
    first = _predict(tiny_pack, volume, volume, "--out", out, "--resume")
    assert first.exit_code == 0, first.output
    real = engine.load_engine
    monkeypatch.setattr(engine, "load_engine", lambda *_, **__: pytest.fail("a model was loaded"))
    again = _predict(tiny_pack, volume, volume, "--out", out, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("(finished earlier)") == 2
    record = json.loads((out / "run.json").read_text())
    assert [(case["name"], case["status"], case["run"]) for case in record["cases"]] == [
        ("good", "done", 1),
        ("good_2", "done", 1),
    ]
    assert record["model"]["weights_sha256"] == record["earlier_runs"][0]["model"]["weights_sha256"]
    loaded: list[object] = []
    monkeypatch.setattr(engine, "load_engine", lambda *a, **k: loaded.append(a) or real(*a, **k))
    for more in (["--threshold", "0.4"], ["--precision", "bfloat16"], ["--speed", "fast"], ["--method", "vectors"]):
        before = len(loaded)
        _predict(tiny_pack, volume, volume, "--out", out, "--resume", *more)
        assert len(loaded) == before + 1, more


def test_resume_does_not_take_a_result_made_with_normal_images_for_one_without(
    tmp_path: Path, tiny_pack: Path, volume: Path
) -> None:
    from small_cases import write_volume

    normals = write_volume(tmp_path / "normals" / "a.nii.gz", value=500).parent
    out = tmp_path / "out"
    _predict(tiny_pack, volume, "--out", out, "--normals", normals)
    statuses = []
    for more in (["--normals", normals], [], []):
        told = json.loads(_predict(tiny_pack, volume, "--out", out, "--resume", "--json", *more).stdout)
        statuses.append(told["cases"][0]["status"])
    assert statuses == ["skipped", "done", "skipped"]


@pytest.mark.parametrize(("words", "meant"), [("predit", "predict"), ("models lst", "list"), ("pacs pul", "pull")])
def test_a_misspelt_command_is_told_the_right_one(words: str, meant: str) -> None:
    ran = _run(*words.split())
    assert ran.exit_code == 2
    assert f"Did you mean '{meant}'?" in ran.stderr


def test_pull_tells_a_wrong_name_from_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = _run("models", "pull", "ViT-Q-99/openai")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "headclip-med models list" in wrong.stderr
