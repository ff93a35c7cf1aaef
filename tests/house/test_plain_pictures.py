"""A plain picture has pixels and pixel counts: no millimetres, no patient, in nothing that is written or shown."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from typer.testing import CliRunner

from headclip_med.cli.main import app
from headclip_med.engine.load import load_engine
from headclip_med.reading import load
from headclip_med.review import Session
from headclip_med.review.exports import export_review
from headclip_med.review.reviewed import ReviewedCase
from headclip_med.review.sources import match_source
from headclip_med.review.tables import Reading, lesions_of_mask, write_tables
from headclip_med.writing.record import load_result, result_schema

ROWS, COLUMNS = 40, 50


def _picture() -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 60, (ROWS, COLUMNS)).astype(np.uint8)
    values[10:20, 25:37] = 230
    return values


def _png(folder: Path) -> Path:
    Image.fromarray(_picture()).save(folder / "film.png")
    return folder / "film.png"


def _colour(folder: Path) -> Path:
    Image.fromarray(np.stack([_picture(), _picture() // 2, _picture() // 3], axis=-1)).save(folder / "film.png")
    return folder / "film.png"


def _turned_jpeg(folder: Path) -> Path:
    image = Image.fromarray(np.rot90(_picture()))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image.save(folder / "film.jpg", exif=exif, quality=95)
    return folder / "film.jpg"


def _float_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "film.tif", -_picture().astype(np.float32), photometric="miniswhite", byteorder=">")
    return folder / "film.tif"


def _meta_image(folder: Path) -> Path:
    image = sitk.GetImageFromArray(_picture())
    image.SetSpacing((0.5, 0.25))
    sitk.WriteImage(image, str(folder / "film.mha"))
    return folder / "film.mha"


SOURCES = {"png": _png, "colour": _colour, "turned": _turned_jpeg, "tiff": _float_tiff, "mha": _meta_image}


def _predict(source: Path, tiny_pack: Path, *options: str) -> tuple[Path, str]:
    """The case's folder, and what was said on the way."""
    out = source.parent.parent / "out"
    values = load_engine(str(tiny_pack), "cpu").predict(source).map_array
    threshold = f"{np.percentile(values[values > 0], 90):.4f}"
    chosen = ["--model", str(tiny_pack), "--device", "cpu", "--threshold", threshold, *options]
    ran = CliRunner().invoke(app, ["predict", str(source), "--out", str(out), *chosen])
    assert ran.exit_code == 0, ran.output
    return out / source.name.partition(".")[0], ran.output


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of JSON with the key that it, or the list around it, has."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _leaves(branch, key)
    elif isinstance(tree, list):
        for branch in tree:
            yield from _leaves(branch, name)
    else:
        yield name, tree


def _has_millimetres(text: str) -> bool:
    return bool(re.search(r"\bmm\b|mm³|\bm[lL]\b", text))


@pytest.fixture(scope="module", params=SOURCES)
def predicted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path
) -> tuple[Path, str]:
    """The result folder of a picture of some kind, and what was said on the way."""
    folder = tmp_path_factory.mktemp(request.param) / "in"
    folder.mkdir()
    return _predict(SOURCES[request.param](folder), tiny_pack)


