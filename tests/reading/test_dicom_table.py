"""Every DICOM file at hand is read or refused in words; ``docs/dicom.md`` holds the table, and this test keeps it true.

``HEADCLIP_WRITE_TABLES=1 pytest tests/reading/test_dicom_table.py`` writes it anew.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import pydicom.data
import pytest

from headclip_med.base.errors import InputError
from headclip_med.reading import load

PAGE = Path(__file__).parents[2] / "docs" / "dicom.md"
SHARED = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "dicom"
WHEEL = Path(pydicom.data.__file__).parent / "test_files"

_DECODERS = ("pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm", "pillow")
_MANY = 5  # files of one folder with one outcome become one row

# Said of most files of a kind, and of no use in a table.
_USUAL = ("a 2-D image: its position", "pixel spacing unknown")


def _versions() -> str:
    found = []
    for name in _DECODERS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _outcome(path: Path) -> tuple[str, str]:
    """``read`` or ``refused``, and shape and notes, or the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            volume = load(path)
        except InputError as problem:
            do = f"{problem.do}." if problem.do else ""
            words = f"{problem.must}; given: {problem.given}. {do}"
            return "refused", _clean(words.replace(f"{path.name} ", "", 1), path)
    shape = " × ".join(map(str, volume.array.shape))
    kind = "pictures" if volume.meta["is_2d"] else "volume"
    notes = [note for note in volume.meta["reader_warnings"] if not note.startswith(_USUAL)]
    return "read", _clean("; ".join([f"{kind} {shape}", *notes]), path)


def _clean(words: str, path: Path) -> str:
    """One cell of a table: no path of this machine, no bar."""
    for folder in (str(SHARED), str(WHEEL), str(path.parent)):
        assert folder not in words
    return " ".join(words.replace("|", "/").split())


def _rows(root: Path) -> Iterator[str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    outcomes = [(path.relative_to(root).parent, *_outcome(path), path.relative_to(root)) for path in files]
    for _, same in groupby(outcomes, key=lambda row: row[:3]):
        run = list(same)
        outcome, reason = run[0][1], run[0][2]
        if len(run) >= _MANY:
            yield f"| {run[0][3].as_posix()} … {run[-1][3].name} ({len(run)} files) | {outcome} | {reason} |"
        else:
            yield from (f"| {row[3].as_posix()} | {outcome} | {reason} |" for row in run)


def _table(root: Path) -> str:
    head = ["| file | outcome | shape and notes, or reason |", "|---|---|---|"]
    return "\n".join([f"With {_versions()}:", "", *head, *_rows(root)])


@pytest.mark.parametrize(("name", "root"), [("pydicom", WHEEL), ("shared", SHARED)])
def test_every_file_is_read_or_refused_and_the_page_says_so(name: str, root: Path) -> None:
    if not root.is_dir():
        pytest.skip("no shared data on this machine")
    table = _table(root)  # any other error than an InputError is a traceback, and fails here
    begin, end = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    written, after = rest.split(end)
    if os.environ.get("HEADCLIP_WRITE_TABLES"):
        PAGE.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
        return
    if f"With {_versions()}:" not in written:
        pytest.skip("the page was written with other versions of the decoders")
    assert written.strip() == table.strip(), "run HEADCLIP_WRITE_TABLES=1 pytest tests/reading/test_dicom_table.py"


def test_the_series_of_the_shared_data_are_read_as_volumes() -> None:
    if not SHARED.is_dir():
        pytest.skip("no shared data on this machine")
    assert load(SHARED / "ct_philips").array.shape == (1, 512, 512, 28)
    field_map = SHARED / "mr_enhanced" / "Philips" / "IM_0027_fMAP.dcm"
    assert load(field_map, series="#1").array.shape == load(field_map, series="#2").array.shape == (1, 64, 64, 32)
    siemens = SHARED / "mr_enhanced" / "Siemens" / "XA10"
    assert all(load(path).array.shape == (1, 64, 64, 6) for path in siemens.iterdir())
