"""Several readers and the shell: tables by hand, the case list, what is said where something is missing."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from review_cases import AFFINE, LOW, SHAPE, TWIN, at, hand_map, mm, write_case
from small_cases import write_tiny_pack, write_volume
from typer.testing import CliRunner, Result

from headclip_med.base.errors import InputError, MissingExtraError, ModelError
from headclip_med.cli.main import app
from headclip_med.review import Mark, Session
from headclip_med.review.heads import explain_heads
from headclip_med.review.model import Opinion
from headclip_med.review.readings import gather
from headclip_med.review.tables import roc_score
from headclip_med.writing.record import load_result


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def two_readers(tmp_path: Path) -> Path:
    """anna reads unaided first and finds LOW by herself; ben has the overlay at once and accepts the bar only."""
    out = tmp_path / "out"
    write_case(out / "case")
    with Session.open([out], "anna", unaided_first=True) as session:
        case = session.open_case("case")
        mask = np.zeros(SHAPE)
        mask[LOW] = 1
        case.draw(mask, confidence=55)
        case.give_opinion("normal", 40, marks=[Mark(position_mm=mm((0, 0, 0)), confidence=5)])
        case.erase("d1")
        case.judge(at(TWIN), "accepted", confidence=95)
        case.judge(at(LOW), "uncertain")
        case.give_opinion("abnormal", 80)
        case.set_done()
    with Session.open([out], "ben") as session:
        case = session.open_case("case")
        case.show_overlay()
        case.judge(at(TWIN), "accepted")
        case.judge(at(LOW), "rejected")
    return out


def truth_file(folder: Path, name: str = "case_seg.nii.gz") -> Path:
    """Two lesions: the bar's last voxel with one beside it, and LOW."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[4:6, 2, 2] = 1
    mask[LOW] = 2
    folder.mkdir(exist_ok=True)
    nib.Nifti1Image(mask, AFFINE).to_filename(folder / name)
    return folder


def test_roc_scores_by_hand() -> None:
    opinions = [("normal", 100), ("normal", 40), ("uncertain", 90), ("abnormal", 0), ("abnormal", 80)]
    scores = [roc_score(Opinion(rating=r, confidence=c, when="")) for r, c in opinions]  # type: ignore[arg-type]
    assert scores == [0, 30, 50, 50, 90]
    assert roc_score(None) is None


