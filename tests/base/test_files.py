"""Files and folders appear whole or not at all, and nobody's own files are replaced."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from headclip_med.base import files as atomic
from headclip_med.base.errors import OutputError
from headclip_med.base.files import atomic_path, check_writable
from headclip_med.writing.folder import case_folder, check_case_folder


def _earlier_result(out: Path, text: str = "old") -> Path:
    folder = out / "case"
    folder.mkdir(parents=True)
    (folder / "preview.png").write_text(text)
    files = {"preview": {"name": "preview.png", "sha256": "0" * 64}}
    record = {"schema_version": "headclip_med.result/1", "files": files}
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_finished_folder_appears_under_its_name_and_replaces_the_earlier_result(tmp_path: Path) -> None:
    _earlier_result(tmp_path)
    with case_folder(tmp_path, "case") as folder:
        (folder / "new.txt").write_text("new")
        assert (tmp_path / "case" / "preview.png").read_text() == "old"  # untouched until the end
    assert _names(tmp_path) == ["case"]
    assert _names(tmp_path / "case") == ["new.txt"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("bug"), OSError(errno.ENOSPC, "full")])
def test_a_failure_leaves_the_earlier_result_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    _earlier_result(tmp_path)
    expected = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected), case_folder(tmp_path, "case") as folder:  # noqa: PT012
        (folder / "half.txt").write_text("half")
        raise failure
    assert _names(tmp_path) == ["case"]
    assert (tmp_path / "case" / "preview.png").read_text() == "old"


def test_a_failing_rename_restores_the_earlier_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _earlier_result(tmp_path)
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EROFS, "read-only")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OutputError, match="read-only"), case_folder(tmp_path, "case") as folder:
        (folder / "new.txt").write_text("new")
    assert len(calls) == 3  # aside, failed, back
    assert _names(tmp_path) == ["case"]
    assert (tmp_path / "case" / "preview.png").read_text() == "old"


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    folder = _earlier_result(tmp_path)
    (folder / "reader_notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"reader_notes\.txt.*Move them away"):
        check_case_folder(tmp_path, "case")
    with pytest.raises(OutputError, match=r"reader_notes\.txt"), case_folder(tmp_path, "case"):
        pytest.fail("the body must not run")
    assert (folder / "reader_notes.txt").read_text() == "mine"


def test_a_file_managers_own_files_do_not_count_as_other_files(tmp_path: Path) -> None:
    (_earlier_result(tmp_path) / ".DS_Store").write_text("")
    check_case_folder(tmp_path, "case")
    with case_folder(tmp_path, "case") as folder:
        (folder / "new.txt").write_text("new")
    assert _names(tmp_path / "case") == ["new.txt"]


def test_a_folder_without_a_record_is_not_an_earlier_result(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    check_case_folder(tmp_path, "case")  # empty: free to use
    (tmp_path / "case" / "preview.png").write_text("a holiday picture")
    with pytest.raises(OutputError, match="nothing but an earlier result"):
        check_case_folder(tmp_path, "case")


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "a\0b"])
def test_a_case_name_cannot_leave_the_output_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="plain folder name"), case_folder(tmp_path, name):
        pytest.fail("the body must not run")


def test_a_file_of_the_case_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "case").write_text("a file")
    with pytest.raises(OutputError, match="must be a folder"), case_folder(tmp_path, "case"):
        pytest.fail("the body must not run")


def test_an_output_folder_that_is_a_file_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="a file where a folder must be"):
        check_writable(tmp_path / "out")
    with pytest.raises(OutputError, match="a file where a folder must be"):
        check_writable(tmp_path / "out" / "deeper")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_an_unwritable_folder_is_found_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match=words) as caught:
        check_writable(tmp_path / "results")
    assert str(tmp_path) not in str(caught.value)


def test_checking_makes_no_folder_and_writing_does(tmp_path: Path) -> None:
    check_case_folder(tmp_path / "new" / "results", "case")
    assert _names(tmp_path) == []
    with atomic_path(tmp_path / "new" / "results" / "a.txt") as draft:
        draft.write_text("a")
    assert _names(tmp_path / "new" / "results") == ["a.txt"]


def test_a_single_file_is_replaced_only_when_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.nii.gz"
    path.write_text("old")
    with atomic_path(path) as draft:
        assert draft.name.endswith(".nii.gz")
        draft.write_text("new")
    assert path.read_text() == "new"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"), atomic_path(path) as draft:
        draft.write_text("newer")
    assert path.read_text() == "new"
    assert _names(tmp_path) == ["map.nii.gz"]
