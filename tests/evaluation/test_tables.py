"""Tables of an evaluation: what is in each cell, what cannot break them, and every case in the CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest
from evaluation_record import NAMES, make_record

from headclip_med.evaluation.record import CaseRow, Metric
from headclip_med.evaluation.tables import cases_csv, headline, latex, latex_table, markdown_table, number, title_of


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric(value=0.9124, low=0.88, high=0.94), "0.912 [0.880, 0.940]"),
        (Metric(value=0.5, interval_reason="not resampled"), "0.500"),
        (Metric(reason="no abnormal image"), "n/a"),
        (None, "n/a"),
        (Metric(value=0.0), "0.000"),
        (Metric(value=2.4e-05), "2e-05"),
    ],
)
def test_a_number_by_hand(metric: Metric | None, text: str) -> None:
    assert number(metric) == text


def test_names_of_metrics() -> None:
    assert title_of("auroc") == "AUROC"
    assert title_of("sensitivity_at_specificity_90") == "Sensitivity at 90 % specificity"
    assert title_of("sensitivity_at_0.5_fp") == "Sensitivity at 0.5 FP"
    assert title_of("something_new") == "something new"


def _markdown_rows(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_markdown_has_a_row_per_metric_and_says_what_it_rests_on() -> None:
    record = make_record()
    text = markdown_table(record)
    rows = _markdown_rows(text)
    assert rows[""] == [NAMES[0], NAMES[1]]
    assert rows["volume: AUROC"] == ["0.912 [0.880, 0.940]", "0.700 [0.668, 0.728]"]
    assert rows["slice: AUROC"] == ["n/a", "n/a"]
    assert rows["voxel: AUPRO (exact, 0.3)"] == ["0.770 [0.738, 0.798]"] * 2
    assert rows["voxel: AUPRO (legacy, 200 thresholds)"][0] == "0.710"
    assert len(rows) == 2 + len(headline(record))
    assert "30 of 32 cases of 15 patients (without 1 duplicate, 1 failed)" in text
    assert f"{NAMES[0]}: zero-shot, {NAMES[1]}: auxiliary" in text
    assert "- n/a, slice: no abnormal slice: all 12 are normal" in text
    assert "Research use only" in text


def test_a_name_with_bars_and_markup_stays_in_its_cell() -> None:
    record = make_record(1)
    hostile = "a|b\n<b>*c*"
    record = record.model_copy(update={"models": (record.models[0].model_copy(update={"model": hostile}),)})
    head = next(line for line in markdown_table(record).splitlines() if line.startswith("|"))
    assert re.fullmatch(r"\| +\| +a\\\|b \\<b>\\\*c\\\* \|", head)


def test_latex_is_balanced_and_escaped() -> None:
    text = latex_table(make_record(4))
    body = re.sub(r"\\[\\{}&%$#_]", "", "\n".join(text.splitlines()[1:]))  # the first line is a comment
    assert body.count("{") == body.count("}")
    assert sorted(re.findall(r"\\begin\{(\w+)\}", text)) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    assert not set("%#_^") & set(body.replace(r"\^{}", ""))
    assert r"50\%\_better \& \{adapted\} \$x\$" in text
    assert r"\_third\_model\^{}2" in text
    assert r"Brains \& lesions" in text
    rows = [line for line in text.splitlines() if re.match(r"\s*\w+: .*\\\\$", line)]
    assert len(rows) == len(headline(make_record(4)))
    assert {re.sub(r"\\[&%$#_{}]", "", row).count("&") for row in rows} == {4}
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 4, 1]  # four levels


def test_latex_takes_signs_that_it_does_not_know_as_plain_ones() -> None:
    assert (
        latex("a − b – c × d …\n<e> ~\\")
        == r"a - b -- c x d ... \ensuremath{<}e\ensuremath{>} \textasciitilde{}\textbackslash{}"
    )
    record = make_record(1)
    named = record.model_copy(update={"models": (record.models[0].model_copy(update={"model": "a − b\n× c"}),)})
    assert "a - b x c" in latex_table(named).split(r"\toprule")[1].split(r"\midrule")[0]


def test_without_a_number_there_is_still_a_table() -> None:
    record = make_record(1)
    empty = record.model_copy(update={"models": (record.models[0].model_copy(update={"levels": {}}),)})
    assert _markdown_rows(markdown_table(empty))[""] == [NAMES[0]]
    assert r"\end{tabular}" in latex_table(empty)


def test_every_case_is_in_the_csv_with_all_that_is_known() -> None:
    record = make_record(cases=7)
    rows = list(csv.DictReader(io.StringIO(cases_csv(record))))
    assert len(rows) == 2 * (7 + 2)
    assert set(rows[0]) == {"model", "column:note", "column:site", *CaseRow.model_fields} - {"columns"}
    by_name = {(row["model"], row["case"]): row for row in rows}
    for result in record.models:
        for case in result.cases:
            row = by_name[result.model, case.case]
            assert row["status"] == case.status
            assert row["label"] == ("" if case.label is None else str(int(case.label)))
            for name in ("pred_score", "dice", "auroc", "error_size"):
                value = getattr(case, name)
                assert (float(row[name]) if row[name] else None) == value
            assert row["column:site"] == case.columns.get("site", "")
    first = by_name[NAMES[0], "case_0003"]
    assert first["warnings"] == "window guessed; one slice repeated"
    assert by_name[NAMES[0], "copy_1"]["duplicate_of"] == "case_0001"
    assert "broken.nii.gz must be readable" in by_name[NAMES[0], "broken_1"]["error"]


def test_no_cell_is_taken_for_a_formula_and_numbers_stay_numbers() -> None:
    cells = ["=1+1", "+A1", "-x", "@sum", "\tx", "-3.5", "+2e-3", "plain", "-"]
    record = make_record(1, cases=len(cells))
    rows = [
        row.model_copy(update={"columns": {"=n": cell}})
        for row, cell in zip(record.models[0].cases, cells, strict=False)
    ]
    record = record.model_copy(update={"models": (record.models[0].model_copy(update={"cases": tuple(rows)}),)})
    read = [row["column:=n"] for row in csv.DictReader(io.StringIO(cases_csv(record)))]
    assert read == ["'=1+1", "'+A1", "'-x", "'@sum", "'\tx", "-3.5", "+2e-3", "plain", "'-"]