def test_tables_of_two_readers_against_a_truth(tmp_path: Path) -> None:
    out, truth = two_readers(tmp_path), truth_file(tmp_path / "truth")
    done = run("review-tables", out, "--out", tmp_path / "tables", "--truth", truth, "--lesion-values", "all", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["reviews"] == 2
    anna, ben = read(tmp_path / "tables" / "cases.csv")
    assert (anna["reader"], anna["first_rating"], anna["roc_first"], anna["rating"], anna["roc"]) == (
        *("anna", "normal", "30.0", "abnormal", "90.0"),
    )
    assert (anna["unaided_first"], anna["done"], anna["lesions"], anna["model_score"]) == ("True", "True", "2", "0.9")
    assert (ben["roc_first"], ben["roc"], ben["accepted"], ben["rejected"], ben["seconds_unaided"]) == (
        *("", "", "1", "1", ""),
    )
    marks = [
        (m["reader"], m["condition"], m["mark"], m["rating"], m["rating_from"], m["lesion"])
        for m in read(tmp_path / "tables" / "marks.csv")
    ]
    assert marks == [
        ("anna", "unaided", "p1", "5", "mark", ""),
        ("anna", "unaided", "d1", "55", "mark", "case-2"),
        ("anna", "aided", at(TWIN), "95", "mark", "case-1"),
        ("anna", "aided", at(LOW), "90.0", "case", "case-2"),
        ("ben", "aided", at(TWIN), "90.0", "map", "case-1"),
    ]
    first, second = read(tmp_path / "tables" / "lesions.csv")
    assert (first["lesion"], first["voxels"], float(first["volume_mm3"])) == ("case-1", "2", 12.0)
    assert [float(second[f"{axis}_mm"]) for axis in "xyz"] == pytest.approx(mm(LOW))
    findings = read(tmp_path / "tables" / "findings.csv")
    assert [(f["reader"], f["finding"], f["status"]) for f in findings] == [
        ("anna", at(TWIN), "accepted"),
        ("anna", at(LOW), "uncertain"),
        ("ben", at(TWIN), "accepted"),
        ("ben", at(LOW), "rejected"),
    ]
    for name in ("cases", "marks", "lesions", "findings"):
        rows = read(tmp_path / "tables" / f"{name}.csv")
        assert all(row["research_use_only"].startswith("Research use only") for row in rows)


def test_one_reader_can_be_the_truth_for_the_others(tmp_path: Path) -> None:
    out = two_readers(tmp_path)
    done = run("review-tables", out, "--out", tmp_path / "tables", "--reference", "anna")
    assert done.exit_code == 0, done.output
    (mark,) = read(tmp_path / "tables" / "marks.csv")
    assert (mark["reader"], mark["lesion"]) == ("ben", f"anna:{at(TWIN)}")
    assert [row["lesion"] for row in read(tmp_path / "tables" / "lesions.csv")] == [f"anna:{at(TWIN)}"]


def test_reviews_kept_elsewhere_find_their_results(tmp_path: Path) -> None:
    write_case(tmp_path / "a" / "case")
    write_case(tmp_path / "b" / "case", hand_map(0.9))
    with Session.open([tmp_path / "a", tmp_path / "b"], session_dir=tmp_path / "session") as session:
        for entry in session.cases:
            session.open_case(entry.key).show_overlay()
    with pytest.raises(InputError, match="--results"):
        gather([tmp_path / "session"])
    readings = gather([tmp_path / "session"], results=[tmp_path / "a", tmp_path / "b"])
    names = {reading.case for reading in readings}
    assert len(names) == 2
    assert all(name.startswith("case-") for name in names)  # two results of one name


def test_what_cannot_be_put_together_is_refused_in_words(tmp_path: Path) -> None:
    out = two_readers(tmp_path)
    copy = tmp_path / "copy.json"
    copy.write_bytes((out / "case" / "review_anna.json").read_bytes())
    refusals: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (([tmp_path / "nowhere"],), {}, "exists"),
        (([tmp_path / "tables"],), {}, "exists"),
        (([out, copy],), {"results": [out]}, "one review of a case"),
        (([out],), {"reference": "carl"}, "one of the readers"),
        (([out],), {"truth": [tmp_path]}, "one truth mask for the case"),
        (([out],), {"truth": [tmp_path], "reference": "anna"}, "a reader's or masks"),
    ]
    for arguments, more, words in refusals:
        with pytest.raises(InputError, match=words):
            gather(*arguments, **more)
    nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), AFFINE).to_filename(tmp_path / "case.nii.gz")
    with pytest.raises(InputError, match="on the grid of its case"):
        gather([out], truth=[tmp_path / "case.nii.gz"])


def test_a_killed_readers_journal_counts_in_the_tables(tmp_path: Path) -> None:
    write_case(tmp_path / "case")
    case = Session.open([tmp_path]).open_case("case")
    case.show_overlay()
    case.judge(at(TWIN), "accepted")
    (reading,) = gather([tmp_path])
    assert reading.review.findings[at(TWIN)].status == "accepted"
    assert not (tmp_path / "case" / "review_reader.json").exists()


# -- headclip-med review


def test_the_list_of_cases_in_the_shell(tmp_path: Path) -> None:
    out = two_readers(tmp_path)
    write_case(out / "broken")
    (out / "broken" / "anomaly_map.nii.gz").unlink()
    shown = run("review", out, "--list", "--reader", "anna")
    assert shown.exit_code == 0, shown.output
    assert "done" in shown.stdout
    assert "no anomaly_map.nii.gz" in shown.stdout
    listed = json.loads(run("review", out, "--list", "--json", "--reader", "ben").stdout)
    assert [(c["key"], c["judged"], c["begun"], c["done"]) for c in listed["cases"]] == [
        ("case", 2, True, False),
        ("broken", 0, False, False),
    ]
    concealed = json.loads(run("review", out, "--list", "--json", "--reader", "new", "--unaided-first").stdout)
    assert concealed["cases"][0]["score"] is None
    assert not list(out.rglob("review_new*"))


