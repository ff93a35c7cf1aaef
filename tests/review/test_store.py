"""Reviews on disk: two readers, two windows, damaged and foreign files, folders that cannot be written to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_cases import LOW, TWIN, at, hand_map, opened, write_case

import headclip_med
from headclip_med.base.errors import InputError, OutputError
from headclip_med.review import Session
from headclip_med.review.model import review_schema
from headclip_med.review.store import load_review

HEAVY = ("torch", "monai", "torchvision", "open_clip", "timm", "napari", "qtpy", "matplotlib")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_case(tmp_path / "case")


def reviewed(folder: Path, **more: str) -> dict[str, str | None]:
    """Statuses of a new session, by finding."""
    session, case = opened(folder, **more)
    found = {row.id: row.status for row in case.findings}
    session.close()
    return found


def judge(folder: Path, status: str, **more: str) -> None:
    session, case = opened(folder, **more)
    case.judge(at(TWIN), status)  # type: ignore[arg-type]
    session.close()


def test_the_review_file_fits_the_schema_in_the_package_and_holds_no_path(folder: Path) -> None:
    session, case = opened(folder, reader="R1")
    case.judge(at(TWIN), "accepted", label="a", confidence=50)
    mask = np.zeros(case.data.shape)
    mask[LOW] = 1
    case.draw(mask)
    case.give_opinion("abnormal", 60, marks=[(0, 0, 0)])
    session.save()
    path = folder / "review_r1.json"
    schema = Path(headclip_med.__file__).with_name("review.schema.json").read_text(encoding="utf-8")
    assert schema == json.dumps(review_schema(), indent=2) + "\n"
    text = path.read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), json.loads(schema), jsonschema.Draft202012Validator)
    assert str(folder.parent) not in text
    assert json.loads(text)["research_use_only"].startswith("Research use only")
    assert load_review(path) == case.review
    assert case.review.result.result_sha256 != case.review.result.map_sha256
    session.close()


def test_two_readers_keep_separate_files(folder: Path) -> None:
    judge(folder, "accepted", reader="anna")
    judge(folder, "rejected", reader="ben")
    assert reviewed(folder, reader="anna")[at(TWIN)] == "accepted"
    assert reviewed(folder, reader="ben")[at(TWIN)] == "rejected"
    names = {path.name for path in folder.glob("review_*")}
    assert names == {f"review_{who}.{end}" for who in ("anna", "ben") for end in ("json", "journal")}


def test_a_second_window_of_the_same_reader_may_only_look(folder: Path) -> None:
    first, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    second = Session.open([folder])
    looking = second.open_case("case")
    assert "open elsewhere" in (looking.read_only or "")
    assert looking.findings[0].status == "accepted"
    assert any("looking only" in message for message in second.messages)
    with pytest.raises(OutputError, match="kept somewhere"):
        looking.judge(at(LOW), "rejected")
    assert looking.findings[1].status is None
    assert not looking.can_undo
    first.close()
    assert second.open_case("case").read_only is None
    second.close()
    assert not list(folder.glob(".*"))


def test_a_window_of_another_process_keeps_the_case_until_it_is_killed(folder: Path) -> None:
    code = f"""
