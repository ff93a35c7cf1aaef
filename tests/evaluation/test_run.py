"""A whole evaluation: what is on disk afterwards, what is said, and what cannot go wrong in silence."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from oracle import oracle_engine
from PIL import Image
from small_cases import write_tiny_pack
from typer.testing import CliRunner

from headclip_med import evaluate, open_dataset
from headclip_med.base.errors import InputError, OutputError
from headclip_med.cli.main import app
from headclip_med.evaluation import EvaluationRecord, EvaluationWatcher, ModelSpec, Settings
from headclip_med.evaluation.groups import with_columns

QUICK = Settings(replicates=100)
BRIGHT = "control:intensity"  # knows what is bright, which is all there is to know here


def _pictures(root: Path, count: int = 12) -> Path:
    """``count`` noisy pictures; in every second one a bright square, which the mask shows."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        array = rng.integers(60, 120, (40, 40)).astype(np.uint8)
        mask = np.zeros((40, 40), dtype=np.uint8)
        if number % 2:
            i = 4 + 2 * (number % 5)
            array[i : i + 9, 8:20] = 250
            mask[i : i + 9, 8:20] = 255
        Image.fromarray(array).save(root / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02}.png")
    return root


def _volumes(root: Path, count: int = 3) -> Path:
    """BRATS-like cases with a bright block at a known place."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"case{number}"
        folder.mkdir(parents=True)
        array = np.zeros((24, 24, 6), dtype=np.float32)
        array[3:-3, 3:-3] = rng.normal(400, 20, (18, 18, 6))
        seg = np.zeros(array.shape, dtype=np.uint8)
        seg[8:13, 8:13, 2:4] = 4
        array[seg > 0] = 900
        for name, values in (("flair", array), ("seg", seg)):
            nib.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0])).to_filename(folder / f"case{number}_{name}.nii.gz")
    return root


def test_pictures_end_in_metrics_tables_and_a_report(tmp_path: Path) -> None:
    data = _pictures(tmp_path / "set")
    result = evaluate(BRIGHT, open_dataset(data), tmp_path / "out", settings=QUICK)
    assert result.ok
    assert result.metric("pixel", "auroc").value > 0.99
    auroc = result.metric("case", "auroc")
    assert (auroc.value, auroc.low, auroc.high) == (1, 1, 1)
    record = EvaluationRecord.model_validate_json((tmp_path / "out" / "metrics.json").read_text())
    assert record == result.record
    assert record.dataset.counted == 12
    assert record.models[0].protocol.kind == "control"
    assert record.models[0].levels["pixel"].counts["regions"] == 6
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").read_text().splitlines()))
    assert len(rows) == 12
    for name in ("table.md", "table.tex", "report.html"):
        assert "set" in (tmp_path / "out" / name).read_text()
    assert len(list((tmp_path / "out" / "cases" / "control-intensity").glob("*.png"))) == 12


def test_an_engine_is_evaluated_as_it_is(tmp_path: Path) -> None:
    result = evaluate(oracle_engine(), open_dataset(_pictures(tmp_path / "set")), settings=QUICK)
    assert result.record.models[0].model == "oracle"
    assert result.record.models[0].protocol.kind == "zero-shot"
    assert result.record.models[0].protocol.threshold_origin.startswith("a-priori")
    assert result.metric("pixel", "auroc").value > 0.99


def test_volumes_have_slices_and_lesions(tmp_path: Path) -> None:
    result = evaluate({"a": BRIGHT}, open_dataset(_volumes(tmp_path / "set")), settings=QUICK)
    levels = result.record.models[0].levels
    assert (levels["slice"].unit, levels["slice"].counts["abnormal"]) == ("slice", 6)
    assert levels["slice"].metrics["auroc"].value == 1
    assert levels["pixel"].unit == "voxel"
    assert levels["foreground"].counts["normal"] < levels["pixel"].counts["normal"]
    assert (levels["lesion"].counts["lesions"], levels["lesion"].counts["volumes"]) == (3, 3)
    assert levels["lesion"].metrics["sensitivity_at_1_fp"].value == 1
    assert result.metric("case", "auroc").reason == "no normal volume: all 3 are abnormal"
    assert result.metric("pixel", "auroc").interval_reason == "3 patient(s): an interval needs at least 10"
    assert result.folder is None


def test_labels_without_masks_have_no_pixel_metrics(tmp_path: Path) -> None:
    data = _pictures(tmp_path / "pairs")
    for number, path in enumerate(sorted((data / "images").iterdir())):
        target = tmp_path / "set" / ("yes" if number % 2 else "no")
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    result = evaluate(BRIGHT, open_dataset(tmp_path / "set"), settings=QUICK)
    assert result.metric("case", "auroc").value == 1
    assert result.metric("pixel", "auroc").reason == "no case says where its lesions are"
    assert result.metric("lesion", "sensitivity_at_1_fp").reason == "no case says where its lesions are"


def test_a_copy_counts_once_and_a_bad_case_is_listed(tmp_path: Path) -> None:
    data = _pictures(tmp_path / "set")
    (data / "images" / "99.png").write_bytes((data / "images" / "01.png").read_bytes())
    (data / "masks" / "99.png").write_bytes((data / "masks" / "01.png").read_bytes())
    (data / "images" / "50.png").write_bytes(b"not a picture")
    result = evaluate(BRIGHT, open_dataset(data), tmp_path / "out", settings=QUICK)
    assert not result.ok
    facts = result.record.dataset
    assert (facts.cases, facts.counted, facts.duplicates, facts.failed) == (14, 12, 1, 1)
    rows = {row.case: row for row in result.record.models[0].cases}
    assert (rows["99"].status, rows["99"].duplicate_of) == ("duplicate", "01")
    assert rows["50"].status == "failed"
    assert "50.png" in rows["50"].error


def test_scores_of_a_case_do_not_depend_on_the_others(tmp_path: Path) -> None:
    dataset = open_dataset(_pictures(tmp_path / "set"))
    engine = BRIGHT
    whole = evaluate(engine, dataset, settings=QUICK).record.models[0].cases
    part = evaluate(engine, replace(dataset, cases=dataset.cases[3:6]), settings=QUICK).record.models[0].cases
    scores = {row.case: row.pred_score for row in whole}
    assert [row.pred_score for row in part] == [scores[row.case] for row in part]


def test_models_are_compared_on_the_same_draws(tmp_path: Path) -> None:
    dataset = open_dataset(_pictures(tmp_path / "set"))
    both = {"bright": BRIGHT, "twin": BRIGHT, "chance": "control:chance"}
    result = evaluate(both, dataset, tmp_path / "out", settings=QUICK)
    found = {(d.first, d.second, d.level, d.metric): d for d in result.record.differences}
    same = found["bright", "twin", "pixel", "auroc"]
    assert (same.difference.value, same.difference.low, same.difference.high, same.p_value) == (0, 0, 0, 1)
    apart = found["bright", "chance", "pixel", "auroc"]
    assert apart.difference.low > 0
    assert apart.p_value == pytest.approx(2 / 101)
    assert result.record.models[2].protocol.kind == "control"


class Counting(EvaluationWatcher):
    def __init__(self) -> None:
        self.done: dict[str, list[str]] = {}

    def phase_started(self, phase: str, cases: int) -> None:
        self.phase = self.done.setdefault(phase, [])

    def case_done(self, case: str, error: str) -> None:
        self.phase.append(case)


def test_resume_measures_only_what_is_missing_or_changed(tmp_path: Path) -> None:
    data = _pictures(tmp_path / "set")
    first = evaluate(BRIGHT, open_dataset(data), tmp_path / "out", settings=QUICK)
    (tmp_path / "out" / "cases" / "control-intensity" / "03.npz").unlink()
    (tmp_path / "out" / "cases" / "control-intensity" / "04.npz").write_bytes(b"damaged")
    (data / "images" / "05.png").write_bytes((_pictures(tmp_path / "other", 22) / "images" / "21.png").read_bytes())
    watcher = Counting()
    again = evaluate(BRIGHT, open_dataset(data), tmp_path / "out", settings=QUICK, resume=True, watcher=watcher)
    assert watcher.done[BRIGHT] == ["03", "04", "05"]
    same = [row for row in again.record.models[0].cases if row.case in ("00", "01", "03", "04")]
    before = {row.case: row.pred_score for row in first.record.models[0].cases}
    assert [row.pred_score for row in same] == [before[row.case] for row in same]


def test_workers_give_the_same_numbers(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as a worker of two: threads decide how sums are rounded
    pack = str(write_tiny_pack(tmp_path / "pack"))
    dataset = open_dataset(_pictures(tmp_path / "set"))
    runs = [
        evaluate(ModelSpec(pack, "cpu", "float32"), dataset, settings=QUICK, workers=workers).record.models[0]
        for workers in (1, 2)
    ]
    assert runs[0].levels == runs[1].levels


def test_exact_and_levels_agree(tmp_path: Path) -> None:
    dataset = open_dataset(_pictures(tmp_path / "set"))
    exact, rounded = (
        evaluate(BRIGHT, dataset, settings=replace(QUICK, exact=flag)).metric("pixel", "auroc").value
        for flag in (True, False)
    )
    assert exact == pytest.approx(rounded, abs=1e-4)


def test_subgroups_come_from_a_table(tmp_path: Path) -> None:
    dataset = open_dataset(_pictures(tmp_path / "set"))
    table = tmp_path / "sites.csv"
    table.write_text("case;site\n" + "\n".join(f"{case.name};{'AB'[int(case.name) < 6]}" for case in dataset))
    joined = with_columns(dataset, table)
    result = evaluate(BRIGHT, joined, tmp_path / "out", settings=QUICK, group_by=["site"])
    groups = {group.value: group for group in result.record.models[0].subgroups}
    assert {name: group.cases for name, group in groups.items()} == {"A": 6, "B": 6}
    assert groups["A"].levels["case"].metrics["auroc"].value == 1
    assert "site" in (tmp_path / "out" / "report.html").read_text()


def test_categories_have_their_unweighted_mean(tmp_path: Path) -> None:
    dataset = open_dataset(_pictures(tmp_path / "set"))
    cases = tuple(replace(case, category="abc"[i % 3]) for i, case in enumerate(dataset))
    result = evaluate(BRIGHT, replace(dataset, cases=cases), settings=QUICK).record.models[0]
    values = [group.levels["pixel"].metrics["average_precision"].value for group in result.subgroups]
    assert len(values) == 3
    assert result.macro["pixel"]["average_precision"].value == pytest.approx(np.mean(values))


def test_bad_requests_are_refused_before_anything_runs(tmp_path: Path) -> None:
    dataset = open_dataset(_pictures(tmp_path / "set", 2))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("my own")
    with pytest.raises(OutputError, match=r"new, empty, or hold an earlier evaluation; given: mine with report\.html"):
        evaluate(BRIGHT, dataset, mine)
    assert (mine / "report.html").read_text() == "my own"
    for wrong, words in (
        ({"group_by": ["age"]}, "subgroup column must be one of none here"),
        ({"protocol": "one-shot"}, "protocol must be one of"),
        ({"workers": 0}, "at least 1"),
        ({"workers": 2}, "Several workers must be given models by name"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate(oracle_engine(), dataset, **wrong)
    with pytest.raises(InputError, match="must be named once"):
        evaluate([oracle_engine(), oracle_engine()], dataset)
    with pytest.raises(InputError, match="level must be one of"):
        evaluate(BRIGHT, dataset, settings=QUICK).metric("pixels", "auroc")


def test_the_command_line_says_what_failed_with_its_exit_code(tmp_path: Path) -> None:
    pack, data = write_tiny_pack(tmp_path / "tiny"), _pictures(tmp_path / "set", 4)
    (data / "images" / "02.png").write_bytes(b"not a picture")
    asked = ["evaluate", "--data", f"pairs:{data}", "--model", str(pack), "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, [*asked, "--device", "cpu", "--json"])
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["dataset"]["failed"] == 1
    assert "1 of 4 cases failed and are excluded" in ran.stderr
    (data / "images" / "02.png").unlink()
    ran = CliRunner().invoke(app, [*asked, "--device", "cpu", "--resume"])
    assert ran.exit_code == 0
    assert "AUROC" in ran.stdout or "auroc" in ran.stdout
    ran = CliRunner().invoke(app, ["evaluate", "--data", f"pair:{data}", "--out", str(tmp_path / "o")])
    assert ran.exit_code == 2
    assert "Did you mean pairs" in ran.stderr