class _Words(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def test_the_record_has_pixels_and_no_millimetres(predicted: tuple[Path, str]) -> None:
    folder, _ = predicted
    content = json.loads((folder / "result.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(result_schema()).validate(content)
    measured = {key: value for key, value in content.items() if key != "provenance"}
    assert [(name, value) for name, value in _leaves(measured) if re.search("_mm3?$", name) and value is not None] == []
    assert content["source"]["is_2d"] is True
    record, map_path, _ = load_result(folder)
    first = record.findings[0]
    amap = load(map_path).array[0] if map_path else np.empty(0)
    assert first.voxels > 0
    assert amap[first.peak_voxel or ()] == pytest.approx(first.peak)
    assert (np.array(first.voxel_min) <= (first.centroid_voxel or ())).all()
    assert (np.array(first.voxel_max) >= (first.centroid_voxel or ())).all()


def test_map_and_mask_are_pictures_of_the_pictures_own_pixels(predicted: tuple[Path, str]) -> None:
    folder, _ = predicted
    record, map_path, mask_path = load_result(folder)
    assert {"map", "mask", "map_png", "mask_png", "preview", "report"} == set(record.files)
    assert map_path is not None
    assert mask_path is not None
    with Image.open(folder / "anomaly_map.png") as image:
        levels = np.asarray(image)
        assert image.mode == "I;16"
    assert levels.shape == (ROWS, COLUMNS)
    np.testing.assert_allclose(levels / 65535, load(map_path).array[0, :, :, 0].T, atol=0.5 / 65535 + 1e-7)
    with Image.open(folder / "anomaly_mask.png") as image:
        mask = np.asarray(image)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(mask > 0, load(mask_path).array[0, :, :, 0].T > 0)


def test_words_say_pixels(predicted: tuple[Path, str]) -> None:
    folder, said = predicted
    (line,) = (line for line in said.splitlines() if line.startswith("film: score"))
    assert re.search(r"highest 0\.\d{3} at column \d+, row \d+ \([\d,]+ px\)", line)
    assert not _has_millimetres(line)
    words = " ".join(_Words((folder / "report.html").read_text("utf-8")).words)
    assert re.search(r"column \d+, row \d+", words)
    assert f"{COLUMNS} × {ROWS} pixels" in words
    assert not _has_millimetres(re.sub(r"1 mm is assumed", "", words))
    assert "Radiological" not in words
    run = json.loads((folder.parent / "run.json").read_text("utf-8"))
    top = run["cases"][0]["top_finding"]
    assert (top["volume_mm3"], top["centroid_mm"]) == (None, None)
    column, row = top["centroid_px"]
    assert f"column {column:.0f}, row {row:.0f}" in words


def test_a_resumed_case_is_told_in_the_same_words(tmp_path: Path, tiny_pack: Path) -> None:
    (tmp_path / "in").mkdir()
    _, first = _predict(_png(tmp_path / "in"), tiny_pack)
    _, again = _predict(_png(tmp_path / "in"), tiny_pack, "--resume")
    place = re.compile(r"at column \d+, row \d+ \([\d,]+ px\)")
    assert place.search(first)[0] == place.search(again)[0]  # type: ignore[index]
    assert "finished earlier" in again


@pytest.mark.parametrize(("formats", "pictures"), [("nifti", 0), ("json", 0), ("png", 2), ("png,html", 2)])
def test_pictures_of_map_and_mask_come_with_png(tmp_path: Path, tiny_pack: Path, formats: str, pictures: int) -> None:
    (tmp_path / "in").mkdir()
    folder, _ = _predict(_png(tmp_path / "in"), tiny_pack, "--format", formats)
    assert len(list(folder.glob("anomaly_*.png"))) == pictures
    assert sum(kind.endswith("_png") for kind in load_result(folder)[0].files) == pictures


def _reviewed(folder: Path, source: Path) -> ReviewedCase:
    """The first finding accepted, a region drawn, an opinion with a place."""
    session = Session.open([folder])
    case = session.open_case(folder.name)
    drawn = np.zeros(case.data.shape, dtype=np.uint8)
    drawn[2:5, 30:34] = 1
    case.draw(drawn, label="scratch")
    case.give_opinion("abnormal", 70)
    case.show_overlay()
    case.judge(case.findings[0].id, "accepted")
    case.give_opinion("abnormal", 90, marks=[(-3.0, -31.0, 0.0)])
    matched = match_source(case.record, [source]).volume
    reviewed = ReviewedCase(case.data, case.review, matched)
    session.close()
    return reviewed


def test_a_review_of_a_picture_is_exported_in_pixels(tmp_path: Path, tiny_pack: Path) -> None:
    (tmp_path / "in").mkdir()
    source = _png(tmp_path / "in")
    folder, _ = _predict(source, tiny_pack)
    reviewed = _reviewed(folder, source)
    files = export_review(reviewed, tmp_path / "export")
    assert set(files) == {"json", "csv", "nifti", "html", "png_01", "png_02", "mask_png"}

    with files["csv"].open(encoding="utf-8") as file:
        accepted, drawn = csv.DictReader(file)
    assert {accepted[name] + drawn[name] for name in accepted if name.endswith(("_mm", "_mm3"))} == {""}
    assert (float(drawn["x_px"]), float(drawn["y_px"]), drawn["voxels"]) == (3.0, 31.5, "12")
    record = load_result(folder)[0]
    assert float(accepted["peak_x_px"]) == (record.findings[0].peak_voxel or ())[0]

    content = json.loads(files["json"].read_text("utf-8"))
    said = {key: content[key] for key in ("findings", "drawn")}
    assert [(name, value) for name, value in _leaves(said) if re.search("_mm3?$", name) and value is not None] == []
    words = " ".join(_Words(files["html"].read_text("utf-8")).words)
    assert "12 px" in words
    assert "column 3, row 32" in words
    assert not _has_millimetres(words)

    with Image.open(files["mask_png"]) as image:
        mask = np.asarray(image)
    assert mask.shape == (ROWS, COLUMNS)
    np.testing.assert_array_equal(mask > 0, load(files["nifti"]).array[0, :, :, 0].T > 0)
    assert (mask[30:34, 2:5] == 255).all()


def test_tables_of_readers_have_pixels(tmp_path: Path, tiny_pack: Path) -> None:
    (tmp_path / "in").mkdir()
    source = _png(tmp_path / "in")
    folder, _ = _predict(source, tiny_pack)
    truth = np.zeros((COLUMNS, ROWS, 1), dtype=np.uint8)
    truth[2:5, 30:34] = 1
    reading = Reading(_reviewed(folder, source), "film", lesions_of_mask(truth, "film"))
    files = write_tables([reading], tmp_path / "tables")
    rows: dict[str, list[dict[str, str]]] = {}
    for name in ("findings", "marks", "lesions"):
        with files[name].open(encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
        assert {row[column] for row in rows[name] for column in row if column.endswith(("_mm", "_mm3"))} == {""}
    assert [
        (m["condition"], m["x_px"], m["y_px"], m["lesion"]) for m in rows["marks"] if m["status"] != "accepted"
    ] == [
        ("unaided", "3.0", "31.5", "film-1"),
        ("aided", "3.0", "31.5", "film-1"),
        ("aided", "3.0", "31.0", "film-1"),
    ]
    assert [(row["x_px"], row["y_px"], row["voxels"]) for row in rows["lesions"]] == [("3.0", "31.5", "12")]


def _as_first_version(tree: Any, affine: Any = None) -> Any:
    """What version 1 wrote of a picture: places through the affine, as if a pixel were a millimetre."""
    if isinstance(tree, list):
        return [_as_first_version(item, affine) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: _as_first_version(value, affine) for key, value in tree.items()}
    if "centroid_voxel" in tree:
        centroid, peak = tree.pop("centroid_voxel"), tree.pop("peak_voxel")
        low, high = np.array(tree["voxel_min"]), np.array(tree["voxel_max"])
        tree |= {
            "volume_mm3": float(tree["voxels"]),
            "centroid_mm": [-centroid[0], -centroid[1], centroid[2]],
            "peak_mm": [float(-peak[0]), float(-peak[1]), float(peak[2])],
            "extent_mm": (high - low + 1.0).tolist(),
        }
    if "spacing_mm" in tree:
        tree["spacing_mm"] = [1.0, 1.0, 1.0]
    if "position_mm" in tree and tree["position_mm"] is None:
        tree["position_mm"] = [-24.5, -19.5, 0.0]
    version = str(tree.get("schema_version", ""))
    if version.endswith(("result/2", "review/2")):
        tree["schema_version"] = version[:-1] + "1"
    return tree


def test_results_and_reviews_of_the_first_version_are_read(tmp_path: Path, tiny_pack: Path) -> None:
    (tmp_path / "in").mkdir()
    source = _png(tmp_path / "in")
    folder, _ = _predict(source, tiny_pack)
    new = load_result(folder)[0]
    path = folder / "result.json"
    path.write_text(json.dumps(_as_first_version(json.loads(path.read_text("utf-8")))), encoding="utf-8")
    assert load_result(folder)[0] == new

    reviewed = _reviewed(folder, source)
    old = tmp_path / "old.json"
    export_review(reviewed, tmp_path / "new")
    old.write_text(json.dumps(_as_first_version(json.loads((tmp_path / "new" / "review.json").read_text("utf-8")))))
    again = ReviewedCase.load(folder, old, reviewed.source)
    export_review(again, tmp_path / "again")
    for name in ("findings.csv", "accepted_mask.png", "review.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


def test_a_volume_keeps_its_millimetres(volume: Path, tiny_pack: Path) -> None:
    folder, said = _predict(volume, tiny_pack)
    record, *_ = load_result(folder)
    assert "mm (" in said
    first = record.findings[0]
    assert first.volume_mm3 == pytest.approx(first.voxels * np.prod(record.source.spacing_mm or ()))
    affine = np.array(record.source.affine)
    np.testing.assert_allclose(affine @ [*(first.centroid_voxel or ()), 1], [*(first.centroid_mm or ()), 1])
    assert sorted(folder.glob("anomaly_*.png")) == []


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
def test_a_negative_is_scored_as_the_picture_that_it_shows(tmp_path: Path, tiny_pack: Path, kind: str) -> None:
    positive = _picture().astype(int)
    top = np.iinfo(kind).max if kind.startswith("u") else 0
    tifffile.imwrite(tmp_path / "negative.tif", (top - positive).astype(kind), photometric="miniswhite")
    Image.fromarray(_picture()).save(tmp_path / "positive.png")
    engine = load_engine(str(tiny_pack), "cpu")
    negative, shown = (engine.predict(tmp_path / name).map_array for name in ("negative.tif", "positive.png"))
    np.testing.assert_allclose(negative, shown, atol=1e-5)


def _hu(folder: Path) -> Path:
    values = _picture().astype(np.int16) - 100
    sitk.WriteImage(sitk.GetImageFromArray(values), folder / "slice.mha")
    return folder / "slice.mha"


@pytest.mark.parametrize("write", [_png, _turned_jpeg, _float_tiff, _hu])
def test_a_window_in_hu_is_not_laid_over_grey_levels(write: Any, tmp_path: Path, tiny_pack: Path) -> None:
    """--domain head-ct cut a PNG at 80 of 255; a picture in HU keeps the window, and one that was asked for counts."""
    path, engine = write(tmp_path), load_engine(tiny_pack)
    plain = write is not _hu
    result = engine.predict(path, domain="head-ct")
    assert (result.display_window == (0.0, 80.0)) is not plain
    assert any("grey levels, not HU: the domain's window 40/80" in note for note in result.warnings) is plain
    asked = engine.predict(path, domain="head-ct", window=(40, 80))
    assert asked.display_window == (0.0, 80.0)
    assert np.array_equal(asked.map_array, result.map_array) is not plain
