"""What was reviewed as others open it: the right place, the right numbers, research use only everywhere."""

from __future__ import annotations

import csv
import html
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from chromium import Browser, find_chromium
from dicom_results import complete_series, result_of, validation_errors
from PIL import Image
from review_cases import AFFINE, LOW, SHAPE, SHORT, TALL, TWIN, at, hand_map, mm, opened, write_case
from writing_phantom import make_result, oblique_affine

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.geometry import voxel_to_world, world_to_voxel
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.reading import load_volume
from headclip_med.review import OpenCase
from headclip_med.review.cases import find_results
from headclip_med.review.exports import export_folder, export_review, write_findings
from headclip_med.review.model import CaseReview
from headclip_med.review.reviewed import ReviewedCase
from headclip_med.review.sources import linked_image, match_source
from headclip_med.writing import write_result

NASTY = '<script>alert("x")</script>, "quoted"\n=1+1'


def reviewed_case(folder: Path, reader: str = "anna") -> OpenCase:
    """One finding accepted, one rejected, two voxels drawn."""
    _, case = opened(write_case(folder), folder.name, reader=reader)
    case.judge(at(TWIN), "accepted", label=NASTY, confidence=80)
    case.judge(at(LOW), "rejected")
    mask = np.zeros(SHAPE)
    mask[6:8, 5, 1] = 1
    case.draw(mask, label="missed", note="small")
    case.give_opinion("abnormal", 90)
    return case


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_the_mask_lies_on_the_sources_exact_grid_with_the_lesion_at_its_millimetres(tmp_path: Path) -> None:
    case = reviewed_case(tmp_path / "case")
    case.set_threshold(0.85)  # the slider does not change what was accepted
    files = export_review(ReviewedCase.of(case), tmp_path / "out", ("nifti",))
    image = nib.load(files["nifti"])
    made = nib.load(tmp_path / "case" / "anomaly_map.nii.gz")
    np.testing.assert_array_equal(image.affine, made.affine)
    for field in ("qform_code", "sform_code", "pixdim"):
        np.testing.assert_array_equal(image.header[field], made.header[field])
    voxels = np.argwhere(np.asarray(image.dataobj) == 1)
    places = {tuple(place) for place in voxel_to_world(np.asarray(image.affine), voxels)}
    assert places == {mm(v) for v in ((2, 2, 2), (3, 2, 2), (4, 2, 2), (6, 5, 1), (7, 5, 1))}
    assert image.get_data_dtype() == np.uint8
    assert b"research use only" in image.header["descrip"].tobytes()


def test_the_mask_of_an_oblique_source_is_found_by_another_program(tmp_path: Path) -> None:
    import SimpleITK as sitk

    folder = tmp_path / "case"
    folder.mkdir()
    write_result(make_result(oblique_affine()), folder, formats=("nifti",))
    _, case = opened(folder)
    case.judge(case.findings[0].id, "accepted")
    files = export_review(ReviewedCase.of(case), tmp_path / "out", ("nifti",))
    image = sitk.ReadImage(str(files["nifti"]))
    lesion = voxel_to_world(oblique_affine(), np.array([3, 7, 4]))  # a corner of the block
    lps = [float(value) for value in lesion * [-1, -1, 1]]
    assert image[image.TransformPhysicalPointToIndex(lps)] == 1
    assert sitk.GetArrayFromImage(image).sum() == 12