def test_wrong_usage_of_review_is_told(tmp_path: Path) -> None:
    write_case(tmp_path / "case")
    for arguments, words in (
        ((tmp_path, "--json"), "--json must come with --list"),
        ((tmp_path / "nowhere", "--list"), "must hold a result"),
        ((tmp_path, "--list", "--reader", "a/b"), "reader's id"),
    ):
        told = run("review", *arguments)
        assert told.exit_code == 2
        assert words in " ".join(told.stderr.split())


def test_without_napari_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "napari" else found(name, *a))
    told = run("review", write_case(tmp_path / "case"))
    assert told.exit_code == 2
    assert "pip install 'headclip-med[review]'" in " ".join(told.stderr.split())


def test_the_window_gets_the_whole_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    opened: list[Session] = []
    launch = ModuleType("napari_headclip_med.launch")
    launch.open_review = opened.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "napari_headclip_med.launch", launch)
    found = importlib.util.find_spec
    fake = ("napari", "qtpy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: found("json" if name in fake else name, *a))
    folder = write_case(tmp_path / "case")
    options = ("--reader", "r1", "--unaided-first", "--session", tmp_path / "s", "--source", tmp_path)
    done = run("review", folder, *options, "--source", folder)
    assert done.exit_code == 0, done.output
    (session,) = opened
    assert (session.reader, session.unaided_first, session.session_dir) == ("r1", True, tmp_path / "s")
    assert session.sources == (tmp_path, folder)
    assert [entry.key for entry in session.cases] == ["case"]


# -- heads


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Pack, source and result of a prediction with a random model."""
    root = tmp_path_factory.mktemp("predicted")
    pack, source = write_tiny_pack(root / "tiny"), write_volume(root / "scan.nii.gz")
    done = run("predict", source, "--model", pack, "--device", "cpu", "--format", "nifti", "--out", root / "out")
    assert done.exit_code == 0, done.output
    return pack, source, root / "out" / "scan"


def test_heads_of_a_slice_are_ranked_and_drawn(predicted: tuple[Path, Path, Path]) -> None:
    pack, source, folder = predicted
    record, *_ = load_result(folder)
    heads = explain_heads(record, source, 3, model=str(pack))
    assert "slice 3" in heads.place
    assert [row.logits for row in heads.rows] == sorted((row.logits for row in heads.rows), reverse=True)
    parts = dict(heads.parts)
    assert parts.pop("logit") == pytest.approx(sum(parts.values()), abs=1e-3)
    assert heads.picture.size[0] > 300
    assert "Research use only" in heads.research_use_only


def test_heads_need_the_very_model_and_torch(
    predicted: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, source, folder = predicted
    record, *_ = load_result(folder)
    with pytest.raises(ModelError):
        explain_heads(record, source, 3)  # its name alone says nothing here
    with pytest.raises(ModelError, match="another"):
        explain_heads(record, source, 3, model=str(write_tiny_pack(tmp_path / "other", seed=1)))
    exported = record.model_copy(update={"provenance": {**record.provenance, "export_sha256": "ab" * 32}})
    with pytest.raises(ModelError, match="exported file"):
        explain_heads(exported, source, 3)
    monkeypatch.setattr("headclip_med.review.heads.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="torch"):
        explain_heads(record, source, 3)


# -- one patient's findings and truth stay that patient's


def reviews_of(folder: Path, cases: dict[str, tuple[str, float]], reader: str = "anna") -> Path:
    """Results by folder, each of a source of this name with a map of its own scale; every finding accepted."""
    for where, (source, scale) in cases.items():
        meta = {"source_name": source, "content_sha256": f"{round(scale * 1000):064x}"}
        write_case(folder / where, hand_map(scale), meta=meta)
        with Session.open([folder / where], reader) as session:
            case = session.open_case(Path(where).name)
            case.show_overlay()
            for finding in case.findings:
                case.judge(finding.id, "accepted")
    return folder


@pytest.mark.parametrize("kind", ["two roots", "three roots", "case of letters", "one reader each"])
def test_a_case_has_one_name_in_every_table(tmp_path: Path, kind: str) -> None:
    places = {
        "two roots": ("a/flair", "b/flair"),
        "three roots": ("a/flair", "b/flair", "c/flair"),
        "case of letters": ("a/flair", "b/FLAIR"),
        "one reader each": ("a/flair", "b/flair"),
    }[kind]
    for number, place in enumerate(places):
        reader = f"r{number}" if kind == "one reader each" else "anna"
        reviews_of(tmp_path / "out", {place: ("flair.nii.gz", 1 - 0.05 * number)}, reader)
    files = ("cases", "findings", "marks")
    done = run("review-tables", tmp_path / "out", "--out", tmp_path / "tables")
    assert done.exit_code == 0, done.output
    found = {
        name: {(r["case"], r["result_sha256"]) for r in read(tmp_path / "tables" / f"{name}.csv")} for name in files
    }
    assert len(found["cases"]) == len(places)
    assert len({case.casefold() for case, _ in found["cases"]}) == len(places)
    assert all(found[name] == found["cases"] for name in files)


def one_lesion(path: Path, voxel: tuple[int, int, int] = TWIN) -> Path:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[voxel] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(mask, AFFINE).to_filename(path)
    return path


FLAIRS = {"flair": ("flair.nii.gz", 1.0), "flair_2": ("flair.nii.gz", 0.95)}
TWO_ROOTS = {"p1/flair": ("flair.nii.gz", 1.0), "p2/flair": ("flair.nii.gz", 0.95)}


@pytest.mark.parametrize(
    ("cases", "masks", "words"),
    [
        (FLAIRS, ("flair_seg",), "one truth mask for the case flair_2; .*0 named after it.*flair_2_mask"),
        (TWO_ROOTS, ("flair_seg",), "must fit one case only; .*flair-.* and flair-.*not of one image"),
        ({"a": FLAIRS["flair"], "b": FLAIRS["flair_2"]}, ("flair",), "must fit one case only.* a and b.*b/flair"),
        (TWO_ROOTS, ("x/flair", "y/flair"), "2 named after it"),
        ({"flair_2": FLAIRS["flair_2"]}, ("flair_mask",), "0 named after it"),
        (FLAIRS, ("flair_seg", "flair_2_seg"), ""),
        (FLAIRS, ("flair/seg", "flair_2/seg"), ""),
        (TWO_ROOTS, ("p1/flair_seg", "p2/flair_seg"), ""),
        (TWO_ROOTS, ("deep/p1/anat/flair", "deep/p2/anat/flair"), ""),
        ({"a": ("x.nii.gz", 1.0), "b": ("y.nii.gz", 0.95)}, ("x_truth", "y_truth"), ""),
    ],
)
def test_one_truth_is_never_that_of_two_patients(
    tmp_path: Path, cases: dict[str, tuple[str, float]], masks: tuple[str, ...], words: str
) -> None:
    out = reviews_of(tmp_path / "out", cases)
    voxels = dict(zip(masks, (TWIN, LOW), strict=False))
    for mask, voxel in voxels.items():
        one_lesion(tmp_path / "truth" / f"{mask}.nii.gz", voxel)
    if words:
        with pytest.raises(InputError, match=words):
            gather([out], truth=[tmp_path / "truth"])
        return
    readings = gather([out], truth=[tmp_path / "truth"])
    found = {r.review.result.content_sha256: r.lesions.labels for r in readings if r.lesions is not None}
    for (_, scale), voxel in zip(cases.values(), (TWIN, LOW), strict=True):
        assert np.argwhere(found[f"{round(scale * 1000):064x}"]).tolist() == [list(voxel)]


def test_two_results_of_one_image_share_its_truth_which_may_lie_beside_the_image(tmp_path: Path) -> None:
    from headclip_med.base.files import sha256_file

    image, mask = one_lesion(tmp_path / "p" / "t1.nii.gz", LOW), one_lesion(tmp_path / "p" / "t1_mask.nii.gz")
    for name, scale in (("one", 1.0), ("two", 0.9)):
        meta = {"source_name": image.name, "content_sha256": sha256_file(image)}
        write_case(tmp_path / "out" / name, hand_map(scale), meta=meta)
        with Session.open([tmp_path / "out" / name]) as session:
            session.open_case(name).show_overlay()
    for reading in gather([tmp_path / "out"], truth=[mask.parent]):
        assert reading.lesions is not None
        assert np.argwhere(reading.lesions.labels).tolist() == [list(TWIN)]


def _filled(fill: float, lesion: float = 1, more: tuple[float, ...] = ()) -> np.ndarray:
    values = np.full(SHAPE, fill, dtype=np.float32)
    values[LOW] = lesion
    for number, value in enumerate(more):
        values[number, 0, 0] = value
    return values


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (_filled(np.nan), {}, ""),
        (_filled(0, 1, (np.inf, -np.inf)), {}, ""),
        (_filled(0, 255), {}, ""),
        (_filled(-1), {}, "which values of the mask case.nii.gz are lesions.*-1, 1"),
        (_filled(-1), {"lesion_values": "1"}, ""),
        (_filled(0, 1, (255, 255)), {}, "which values .*1, 255"),
        (_filled(0, 1, (255, 255)), {"ignore_values": "255"}, ""),
        (_filled(1, 2), {}, "--lesion-values"),
        (_filled(1, 2), {"lesion_values": "2"}, ""),
        (_filled(0, 2.5), {}, "must hold whole numbers"),
        (_filled(-0.3, 1), {}, "must hold whole numbers"),
    ],
)
def test_what_is_not_0_is_not_yet_a_lesion(
    tmp_path: Path, values: np.ndarray, options: dict[str, Any], words: str
) -> None:
    out = reviews_of(tmp_path / "out", {"case": ("case.nii.gz", 1.0)})
    nib.Nifti1Image(values.astype(np.float32), AFFINE).to_filename(tmp_path / "case.nii.gz")
    if words:
        with pytest.raises(InputError, match=words):
            gather([out], truth=[tmp_path / "case.nii.gz"], **options)
        return
    (reading,) = gather([out], truth=[tmp_path / "case.nii.gz"], **options)
    assert reading.lesions is not None
    assert np.argwhere(reading.lesions.labels).tolist() == [list(LOW)]


def test_a_mark_where_nothing_is_known_is_neither_hit_nor_false(tmp_path: Path) -> None:
    out = reviews_of(tmp_path / "out", {"case": ("case.nii.gz", 1.0)})
    values = _filled(0)
    values[1:6, 1:4, 1:4] = 255
    nib.Nifti1Image(values.astype(np.uint8), AFFINE).to_filename(tmp_path / "case.nii.gz")
    told = run(
        *("review-tables", out, "--out", tmp_path / "t", "--truth", tmp_path / "case.nii.gz"),
        *("--ignore-values", "255"),
    )
    assert told.exit_code == 0, told.output
    marks = {row["mark"]: (row["lesion"], row["ignored"]) for row in read(tmp_path / "t" / "marks.csv")}
    assert marks == {at(TWIN): ("", "True"), at(LOW): ("case-1", "")}


def test_tables_without_a_truth_leave_no_lesions_of_an_earlier_one(tmp_path: Path) -> None:
    out, truth, tables = two_readers(tmp_path), truth_file(tmp_path / "truth"), tmp_path / "tables"
    options = ("--truth", truth, "--lesion-values", "1,2")
    assert run("review-tables", out, "--out", tables, *options).exit_code == 0
    assert (tables / "lesions.csv").exists()
    assert run("review-tables", out, "--out", tables).exit_code == 0
    assert {path.name for path in tables.iterdir()} == {"cases.csv", "findings.csv", "marks.csv"}
    (tables / "lesions.csv").write_text("my own list")
    assert run("review-tables", out, "--out", tables).exit_code == 0
    assert (tables / "lesions.csv").read_text() == "my own list"
    (tables / "export.json").write_text("{}")
    told = run("review-tables", out, "--out", tables)
    assert told.exit_code == 2
    assert "a folder of their own" in " ".join(told.stderr.split())
