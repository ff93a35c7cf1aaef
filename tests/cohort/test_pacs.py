"""Addresses, credentials, retries, pull and push, against an archive in memory: no network, no sleeping."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dicom_series import CtSeries
from pydicom import dcmread
from typer.testing import CliRunner

from headclip_med.base.errors import CancelledError, InputError, MissingExtraError, OutputError
from headclip_med.cli.main import app
from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address, is_address, parse_address, parse_service
from headclip_med.cohort.pacs.archive import (
    InstanceFound,
    PacsError,
    PacsUnavailableError,
    Query,
    SeriesFound,
    StoredFile,
    StudyFound,
    pseudonym,
    status_words,
    with_retries,
)
from headclip_med.cohort.pacs.open import choose_series
from headclip_med.cohort.pacs.pull import PulledCases, pull_series
from headclip_med.cohort.pacs.push import PushOutcome, dicom_objects, push_files, push_json, push_problems

AWAY = PacsUnavailableError("The archive must answer", "silence", "Try again")
ARCHIVE = "dicomweb://pacs:8042/dicom-web"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dicomweb://pacs/", Address("dicomweb", "pacs", 80, "")),
        ("dicomweb://pacs:8042/dicom-web/", Address("dicomweb", "pacs", 8042, "dicom-web")),
        ("dicomweb://pacs/a/b/studies/1.2.3", Address("dicomweb", "pacs", 80, "a/b", "1.2.3")),
        ("dicomwebs://pacs/x/studies/1.2.3/series/1.2.4", Address("dicomwebs", "pacs", 443, "x", "1.2.3", "1.2.4")),
        ("DICOMweb+HTTPS://pacs:1/1.2.3/1.2.4", Address("dicomwebs", "pacs", 1, "", "1.2.3", "1.2.4")),
        ("dicomweb://pacs/api/2.0/1.2.3", Address("dicomweb", "pacs", 80, "api/2.0", "1.2.3")),
        ("dicomweb://[::1]:8042/x", Address("dicomweb", "::1", 8042, "x")),
        ("dimse://MY PACS@10.0.0.1:104", Address("dimse", "10.0.0.1", 104, "MY PACS")),
        ("dimses://PACS@host:2762/1.2.3/1.2.4", Address("dimses", "host", 2762, "PACS", "1.2.3", "1.2.4")),
    ],
)
def test_an_address_is_read_as_written(text: str, wanted: Address) -> None:
    assert parse_address(text) == wanted
    again = parse_address(wanted.service)
    assert (again.host, again.port, again.root, again.tls) == (wanted.host, wanted.port, wanted.root, wanted.tls)


def test_what_is_shown_of_an_address_holds_no_uid() -> None:
    address = parse_address("dicomwebs://[::1]:8042/x/studies/1.2.3/series/1.2.4")
    assert address.service == "dicomwebs://[::1]:8042/x"
    assert address.url == "https://[::1]:8042/x"
    assert parse_address("dimse://A@h:1/1.2.3").service == "dimse://A@h:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://pacs/x", "given: http://"),
        ("pacs/x", "given: no scheme"),
        ("dicomweb://", "must name a host"),
        ("dicomweb://ho st/x", "must name a host"),
        ("dicomweb://pacs:99999/x", "port of 1 to 65535"),
        ("dicomweb://pacs:port/x", "port of 1 to 65535"),
        ("dicomweb://me:secret-1@pacs/x", "must hold no password"),
        ("dicomweb://secret-1@pacs/x", "must hold no user"),
        ("dimse://AE:secret-1@pacs:104", "must hold no password"),
        ("dicomweb://pacs/x?token=secret-1", "must end after the path"),
        ("dicomweb://pacs/x#secret-1", "must end after the path"),
        ("dicomweb://pacs/../x", "plain names between single slashes"),
        ("dicomweb://pacs/x//y", "plain names between single slashes"),
        ("dicomweb://pacs/%2e%2e/x", "plain names between single slashes"),
        ("dicomweb://pacs/x/studies/1.2.3/series/1.2.4/instances/1.2.5", "5 parts after studies"),
        ("dicomweb://pacs/x/studies/name", "A UID must be"),
        ("dicomweb://pacs/x/1.02.3", "A UID must be"),
        ("dicomweb://pacs/x/studies/1." + 63 * "2", "A UID must be"),
        ("dimse://pacs:104", "must name the called AE title"),
        ("dimse://AN_AE_TITLE_TOO_LONG@pacs:104", "must name the called AE title"),
        ("dimse://PACS@pacs", "must name the port"),
        ("dimse://PACS@pacs:104/1.2.3/1.2.4/1.2.5", "must end as /STUDY or /STUDY/SERIES"),
    ],
)
def test_any_other_address_is_refused_in_words_without_its_secrets(text: str, message: str) -> None:
    with pytest.raises(InputError, match="must") as refused:
        parse_address(text)
    assert message in str(refused.value)
    assert "secret-1" not in str(refused.value)


def test_a_path_is_no_address_and_a_target_holds_no_study() -> None:
    assert not is_address("in/scan.nii.gz")
    assert not is_address("C:\\scans\\a.dcm")
    assert is_address("http://pacs")
    with pytest.raises(InputError, match="without a study"):
        parse_service("dicomweb://pacs/x/1.2.3")


def test_access_comes_from_the_environment_and_hides_its_secrets(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("x")
    found = Access.from_environment(
        {
            "HEADCLIP_PACS_USER": "me",
            "HEADCLIP_PACS_PASSWORD": "secret-1",
            "HEADCLIP_PACS_CA": str(bundle),
            "HEADCLIP_PACS_TIMEOUT": "2.5",
        }
    )
    assert (found.user, found.password, found.authorities, found.timeout_s) == ("me", "secret-1", bundle, 2.5)
    assert "secret-1" not in repr(found)
    assert Access.from_environment({}) == Access()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"USER": "me"}, "must be set together"),
        ({"TOKEN": "secret-1", "USER": "me", "PASSWORD": "p"}, "must stand alone"),
        ({"TOKEN": "secret-1\n"}, "plain characters"),
        ({"USER": "a:b", "PASSWORD": "secret-1"}, "no colon"),
        ({"CA": "/nowhere/ca.pem"}, "must name a PEM file"),
        ({"TIMEOUT": "0"}, "must be a number of at least 1"),
        ({"TIMEOUT": "soon"}, "must be a number of at least 1"),
        ({"AET": "SEVENTEEN_LETTERS"}, "1 to 16 plain characters"),
    ],
)
def test_variables_that_cannot_be_meant_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        Access.from_environment({f"HEADCLIP_PACS_{name}": value for name, value in variables.items()})
    assert "secret-1" not in str(refused.value)


def test_only_an_open_network_is_warned_of() -> None:
    access = Access(user="me", password="secret-1")
    warning = access.warning_for(parse_address("dicomweb://pacs/x"))
    assert warning == "credentials and images go to pacs unencrypted; use dicomwebs:// where the archive offers TLS"
    assert access.warning_for(parse_address("dicomweb://127.0.0.1/x")) is None
    assert access.warning_for(parse_address("dicomwebs://pacs/x")) is None


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, none of which is slept."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=pauses.append))
    return pauses


def test_pauses_double_up_to_the_longest_and_attempts_are_bounded(slept: list[float]) -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        raise AWAY

    with pytest.raises(PacsUnavailableError) as told:
        with_retries(ask, 7)
    assert told.value is AWAY
    assert asked == 7
    assert [int(pause) for pause in slept] == [1, 2, 4, 8, 15, 15]


def test_a_refusal_is_not_asked_again_and_progress_starts_the_count_again(slept: list[float]) -> None:
    with pytest.raises(PacsError):
        with_retries(_raising(PacsError("The archive must agree")))
    assert slept == []
    moves = iter([False, True, True, True, False])
    with pytest.raises(PacsUnavailableError):
        with_retries(_raising(AWAY), 3, lambda: next(moves, False))
    assert [int(pause) for pause in slept] == [1, 1, 1, 1, 2]


def _raising(error: Exception) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


@dataclass
class Memory:
    """An archive in memory; what ``broken`` yields before an instance or object is raised there."""

    files: dict[str, bytes] = field(default_factory=dict)
    broken: list[Exception | None] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    grows: list[tuple[str, bytes]] = field(default_factory=list)

    def echo(self) -> None:
        return

    def find_studies(self, query: Query) -> list[StudyFound]:
        return []

    def find_series(self, study: str) -> list[SeriesFound]:
        return []

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        heads = {uid: dcmread(BytesIO(content), stop_before_pixels=True) for uid, content in self.files.items()}
        return [InstanceFound(uid, "") for uid, head in heads.items() if head.SeriesInstanceUID == series]

    def fetch(
        self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Callable[[str, bytes], None]
    ) -> None:
        for instance in wanted:
            self._break()
            self.asked.append(instance.uid)
            keep(instance.uid, self.files[instance.uid])
        self.files.update([self.grows.pop()] if self.grows else [])

    def store(self, files: Sequence[StoredFile], told: Callable[[StoredFile, str | None], None]) -> None:
        for file in files:
            self.asked.append(file.uid)
            if file.uid not in self.refuse:
                self.files[file.uid] = file.path.read_bytes()
            self._break()  # stored, but the answer is lost
            told(file, self.refuse.get(file.uid))

    def _break(self) -> None:
        if self.broken and (problem := self.broken.pop(0)) is not None:
            raise problem


@pytest.fixture
def made(tmp_path: Path) -> tuple[CtSeries, Path]:
    """Six slices on disk."""
    return CtSeries().write(tmp_path / "source"), tmp_path / "source"


def _holding(folder: Path) -> Memory:
    return Memory({file.uid: file.path.read_bytes() for file in dicom_objects(folder)})


def _pull(archive: Memory, made: tuple[CtSeries, Path], folder: Path, **more: Any) -> int:
    study = dicom_objects(made[1])[0].study
    return pull_series(archive, study, made[0].uid, folder, **{"attempts": 3, **more})


def test_a_broken_pull_goes_on_where_it_stopped(made: tuple[CtSeries, Path], tmp_path: Path) -> None:
    archive, out = _holding(made[1]), tmp_path / "spool" / "series"
    archive.broken = [None, None, AWAY]
    with pytest.raises(PacsUnavailableError, match="2 of 6 instances are there and stay"):
        _pull(archive, made, out, attempts=1)
    told: list[tuple[int, int]] = []
    assert _pull(archive, made, out, progress=lambda done, total: told.append((done, total))) == 6
    assert sorted(archive.asked) == sorted(archive.files)
    assert told[0] == (2, 6)
    assert told[-1] == (6, 6)
    assert {path.read_bytes() for path in out.iterdir()} == set(archive.files.values())
    assert (out.stat().st_mode & 0o777, out.parent.stat().st_mode & 0o777) == (0o700, 0o700)


def test_a_series_that_grows_is_followed_and_withdrawn_instances_go(
    made: tuple[CtSeries, Path], tmp_path: Path
) -> None:
    archive = _holding(made[1])
    late = archive.files.popitem()
    archive.grows = [late]
    assert _pull(archive, made, tmp_path / "spool") == 6
    del archive.files[late[0]]
    assert _pull(archive, made, tmp_path / "spool") == 5
    assert len(list((tmp_path / "spool").iterdir())) == 5


@pytest.mark.parametrize("lie", ["another", "junk", "cut"])
def test_what_an_archive_sends_instead_is_not_kept(made: tuple[CtSeries, Path], tmp_path: Path, lie: str) -> None:
    archive = _holding(made[1])
    uids = list(archive.files)
    content = archive.files[uids[0]]

    def fetch(study: str, series: str, wanted: Sequence[InstanceFound], keep: Callable[[str, bytes], None]) -> None:
        keep(uids[0], {"another": archive.files[uids[1]], "junk": b"<html>", "cut": content[:-7]}[lie])

    archive.fetch = fetch  # type: ignore[method-assign]
    words = {
        "another": "the instance that was asked for",
        "junk": "must send DICOM files",
        "cut": "one that is cut off",
    }
    with pytest.raises(PacsError, match=words[lie]):
        _pull(archive, made, tmp_path / "spool")
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_pull_can_be_cancelled_and_does_not_follow_links(made: tuple[CtSeries, Path], tmp_path: Path) -> None:
    archive = _holding(made[1])
    with pytest.raises(CancelledError):
        _pull(archive, made, tmp_path / "spool", cancel=lambda: len(archive.asked) > 2)
    assert len(list((tmp_path / "spool").iterdir())) == 3
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="a link"):
        _pull(archive, made, tmp_path / "link")


def test_a_push_whose_answer_was_lost_is_finished_once(made: tuple[CtSeries, Path]) -> None:
    archive, files = Memory(), dicom_objects(made[1])
    archive.broken = [None, None, AWAY]
    first = push_files(archive, files, 1)
    assert first == PushOutcome(2, 0, (), 4, str(AWAY))
    assert not first.ok
    assert push_problems(first, "again") == [f"{AWAY} 4 object(s) are not there yet; finish with: again"]
    second = push_files(archive, files)
    assert second == PushOutcome(3, 3, (), 0)
    assert second.ok
    assert push_problems(second, "again") == []
    assert len(archive.asked) == len(set(archive.asked)) == 6
    assert sorted(path.suffix for path in made[1].iterdir()) == [".dcm"] * 6


def test_a_push_goes_on_by_itself_while_it_moves(made: tuple[CtSeries, Path], slept: list[float]) -> None:
    archive = Memory(broken=[None, AWAY, None, AWAY, AWAY, None])
    assert push_files(archive, dicom_objects(made[1]), 2) == PushOutcome(3, 3, (), 0)
    assert len(slept) == 3
    assert len(archive.asked) == len(set(archive.asked)) == 6


def test_a_refused_object_is_told_with_its_reason_and_tried_again(made: tuple[CtSeries, Path]) -> None:
    files = dicom_objects(made[1])
    reason = "Data Set Does Not Match SOP Class (0xA900)"
    archive = Memory(refuse={files[0].uid: reason})
    outcome = push_files(archive, files)
    assert outcome == PushOutcome(5, 0, ((files[0].path.name, reason),), 0)
    assert not outcome.ok
    assert push_json(outcome)["refused"] == {files[0].path.name: reason}
    archive.refuse.clear()
    assert push_files(archive, files) == PushOutcome(1, 5, (), 0)


def test_an_archive_that_refuses_us_on_the_way_is_an_outcome_that_counts(
    made: tuple[CtSeries, Path], slept: list[float]
) -> None:
    refusal = PacsError("The archive must accept the credentials")
    outcome = push_files(Memory(broken=[None, refusal]), dicom_objects(made[1]))
    assert outcome == PushOutcome(1, 0, (), 5, str(refusal))
    assert slept == []


def test_a_resumed_case_is_known_by_its_instances_alone(tmp_path: Path) -> None:
    spool, result = tmp_path / "spool", tmp_path / "series"
    for folder in (spool, result):
        folder.mkdir()
    for uid in ("1.2.3", "1.2.4"):
        (spool / f"{pseudonym(uid, 'image')}.dcm").write_bytes(b"x")
    (result / "result.json").write_text('{"source": {"content_sha256": "abc"}}')
    PulledCases(tmp_path).remember("series", spool, result)
    known = PulledCases(tmp_path)
    assert known.content_of("series", ["1.2.4", "1.2.3"]) == "abc"
    assert known.content_of("series", ["1.2.3"]) is None
    assert known.content_of("other", ["1.2.3", "1.2.4"]) is None
    (tmp_path / "pacs-pulled.json").write_text("[]")
    assert PulledCases(tmp_path).content_of("series", ["1.2.3", "1.2.4"]) is None


def _series(number: int, modality: str, description: str = "", uid: str = "") -> SeriesFound:
    return SeriesFound("1.2", uid or f"1.2.{number}", modality, number, description, 1)


def test_all_image_series_of_a_study_are_meant_but_not_ours() -> None:
    ours = _series(493, "OT", "Anomaly map (research use only)", "2.25.1")
    found = [_series(1, "CT"), _series(2, "SR"), _series(3, "SEG"), _series(4, "MR"), ours]
    assert [series.number for series in choose_series(found, None)] == [1, 4]
    assert [series.number for series in choose_series(found, "493")] == [493]
    assert [series.number for series in choose_series(found, "#2")] == [2]
    assert [series.number for series in choose_series(found, "2.4")] == [4]
    for wanted, given in (("9", "0 of 5"), ("1.2", "4 of 5")):
        with pytest.raises(InputError, match=given):
            choose_series(found, wanted)
    with pytest.raises(InputError, match="must hold a series of images"):
        choose_series([ours], None)


def test_status_codes_are_told_in_the_words_of_the_standard() -> None:
    status = pytest.importorskip("pynetdicom.status")
    assert status_words(0xA801, status.QR_MOVE_SERVICE_CLASS_STATUS) == "Move destination unknown (0xA801)"
    assert status_words(0xA7FE, status.STORAGE_SERVICE_CLASS_STATUS) == "Refused: Out of Resources (0xA7FE)"
    assert status_words(0xFE00, status.GENERAL_STATUS) == "Cancel (0xFE00)"
    assert status_words(0x1234, status.GENERAL_STATUS) == "Unknown status (0x1234)"


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from headclip_med.cohort.pacs import archive as problems

    monkeypatch.setattr(problems, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'headclip-med\[pacs\]'"):
        problems.check_pacs_extra()
    ran = CliRunner().invoke(app, ["predict", "dicomweb://pacs/x/1.2.3", "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert "pip install 'headclip-med[pacs]'" in ran.stderr


def test_a_wrong_address_runs_nothing(tmp_path: Path) -> None:
    for arguments in (
        ["predict", "ftp://pacs/x", "--out", str(tmp_path / "out")],
        ["predict", "dicomweb://pacs/x", "--out", str(tmp_path / "out")],
        ["predict", "in.dcm", "--out", str(tmp_path / "out"), "--push", "dicomweb://127.0.0.1/x/1.2.3"],
        ["pacs", "echo", "pacs:104"],
        ["pacs", "pull", "dicomweb://127.0.0.1/x", "--out", str(tmp_path / "out")],
        ["pacs", "move", "dicomweb://127.0.0.1/x/1.2.3", "--to", "AE"],
        ["pacs", "push", str(tmp_path), "dicomweb://127.0.0.1/x"],
        ["pacs", "push", str(tmp_path), "dicomweb://127.0.0.1/x/1.2.3"],
        ["pacs", "push", str(tmp_path / "nothing"), "dicomweb://127.0.0.1/x"],
    ):
        ran = CliRunner().invoke(app, arguments)
        assert (ran.exit_code, ran.stderr.count("error:")) == (2, 1), ran.stderr
    assert not (tmp_path / "out").exists()


def test_the_archive_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "import headclip_med.cli.pacs\n"
        "from headclip_med.cohort.pacs import dicomweb, dimse, plan\n"
        "assert not {'torch', 'monai', 'highdicom'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