def test_the_table_of_findings_by_hand(tmp_path: Path) -> None:
    case = reviewed_case(tmp_path / "case")
    files = export_review(ReviewedCase.of(case), tmp_path / "out", ("csv", "json"))
    accepted, rejected, drawn = table(files["csv"])
    assert (accepted["finding"], accepted["kind"], accepted["status"]) == (at(TWIN), "map", "accepted")
    assert (accepted["label"], accepted["confidence"], accepted["threshold"]) == (NASTY, "80", "0.5")
    assert (float(accepted["volume_mm3"]), accepted["voxels"], float(accepted["peak"])) == (18.0, "3", 0.9)
    assert [float(accepted[f"peak_{axis}_mm"]) for axis in "xyz"] == pytest.approx(mm(TALL))
    weighted = (10 - (0.9 * 2 + 0.6 * 3 + 0.8 * 4) / 2.3, 16, 1)
    assert [float(accepted[f"{axis}_mm"]) for axis in "xyz"] == pytest.approx(weighted, abs=1e-4)
    assert (rejected["status"], rejected["voxels"]) == ("rejected", "1")
    assert (drawn["finding"], drawn["status"], drawn["note"], drawn["threshold"]) == ("d1", "drawn", "small", "")
    assert [float(drawn[f"{axis}_mm"]) for axis in "xyz"] == pytest.approx((3.5, 10, -2))
    assert {row["research_use_only"] for row in (accepted, rejected, drawn)} == {RESEARCH_ONLY}
    assert CaseReview.model_validate_json(files["json"].read_text(encoding="utf-8")) == case.review
    write_findings([ReviewedCase.of(case)] * 2, tmp_path / "both.csv")
    assert len(table(tmp_path / "both.csv")) == 6


def test_the_page_shows_what_was_said_as_text_and_asks_for_nothing(tmp_path: Path) -> None:
    case = reviewed_case(tmp_path / "case")
    case.set_note(NASTY)
    page = export_review(ReviewedCase.of(case), tmp_path / "out", ("html",))["html"].read_text(encoding="utf-8")
    assert "<script" not in page
    assert html.escape(NASTY, quote=True).replace("&quot;", "&#34;") in page
    assert page.count(RESEARCH_ONLY) >= 2
    assert page.count("<figure>") == 2
    for words in ("abnormal, 90 % sure", "not given", "1 accepted, 1 drawn; 1 rejected, 0 uncertain", "anna", "d1"):
        assert words in page
    assert "The source image was not at hand." in page
    assert str(tmp_path) not in page


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    browser = find_chromium()
    if browser is None:
        pytest.skip("no Chromium")
    files = export_review(ReviewedCase.of(reviewed_case(tmp_path / "case")), tmp_path / "out", ("html",))
    with Browser(browser, tmp_path / "profile") as window:
        seen = window.visit(files["html"])
        pictures = window.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        wide = window.ask("document.documentElement.scrollWidth <= innerWidth")
    assert seen.errors == []
    assert [request for request in seen.requests if not request.startswith(("file:", "data:"))] == []
    assert (pictures, wide) == (True, True)


def test_pictures_outline_the_finding_itself_over_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    image = np.full((1, *SHAPE), 50.0)
    write_result(make_result(AFFINE, hand_map(), image=image), folder, formats=("nifti",))
    _, case = opened(folder)
    case.judge(at(TWIN), "accepted")
    volume = load_volume(_nifti(tmp_path / "source.nii.gz", np.random.default_rng(0).uniform(40, 60, SHAPE)))
    with_source = export_review(ReviewedCase.of(case, volume), tmp_path / "a", ("png",))
    without = export_review(ReviewedCase.of(case), tmp_path / "b", ("png",))
    assert set(with_source) == set(without) == {"png_01"}
    lit = [np.asarray(Image.open(files["png_01"]).convert("L")).mean() for files in (with_source, without)]
    assert lit[0] > lit[1] + 10
    cyan = np.asarray(Image.open(with_source["png_01"]).convert("RGB")).astype(int)
    assert (np.abs(cyan - (0x35, 0xE0, 0xFF)).sum(axis=2) < 40).any()


def test_exports_replace_earlier_ones_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    case = reviewed_case(tmp_path / "case")
    first = export_review(ReviewedCase.of(case), tmp_path / "out")
    case.judge(at(LOW), "accepted")
    export_review(ReviewedCase.of(case), tmp_path / "out")
    assert {row["status"] for row in table(first["csv"])} == {"accepted", "drawn"}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    with pytest.raises(OutputError, match="must be one of json"):
        export_review(ReviewedCase.of(case), tmp_path / "out", ("pdf",))
    with pytest.raises(InputError, match="--source"):
        export_review(ReviewedCase.of(case), tmp_path / "out", ("seg",))


