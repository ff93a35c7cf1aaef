"""Cases: what inputs stand for, what a run writes, what resume skips, and that nothing stops the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries
from PIL import Image
from small_cases import write_tiny_pack, write_volume

from headclip_med.base.errors import CancelledError, InputError, OutputError
from headclip_med.cohort import pipeline as cohort_run
from headclip_med.cohort import resume as finished
from headclip_med.cohort import run as cohort
from headclip_med.cohort.options import CaseOptions
from headclip_med.cohort.outcome import CaseOutcome, Watcher
from headclip_med.cohort.run import check_output, predict_case, run_cohort
from headclip_med.engine.ask import Ask
from headclip_med.engine.engine import Engine
from headclip_med.engine.load import load_engine
from headclip_med.reading.inputs import CaseInput, expand_inputs

JSON_ONLY = CaseOptions(formats=("json",))


@pytest.fixture(scope="module")
def engine(tiny_pack: Path) -> Engine:
    return load_engine(tiny_pack, device="cpu", precision="float32")


class Heard(Watcher):
    """Writes down everything that a watcher is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def case_started(self, number: int, cases: int, name: str) -> None:
        self.events.append(("started", number, cases, name))

    def slices_done(self, done: int, total: int) -> None:
        self.events.append(("slices", done, total))

    def case_ended(self, outcome: CaseOutcome) -> None:
        self.events.append(("ended", outcome.name, outcome.status))


def _names(cases: list[CaseInput]) -> list[str]:
    return [case.name for case in cases]


def _picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def _statuses(summary: cohort.CohortSummary) -> list[str]:
    return [outcome.status for outcome in summary.outcomes]


def test_a_folder_of_images_is_one_case_per_image_at_any_depth(tmp_path: Path) -> None:
    for name in ("yes/b.png", "yes/a.png", "no/c.png", ".hidden/d.png"):
        _picture(tmp_path / "mri" / name)
    write_volume(tmp_path / "mri" / "t1.nii.gz")
    (tmp_path / "mri" / "labels.csv").write_text("a,1\n")
    (tmp_path / "mri" / "broken.png").touch()
    cases = expand_inputs([tmp_path / "mri"])
    assert _names(cases) == ["broken", "c", "t1", "a", "b"]
    assert cases[2].source == tmp_path / "mri" / "t1.nii.gz"


def test_a_folder_with_dicom_is_one_series_whatever_else_lies_in_it(tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "ct" / "deeper")
    _picture(tmp_path / "ct" / "a.png")
    assert expand_inputs([tmp_path / "ct"]) == [CaseInput("ct", tmp_path / "ct")]


def test_a_pair_of_header_and_voxels_is_one_case(tmp_path: Path) -> None:
    nib.Nifti1Pair(np.ones((3, 3, 3), dtype=np.float32), np.eye(4)).to_filename(tmp_path / "pair.hdr")
    assert [case.source for case in expand_inputs([tmp_path])] == [tmp_path / "pair.hdr"]


def test_a_comma_joins_sequences_unless_it_belongs_to_a_name(tmp_path: Path) -> None:
    odd = _picture(tmp_path / "a,b.png")
    t1, flair = tmp_path / "t1.nii.gz", tmp_path / "flair.nii"
    cases = expand_inputs([odd, f"{t1}, {flair}"])
    assert cases == [CaseInput("a,b", odd), CaseInput("t1+flair", (t1, flair))]


def test_equal_names_get_a_number_and_no_case_is_called_like_the_run(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "flair.nii.gz" for folder in "abc"]
    (tmp_path / "FLAIR").mkdir()
    (tmp_path / "run.json").mkdir()
    cases = expand_inputs([*paths, tmp_path / "FLAIR", tmp_path / "run.json"], reserved=["run.json"])
    assert _names(cases) == ["flair", "flair_2", "flair_3", "FLAIR_4", "run.json_2"]


def test_names_never_hide_a_folder_and_stay_short(tmp_path: Path) -> None:
    assert _names(expand_inputs([tmp_path / ".nii.gz", tmp_path / ("x" * 120 + ".png")])) == [
        "case",
        "x" * 80,
    ]
    with pytest.raises(InputError, match="an empty name"):
        expand_inputs([" "])


