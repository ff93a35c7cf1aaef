"""Which images make one volume: names, digits and numbers tell apart what they must, and nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_oracles import assert_same, dcm2niix
from dicom_results import complete_series, result_of
from dicom_series import ORIENTATIONS, CtSeries, edit, write_enhanced
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from headclip_med.base.errors import InputError, OutputError
from headclip_med.reading import LoadedVolume, list_series, load, load_volume
from headclip_med.writing.dicom.objects import write_dicom

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _said(volume: LoadedVolume) -> str:
    return "; ".join(volume.meta["reader_warnings"])


def _by_place(folder: Path) -> list[Path]:
    normal = [0.0, 0.0, 1.0]
    return sorted(folder.iterdir(), key=lambda path: float(np.dot(dcmread(path).ImagePositionPatient, normal)))


def _labels(folder: Path) -> list[tuple[int, str]]:
    return [(info.images, info.label) for info in list_series(folder)]


def _volumes(folder: Path, count: int, slices: int = 5, seed: int = 0, **tags: Any) -> np.ndarray:
    """``count`` volumes of one series in the same places, told apart by nothing but InstanceNumber, counted volume by
    volume; ``(count, slices, rows, columns)`` values."""
    rng = np.random.default_rng(seed)
    CtSeries(slices=1).write(folder)
    first = next(folder.iterdir())
    ds = dcmread(first)
    first.unlink()
    values = rng.integers(0, 900, (count, slices, int(ds.Rows), int(ds.Columns)))
    names = rng.permutation(count * slices)
    ds.RescaleIntercept = 0
    for n in range(count * slices):
        t, k = divmod(n, slices)
        ds.InstanceNumber, ds.SOPInstanceUID = n + 1, f"1.2.3.{n + 1}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.ImagePositionPatient = [0, 0, 3 * k]
        for keyword, value in tags.items():
            setattr(ds, keyword, value(t, k) if callable(value) else value)
        ds.PixelData = values[t, k].astype("<i2").tobytes()
        ds.save_as(folder / f"{names[n]:03d}.dcm")
    return values


def _check_groups(folder: Path, values: np.ndarray) -> None:
    infos = list_series(folder)
    assert len(infos) == len(values)
    for info, expected in zip(infos, values, strict=True):
        np.testing.assert_array_equal(load(folder, series=f"#{info.number}").array[0].T, expected)


NUMBERED: dict[str, Callable[[int, int], int]] = {
    "volume by volume": lambda t, k: 1 + 5 * t + k,
    "slice by slice": lambda t, k: 1 + 3 * k + t,
    "from the top": lambda t, k: 1 + 5 * t + (4 - k),
    "interleaved": lambda t, k: 1 + 5 * t + [0, 3, 1, 4, 2][k],
    "with gaps": lambda t, k: 100 * t + k,
}


@pytest.mark.parametrize("order", NUMBERED)
def test_a_time_series_that_only_its_instance_numbers_tell_apart(tmp_path: Path, order: str) -> None:
    """Every place had three images, and no option got round the refusal."""
    values = _volumes(tmp_path, 3, InstanceNumber=NUMBERED[order])
    assert _labels(tmp_path) == [(5, f"instance {n}") for n in (1, 2, 3)]
    _check_groups(tmp_path, values)


@pytest.mark.parametrize("missing", [(14,), (13, 14), (7,), (2,), (4, 5)])
def test_an_incomplete_time_series_keeps_its_volumes_apart(tmp_path: Path, missing: tuple[int, ...]) -> None:
    values = _volumes(tmp_path, 3)
    for path in list(tmp_path.iterdir()):
        if dcmread(path).InstanceNumber - 1 in missing:
            path.unlink()
    infos = list_series(tmp_path)
    assert [info.images for info in infos] == [5 - sum(n // 5 == t for n in missing) for t in range(3)]
    for t, info in enumerate(infos):
        volume = load(tmp_path, series=f"#{info.number}", on_irregular="keep")
        there = [k for k in range(5) if 5 * t + k not in missing]
        first = there[0]
        for k in there:
            np.testing.assert_array_equal(volume.array[0, :, :, k - first].T, values[t, k])


def test_frames_that_only_their_order_tells_apart(tmp_path: Path) -> None:
    series = write_enhanced(CtSeries(), tmp_path / "a.dcm", echoes=(2.0, 5.0))
    ds = dcmread(tmp_path / "a.dcm")
    frames = ds.PerFrameFunctionalGroupsSequence
    order = sorted(range(len(frames)), key=lambda n: float(frames[n].MREchoSequence[0].EffectiveEchoTime))
    pixels = ds.pixel_array[order]
    ds.PerFrameFunctionalGroupsSequence = [frames[n] for n in order]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.MREchoSequence
        frame.FrameContentSequence[0].DimensionIndexValues = [1, frame.FrameContentSequence[0].InStackPositionNumber]
    ds.DimensionIndexSequence = ds.DimensionIndexSequence[:2]
    ds.PixelData = pixels.tobytes()
    ds.save_as(tmp_path / "a.dcm")
    assert _labels(tmp_path) == [(6, "instance 1"), (6, "instance 2")]
    for echo in (0, 1):
        volume = load(tmp_path, series=f"#{echo + 1}")
        for k in range(6):
            np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k) + 1000 * echo)


def test_numbers_of_one_value_in_other_digits_are_one(tmp_path: Path) -> None:
    values = _volumes(tmp_path, 2, Modality="MR", EchoTime=lambda t, k: ["4.6", "4.60"][k % 2] if t == 0 else "9.2")
    assert [info.images for info in list_series(tmp_path)] == [5, 5]
    _check_groups(tmp_path, values)


def test_what_tells_every_place_apart_is_asked_first(tmp_path: Path) -> None:
    """One slice of another type must not break two echoes into pieces."""
    kinds = lambda t, k: ["ORIGINAL", "PRIMARY", "X" if (t, k) == (0, 2) else "M"]  # noqa: E731
    values = _volumes(tmp_path, 2, Modality="MR", EchoTime=lambda t, k: 4.6 + 4 * t, ImageType=kinds)
    _check_groups(tmp_path, values)


OPPOSITE = {"InstanceNumber": lambda t, k: 5 - k + (k > 2) if t else k + 1}  # no number twice in one place


@pytest.mark.parametrize(
    ("keyword", "values", "labels"),
    [
        ("ConvolutionKernel", ("B30", "B70"), ["kernel B30", "kernel B70"]),
        ("ContrastBolusAgent", ("", "Gd, Secret"), ["contrast 1", "contrast 2"]),
        ("InversionTime", (100, 900), ["inversion time 100.0", "inversion time 900.0"]),
        ("SeriesDescription", ("T1", "T2 Secret"), ["description 1", "description 2"]),
    ],
)
def test_what_images_state_is_asked_before_how_they_are_numbered(
    tmp_path: Path, keyword: str, values: tuple[Any, Any], labels: list[str]
) -> None:
    """One volume numbered from the head, the other from the feet: each rank held parts of both."""
    found = _volumes(tmp_path, 2, Modality="MR", **{keyword: lambda t, k: values[t]}, **OPPOSITE)
    assert sorted(label for _, label in _labels(tmp_path)) == labels
    volumes = [load(tmp_path, series=f"#{n}").array[0].T for n in (1, 2)]
    np.testing.assert_array_equal(volumes, found if list_series(tmp_path)[0].label == labels[0] else found[::-1])


def _clock(seconds: float) -> str:
    seconds %= 86400
    return f"{int(seconds // 3600):02d}{int(seconds // 60 % 60):02d}{seconds % 60:09.6f}"


MIXING: dict[str, dict[str, Any]] = {
    "numbers": OPPOSITE,
    "times": {"InstanceNumber": 1, "AcquisitionTime": lambda t, k: _clock(100 + (5.5 - k if t else k) // 1)},
    "trigger times": {"InstanceNumber": 1, "TriggerTime": lambda t, k: 60 - 10 * k if t else 10 * k + 5 * (k > 2)},
    "times and numbers apart": {
        "InstanceNumber": lambda t, k: 1 + 2 * k + t,
        "AcquisitionTime": lambda t, k: _clock(100 + (4 - k + 0.5 if t else k)),
    },
}


@pytest.mark.parametrize("kind", MIXING)
def test_ranks_that_do_not_count_from_volume_to_volume_are_refused(tmp_path: Path, kind: str) -> None:
    _volumes(tmp_path, 2, **MIXING[kind])
    for policy in ("error", "keep"):
        with pytest.raises(InputError, match=r"5 duplicate position\(s\).*nothing that tells them apart"):
            load(tmp_path, on_irregular=policy)


COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "over midnight": ("time", {"InstanceNumber": 1, "AcquisitionTime": lambda t, k: _clock(86397 + k + 5 * t)}),
    "over midnight, dated": (
        "time",
        {
            "InstanceNumber": 1,
            "AcquisitionDate": lambda t, k: "20200101" if k + 5 * t < 3 else "20200102",
            "AcquisitionTime": lambda t, k: _clock(86397 + k + 5 * t),
        },
    ),
    "over a minute, slice by slice": (
        "time",
        {"InstanceNumber": 1, "AcquisitionTime": lambda t, k: _clock(3590 + 3 * k + t + 0.1 * (k % 2))},
    ),
    "slices at once": ("time", {"InstanceNumber": 1, "AcquisitionTime": lambda t, k: _clock(100 + 2 * t)}),
    "a heart of uneven beat": (
        "trigger",
        {"InstanceNumber": lambda t, k: 1 + 3 * k + t, "TriggerTime": lambda t, k: t * (300 + 150 * (k % 2))},
    ),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_ranks_that_count_from_volume_to_volume_tell_them_apart(tmp_path: Path, kind: str) -> None:
    fact, tags = COUNTED[kind]
    values = _volumes(tmp_path, 3, **tags)
    assert _labels(tmp_path) == [(5, f"{fact} {n}") for n in (1, 2, 3)]
    _check_groups(tmp_path, values)


def test_frames_in_no_order_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    write_enhanced(CtSeries(), tmp_path / "a.dcm", echoes=(2.0, 5.0))
    ds = dcmread(tmp_path / "a.dcm")
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.MREchoSequence
        frame.FrameContentSequence[0].DimensionIndexValues = [1, frame.FrameContentSequence[0].InStackPositionNumber]
    ds.DimensionIndexSequence = ds.DimensionIndexSequence[:2]
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"6 duplicate position\(s\)"):
        load(tmp_path)


# Copies: judged by identifier alone, two images became one volume.


@pytest.mark.parametrize("facts", ["echoes", "numbers alone"])
def test_one_uid_for_all_mixes_nothing(tmp_path: Path, facts: str) -> None:
    echo = {"Modality": "MR", "EchoTime": lambda t, k: 10 + 80 * t} if facts == "echoes" else {}
    values = _volumes(tmp_path, 2, SOPInstanceUID="1.2.3.4", **echo)
    _check_groups(tmp_path, values)


def test_one_uid_and_one_number_for_all_is_refused_and_mixes_nothing(tmp_path: Path) -> None:
    _volumes(tmp_path, 2, SOPInstanceUID="1.2.3.4", InstanceNumber=1)
    for policy in ("error", "keep", "split", "resample"):
        with pytest.raises(InputError, match=r"own position; given: 5 duplicate position\(s\).*different pixels"):
            load(tmp_path, on_irregular=policy)


def test_one_uid_for_pixels_that_are_equal_in_other_places_is_no_copy(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    empty = np.zeros((9, 8), "<i2").tobytes()
    for path in _by_place(tmp_path)[:3]:
        edit(path, SOPInstanceUID="1.2.3.4", PixelData=empty)
    assert load(tmp_path).array.shape[3] == 6


def test_equal_edge_slices_of_two_echoes_are_no_copies(tmp_path: Path) -> None:
    """Air at the edge of both echoes, under one UID: each keeps its own."""
    _volumes(tmp_path, 2, SOPInstanceUID="1.2.3.4", Modality="MR", EchoTime=lambda t, k: 10 + 80 * t)
    for path in tmp_path.iterdir():
        if dcmread(path).ImagePositionPatient[2] in (0, 12):
            edit(path, PixelData=bytes(2 * 9 * 8))
    assert [info.images for info in list_series(tmp_path)] == [5, 5]


def test_one_uid_in_two_series_is_two_images(tmp_path: Path) -> None:
    CtSeries(slices=2).write(tmp_path / "a")
    CtSeries(slices=2, seed=1, series_number=5).write(tmp_path / "b")
    for folder in (tmp_path / "a", tmp_path / "b"):
        for path in folder.iterdir():
            edit(path, SOPInstanceUID="1.2.3.4")
    assert [info.images for info in list_series(tmp_path)] == [2, 2]


def test_two_folders_of_one_series_with_other_pixels_are_offered_both(tmp_path: Path) -> None:
    """As two exports of one series, or two patients whom an anonymiser gave the same identifiers."""
    values = []
    for n, folder in enumerate((tmp_path / "secret a", tmp_path / "secret b")):
        _volumes(folder, 1)
        for path in folder.iterdir():
            edit(path, PixelData=(dcmread(path).pixel_array + 7 * n).astype("<i2").tobytes())
        values.append(load(folder).array)
    assert _labels(tmp_path) == [(5, "folder 1"), (5, "folder 2")]
    for n in (0, 1):
        np.testing.assert_array_equal(load(tmp_path, series=f"#{n + 1}").array, values[n])
    with pytest.raises(InputError, match="2 groups") as caught:
        load(tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("how", ["the same file", "another syntax", "gzip", "linked"])
def test_true_copies_are_left_out(tmp_path: Path, how: str) -> None:
    CtSeries(rows=40, columns=40).write(tmp_path)
    expected = load(tmp_path).array
    for path in list(tmp_path.iterdir()):
        ds, copy = dcmread(path), path.with_name(f"copy{path.name}")
        if how == "another syntax":
            ds.compress(uid.RLELossless, generate_instance_uid=False)
            ds.save_as(copy)
        elif how == "gzip":
            copy.write_bytes(gzip.compress(path.read_bytes()))
        elif how == "linked":
            copy.symlink_to(path)
        else:
            copy.write_bytes(path.read_bytes())
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.array, expected)
    assert _said(volume) == "left out: 6 × copy of another file (same SOPInstanceUID)"


def test_a_damaged_copy_does_not_stop_the_others(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    path = sorted(tmp_path.iterdir())[2]
    path.with_name("zz.dcm").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"zz\.dcm"):
        load(tmp_path)
    assert load(tmp_path.joinpath(path.name)).array.shape[3] == 1


@pytest.mark.parametrize("kind", ["seg", "pm", "segscore"])
def test_dicom_results_about_images_of_one_uid_are_refused_in_words(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("highdicom")
    complete_series(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        edit(path, SOPInstanceUID="1.2.3.4")
    result = result_of(tmp_path / "in")
    with pytest.raises(OutputError, match=r"SOPInstanceUID of its own.*given: one for several"):
        write_dicom(result, tmp_path, [kind])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# Names and digits without influence on the geometry.

FRAMES = {
    "one each": lambda k: f"1.2.3.3.{k + 1}",
    "missing in one": lambda k: "" if k == 2 else "1.2.3.3",
    "missing in the first": lambda k: "" if k == 0 else "1.2.3.3",
    "another in one": lambda k: "1.2.3.9" if k == 2 else "1.2.3.3",
    "two by turns": lambda k: f"1.2.3.3.{k % 2}",
    "missing in all": lambda k: "",
}


@pytest.mark.parametrize("case", FRAMES)
def test_frames_of_reference_are_no_geometry(tmp_path: Path, case: str) -> None:
    series = CtSeries().write(tmp_path)
    for k, path in enumerate(_by_place(tmp_path)):
        edit(path, FrameOfReferenceUID=FRAMES[case](k) or None)
    volume = load(tmp_path)
    for k in range(6):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))
    np.testing.assert_allclose(volume.affine, TO_RAS @ series.lps_affine, atol=1e-6)
    several = len({FRAMES[case](k) for k in range(6)} - {""})
    assert _said(volume) == (f"{several} frames of reference in one series: taken as one" if several > 1 else "")


def test_two_stacks_that_only_their_frames_of_reference_tell_apart(tmp_path: Path) -> None:
    values = _volumes(tmp_path, 2, FrameOfReferenceUID=lambda t, k: f"1.2.3.{t + 1}", InstanceNumber=1)
    assert _labels(tmp_path) == [(5, "frame of reference 1"), (5, "frame of reference 2")]
    _check_groups(tmp_path, values)
    assert "1.2.3" not in str(list_series(tmp_path))[:0] + " ".join(info.label for info in list_series(tmp_path))


@pytest.mark.parametrize("odd", ["0.4883", "0.488", "0.49"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_spacing_in_other_digits_is_that_of_the_others(tmp_path: Path, odd: str, place: int) -> None:
    series = CtSeries().write(tmp_path)
    for k, path in enumerate(_by_place(tmp_path)):
        edit(path, PixelSpacing=[odd, odd] if k == place else ["0.488281", "0.488281"])
    volume = load(tmp_path)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :2], axis=0), 0.488281, atol=1e-9)
    for k in range(6):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))
    assert ("pixel spacings differ by rounding" in _said(volume)) == (odd != "0.4883")


def test_spacings_that_differ_by_more_are_two_groups(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    edit(_by_place(tmp_path)[0], PixelSpacing=[0.5, 0.5])
    with pytest.raises(InputError, match="2 groups"):
        load(tmp_path)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("drift", [1e-5, 1e-4, 4e-4])
def test_a_tiny_drift_of_orientation_is_none(tmp_path: Path, orientation: str, drift: float) -> None:
    """Each slice a little further from the first: they were told apart from the third slice on."""
    series = CtSeries(orientation=orientation, slices=12).write(tmp_path)
    row, column = (np.array(direction) for direction in ORIENTATIONS[orientation])
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        k = round(float(np.dot(np.array(ds.ImagePositionPatient) - series.origin, np.cross(row, column))) / series.step)
        angle = drift * k
        ds.ImageOrientationPatient = [
            float(x) for x in (*(np.cos(angle) * row + np.sin(angle) * column), *(column - np.sin(angle) * row))
        ]
        ds.save_as(path)
    volume = load(tmp_path)
    assert volume.array.shape[3] == 12
    for k in range(12):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))
    corners = [[i, j, k, 1] for i in (0, 7) for j in (0, 8) for k in (0, 11)]
    apart = (volume.affine - TO_RAS @ series.lps_affine) @ np.array(corners).T
    assert np.abs(apart).max() < 12 * drift * 8 + 1e-6
    assert ("taken as parallel" in _said(volume)) == (drift > 1e-5)


def test_orientations_that_differ_by_more_are_two_groups(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    edit(_by_place(tmp_path)[0], ImageOrientationPatient=[0.9994, 0.0349, 0, -0.0349, 0.9994, 0])
    with pytest.raises(InputError, match="2 groups"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID"])
def test_images_of_two_patients_or_studies_are_never_one_volume(tmp_path: Path, name: str) -> None:
    """Under one SeriesInstanceUID, as an anonymiser may leave them, one above the other."""
    CtSeries().write(tmp_path)
    for path in _by_place(tmp_path)[3:]:
        edit(path, **{name: "1.2.9"})
    for policy in ("error", "keep"):
        with pytest.raises(InputError, match="2 groups"):
            load(tmp_path, on_irregular=policy)
    for path in _by_place(tmp_path)[3:]:
        edit(path, **{name: ""})
    assert load(tmp_path).array.shape[3] == 6


PLACES = {
    "above": lambda t, k: 3 * (k + 5 * t),
    "interleaved": lambda t, k: 3 * (2 * k + t),
    "same": lambda t, k: 3 * k,
}

# Of the second of two volumes, and what the list calls the two.
APART: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"PatientName": "Other^Person"}, "patient"),
    "birth date": ({"PatientBirthDate": "19600101"}, "patient"),
    "issuer": ({"IssuerOfPatientID": "elsewhere"}, "patient"),
    "identifier beyond 64 characters": ({"PatientID": "x" * 64 + "2"}, "patient"),
    "study date": ({"StudyDate": "20210101"}, "study"),
    "accession": ({"AccessionNumber": "2"}, "study"),
    "modality": ({"Modality": "PT"}, ""),
    "series number": ({"SeriesNumber": 7}, ""),
}
FIRST = {
    **{"PatientName": "Secret^Person", "PatientBirthDate": "19500101", "IssuerOfPatientID": "here"},
    **{"PatientID": "x" * 64 + "1", "StudyDate": "20200101", "AccessionNumber": "1", "Modality": "CT"},
    **{"StudyInstanceUID": "1.2.8", "SeriesNumber": 4},
}


def _of_two(second: dict[str, Any]) -> dict[str, Any]:
    def of(keyword: str) -> Callable[[int, int], Any]:
        return lambda t, k: second.get(keyword, FIRST[keyword]) if t else FIRST[keyword]

    return {keyword: of(keyword) for keyword in FIRST}


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("apart", APART)
def test_two_patients_or_series_under_one_uid_are_groups_to_choose_from(
    tmp_path: Path, apart: str, places: str
) -> None:
    """As an anonymiser may leave them: they became one volume, with the name of one of them."""
    second, what = APART[apart]
    at = PLACES[places]
    values = _volumes(
        tmp_path,
        2,
        **_of_two(second),
        ImagePositionPatient=lambda t, k: [0, 0, at(t, k)],
        InstanceNumber=lambda t, k: 5 - k if t else k + 1,
    )
    for policy in ("error", "keep"):
        with pytest.raises(InputError, match="2 groups") as caught:
            load(tmp_path, on_irregular=policy)
        assert not any(word in str(caught.value).casefold() for word in ("secret", "other", "person", "1960", "xxx"))
    labels = [info.label for info in list_series(tmp_path)]
    assert sorted(labels) == ([f"{what} 1", f"{what} 2"] if what else ["", ""])
    found = [load(tmp_path, series=f"#{n}").array[0].T for n in (1, 2)]
    order = int(not np.array_equal(found[0], values[0]))
    np.testing.assert_array_equal(found, values[[order, 1 - order]])


@pytest.mark.parametrize(
    "tags", [{"PatientID": "2"}, {"PatientName": "Other^Person"}, {"PatientID": "x", "SeriesNumber": 9}]
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_list_of_several_patients_is_no_set_of_sequences(tmp_path: Path, tags: dict[str, Any], whole: bool) -> None:
    sources = []
    for n in range(2):
        _volumes(
            tmp_path / str(n), 1, seed=n, **{"PatientID": "x", "SeriesInstanceUID": f"1.2.{n}", **(tags if n else {})}
        )
        sources.append(tmp_path / str(n) if whole else tmp_path / str(n) / "000.dcm")
    if "SeriesNumber" in tags and whole:
        assert load_volume(sources).array.shape[0] == 2
    elif "SeriesNumber" not in tags:
        with pytest.raises(
            InputError, match="sequences of one patient; given: DICOM headers that name several"
        ) as caught:
            load_volume(sources)
        assert "Other" not in str(caught.value)


@pytest.mark.parametrize("missing", ["PatientName", "PatientID", "StudyDate", "Modality", "SeriesNumber"])
def test_what_some_images_do_not_say_is_as_the_others_have_it(tmp_path: Path, missing: str) -> None:
    tags = {**FIRST, "PatientID": "x"}
    _volumes(tmp_path, 1, 6, **{**tags, missing: lambda t, k: None if k in (1, 4) else tags[missing]})
    volume = load(tmp_path)
    assert volume.array.shape[3] == 6
    assert ("2 of 6 images say less about their patient" in _said(volume)) == missing.startswith("Patient")


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("more", [{"SeriesNumber": 7}, {"PatientName": "Other^Person"}, {"StudyInstanceUID": "1.2.9"}])
def test_a_nameless_half_that_differs_otherwise_is_a_group_of_its_own(tmp_path: Path, more: dict[str, Any]) -> None:
    _volumes(
        tmp_path, 2, **_of_two({"PatientID": "", **more}), ImagePositionPatient=lambda t, k: [0, 0, 3 * (k + 5 * t)]
    )
    with pytest.raises(InputError, match="2 groups"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["PatientID", "PatientName"])
def test_without_any_identifier_the_nameless_ones_are_a_group_of_their_own(tmp_path: Path, name: str) -> None:
    tags = {"PatientID": "x", "SeriesInstanceUID": "", "StudyInstanceUID": ""}
    _volumes(tmp_path, 1, 6, **{**tags, name: lambda t, k: "x" if k < 3 else ""})
    with pytest.raises(InputError, match="2 groups"):
        load(tmp_path)


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "MR", "EchoTime": lambda t, k: 10 + 80 * t},
        {"ImageType": lambda t, k: ["ORIGINAL", "PRIMARY", "MP"[t]]},
        {"ConvolutionKernel": lambda t, k: f"B{30 + 40 * t}"},
        {"SeriesDescription": lambda t, k: ("Secret", "FLAIR")[t]},
    ],
    ids=lambda tags: "+".join(tags),
)
@pytest.mark.parametrize("places", ["above", "interleaved"])
def test_slices_of_one_volume_that_differ_in_what_they_show_are_told(
    tmp_path: Path, tags: dict[str, Any], places: str
) -> None:
    at = PLACES[places]
    _volumes(tmp_path, 2, **tags, ImagePositionPatient=lambda t, k: [0, 0, at(t, k)])
    fact = {"EchoTime": "echo time", "ImageType": "type", "ConvolutionKernel": "kernel"}
    words = fact.get(list(tags)[-1], "description")
    assert _said(load(tmp_path)) == f"slices that differ in {words} are taken as one volume"


def test_dicom_results_about_odd_names_and_digits_are_written(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    complete_series(tmp_path / "in")
    for k, path in enumerate(_by_place(tmp_path / "in")):
        turned = [1, 2e-3 * (k % 2), 0, -2e-3 * (k % 2), 1, 0]
        edit(path, FrameOfReferenceUID=f"1.2.3.{k + 1}", ImageOrientationPatient=turned)
        edit(path, PixelSpacing=["0.7", "0.501" if k == 0 else "0.5"])
    volume = load(tmp_path / "in")
    files = write_dicom(result_of(volume), tmp_path, ["dicom"])
    shared = dcmread(files["seg"]).SharedFunctionalGroupsSequence[0]
    assert [float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.7, 0.5]
    np.testing.assert_allclose(
        [float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient],
        (volume.affine[:3, :2] / [0.5, 0.7] * [[-1], [-1], [1]]).T.ravel(),
        atol=1e-6,
    )


# Positions rounded to tenths of a millimetre.


def _round(folder: Path, digits: int) -> None:
    for path in folder.iterdir():
        edit(path, ImagePositionPatient=[round(float(x), digits) for x in dcmread(path).ImagePositionPatient])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("step", [0.33, 0.625, 1.25, 2.97, 3.75])
@pytest.mark.parametrize("digits", [1, 2])
def test_rounded_positions_are_an_even_series(tmp_path: Path, digits: int, step: float, orientation: str) -> None:
    """Each single step was compared with the usual one: 1.2 and 1.3 mm were no even series of 1.25."""
    series = CtSeries(orientation=orientation, slices=25, step=step, origin=(-20.37, 15.12, 40.71)).write(tmp_path)
    _round(tmp_path, digits)
    volume = load(tmp_path)
    assert volume.array.shape[3] == 25
    for k in (0, 12, 24):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))
    apart = (volume.affine - TO_RAS @ series.lps_affine) @ np.array([[0, 0, 0, 1], [0, 0, 12, 1], [0, 0, 24, 1]]).T
    assert np.abs(apart).max() < 2 * 10.0**-digits
    assert _said(volume) == ""


@pytest.mark.parametrize("missing", [(7,), (3, 4, 5), (1, 20)])
def test_rounded_positions_with_gaps_are_gaps(tmp_path: Path, missing: tuple[int, ...]) -> None:
    series = CtSeries(slices=25, step=1.25, missing=missing).write(tmp_path)
    _round(tmp_path, 1)
    with pytest.raises(InputError, match=rf"{len(missing)} missing slice"):
        load(tmp_path)
    volume = load(tmp_path, on_irregular="keep")
    assert volume.array.shape[3] == 25
    for k in set(range(25)) - set(missing):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))
    runs = [len(set(run.tolist()) - set(missing)) for run in np.split(np.arange(25), missing)]
    assert [info.images for info in list_series(tmp_path, "split")] == [run for run in runs if run]


@pytest.mark.parametrize("places", [(0, 1, 2, 3.2, 4.2, 5.2), (0, 1, 2, 2.9, 4, 5)])
def test_steps_that_rounding_does_not_explain_are_uneven(tmp_path: Path, places: tuple[float, ...]) -> None:
    CtSeries(places=places).write(tmp_path)
    _round(tmp_path, 1)
    with pytest.raises(InputError, match=r"must be evenly spaced.*different lengths"):
        load(tmp_path)


def test_small_steps_that_add_up_are_uneven(tmp_path: Path) -> None:
    """Each step is within 1 % of the usual one, and the slices end half a slice beside their places."""
    places = tuple(np.cumsum([0, *[1.0] * 60, *[1.009] * 60]))
    CtSeries(slices=121, step=1.37, places=places).write(tmp_path)
    with pytest.raises(
        InputError, match=r"steps that add up: slices up to 0\.3\d* mm beside.*resample.*keep"
    ) as caught:
        load(tmp_path)
    assert "split" not in str(caught.value)
    assert load(tmp_path, on_irregular="keep").meta["uneven"] is True


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_rounded_positions_equal_dcm2niix(tmp_path: Path, orientation: str) -> None:
    CtSeries(orientation=orientation, slices=9, step=1.25).write(tmp_path / "in")
    _round(tmp_path / "in", 1)
    image = dcm2niix(tmp_path / "in", tmp_path / "out")
    volume = load(tmp_path / "in")
    order = np.round(np.linalg.inv(image.affine) @ volume.affine)
    np.testing.assert_allclose(image.affine @ order, volume.affine, atol=0.1)
    assert_same(volume, np.asarray(image.dataobj), volume.affine @ np.linalg.inv(order))


# One slice in two acquisitions: the whole is offered.


def _acquired(folder: Path, parts: list[range], **tags: Any) -> CtSeries:
    """A series in several acquisitions, each a range of its slices; where they meet, the later one is 1000 higher."""
    series = CtSeries(slices=max(part.stop for part in parts)).write(folder)
    files, number = _by_place(folder), 0
    kept = []
    for acquisition, part in enumerate(parts, start=1):
        for k in part:
            ds, number = dcmread(files[k]), number + 1
            ds.AcquisitionNumber, ds.InstanceNumber = acquisition, number
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}"
            if any(k in earlier for earlier in parts[: acquisition - 1]):
                ds.RescaleIntercept += 1000
            for keyword, value in tags.items():
                setattr(ds, keyword, value)
            kept.append((folder / f"n{number}.dcm", ds))
    for file in files:
        file.unlink()
    for path, ds in kept:
        ds.save_as(path)
    return series


@pytest.mark.parametrize("told_by", ["acquisition", "instance"])
@pytest.mark.parametrize(
    "parts", [[range(0, 4), range(3, 8)], [range(0, 5), range(3, 8)], [range(0, 3), range(2, 6), range(5, 9)]]
)
def test_a_place_in_two_acquisitions_leaves_the_whole_to_choose(
    tmp_path: Path, parts: list[range], told_by: str
) -> None:
    series = _acquired(tmp_path, parts, **({"AcquisitionNumber": 1} if told_by == "instance" else {}))
    infos, slices = list_series(tmp_path), max(part.stop for part in parts)
    with pytest.raises(InputError, match=rf"#1: series 4, CT, {slices} × 8×9, axial, all of it, with image 1"):
        load(tmp_path)
    twins = {k for n, part in enumerate(parts) for k in part if any(k in other for other in parts[:n])}
    for rank in (0, 1):
        volume = load(tmp_path, series=f"#{rank + 1}")
        for k in range(slices):
            expected = series.hu(k) + (1000 * rank if k in twins else 0)
            np.testing.assert_array_equal(volume.array[0, :, :, k].T, expected)
    more = [len(part) for part in parts] if len(parts) == 2 and told_by == "acquisition" else []
    assert [info.images for info in infos[2:]] == more


@pytest.mark.parametrize("told_by", ["acquisition", "instance"])
def test_a_single_slice_more_leaves_the_complete_series_to_choose(tmp_path: Path, told_by: str) -> None:
    series = _acquired(
        tmp_path, [range(0, 8), range(3, 4)], **({"AcquisitionNumber": 1} if told_by == "instance" else {})
    )
    assert [info.images for info in list_series(tmp_path)] == [8, 1 if told_by == "acquisition" else 8]
    volume = load(tmp_path, series="#1")
    for k in range(8):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))


def test_a_slice_repeated_amid_a_series_of_any_numbers(tmp_path: Path) -> None:
    series = CtSeries(slices=8, duplicate=3).write(tmp_path)  # numbered in no order
    twin = next(path for path in tmp_path.iterdir() if path.stem.endswith("b"))
    edit(twin, InstanceNumber=50, PixelData=(dcmread(twin).pixel_array + 6).astype("<i2").tobytes())
    for number, sizes in ((50, [8, 1]), (4, [8, 8])):  # beyond all others; among them, and of another slice
        edit(twin, InstanceNumber=number)
        assert [info.images for info in list_series(tmp_path)] == sizes
        volumes = [load(tmp_path, series=f"#{n + 1}") for n, size in enumerate(sizes) if size == 8]
        found = [volume.array[0, :, :, 3].T - series.hu(3) for volume in volumes]
        assert sorted(float(values.max()) for values in found) == [0, 7][: len(found)]
        for volume in volumes:
            for k in (0, 1, 2, 4, 5, 6, 7):
                np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))


def test_an_equal_slice_in_two_acquisitions_is_the_same_in_both_wholes(tmp_path: Path) -> None:
    series = _acquired(tmp_path, [range(0, 4), range(3, 8)])
    for path in tmp_path.iterdir():
        edit(path, RescaleIntercept=-1024)
    first, second = (load(tmp_path, series=f"#{n}") for n in (1, 2))
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_array_equal(first.array[0, :, :, 3].T, series.hu(3))


def test_the_stack_of_every_frame_is_none(tmp_path: Path) -> None:
    series = write_enhanced(CtSeries(), tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    for n, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = str(n), 1, [n + 1, 1]
        frame.FrameContentSequence = [content]
    ds.save_as(tmp_path / "a.dcm")
    np.testing.assert_allclose(load(tmp_path / "a.dcm").affine, TO_RAS @ series.lps_affine, atol=1e-5)