def test_a_review_from_a_file_fits_only_its_own_result(tmp_path: Path) -> None:
    case = reviewed_case(tmp_path / "case")
    case.save()
    path = tmp_path / "case" / "review_anna.json"
    assert len(ReviewedCase.load(tmp_path / "case", path).found()) == 2
    other = write_case(tmp_path / "other", hand_map(0.9))
    with pytest.raises(InputError, match="belong to the result"):
        ReviewedCase.load(other, path)


# -- DICOM


def test_accepted_and_drawn_findings_as_dicom_lie_at_their_millimetres(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    series = tmp_path / "series"
    complete_series(series)
    volume = load_volume(series)
    result = result_of(volume)
    folder = tmp_path / "case"
    folder.mkdir()
    write_result(result, folder, formats=("nifti",))
    _, case = opened(folder, reader="anna")
    block, single = case.findings
    case.judge(block.id, "rejected")
    case.judge(single.id, "accepted", label="nodule")
    mask = np.zeros(case.data.shape)
    mask[tuple(v - 1 for v in single.peak_voxel)] = 1  # diagonal neighbour: one component, two findings
    mask[0, 0, 0] = 1
    case.draw(mask)
    found = match_source(case.record, [series])
    assert found.message == ""
    files = export_review(ReviewedCase.of(case, found.volume), tmp_path / "out", ("seg", "sr"))
    assert set(files) == {"seg", "sr"}
    assert "'anna'" in str(pydicom.dcmread(files["sr"]))
    assert [validation_errors(path) for path in files.values()] == [[], []]
    segmentation = highdicom.seg.segread(files["seg"])
    assert segmentation.number_of_segments == 2
    volumes = [segmentation.get_volume(segment_numbers=[n], combine_segments=False) for n in (1, 2)]
    for number, expected in ((0, case.mask_of(single.id)), (1, mask > 0)):
        voxels = np.argwhere(np.asarray(volumes[number].array)[..., 0] > 0)
        lps = volumes[number].map_indices_to_reference(voxels)
        there = {tuple(np.rint(v).astype(int)) for v in world_to_voxel(volume.affine, lps * [-1, -1, 1])}
        assert there == {tuple(v) for v in np.argwhere(expected)}
    assert segmentation.ContentQualification == "RESEARCH"
    assert {item.SegmentAlgorithmType for item in segmentation.SegmentSequence} == {"SEMIAUTOMATIC"}
    again = export_review(ReviewedCase.of(case, found.volume), tmp_path / "again", ("seg",))
    assert highdicom.seg.segread(again["seg"]).SOPInstanceUID == segmentation.SOPInstanceUID
    case.judge(single.id, "uncertain")
    case.erase("d1")
    none = highdicom.seg.segread(export_review(ReviewedCase.of(case, found.volume), tmp_path / "none", ("seg",))["seg"])
    assert "accepted and drew nothing" in none.SegmentSequence[0].SegmentDescription
    case.judge(block.id, "accepted")
    more = export_review(ReviewedCase.of(case, found.volume), tmp_path / "more", ("seg",))
    assert highdicom.seg.segread(more["seg"]).SOPInstanceUID != segmentation.SOPInstanceUID


# -- the source, found again


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array.astype(np.float32), affine).to_filename(path)
    return path


def result_with_source(tmp_path: Path, source: Path) -> Path:
    """A result that knows its source's content."""
    meta = load_volume(source).meta
    known = {"content_sha256": meta["content_sha256"], "source_name": meta["source_name"]}
    return write_case(tmp_path / "case", meta=known)