def test_earlier_results_are_never_input(tmp_path: Path, engine: Engine) -> None:
    source = write_volume(tmp_path / "scan.nii.gz")
    predict_case(engine, source, tmp_path / "out", "scan")
    assert expand_inputs([tmp_path]) == [CaseInput("scan", source)]


def test_a_case_is_written_and_told(tmp_path: Path, engine: Engine, volume: Path) -> None:
    options = CaseOptions(Ask(threshold=0.01, plane="axial", smooth_mm=2.0))
    outcome = predict_case(engine, volume, tmp_path / "out", "good", options)
    record = json.loads((tmp_path / "out" / "good" / "result.json").read_text())
    assert outcome.pred_score == record["pred_score"]
    assert outcome.findings == len(record["findings"]) > 0
    assert outcome.top_finding is not None
    assert outcome.top_finding.peak == max(finding["peak"] for finding in record["findings"])
    assert outcome.top_finding.centroid_mm == tuple(record["findings"][0]["centroid_mm"])
    assert record["provenance"]["options"]["smooth_mm"] == 2.0
    assert sorted(path.name for path in (tmp_path / "out" / "good").iterdir()) == [
        "anomaly_map.nii.gz",
        "anomaly_mask.nii.gz",
        "preview.png",
        "report.html",
        "result.json",
    ]


def test_a_plain_picture_has_no_place_in_millimetres(tmp_path: Path, engine: Engine) -> None:
    options = CaseOptions(Ask(threshold=0.01), formats=("json",))
    outcome = predict_case(engine, _picture(tmp_path / "a.png"), tmp_path / "out", "a", options)
    assert outcome.top_finding is not None
    assert outcome.top_finding.centroid_mm is None
    assert outcome.top_finding.volume_mm3 is None
    assert outcome.top_finding.voxels > 0
    assert outcome.top_finding.centroid_px is not None
    record = json.loads((tmp_path / "out" / "a" / "result.json").read_text())
    assert record["findings"][0]["centroid_mm"] is None


def test_one_bad_case_never_stops_the_others_and_all_are_recorded(tmp_path: Path, engine: Engine, volume: Path) -> None:
    heard, out = Heard(), tmp_path / "out"
    cases = expand_inputs([tmp_path / "gone.nii", volume])
    summary = run_cohort(engine, cases, out, JSON_ONLY, watcher=heard)
    assert _statuses(summary) == ["failed", "done"]
    assert not summary.ok
    assert [event for event in heard.events if event[0] != "slices"] == [
        ("started", 1, 2, "gone"),
        ("ended", "gone", "failed"),
        ("started", 2, 2, "good"),
        ("ended", "good", "done"),
    ]
    assert heard.events[-2] == ("slices", 6, 6)
    run = json.loads((out / "run.json").read_text())
    assert [(case["name"], case["status"], case["folder"]) for case in run["cases"]] == [
        ("gone", "failed", None),
        ("good", "done", "good"),
    ]
    assert "must be a file or folder that exists" in run["cases"][0]["error"]
    assert run["arguments"]["formats"] == ["json"]
    assert run["model"]["weights_sha256"] == engine.scorer.model.built.sha256
    assert {"headclip-med", "python", "torch", "monai"} <= set(run["versions"])
    assert str(tmp_path) not in (out / "run.json").read_text()


def test_resume_skips_what_is_finished_and_nothing_else(tmp_path: Path, engine: Engine) -> None:
    first, second = (write_volume(tmp_path / f"{name}.nii.gz", value=800 + i) for i, name in enumerate("ab"))
    out = tmp_path / "out"
    run_cohort(engine, expand_inputs([first]), out, JSON_ONLY)
    untouched = (out / "a" / "result.json").stat().st_mtime_ns
    again = run_cohort(engine, expand_inputs([first, second]), out, JSON_ONLY, resume=True)
    assert _statuses(again) == ["skipped", "done"]
    assert again.ok
    assert (out / "a" / "result.json").stat().st_mtime_ns == untouched
    assert again.outcomes[0].pred_score == json.loads((out / "a" / "result.json").read_text())["pred_score"]