from headclip_med.review import Session
case = Session.open([{str(folder)!r}]).open_case("case")
case.judge("{at(TWIN)}", "accepted")
print("open", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as window:
        assert window.stdout is not None
        assert window.stdout.readline() == "open\n"
        session = Session.open([folder])
        assert "open elsewhere" in (session.open_case("case").read_only or "")
        window.kill()
    assert list(folder.glob(".review_*"))
    case = session.open_case("case")
    assert case.read_only is None
    assert case.findings[0].status == "accepted"
    session.close()
    assert not list(folder.glob(".*"))


def test_a_killed_process_loses_nothing(folder: Path) -> None:
    code = f"""
import os, signal
from headclip_med.review import Session
case = Session.open([{str(folder)!r}]).open_case("case")
case.show_overlay()
case.judge("{at(TWIN)}", "accepted", label="λ")
case.set_threshold(0.4)
os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode != 0
    assert not (folder / "review_reader.json").exists()
    session = Session.open([folder])
    assert session.cases[0].judged == 1
    case = session.open_case("case")
    assert (case.threshold, case.findings[0].label, case.can_undo) == (0.4, "λ", True)
    session.close()
    assert load_review(folder / "review_reader.json").findings[at(TWIN)].status == "accepted"


def test_actions_after_the_last_save_are_recovered_with_a_message(folder: Path) -> None:
    session, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    session.save()
    case.judge(at(LOW), "rejected")
    del session, case  # without closing
    session = Session.open([folder])
    session.open_case("case")
    assert session.messages == ["case: 1 action recovered from the journal"]


def test_without_the_journal_the_review_counts_and_the_other_way_round(folder: Path) -> None:
    judge(folder, "accepted")
    (folder / "review_reader.journal").unlink()
    assert reviewed(folder)[at(TWIN)] == "accepted"
    judge(folder, "rejected")
    (folder / "review_reader.json").unlink()
    assert reviewed(folder)[at(TWIN)] == "rejected"
    (folder / "review_reader.json").write_text("{", encoding="utf-8")
    session, case = opened(folder)
    assert case.findings[0].status == "rejected"
    assert "The journal counts." in session.messages[0]


def test_a_journal_damaged_in_its_middle_is_kept_aside_and_the_review_counts(folder: Path) -> None:
    judge(folder, "accepted")
    judge(folder, "rejected")
    journal = folder / "review_reader.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:20] + b"\xff\n"
    journal.write_bytes(b"".join(lines))
    session, case = opened(folder)
    assert case.findings[0].status == "rejected"
    assert case.read_only is None
    assert "line 3 of review_reader.journal is damaged" in session.messages[0]
    assert (folder / "review_reader.damaged1").read_bytes() == b"".join(lines)
    case.judge(at(LOW), "accepted")
    session.close()
    assert reviewed(folder) == {at(TWIN): "rejected", at(LOW): "accepted"}


def test_a_damaged_journal_alone_gives_what_comes_before_the_damage(folder: Path) -> None:
    session, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    case.judge(at(LOW), "rejected")
    session.close()
    (folder / "review_reader.json").unlink()
    journal = folder / "review_reader.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"?" + lines[3], b"{}\n"]))
    assert reviewed(folder) == {at(TWIN): "accepted", at(LOW): None}


def of_the_first_version(journal: Path) -> None:
    """What an earlier program wrote: another version in the first line, and no map in the others."""
    header, *events = (json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines())
    header["schema_version"] = "headclip_med.review_journal/1"
    for event in events:
        del event["map_sha256"]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *events))
    journal.write_text(text, encoding="utf-8")


def test_a_journal_of_the_first_version_is_read_undone_and_goes_on(folder: Path) -> None:
    judge(folder, "accepted")
    (folder / "review_reader.json").unlink()
    journal = folder / "review_reader.journal"
    of_the_first_version(journal)
    session, case = opened(folder)
    assert session.messages == []
    assert case.findings[0].status == "accepted"
    case.judge(at(LOW), "rejected")
    case.undo()
    case.undo()
    case.redo()
    session.close()
    (folder / "review_reader.json").unlink()
    assert reviewed(folder) == {at(TWIN): "accepted", at(LOW): None}


def test_a_journal_of_a_later_version_is_left_alone(folder: Path) -> None:
    judge(folder, "accepted")
    journal = folder / "review_reader.journal"
    later = journal.read_bytes().replace(b"review_journal/2", b"review_journal/3").replace(b'"start"', b'"begin"')
    journal.write_bytes(later)
    with Session.open([folder]) as session:
        assert "Use a newer headclip_med" in str(session.open_case("case").read_only)
    assert journal.read_bytes() == later


def test_an_event_about_another_map_is_not_followed(folder: Path) -> None:
    judge(folder, "accepted")
    judge(folder, "rejected")
    (folder / "review_reader.json").unlink()
    journal = folder / "review_reader.journal"
    lines = journal.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    lines[-1] = json.dumps({**last, "map_sha256": "0" * 64})
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    session, case = opened(folder)
    assert case.findings[0].status == "accepted"
    assert f"line {len(lines)} of review_reader.journal is damaged" in session.messages[0]


def test_two_unreadable_files_are_left_alone(folder: Path) -> None:
    (folder / "review_reader.json").write_text("{}", encoding="utf-8")
    session = Session.open([folder])
    case = session.open_case("case")
    assert "must be a review of headclip_med.review/2" in (case.read_only or "")
    assert (folder / "review_reader.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("what", ["peak", "runs", "size"])
def test_a_review_edited_by_hand_to_lie_outside_its_image_is_refused_in_words(folder: Path, what: str) -> None:
    session, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    case.draw(np.ones(case.data.shape))
    session.close()
    path = folder / "review_reader.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if what == "peak":
        content["findings"][at(TWIN)]["peak_voxel"] = [12, 0, 0]
    elif what == "runs":
        content["drawn"]["d1"]["runs"] = [[719, 2]]
    else:
        content["findings"][at(TWIN)]["finding"]["voxels"] = 4
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "review_reader.journal").unlink()
    case = Session.open([folder]).open_case("case")
    if what == "size":  # found when the region is looked for
        with pytest.raises(InputError, match="must fit the map"):
            case.accepted_mask()
    else:
        assert "must lie within its image" in (case.read_only or "")
        assert [row.status for row in case.findings] == [None, None]


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), junk=st.binary(max_size=12), cut=st.booleans())
def test_whatever_happens_to_a_journal_is_told_in_words_and_the_saved_state_survives(
    kept_review: dict[str, bytes], place: float, junk: bytes, cut: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "case"
        folder.mkdir()
        for file, content in kept_review.items():
            (folder / file).write_bytes(content)
        journal = folder / "review_reader.journal"
        content = journal.read_bytes()
        here = round(place * len(content))
        journal.write_bytes(content[:here] + junk + (b"" if cut else content[here + len(junk) :]))
        session = Session.open([folder])
        case = session.open_case("case")
        if case.read_only is None:
            said = case.review
            assert (said.findings[at(TWIN)].status, said.note) in (("rejected", "saved"), ("rejected", "later"))
            case.set_note("goes on")
        session.close()


@pytest.fixture(scope="module")
def kept_review(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a result and its review: two actions saved, one more in the journal."""
    folder = write_case(tmp_path_factory.mktemp("kept") / "case")
    session, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    case.judge(at(TWIN), "rejected")
    case.set_note("saved")
    session.save()
    case.set_note("later")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_review_of_another_result_is_never_mixed_in(folder: Path) -> None:
    judge(folder, "accepted")
    kept = {path.name: path.read_bytes() for path in folder.glob("review_*")}
    other = write_case(folder.with_name("other"), hand_map(0.9))
    for name, content in kept.items():
        (other / name).write_bytes(content)
    session = Session.open([other])
    case = session.open_case("other")
    assert "a review of another result" in (case.read_only or "")
    case_findings = [row.status for row in case.findings]
    assert set(case_findings) == {None}
    session.close()
    assert {path.name: path.read_bytes() for path in other.glob("review_*")} == kept
    assert not list(other.glob(".*"))


def test_a_session_folder_keeps_the_result_folders_untouched(folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    judge(folder, "accepted", session_dir=tmp_path / "session")  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == before
    (kept,) = (tmp_path / "session").iterdir()
    assert kept.name.startswith("case-")
    assert reviewed(folder, session_dir=tmp_path / "session")[at(TWIN)] == "accepted"  # type: ignore[arg-type]


def test_a_read_only_folder_opens_for_looking_and_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def refused(path: object, *args: int, **more: int) -> int:
        if str(path).endswith(".journal"):
            raise PermissionError(13, "Permission denied")
        return really(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    session = Session.open([folder])
    case = session.open_case("case")
    assert "--session DIR" in (case.read_only or "")
    with pytest.raises(OutputError, match="--session DIR"):
        case.show_overlay()
    assert case.review.actions == 0
    assert len(case.findings) == 2


def test_a_full_disk_refuses_the_action_and_keeps_the_journal_sound(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    really = os.write

    def half(descriptor: int, line: bytes) -> int:
        if line.startswith(b'{"n"'):
            return really(descriptor, line[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OutputError, match="No space left"):
        case.judge(at(LOW), "rejected")
    assert case.findings[1].status is None
    monkeypatch.undo()
    case.judge(at(LOW), "uncertain")
    del session, case
    assert reviewed(folder) == {at(TWIN): "accepted", at(LOW): "uncertain"}


def test_predicting_onto_a_reviewed_folder_is_refused(folder: Path) -> None:
    from headclip_med.writing.folder import case_folder

    judge(folder, "accepted")
    with pytest.raises(OutputError, match="nothing but an earlier result"), case_folder(folder.parent, "case"):
        pass


def test_everyone_who_connected_is_told(folder: Path) -> None:
    session = Session.open([folder])
    told: list[str] = []
    session.changed.connect(lambda change: told.append(change.what))
    case = session.open_case("case")
    case.show_overlay()
    case.judge(at(TWIN), "accepted")
    case.judge(at(TWIN), "accepted", label="")  # says nothing new
    case.set_threshold(0.5)
    case.undo()
    assert told == ["case", "overlay", "findings", "case"]
    with pytest.raises(InputError, match="one of those"):
        case.judge("f0-0-0", "accepted")


def test_reviewing_loads_no_torch_no_napari_no_qt(folder: Path) -> None:
    code = f"""
import json, sys
from headclip_med.review import Session
from headclip_med.review import exports, heads, sources, tables
case = Session.open([{str(folder)!r}]).open_case("case")
case.show_overlay()
case.findings
print(json.dumps([m for m in {HEAVY} if m in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