def test_the_source_is_found_by_content_whatever_it_is_called(tmp_path: Path) -> None:
    array = np.random.default_rng(1).random(SHAPE)
    source = _nifti(tmp_path / "images" / "scan.nii.gz", array)
    record = find_results([result_with_source(tmp_path, source)])[0].record
    assert record is not None
    _nifti(tmp_path / "images" / "a" / "another.nii.gz", array + 1)
    for places in ([source], [tmp_path / "images"], [tmp_path / "images" / "a", source.parent]):
        found = match_source(record, places)
        assert (found.volume is not None, found.message, found.paths) == (True, "", (source,))
    renamed = source.rename(tmp_path / "images" / "a" / "anonymous.nii.gz")
    found = match_source(record, [tmp_path / "images"])
    assert (found.paths, found.volume is not None) == ((renamed,), True)


def test_a_source_that_changed_moved_or_was_not_given_is_told_in_words(tmp_path: Path) -> None:
    array = np.random.default_rng(1).random(SHAPE)
    source = _nifti(tmp_path / "images" / "scan.nii.gz", array)
    record = find_results([result_with_source(tmp_path, source)])[0].record
    assert record is not None
    _nifti(source, array + 1)
    found = match_source(record, [tmp_path / "images"])
    assert found.volume is None
    assert "'scan.nii.gz' was found, but its content is another" in found.message
    source.unlink()
    (tmp_path / "images" / "note.txt").write_text("no image", encoding="utf-8")
    assert "it was moved or changed; the map alone is shown" in match_source(record, [tmp_path / "images"]).message
    assert "--source" in match_source(record, []).message
    assert "moved or changed" in match_source(record, [tmp_path / "nowhere"]).message
    unnamed = find_results([write_case(tmp_path / "plain")])[0].record
    assert unnamed is not None
    assert "no content hash" in match_source(unnamed, [tmp_path]).message


def test_stacked_sequences_are_found_by_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    paths = [_nifti(tmp_path / "images" / f"{name}.nii.gz", rng.random(SHAPE)) for name in ("t1", "flair")]
    meta = load_volume(paths).meta
    known = {"content_sha256": meta["content_sha256"], "source_name": meta["source_name"]}
    record = find_results([write_case(tmp_path / "case", meta=known)])[0].record
    assert record is not None
    found = match_source(record, [tmp_path / "images"])
    assert (found.paths, found.volume is not None and found.volume.shape[0]) == (tuple(paths), 2)


def test_a_linked_image_on_the_same_grid_is_taken_as_it_is(tmp_path: Path) -> None:
    array = np.random.default_rng(2).random(SHAPE).astype(np.float32)
    _, case = opened(write_case(tmp_path / "case"))
    linked = linked_image(_nifti(tmp_path / "t1.nii.gz", array), case.data)
    np.testing.assert_array_equal(linked.array, array)
    assert (linked.resampled, linked.outside, linked.name) == (False, 0.0, "t1.nii.gz")


def test_a_linked_image_of_another_grid_is_resampled_and_says_so(tmp_path: Path) -> None:
    _, case = opened(write_case(tmp_path / "case"))
    other = np.diag([1.0, 1.0, 1.0, 1.0])
    other[:3, 3] = (-10, -5, -20)
    ramp = np.indices((30, 40, 40)).astype(float) + other[:3, 3][:, None, None, None]  # value: RAS mm
    for axis in range(3):
        linked = linked_image(_nifti(tmp_path / f"{axis}.nii.gz", ramp[axis], other), case.data)
        assert linked.resampled
        assert "nothing is measured on it" in linked.message
        assert linked.array[LOW] == pytest.approx(mm(LOW)[axis], abs=1e-4)
        assert linked.array[SHORT] == pytest.approx(mm(SHORT)[axis], abs=1e-4)
        assert linked.outside == 0.0
    far = other.copy()
    far[:3, 3] = 5000
    with pytest.raises(InputError, match="no voxel in common"):
        linked_image(_nifti(tmp_path / "far.nii.gz", ramp[0], far), case.data)


