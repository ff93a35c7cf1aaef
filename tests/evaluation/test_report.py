"""The report of an evaluation: what a reader finds on the page, and that a browser opens it without asking anybody."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from chromium import Browser, find_chromium
from evaluation_record import HOSTILE, NAMES, make_record
from PIL import Image

from headclip_med.base.errors import OutputError
from headclip_med.evaluation import report
from headclip_med.evaluation.record import EvaluationRecord
from headclip_med.evaluation.report import render_evaluation, write_evaluation_report


class _Page(HTMLParser):
    """Text, tags with their attributes, and rows of the tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        if tag == "style":
            self._hidden = False

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, *start: str) -> list[str]:
        return next(row for row in self.rows if tuple(row[: len(start)]) == start)


def _picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 10), (shade, shade, shade)).save(buffer, format="PNG")
    return buffer.getvalue()


def _pictures(record: EvaluationRecord, root: Path) -> dict[str, Path]:
    """A picture for every case that has one, in a folder per model."""
    folders = {result.model: root / f"model_{place}" for place, result in enumerate(record.models)}
    for result in record.models:
        folders[result.model].mkdir(parents=True)
        for row in result.cases:
            if row.picture:
                (folders[result.model] / row.picture).write_bytes(_picture(40))
    return folders


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves a second per page where plots are not looked at."""
    monkeypatch.setattr(report, "plots", lambda record: [])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> _Page:
    record = make_record()
    return _Page(render_evaluation(record, _pictures(record, tmp_path_factory.mktemp("pictures"))))


def test_the_page_says_what_was_evaluated_and_how(page: _Page) -> None:
    assert page.text.count("Research use only. Not a medical device; not for diagnosis.") == 2
    assert "Brains & lesions" in page.text
    assert page.row("Layout")[1] == "folders"
    assert page.row("Content SHA-256")[1] == "ef" * 32
    assert page.row("Training ledger")[1] == "empty"
    assert page.row("Overlap")[1] == "trained on this very set: synthetic brains"
    assert page.row("Threshold of the map")[1] == "0.5: of the pack: Otsu on phantoms"
    assert page.row("model.weights_sha256")[1] == "ab" * 32  # nested facts become lines of their own
    assert page.row("seed")[1] == "7"
    assert page.row("Versions")[1] == "headclip-med 0.1.0, torch 2.6.0"
    assert "No image's score depends on another image of the set." in page.text
    assert f"{NAMES[1]}: auxiliary" in page.text
    assert "2 files were passed over" in page.text
    cards = re.sub(r"\s+", " ", page.text)
    assert "Cases that count30 of 32 listed" in cards.replace("30of", "30 of")


def test_every_metric_has_its_interval_or_the_reason_why_not(page: _Page) -> None:
    assert page.row("AUROC", "0.912 [0.880, 0.940]")[2] == "0.700 [0.668, 0.728]"
    assert page.row("AUROC, mean of categories")[1:] == ["0.830", "0.830"]
    assert page.row("AUROC rounding bound")[1] == "2e-05"
    on_hover = [attributes.get("title") for attributes in page.all("td")]
    assert on_hover.count("no abnormal slice: all 12 are normal") == 2 * 3
    assert "no interval: undefined in 300 of 1000 replicates" in on_hover
    assert "n/a, slice: no abnormal slice: all 12 are normal" in page.text  # and for those who print it


def test_differences_and_subgroups(page: _Page) -> None:
    assert page.row(f"{NAMES[0]} − {NAMES[1]}")[1:] == ["case", "AUROC", "+0.212", "+0.100 to +0.300", "0.002"]
    assert "By site" in page.text
    assert page.row(NAMES[0], "A")[2:5] == ["4", "4", "0.750"]


def test_cases_come_by_falling_error_with_failures_first(page: _Page) -> None:
    start = next(i for i, row in enumerate(page.rows) if row[:2] == ["Case", "Model"])
    cases = page.rows[start + 1 :]
    assert [row[0] for row in cases[:2]] == ["broken_1", "broken_1"]
    errors = [float(row[-1]) for row in cases[2:]]
    assert errors == sorted(errors, reverse=True)
    assert len(cases) == 2 * 31
    assert page.row("case_0027", NAMES[0]) == [
        "case_0027", NAMES[0], "patient_13", "abnormal", "0.740", "0.410", "0.900", "1 of 2", "3", "0.590",
    ]  # fmt: skip
    assert page.row("broken_1", f"failed: broken.nii.gz must be readable; {HOSTILE}.")
    assert page.row("copy_1", "repeats case_0001")


def test_best_median_and_worst_are_shown(page: _Page) -> None:
    # of 30 cases the smallest error is 0.05 (Dice 0.95) and the largest 0.59 (Dice 0.41)
    assert "Best: case_0000 (score 0.200, abnormal, Dice 0.950, 1 of 2 lesions, 0 false)" in page.text
    assert "Worst: case_0027 (score 0.740, abnormal, Dice 0.410, 1 of 2 lesions, 3 false)" in page.text
    assert page.text.count("Median: ") == 2
    assert len([img for img in page.all("img") if "image/png" in str(img["src"])]) == 2 * 3


def test_it_can_be_read_without_eyes(page: _Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert all(len(str(img["alt"])) > 20 for img in page.all("img"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_nothing_is_loaded_and_names_never_become_markup(page: _Page) -> None:
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'")
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("a")
    assert HOSTILE in page.text
    assert all(str(img["src"]).startswith("data:image/") for img in page.all("img"))


@pytest.mark.parametrize(("count", "words"), [(1, ["Only"]), (2, ["Best", "Worst"]), (3, ["Best", "Median", "Worst"])])
@pytest.mark.usefixtures("no_plots")
def test_a_few_cases_are_shown_once_each(count: int, words: list[str], tmp_path: Path) -> None:
    record = make_record(1, count)
    page = _Page(render_evaluation(record, _pictures(record, tmp_path)))
    assert re.findall(r"(Only|Best|Median|Worst): case_\d+", page.text) == words


@pytest.mark.usefixtures("no_plots")
def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    page = _Page(render_evaluation(make_record(1, 3), {NAMES[0]: tmp_path / "gone"}))
    assert not [img for img in page.all("img") if "image/png" in str(img["src"])]


def test_thousands_of_cases_stay_one_page() -> None:
    record = make_record(2, 3000)
    text = render_evaluation(record, {})
    page = _Page(text)
    start = next(i for i, row in enumerate(page.rows) if row[:2] == ["Case", "Model"])
    assert len(page.rows[start + 1 :]) == 200
    assert "5802 more in cases.csv." in page.text  # 2 × (3000 + 1 failed) − 200
    assert len(text) < 2_000_000


@pytest.mark.usefixtures("no_plots")
def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    record = make_record(1, 2)
    write_evaluation_report(record, {}, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_evaluation(record, {})
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="must be writable"):
        write_evaluation_report(record, {}, tmp_path / "file" / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with Browser(path, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("models", [1, 4])
def test_a_browser_opens_it_without_a_request_or_an_error(browser: Browser, tmp_path: Path, models: int) -> None:
    record = make_record(models)
    target = tmp_path / "report.html"
    write_evaluation_report(record, _pictures(record, tmp_path), target)
    for width, scheme in ((1280, "light"), (390, "dark")):
        visit = browser.visit(target, width, scheme)
        assert visit.errors == []
        assert [url for url in visit.requests if not url.startswith("data:")] == [target.resolve().as_uri()]
        pictures = browser.ask("[...document.images].map(img => img.complete && img.naturalWidth)")
        assert len(pictures) == 10 + 3 * models
        assert all(pictures)
        assert browser.ask("document.documentElement.scrollWidth") == width  # nothing sticks out
        paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}[scheme]
        assert browser.ask("getComputedStyle(document.body).backgroundColor") == paper


def test_the_browser_would_notice(browser: Browser, tmp_path: Path) -> None:
    """The check itself: an error, a forbidden picture and a broken one are all seen."""
    (tmp_path / "bad.html").write_text(
        "<img src='http://127.0.0.1:9/x.png'><img src='data:image/png;base64,AAAA'><script>oops()</script>"
    )
    visit = browser.visit(tmp_path / "bad.html")
    assert any("oops is not defined" in error for error in visit.errors)
    assert "http://127.0.0.1:9/x.png" in visit.requests
    assert browser.ask("[...document.images].map(img => img.naturalWidth)") == [0, 0]
    (tmp_path / "blocked.html").write_text(
        render_evaluation(make_record(1, 2), {}).replace("<main>", "<main><script>oops()</script>"), encoding="utf-8"
    )
    assert any("Content Security Policy" in error for error in browser.visit(tmp_path / "blocked.html").errors)
