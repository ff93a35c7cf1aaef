"""Reviewing: what a reader decides stays, whatever the threshold, the process or the disk does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from review_cases import AFFINE, LOW, SHAPE, SHORT, TALL, TWIN, at, hand_map, mm, opened, write_case

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.files import sha256_file
from headclip_med.engine.volume_map import find_components
from headclip_med.review import CaseReview, Mark, OpenCase, Session, components_at, slice_mask
from headclip_med.review.exports import export_review
from headclip_med.review.reviewed import ReviewedCase

# -- the list of cases


def test_cases_are_listed_by_score_with_their_state(tmp_path: Path) -> None:
    for name, scale in (("low", 0.6), ("high", 1.0), ("middle", 0.8)):
        write_case(tmp_path / "out" / name, hand_map(scale))
    session = Session.open([tmp_path / "out"])
    assert [(e.key, round(e.score or 0, 2)) for e in session.cases] == [("high", 0.9), ("middle", 0.72), ("low", 0.54)]
    case = session.open_case("middle")
    case.show_overlay()
    case.judge(at(TWIN), "accepted")
    case.set_done()
    assert [(e.key, e.judged, e.done) for e in session.cases] == [
        ("high", 0, False),
        ("middle", 1, True),
        ("low", 0, False),
    ]
    assert (session.step_case(-1), session.step_case(1)) == ("high", "low")
    session.open_case("high")
    assert session.step_case(1, open_only=True) == "low"
    session.close()
    assert [e.done for e in Session.open([tmp_path / "out"]).cases] == [False, True, False]


def test_a_result_that_is_altered_cut_off_or_unfinished_is_listed_with_the_reason(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("altered", "good", "unfinished", "mapless"):
        write_case(out / name)
    with (out / "altered" / "anomaly_map.nii.gz").open("ab") as file:
        file.write(b"x")
    (out / "unfinished" / "result.json").unlink()
    record = json.loads((out / "mapless" / "result.json").read_text(encoding="utf-8"))
    record["files"] = {}
    (out / "mapless" / "result.json").write_text(json.dumps(record), encoding="utf-8")
    failed = [{"name": "broken", "status": "failed", "error": "broken.nii must be readable."}]
    (out / "run.json").write_text(json.dumps({"cases": failed}), encoding="utf-8")
    session = Session.open([out])
    good, *bad = session.cases
    assert (good.key, good.problem) == ("good", None)
    assert {e.key: e.problem for e in bad} == {
        "altered": "A result's files must be as they were written; given: anomaly_map.nii.gz has changed or is "
        "cut off. Run the prediction again or copy the whole folder.",
        "unfinished": "the result is not complete: no result.json in it",
        "mapless": "A result must hold an anomaly map to be reviewed; given: none. "
        "Run the prediction again with --format nifti.",
        "broken": "no result: broken.nii must be readable.",
    }
    with pytest.raises(InputError, match="has changed or is cut off"):
        session.open_case("altered")
    assert session.step_case(1) == "good"


def test_a_result_that_changes_after_it_was_listed_is_not_opened(tmp_path: Path) -> None:
    session = Session.open([write_case(tmp_path / "case")])
    (tmp_path / "case" / "anomaly_map.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="has changed or is cut off"):
        session.open_case("case")


def test_a_folder_without_results_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "result.txt").write_text("", encoding="utf-8")
    for place in (tmp_path, tmp_path / "result.txt", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="must hold a result"):
            Session.open([place])


def test_folders_of_one_name_are_told_apart_and_one_folder_is_listed_once(tmp_path: Path) -> None:
    first, second = write_case(tmp_path / "a" / "case"), write_case(tmp_path / "b" / "case")
    session = Session.open([first, second, first / "result.json"])
    assert [e.key for e in session.cases] == ["case", "case_2"]


@pytest.mark.parametrize("reader", ["", "../x", "a b", ".hidden", "x" * 41])
def test_a_readers_id_that_cannot_name_a_file_is_refused(tmp_path: Path, reader: str) -> None:
    with pytest.raises(InputError, match="reader's id"):
        Session.open([write_case(tmp_path / "case")], reader)


# -- findings, slices


def test_findings_and_slices_of_the_hand_made_map(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    first, second = case.findings
    assert (first.id, first.finding.voxels, first.finding.volume_mm3) == (at(TWIN), 3, pytest.approx(18.0))
    assert first.finding.peak_mm == pytest.approx(mm(TALL))
    assert (second.id, second.finding.voxels) == (at(LOW), 1)
    assert case.start_slice() == 2
    assert [row.index for row in case.slices("score")][:2] == [2, 4]
    assert (case.suspicious_slice(2), case.suspicious_slice(4, -1), case.suspicious_slice(2, -1)) == (4, 2, None)
    assert (case.next_finding(None), case.next_finding(at(TWIN)), case.next_finding(at(LOW))) == (
        at(TWIN),
        at(LOW),
        None,
    )
    assert (case.slice_of(at(TWIN)), case.slice_of(at(LOW))) == (2, 4)
    np.testing.assert_array_equal(case.mask_of(at(TWIN)), (hand_map() >= 0.5) & (np.arange(12) < 6)[:, None, None])


def test_components_are_find_components_with_labels_and_a_slice_is_its_part() -> None:
    amap = np.random.default_rng(3).random(SHAPE).astype(np.float32) ** 3
    found = components_at(amap, AFFINE, 0.5, 2)
    assert found.findings == find_components(amap, AFFINE, 0.5, 2)
    for finding, peak in zip(found.findings, found.peaks, strict=True):
        inside = found.mask(finding.label)
        assert inside.sum() == finding.voxels
        assert amap[peak] == amap[inside].max() == pytest.approx(finding.peak)
    for axis in range(3):
        np.testing.assert_array_equal(slice_mask(amap, axis, 3, 0.5), np.take(found.labels > 0, 3, axis))


# -- decisions and the threshold


def test_a_decision_follows_its_finding_up_and_down(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    case.judge(at(LOW), "rejected", note="vessel")
    case.judge(at(TWIN), "accepted", label="metastasis", confidence=90)
    case.set_threshold(0.7)  # the bar splits in two, the low one is gone
    assert [(f.id, f.status, f.label, f.carried) for f in case.findings] == [
        (at(TALL), "accepted", "metastasis", True),
        (at(SHORT), "accepted", "metastasis", True),
    ]
    assert [f.id for f in case.unseen] == [at(LOW)]
    case.set_threshold(0.05)  # everything is one region, judged differently inside
    (whole,) = case.findings
    assert (whole.status, whole.mixed) == (None, True)
    case.set_threshold(0.5)
    assert [(f.id, f.status, f.note, f.carried) for f in case.findings] == [
        (at(TWIN), "accepted", "", False),
        (at(LOW), "rejected", "vessel", False),
    ]


def test_judging_a_part_leaves_the_other_part_as_it_was(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    case.judge(at(TWIN), "accepted", label="both")
    case.set_threshold(0.7)
    case.judge(at(SHORT), "rejected")
    assert [(f.id, f.status, f.label, f.carried) for f in case.findings] == [
        (at(TALL), "accepted", "both", False),
        (at(SHORT), "rejected", "both", False),
    ]
    case.set_threshold(0.5)
    assert case.findings[0].mixed
    with pytest.raises(InputError, match="status of its own first"):
        case.judge(at(TWIN), label="x")
    case.judge(at(TWIN), "uncertain")
    assert list(case.review.findings) == [at(TWIN)]
    case.undo()
    case.undo()
    assert [f.status for f in case.findings] == ["accepted", "rejected"]  # at 0.7 again
    case.undo()
    case.undo()
    assert [(f.status, f.label) for f in case.findings] == [("accepted", "both"), (None, "")]


def test_what_was_accepted_is_exported_as_it_was_judged_wherever_the_slider_stands(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    case.judge(at(TWIN), "accepted")
    case.set_threshold(0.95)
    assert case.findings == ()
    assert {tuple(v) for v in np.argwhere(case.accepted_mask())} == {(2, 2, 2), (3, 2, 2), (4, 2, 2)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 30),
    steps=st.lists(
        st.tuples(st.sampled_from((0.3, 0.45, 0.6, 0.75, 0.9)), st.integers(0, 9), st.sampled_from("aru")), max_size=8
    ),
)
def test_judged_regions_never_overlap_and_none_is_lost_by_moving(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[tuple[float, int, str]]
) -> None:
    amap = np.random.default_rng(seed).random((6, 6, 3)).repeat(2, 0)
    _, case = opened(write_case(tmp_path_factory.mktemp("review") / "case", amap))
    for threshold, number, letter in steps:
        before = dict(case.review.findings)
        case.set_threshold(threshold)
        assert case.review.findings == before
        if case.findings:
            row = case.findings[number % len(case.findings)]
            status = {"a": "accepted", "r": "rejected", "u": "uncertain"}[letter]
            case.judge(row.id, status)  # type: ignore[arg-type]
            assert case.finding(row.id).status == status
            assert not case.finding(row.id).carried
        count = np.zeros(amap.shape, dtype=int)
        for decision in case.review.findings.values():
            count += case.regions.judged(decision).mask(case.data.shape)
        assert count.max(initial=0) <= 1


# -- drawing


def test_a_missed_finding_is_drawn_changed_and_erased(tmp_path: Path) -> None:
    session, case = opened(write_case(tmp_path / "case"))
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[6:8, 5, 1] = 7
    assert case.draw(mask, label="missed") == "d1"
    (one,) = case.review.drawn.values()
    assert one.finding.volume_mm3 == pytest.approx(2 * 6.0)
    assert one.finding.centroid_mm == pytest.approx((10 - 6.5, 20 - 10, -5 + 3))
    assert (one.label, one.unaided, one.finding.slices) == ("missed", False, (1, 1))
    labels = case.drawn_labels()
    assert (labels > 0).sum() == 2
    labels[0, 0, 0] = 2
    labels[6, 5, 1] = 0
    case.set_drawn_labels(labels)
    drawn = case.review.drawn
    assert [(n, d.finding.voxels, d.label) for n, d in drawn.items()] == [
        ("d1", 1, "missed"),
        ("d2", 1, ""),
    ]
    case.edit_drawn("d2", label="new")
    case.erase("d1")
    assert (case.next_finding(at(LOW)), case.slice_of("d2")) == ("d2", 0)
    session.close()
    assert (opened(tmp_path / "case")[1].drawn_labels() == 2).sum() == 1


def test_drawing_nothing_or_on_another_grid_is_refused(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    for mask in (np.zeros(SHAPE), np.ones((3, 3, 3))):
        with pytest.raises(InputError, match="A drawn region must"):
            case.draw(mask)
    with pytest.raises(InputError, match="fit its schema"):
        case.draw(np.ones(SHAPE), label="x" * 5000)
    for labels in (np.ones(SHAPE), -np.ones(SHAPE, int), np.full(SHAPE, 70000), np.ones((2, 2, 2), int)):
        with pytest.raises(InputError, match="whole numbers"):
            case.set_drawn_labels(labels)
    assert not case.can_undo
    case.set_drawn_labels(np.ones(SHAPE, dtype=bool))
    assert list(case.review.drawn) == ["d1"]


# -- unaided first


def test_nothing_of_the_machine_is_told_before_the_first_opinion(tmp_path: Path) -> None:
    for name, scale in (("a", 0.7), ("b", 1.0)):
        write_case(tmp_path / name, hand_map(scale))
    session = Session.open([tmp_path], "r1", unaided_first=True)
    assert [(e.key, e.score, e.findings, e.concealed) for e in session.cases] == [
        ("a", None, None, True),
        ("b", None, None, True),
    ]
    case = session.open_case("b")
    assert (case.concealed, case.overlay, case.findings, case.start_slice()) == (True, "hidden", (), 3)
    assert {row.score for row in case.slices("score")} == {None}
    assert [row.index for row in case.slices("score")] == list(range(6))
    assert case.suspicious_slice(None) is None
    assert not case.slice_mask(2, 0.05).any()
    refused = [
        lambda: case.show_overlay(),
        lambda: case.set_threshold(0.4),
        lambda: case.judge(at(TWIN), "accepted"),
        lambda: case.set_done(),
    ]
    for action in refused:
        with pytest.raises(InputError, match="first opinion"):
            action()
    assert case.review.actions == 0


def test_both_opinions_and_times_are_kept_and_the_first_cannot_be_taken_back(tmp_path: Path) -> None:
    write_case(tmp_path / "case")
    session = Session.open([tmp_path / "case"], "r1", unaided_first=True)
    case = session.open_case("case")
    mask = np.zeros(SHAPE)
    mask[LOW] = 1
    case.draw(mask)
    case.give_opinion("normal", 70, marks=[mm(LOW), Mark(position_mm=(0, 0, 0), confidence=20)])
    assert (case.overlay, case.concealed, len(case.findings)) == ("shown", False, 2)
    assert not case.can_undo
    case.undo()
    case.erase("d1")
    case.give_opinion("abnormal", 95)
    case.undo()
    assert case.review.opinion is None
    case.redo()
    review = case.review
    assert review.first_opinion is not None
    assert review.opinion is not None
    assert (review.first_opinion.rating, review.first_opinion.confidence) == ("normal", 70)
    assert review.first_opinion.marks[0].position_mm == mm(LOW)
    assert (review.opinion.rating, review.unaided_first) == ("abnormal", True)
    assert review.first_opinion.when <= (review.overlay_shown or "") <= review.opinion.when
    case.undo()
    case.undo()
    assert case.review.drawn["d1"].unaided  # what was drawn before is back, and no further
    assert not case.can_undo
    session.close()
    again = Session.open([tmp_path / "case"], "r1").open_case("case")  # also without the option
    assert (again.overlay, again.review.first_opinion) == ("shown", review.first_opinion)


def test_an_unaided_review_stays_unaided_when_it_is_opened_without_the_option(tmp_path: Path) -> None:
    write_case(tmp_path / "case")
    with Session.open([tmp_path / "case"], unaided_first=True) as session:
        session.open_case("case")
    with Session.open([tmp_path / "case"]) as session:
        assert session.cases[0].concealed
        with pytest.raises(InputError, match="before the overlay is shown"):
            session.open_case("case").show_overlay()


def test_a_case_seen_with_the_overlay_is_no_longer_unaided(tmp_path: Path) -> None:
    session, case = opened(write_case(tmp_path / "case"))
    session.close()
    session = Session.open([tmp_path / "case"], unaided_first=True)
    case = session.open_case("case")
    assert not case.concealed
    case.give_opinion("abnormal", 50)
    assert (case.review.first_opinion, case.review.opinion is None) == (None, False)


def test_without_the_option_a_first_opinion_is_given_once(tmp_path: Path) -> None:
    case = Session.open([write_case(tmp_path / "case")]).open_case("case")
    case.give_opinion("normal", 10)
    with pytest.raises(InputError, match="must stay as it was given"):
        case.give_opinion("abnormal", 10)
    case.show_overlay()
    case.give_opinion("abnormal", 10)
    with pytest.raises(InputError, match="fit its schema"):
        case.give_opinion("abnormal", 101)


def test_a_process_killed_between_first_opinion_and_overlay_leaves_no_case_that_stays_concealed(tmp_path: Path) -> None:
    write_case(tmp_path / "case")
    session = Session.open([tmp_path / "case"], "r1", unaided_first=True)
    case = session.open_case("case")
    case.give_opinion("normal", 70)
    journal = session.review_files("case").journal
    session.close()
    session.review_files("case").review.unlink()
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    case = Session.open([tmp_path / "case"], "r1").open_case("case")
    assert (case.concealed, case.may_show_overlay) == (True, True)
    case.show_overlay()
    assert not case.concealed


# -- change of case, and whose map is on the screen


def decide(case: OpenCase) -> None:
    case.judge(case.findings[0].id, "accepted")


def test_a_prepared_case_changes_nothing_until_it_is_taken(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_case(tmp_path / "out" / name)
    told: list[str] = []
    session, one = opened(tmp_path / "out", "one", session_dir=tmp_path / "kept")
    session.changed.connect(lambda change: told.append(change.what))
    two = session.prepare("two")
    assert (session.case, told) == (one, [])
    decide(one)
    session.discard(two)
    assert not session.review_files("two").folder.exists(), "nothing is left of a review that was never begun"
    assert two.read_only is not None
    two = session.prepare("two")
    session.take(two)
    assert session.case is two
    assert one.read_only == "the case is closed"
    assert told == ["findings", "case"]
    two.show_overlay()
    assert told[-1] == "overlay", "the session tells what its open case does"


def test_a_case_that_cannot_be_prepared_leaves_the_open_one_open_and_is_marked_in_the_list(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_case(tmp_path / name)
    session, one = opened(tmp_path, "one")
    (tmp_path / "two" / "anomaly_map.nii.gz").write_bytes(b"altered")
    with pytest.raises(InputError, match="has changed or is cut off"):
        session.open_case("two")
    decide(one)
    assert session.case is one
    assert {e.key: e.problem is None for e in session.cases} == {"one": True, "two": False, "three": True}
    assert session.step_case(1) == "three"


def test_a_review_goes_on_when_its_case_is_opened_by_another_session_in_the_place_of_the_first(tmp_path: Path) -> None:
    write_case(tmp_path / "case")
    first, one = opened(tmp_path)
    decide(one)
    second = Session.open([tmp_path])
    again = second.prepare("case", one)
    assert again.read_only is None, "no lock of our own is in the way"
    second.discard(again)
    one.set_note("still open")
    again = second.prepare("case", one)
    second.take(again)
    first.close()
    again.undo()
    again.set_done()
    second.close()
    review = opened(tmp_path)[1].review
    assert (review.note, review.done, len(review.findings)) == ("", True, 1)


def test_copies_of_one_result_share_their_review_without_locking_each_other_out(tmp_path: Path) -> None:
    shutil.copytree(write_case(tmp_path / "a" / "case"), tmp_path / "b" / "case")
    session, one = opened(tmp_path, "case", session_dir=tmp_path / "kept")
    decide(one)
    two = session.open_case("case_2")
    assert two.read_only is None
    assert two.findings[0].status == "accepted"
    assert one.read_only is not None


@pytest.mark.parametrize("seen", ["nothing", "another map", "another result of that map"])
def test_nothing_is_decided_on_a_case_that_is_not_the_one_on_the_screen(tmp_path: Path, seen: str) -> None:
    for name, scale in (("one", 1.0), ("two", 0.9)):
        write_case(tmp_path / name, hand_map(scale))
    session, one = opened(tmp_path, "one")
    link = one.data.link
    shown = {
        "nothing": None,
        "another map": session.prepare("two").data.link,
        "another result of that map": link.model_copy(update={"result_sha256": "0" * 64}),
    }[seen]
    session.show_on(lambda: shown)
    actions = [
        lambda: decide(one),
        lambda: one.set_threshold(0.4),
        lambda: one.draw(np.ones(SHAPE)),
        lambda: one.give_opinion("normal", 1),
        lambda: one.set_note("x"),
        lambda: one.set_done(),
    ]
    for action in actions:
        with pytest.raises(InputError, match="must be on the screen"):
            action()
    session.show_on(None)
    session.show_on(lambda: link)
    decide(one)
    one.undo()
    session.close()
    lines = session.review_files("one").journal.read_text().splitlines()
    assert {json.loads(line)["map_sha256"] for line in lines[1:]} == {sha256_file(tmp_path / "one/anomaly_map.nii.gz")}
    assert len(lines) == 4


def test_a_session_is_shown_in_one_window_only(tmp_path: Path) -> None:
    session, _ = opened(write_case(tmp_path / "case"))
    session.show_on(lambda: None)
    with pytest.raises(InputError, match="one window"):
        session.show_on(lambda: None)


@pytest.mark.parametrize("what", ["map altered", "map gone", "record altered", "folder gone", "folder moved"])
def test_nothing_is_decided_on_a_result_that_was_altered_or_taken_away_meanwhile(tmp_path: Path, what: str) -> None:
    folder = write_case(tmp_path / "out" / "case")
    _, case = opened(tmp_path / "out", session_dir=tmp_path / "kept")
    decide(case)
    content = (folder / "anomaly_map.nii.gz").read_bytes()
    todo = {
        "map altered": lambda: (folder / "anomaly_map.nii.gz").write_bytes(b"another"),
        "map gone": lambda: (folder / "anomaly_map.nii.gz").unlink(),
        "record altered": lambda: (folder / "result.json").write_text("{}"),
        "folder gone": lambda: shutil.rmtree(folder),
        "folder moved": lambda: folder.rename(tmp_path / "elsewhere"),
    }
    todo[what]()
    review = case.review
    with pytest.raises(InputError, match=r"'case' (must stay where it is|has changed)|must stay as it is"):
        case.judge(case.findings[0].id, "rejected")
    assert case.review == review
    if what.startswith("map"):  # the same bytes again: whoever touched them
        (folder / "anomaly_map.nii.gz").write_bytes(content)
        case.judge(case.findings[0].id, "rejected")


def _instead(file: Path, content: bytes) -> None:
    """Another file in the place of this one, as a sync client or a backup puts it there."""
    draft = file.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(file)


LOST: dict[str, Callable[[Path, bytes], object]] = {
    "deleted": lambda journal, was: journal.unlink(),
    "moved": lambda journal, was: journal.parent.parent.rename(journal.parent.parent.with_name("moved")),
    "another": lambda journal, was: _instead(journal, b"another"),
    "own copy": _instead,
    "own copy, cut": lambda journal, was: _instead(journal, was[:-20]),
    "of its size": lambda journal, was: _instead(journal, b"x" * len(was)),
    "altered in place": lambda journal, was: journal.write_bytes(was.replace(b"accepted", b"rejected")),
    "cut in place": lambda journal, was: journal.write_bytes(was[:-20]),
}


@pytest.mark.parametrize("what", LOST)
def test_nothing_is_written_to_a_journal_that_is_no_longer_the_same(tmp_path: Path, what: str) -> None:
    """A file that was deleted under an open program takes everything that is written to it."""
    session, case = opened(write_case(tmp_path / "out" / "case"), session_dir=tmp_path / "kept")
    decide(case)
    case.judge(case.findings[0].id, "accepted")
    journal = session.review_files("case").journal
    LOST[what](journal, journal.read_bytes())
    review = case.review
    for _ in range(2):
        with pytest.raises(OutputError, match="must stay where it is"):
            case.set_note("lost")
        assert case.review == review
    session.close()  # told, not raised: there is nothing that could be done about it
    assert "must stay where it is" in session.messages[-1]


def test_after_a_refusal_the_advice_helps(tmp_path: Path) -> None:
    session, case = opened(write_case(tmp_path / "out" / "case"))
    case.judge(case.findings[0].id, "accepted")
    journal = session.review_files("case").journal
    _instead(journal, journal.read_bytes())
    with pytest.raises(OutputError, match="this one again"):
        case.judge(case.findings[0].id, "rejected")
    session.close_case()
    case = session.open_case("case")
    assert case.read_only is None
    assert case.findings[0].status == "accepted"
    case.judge(case.findings[0].id, "rejected")
    session.close()
    assert Session.open([tmp_path / "out"]).open_case("case").findings[0].status == "rejected"


def test_the_map_in_memory_cannot_be_changed_by_whoever_shows_it(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    with pytest.raises(ValueError, match="read-only"):
        case.data.volume_map[0, 0, 0] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names of bytes")
def test_a_name_that_is_no_utf8_is_reviewed_and_exported(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"Mu\xe9ller")
    write_case(folder)
    with Session.open([tmp_path], session_dir=tmp_path / "kept") as session:
        (entry,) = session.cases
        assert entry.key == "Mu%E9ller"
        case = session.open_case(entry.key)
        case.show_overlay()
        decide(case)
        files = export_review(ReviewedCase.of(case), tmp_path / "exported")
        assert "Mu%E9ller" in files["csv"].read_text(encoding="utf-8")
        assert "Mu%E9ller" in files["json"].read_text(encoding="utf-8")
    assert opened(tmp_path, entry.key, session_dir=tmp_path / "kept")[1].findings[0].status == "accepted"


# -- undo and redo, any sequence

ACTIONS = ("threshold", "judge", "label", "draw", "erase", "opinion", "note", "done", "undo", "redo")


def perform(case: OpenCase, name: str, number: int) -> None:
    """One action of a reader; some make no sense at some times and are refused, which changes nothing."""
    mask = np.zeros(case.data.shape)
    mask[number % 12, number % 5, 0] = 1
    rows = case.findings
    todo = {
        "threshold": lambda: case.set_threshold((0.05, 0.4, 0.5, 0.58, 0.7, 0.85, 0.95)[number % 7]),
        "judge": lambda: case.judge(
            rows[number % len(rows)].id, ("accepted", "rejected", "uncertain", None)[number % 4]
        ),
        "label": lambda: case.judge(rows[number % len(rows)].id, label=f"l{number % 3}", confidence=number),
        "draw": lambda: case.draw(mask, label=str(number)),
        "erase": lambda: case.erase(f"d{number % 3}"),
        "opinion": lambda: case.give_opinion(("normal", "abnormal")[number % 2], number),  # type: ignore[arg-type]
        "note": lambda: case.set_note(f"«{number}»\n"),
        "done": lambda: case.set_done(number % 2 == 0),
        "undo": case.undo,
        "redo": case.redo,
    }
    if rows or name not in ("judge", "label"):
        with contextlib.suppress(InputError):
            todo[name]()


def content(review: CaseReview) -> dict[str, object]:
    """A review without its counter and clock."""
    return review.model_dump(exclude={"actions", "updated"})


sequences = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 20)), max_size=14)
of_one_case = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result that nobody has reviewed; reviews of it go elsewhere."""
    return write_case(tmp_path_factory.mktemp("pristine") / "case")


