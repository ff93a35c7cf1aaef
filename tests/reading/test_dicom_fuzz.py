"""Damaged DICOM of every kind: nothing but a volume or an error in words comes out, in bounded time and memory.

``HEADCLIP_FUZZ=50000 HEADCLIP_FUZZ_SEED=1 pytest tests/reading/test_dicom_fuzz.py`` runs more, from another seed.
"""

from __future__ import annotations

import faulthandler
import gzip
import io
import os
import resource
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_mosaics import Mosaic
from dicom_series import CtSeries, write_enhanced
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydicom import config, dcmread, uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from headclip_med.base.errors import HeadclipError
from headclip_med.reading import LoadedVolume, load

EXAMPLES = int(os.environ.get("HEADCLIP_FUZZ", "2000"))
SEED = int(os.environ.get("HEADCLIP_FUZZ_SEED", "0"))

_MOST_SECONDS, _HANGS_SECONDS = 30.0, 90.0  # one JPEG-LS decoder takes 4 s over some damaged frames
_MEMORY = 3 * 2**30  # beyond what the process has already

_SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "big": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "j2k": uid.JPEG2000Lossless,
    "jls": uid.JPEGLSLossless,
}
_PACKED = ("zip", "gzip")
_POLICIES = ("error", "split", "resample", "keep")
_ODD_VALUES: list[Any] = [
    *("", "x", "1\\2\\3", "nan", "inf", "-1", "0", "1e308", "65535", "4294967296", "é" * 40, "1.2.3.999", "LOCALIZER"),
    *(
        "0,5",
        "1,2\\3,4",
        "MOSAIC",
        "VFRAME",
        "RGB",
        "PALETTE COLOR",
        "YBR_FULL_422",
        "MONOCHROME1",
        "1.2.840.10008.5.1.4.1.1.77.1.6",
        "\0",
    ),
    *(["1", "0", "0", "0", "1", "0"], ["0"] * 6, ["nan"] * 6, ["1e200"] * 3, ["0", "0"], ["-1", "1e-9"]),
]
_KEYWORDS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PlanarConfiguration", "PhotometricInterpretation", "PixelData", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "RescaleSlope", "RescaleIntercept"),
    *("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "ImageType"),
    *("WindowCenter", "WindowWidth", "SeriesNumber", "Modality", "EchoTime", "PixelPaddingValue", "TriggerTime"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DirectoryRecordSequence"),
    *("RedPaletteColorLookupTableData", "RedPaletteColorLookupTableDescriptor", "ModalityLUTSequence"),
    *("AcquisitionNumber", "TemporalPositionIdentifier", "ImagerPixelSpacing", "SpecificCharacterSet"),
    *("InstanceNumber", "PatientID", "SpacingBetweenSlices"),
]
_VRS = ["US", "SS", "UL", "DS", "IS", "CS", "UI", "OB", "OW", "SQ", "FD", "UN", "LO"]


@pytest.fixture(scope="module")
def bounded() -> Iterator[None]:
    """Memory is capped while fuzzing, and a hang ends the process with a traceback of every thread."""
    config.settings.writing_validation_mode = config.IGNORE
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, before[1]))
    yield
    config.settings.writing_validation_mode = None
    resource.setrlimit(resource.RLIMIT_AS, before)
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One whole file of every kind that is damaged."""
    folder = tmp_path_factory.mktemp("originals")
    CtSeries(slices=1, rows=32, columns=32).write(folder)
    first = next(folder.iterdir())
    found = {"explicit": first.read_bytes()}
    for name, syntax in _SYNTAXES.items():
        found[name] = _in_syntax(dcmread(first), syntax)
    write_enhanced(CtSeries(slices=3, rows=32, columns=32), first)
    found["enhanced"] = first.read_bytes()
    for name, tags in _pictures().items():
        ds = dcmread(io.BytesIO(found["explicit"]))
        del ds.ImageOrientationPatient, ds.ImagePositionPatient
        for keyword, value in tags.items():
            vr = dictionary_VR(tag_for_keyword(keyword) or 0).split(" ")[0]
            ds[keyword] = DataElement(keyword, vr, value)
        found[name] = _saved(ds)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1", found["explicit"])
    found["zip"] = (folder / "a.zip").read_bytes()
    for vendor in ("siemens", "uih"):
        Mosaic(vendor=vendor, rows=12).write(folder / "mosaic.dcm")
        found[vendor] = (folder / "mosaic.dcm").read_bytes()
    found["gzip"] = gzip.compress(found["explicit"])
    found["directory"] = _directory(dcmread(io.BytesIO(found["explicit"])))
    return found


def _pictures() -> dict[str, dict[str, Any]]:
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    palette = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    tables = {f"{c}PaletteColorLookupTableData": bytes(range(256)) * 2 for c in ("Red", "Green", "Blue")}
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PixelData": bytes(range(256)) * 24}
    return {
        "cine": {**eight, **colour, "PhotometricInterpretation": "RGB", "NumberOfFrames": "2"},
        "palette": {
            **eight,
            **palette,
            **tables,
            "PhotometricInterpretation": "PALETTE COLOR",
            "PixelData": bytes(range(256)) * 4,
        },
    }


def _in_syntax(ds: Dataset, syntax: uid.UID) -> bytes:
    if syntax.is_encapsulated:
        ds.compress(syntax)
    elif syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    return _saved(ds)


def _saved(ds: Dataset) -> bytes:
    out, fresh = io.BytesIO(), Dataset()  # a read dataset refuses another byte order
    fresh.update(ds)
    fresh.file_meta, fresh.preamble = ds.file_meta, bytes(128)
    syntax = ds.file_meta.TransferSyntaxUID
    fresh.save_as(out, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return out.getvalue()


def _directory(ds: Dataset) -> bytes:
    record = Dataset()
    record.ReferencedFileID = ["DEEP", "FILE"]
    directory = Dataset()
    directory.DirectoryRecordSequence = [record]
    directory.file_meta = ds.file_meta
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    return _saved(directory)


@st.composite
def byte_changes(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """Overwrite, insert, cut out or cut off bytes at a place given as a share of the file."""
    what = st.sampled_from(["overwrite", "insert", "remove", "truncate", "length"])
    place = st.floats(0, 1, exclude_max=True)
    odd = st.sampled_from(
        [b"\xff\xff\xff\xff", b"\xf0\xff\xff\x7f", b"\0\0\0\0", b"\xfe\xff\xdd\xe0", b"\xfe\xff\0\xe0"]
    )
    return draw(st.lists(st.tuples(what, place, st.one_of(st.binary(min_size=1, max_size=6), odd)), max_size=4))


header_changes = st.lists(
    st.tuples(
        st.sampled_from(_KEYWORDS),
        st.sampled_from(["set", "delete", "vr", "raw"]),
        st.one_of(st.sampled_from(_ODD_VALUES), st.integers(-(2**31), 2**32 - 1), st.floats(), st.binary(max_size=12)),
        st.sampled_from(_VRS),
    ),
    max_size=4,
)


def _with_bytes(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    data = bytearray(content)
    for what, share, value in changes:
        at = int(share * len(data))
        if what == "overwrite":
            data[at : at + len(value)] = value
        elif what == "insert":
            data[at:at] = value
        elif what == "remove":
            del data[at : at + 8 * len(value)]
        elif what == "truncate":
            del data[at:]
        else:  # where an element's length may stand: behind a VR
            for vr in (b"OW", b"DS", b"UI", b"SQ", b"CS"):
                found = data.find(vr, at)
                if found >= 0:
                    data[found + 2 : found + 2 + len(value)] = value
                    break
    return bytes(data)


def _with_header(content: bytes, changes: list[tuple[str, str, Any, str]]) -> bytes:
    """The file with elements changed, where it can be parsed and written at all."""
    try:
        ds = dcmread(io.BytesIO(content))
    except Exception:
        return content
    syntax = ds.file_meta.TransferSyntaxUID
    for keyword, what, value, vr in changes:
        before = io.BytesIO()
        old = ds.get(tag_for_keyword(keyword))
        try:
            if what == "delete":
                del ds[keyword]
            elif what == "set":
                setattr(ds, keyword, value)
            else:
                raw = value if isinstance(value, bytes) else str(value).encode()
                ds[keyword] = DataElement(keyword, "UN" if what == "raw" else vr, raw if what == "raw" else value)
            ds.save_as(before, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        except Exception:  # pydicom cannot write that; bytes can still say it
            if old is None:
                ds.pop(tag_for_keyword(keyword), None)
            else:
                ds[keyword] = old
    try:
        return _saved(ds)
    except Exception:
        return content


def _check(outcome: LoadedVolume | HeadclipError, folder: Path) -> None:
    if isinstance(outcome, HeadclipError):
        _outcomes["refused"] += 1
        assert outcome.must
        assert str(folder) not in str(outcome)
        assert "Secret" not in str(outcome)
        return
    _outcomes["read"] += 1
    assert np.isfinite(outcome.array).all()
    assert outcome.meta["source_format"] != "dicom" or _has_a_source_for_every_slice(outcome)


def _has_a_source_for_every_slice(volume: LoadedVolume) -> bool:
    meta = volume.meta
    count = len(meta["slice_files"]) if meta.get("resampled") else volume.array.shape[3]
    return all(len(meta[key]) == count for key in ("slice_uids", "slice_files", "slice_frames", "slice_positions"))


_outcomes: Counter[str] = Counter()
_slowest = [0.0]


@pytest.mark.filterwarnings("ignore")  # pydicom's, while a damaged file is being written
def test_nothing_but_a_volume_or_words_comes_out(
    originals: dict[str, bytes], bounded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every example is one damaged file, read by itself or among whole slices of its series."""
    CtSeries(slices=4, rows=32, columns=32).write(tmp_path / "series")
    shutil.copytree(tmp_path / "series", tmp_path / "only")
    for path in (tmp_path / "only").iterdir():
        path.unlink()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(sorted(originals)),
        header_changes,
        byte_changes(),
        st.sampled_from(_POLICIES),
        st.sampled_from([None, 0, 1]),
        st.booleans(),
    )
    def read(
        name: str,
        header: list[tuple[str, str, Any, str]],
        changes: list[tuple[str, float, bytes]],
        policy: str,
        frame: int | None,
        alone: bool,
    ) -> None:
        content = originals[name]
        content = _with_bytes(_with_header(content, header) if header and name not in _PACKED else content, changes)
        folder = tmp_path / ("only" if alone else "series")
        path = folder / "x"
        path.write_bytes(content)
        faulthandler.dump_traceback_later(_HANGS_SECONDS, exit=True, file=sys.__stderr__)
        began = time.perf_counter()
        try:
            volume = load(path if alone else folder, time=frame, on_irregular=policy)
            outcome: LoadedVolume | HeadclipError = volume
        except HeadclipError as problem:
            outcome = problem
        finally:
            path.unlink()
        _check(outcome, tmp_path)
        spent = time.perf_counter() - began
        _slowest.append(max(spent, _slowest.pop()))
        assert spent < _MOST_SECONDS

    read()
    with capsys.disabled():
        print(f"\nfuzzing, seed {SEED}: {dict(_outcomes)}, the slowest in {_slowest[0]:.1f} s")  # noqa: T201
    assert sum(_outcomes.values()) >= EXAMPLES
    assert min(_outcomes["read"], _outcomes["refused"]) > EXAMPLES / 20