@pytest.mark.parametrize("change", ["content", "options", "file", "weights", "precision", "version"])
def test_resume_redoes_a_case_when_anything_that_matters_changed(
    change: str,
    tmp_path: Path,
    tiny_pack: Path,
    engine: Engine,
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, options = tmp_path / "out", CaseOptions(formats=("nifti", "json"))
    run_cohort(engine, expand_inputs([volume]), out, options)
    if change == "content":
        write_volume(volume, value=901.0)
    elif change == "options":
        options = CaseOptions(Ask(threshold=0.4), formats=("nifti", "json"))
    elif change == "file":
        with (out / "good" / "anomaly_map.nii.gz").open("ab") as file:
            file.write(b"0")
    elif change == "weights":
        engine = load_engine(write_tiny_pack(tmp_path / "p", seed=1), device="cpu", precision="float32")
    elif change == "precision":
        engine = load_engine(tiny_pack, device="cpu", precision="bfloat16")
    else:
        monkeypatch.setattr(finished, "package_versions", lambda: {"headclip-med": "9.9"})
    assert _statuses(run_cohort(engine, expand_inputs([volume]), out, options, resume=True)) == ["done"]


def test_a_folder_with_an_unreadable_record_counts_as_somebody_elses(
    tmp_path: Path, engine: Engine, volume: Path
) -> None:
    (tmp_path / "out" / "good").mkdir(parents=True)
    (tmp_path / "out" / "good" / "result.json").write_text("{")
    summary = run_cohort(engine, expand_inputs([volume]), tmp_path / "out", JSON_ONLY, resume=True)
    assert _statuses(summary) == ["failed"]
    assert "must be empty or hold nothing but an earlier result" in (summary.outcomes[0].error or "")
    assert (tmp_path / "out" / "good" / "result.json").read_text() == "{"


def test_cancel_ends_the_run_with_nothing_half_written(tmp_path: Path, engine: Engine, volume: Path) -> None:
    cases, out = expand_inputs([volume, volume]), tmp_path / "out"
    summary = run_cohort(engine, cases, out, JSON_ONLY, cancel=lambda: True)
    assert _statuses(summary) == ["stopped"]
    assert not summary.ok
    assert [path.name for path in out.iterdir()] == ["run.json"]
    with pytest.raises(CancelledError):
        predict_case(engine, volume, out, "good", cancel=lambda: True)


def test_ctrl_c_passes_on_after_the_record_is_written(tmp_path: Path, engine: Engine, volume: Path) -> None:
    class Impatient(Watcher):
        def case_started(self, number: int, cases: int, name: str) -> None:
            self.number = number

        def slices_done(self, done: int, total: int) -> None:
            if self.number == 2:
                raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_cohort(engine, expand_inputs([volume, volume]), out, JSON_ONLY, watcher=Impatient())
    run = json.loads((out / "run.json").read_text())
    assert run["cases_given"] == 2
    assert [case["name"] for case in run["cases"]] == ["good"]
    assert sorted(path.name for path in out.iterdir()) == ["good", "run.json"]


def test_a_uid_given_as_series_is_never_recorded(tmp_path: Path, engine: Engine) -> None:
    for number in (1, 2):
        series = CtSeries(series_number=number).write(tmp_path / "ct" / str(number))
    cases, out = expand_inputs([tmp_path / "ct"]), tmp_path / "out"
    options = CaseOptions(Ask(series=series.uid), formats=("json",))
    assert _statuses(run_cohort(engine, cases, out, options)) == ["done"]
    wrong = CaseOptions(Ask(series="1.2.3.4.5"), formats=("json",))
    assert _statuses(run_cohort(engine, cases, out / "wrong", wrong)) == ["failed"]
    written = "".join(path.read_text() for path in out.rglob("*.json"))
    assert series.uid not in written
    assert "1.2.3.4.5" not in written
    assert "SECRET" not in written


def test_a_run_that_cannot_be_recorded_says_so(
    tmp_path: Path, engine: Engine, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OutputError("The output must be writable", "the disk is full")

    monkeypatch.setattr(cohort_run, "atomic_path", full)
    summary = run_cohort(engine, expand_inputs([volume]), tmp_path / "out", JSON_ONLY)
    assert _statuses(summary) == ["done"]
    assert "the disk is full" in (summary.unrecorded or "")
    assert not summary.ok


def test_checking_the_output_makes_no_folder(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file where a folder must be"):
        check_output(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("folder", "cases"), [("polyps_2d/images", 200), ("brain_mri_2d/yes", 155), ("dicom/ct_philips", 1)]
)
def test_real_folders_become_cases(shared: Path, folder: str, cases: int) -> None:
    found = expand_inputs([shared / "data" / folder])
    assert len(found) == len({case.name.casefold() for case in found}) == cases


def _run_record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text()))


def test_run_json_keeps_what_earlier_runs_did(tmp_path: Path, engine: Engine) -> None:
    first, second = (write_volume(tmp_path / f"{name}.nii.gz", value=800 + i) for i, name in enumerate("ab"))
    out = tmp_path / "out"
    run_cohort(engine, expand_inputs([first, tmp_path / "gone.nii"]), out, JSON_ONLY)
    run_cohort(engine, expand_inputs([second]), out, CaseOptions(Ask(threshold=0.3), formats=("json",)))
    run_cohort(engine, expand_inputs([first, second]), out, JSON_ONLY, resume=True)
    record = _run_record(out)
    found = {case["name"]: (case["status"], case["run"]) for case in record["cases"]}
    assert found == {"a": ("done", 1), "gone": ("failed", 1), "b": ("done", 3)}
    earlier = record["earlier_runs"]
    assert [[case["name"] for case in run["cases"]] for run in earlier] == [["a", "gone"], ["b"]]
    assert [run["arguments"]["threshold"] for run in (*earlier, record)] == [None, 0.3, None]
    assert [run["cases_given"] for run in (*earlier, record)] == [2, 1, 2]
    run_cohort(engine, expand_inputs([first, second]), out, JSON_ONLY, resume=True)
    again = _run_record(out)
    assert {case["name"]: (case["status"], case["run"]) for case in again["cases"]} == found
    assert [len(run["cases"]) for run in again["earlier_runs"]] == [2, 1, 1]


def test_a_record_of_an_earlier_version_is_taken_up(tmp_path: Path, engine: Engine, volume: Path) -> None:
    out = tmp_path / "out"
    run_cohort(engine, expand_inputs([volume]), out, JSON_ONLY)
    record = _run_record(out)
    del record["earlier_runs"]
    record["cases"] = [{key: value for key, value in case.items() if key != "run"} for case in record["cases"]]
    (out / "run.json").write_text(json.dumps(record))
    run_cohort(engine, expand_inputs([write_volume(tmp_path / "b.nii.gz")]), out, JSON_ONLY)
    assert [(case["name"], case["run"]) for case in _run_record(out)["cases"]] == [("good", 1), ("b", 2)]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema_version": "my own run/1"}', '{"lr": 0.1}'])
def test_a_run_json_of_something_else_is_never_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OutputError, match=r"run\.json in the output folder must be of earlier runs"):
        check_output(tmp_path)
    assert (tmp_path / "run.json").read_text() == text


def test_a_folder_called_run_json_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OutputError, match=r"run\.json in the output folder must be of earlier runs"):
        check_output(tmp_path)


def test_a_result_of_another_image_is_replaced_with_a_word(tmp_path: Path, engine: Engine) -> None:
    out = tmp_path / "out"
    first, other = write_volume(tmp_path / "1" / "flair.nii.gz"), write_volume(tmp_path / "2" / "flair.nii.gz", value=1)
    said = [run_cohort(engine, expand_inputs([path]), out, JSON_ONLY).outcomes[0].warnings for path in (first, other)]
    assert [[words for words in warnings if "was replaced" in words] for warnings in said] == [
        [],
        ["an earlier result in flair, of an image of other content, was replaced"],
    ]
    again = run_cohort(engine, expand_inputs([other]), out, JSON_ONLY).outcomes[0]
    assert not any("was replaced" in words for words in again.warnings)