@of_one_case
@given(sequence=sequences)
def test_any_sequence_of_actions_undone_gives_the_start_and_redone_the_end(
    pristine: Path, sequence: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as kept:
        session, case = opened(pristine, session_dir=kept)
        start = content(case.review)
        for name, number in sequence:
            perform(case, name, number)
        while case.can_redo:
            case.redo()
        end = content(case.review)
        while case.can_undo:
            case.undo()
        assert content(case.review) == start
        while case.can_redo:
            case.redo()
        assert content(case.review) == end
        session.close()


@of_one_case
@given(sequence=sequences, cut=st.floats(0, 1))
def test_the_journal_cut_at_any_byte_loses_at_most_the_unfinished_action(
    pristine: Path, sequence: list[tuple[str, int]], cut: float
) -> None:
    with tempfile.TemporaryDirectory() as kept:
        session, case = opened(pristine, session_dir=kept)
        journal = session.review_files("case").journal
        states = [(journal.stat().st_size, content(case.review), case.can_undo, case.can_redo)]
        for name, number in sequence:
            perform(case, name, number)
            states.append((journal.stat().st_size, content(case.review), case.can_undo, case.can_redo))
        killed = journal.read_bytes()
        assert not session.review_files("case").review.exists()  # nothing but the journal to recover from
        session.close()
        session.review_files("case").review.unlink()
        length = round(states[0][0] + cut * (len(killed) - states[0][0]))
        journal.write_bytes(killed[:length])
        expected = [state for state in states if state[0] <= length][-1]
        again = Session.open([pristine], session_dir=kept)
        case = again.open_case("case")
        assert (content(case.review), case.can_undo, case.can_redo) == expected[1:]
        unfinished = length not in {size for size, *_ in states}
        assert any("was not finished" in message for message in again.messages) == unfinished
        case.set_note("goes on")
        again.close()
        assert opened(pristine, session_dir=kept)[1].review.note == "goes on"