def test_a_linked_picture_must_have_the_size_of_the_case_since_it_has_no_place(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (SHAPE[1], SHAPE[0]), dtype=np.uint8)
    (tmp_path / "small.png").parent.mkdir(exist_ok=True)
    Image.fromarray(picture[:4]).save(tmp_path / "small.png")
    _, case = opened(write_case(tmp_path / "case"))
    with pytest.raises(InputError, match="no place in a patient"):
        linked_image(tmp_path / "small.png", case.data)


def test_every_export_says_research_use_only(tmp_path: Path) -> None:
    files = export_review(ReviewedCase.of(reviewed_case(tmp_path / "case")), tmp_path / "out")
    for kind in ("json", "csv", "html"):
        assert RESEARCH_ONLY in files[kind].read_text(encoding="utf-8")
    assert json.loads(files["json"].read_text(encoding="utf-8"))["research_use_only"] == RESEARCH_ONLY


# -- one folder, one case, one state


def _other(folder: Path, scale: float = 0.95, reader: str = "anna") -> ReviewedCase:
    _, case = opened(write_case(folder, hand_map(scale)), folder.name, reader=reader)
    case.judge(case.findings[0].id, "accepted")
    return ReviewedCase.of(case)


@pytest.mark.parametrize("formats", [("json",), ("csv", "png"), ("nifti",), ("html",)])
@pytest.mark.parametrize("whose", ["another case", "another reader"])
def test_an_export_never_mixes_with_anothers(tmp_path: Path, formats: tuple[str, ...], whose: str) -> None:
    first = _other(tmp_path / "a" / "case", 1.0)
    scale, reader = (0.95, "anna") if whose == "another case" else (1.0, "ben")
    second = _other(tmp_path / "b" / "case", scale, reader)
    export_review(first, tmp_path / "out" / "case", ("nifti", "png"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "case").iterdir()}
    with pytest.raises(OutputError, match="one case by one reader; given: 'case' with that of case by anna"):
        export_review(second, tmp_path / "out" / "case", formats)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "case").iterdir()} == before
    place = export_folder(second, tmp_path / "out", "case")
    export_review(second, place, formats)
    assert place.name.startswith("case-")
    assert export_folder(second, tmp_path / "out", "case") == place, "and the next time as well"
    assert export_folder(first, tmp_path / "out", "case") == tmp_path / "out" / "case"


@pytest.mark.parametrize("name", ["accepted_mask.nii.gz", "findings.csv", "finding_03.png", "export.json"])
def test_an_export_beside_files_of_nobody_knows_whom_is_refused(tmp_path: Path, name: str) -> None:
    case = _other(tmp_path / "case")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(OutputError, match=f"with a (damaged )?{name}"):
        export_review(case, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_an_earlier_export_of_the_same_review_goes_as_a_whole(tmp_path: Path) -> None:
    case, out = reviewed_case(tmp_path / "case"), tmp_path / "out"
    export_review(ReviewedCase.of(case), out)
    (out / "notes.txt").write_text("mine")
    assert (out / "finding_02.png").exists()
    case.erase("d1")
    with pytest.raises(InputError, match="source images"):
        export_review(ReviewedCase.of(case), out, ("json", "seg"))
    assert (out / "finding_02.png").exists(), "nothing of the new one, all of the old one"
    assert json.loads((out / "review.json").read_text(encoding="utf-8"))["drawn"] != {}
    files = export_review(ReviewedCase.of(case), out, ("json", "png"))
    kept = {path.name for path in out.iterdir()}
    assert kept == {"review.json", "finding_01.png", "export.json", "notes.txt"}
    assert all(path.parent == out and path.exists() for path in files.values())


@pytest.mark.parametrize("is_begun", [False, True])
def test_no_export_before_the_first_opinion(tmp_path: Path, is_begun: bool) -> None:
    session, case = opened(write_case(tmp_path / "case"), unaided_first=True)
    if is_begun:
        case.draw(hand_map() > 0.5)
    with pytest.raises(InputError, match="must wait for the first opinion"):
        ReviewedCase.of(case)
    case.give_opinion("normal", 60)
    assert export_review(ReviewedCase.of(case), tmp_path / "out", ("html",))["html"].exists()
    session.close()
