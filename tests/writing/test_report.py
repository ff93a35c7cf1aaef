"""What a reader sees: orientation, choice of slices, colours, and the page."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from writing_phantom import FINDING, NO_MILLIMETRES, SHAPE, UID, make_result, oblique_affine, tensor, without_finding

from headclip_med.base.geometry import world_to_voxel
from headclip_med.engine.result import AnomalyResult
from headclip_med.writing.overlay import montage, save_picture
from headclip_med.writing.panels import cropped, direction_letters, overlay_slices, position_text
from headclip_med.writing.report import render_report, write_report

AFFINES = {
    "RAS": np.array([[1.0, 0, 0, -6], [0, 1.5, 0, -7.5], [0, 0, 4, -12], [0, 0, 0, 1]]),
    "LPS": np.array([[-1.0, 0, 0, 6], [0, -1.5, 0, 7.5], [0, 0, 4, -12], [0, 0, 0, 1]]),
    "sagittal": np.array([[0, 0, 4.0, -12], [-1.5, 0, 0, 9], [0, -1, 0, 5], [0, 0, 0, 1]]),
    "oblique": oblique_affine(),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_right_is_left_and_up_is_anterior_or_superior(affine: np.ndarray, plane: str) -> None:
    centre = affine @ [*((np.array(SHAPE) - 1) / 2), 1]
    far = np.array([4.0, 4.0, 4.0])  # mm towards right, anterior, superior: one voxel of the coarsest axis
    i, j, k = np.rint(world_to_voxel(affine, centre[:3] + far)).astype(int)
    image = np.zeros((1, *SHAPE))
    image[0, i, j, k] = 100
    result = make_result(affine=affine, image=image, amap=image[0] / 100, plane=plane)
    (panel,) = overlay_slices(result, 1)
    (row, column) = np.unravel_index(panel.image[..., 0].argmax(), panel.anomaly.shape)
    assert panel.image[row, column].tolist() == [1, 1, 1]
    assert panel.mask[row, column]
    assert row < panel.anomaly.shape[0] / 2  # anterior (axial) or superior is up
    assert column < panel.anomaly.shape[1] / 2  # right, or anterior on a sagittal slice, is left


def test_pixels_keep_their_aspect_and_edges_their_letters() -> None:
    (panel,) = overlay_slices(make_result(affine=AFFINES["sagittal"], plane="coronal"), 1)
    assert panel.anomaly.shape == (10, 6)  # S→I in 10 steps of 1 mm, R→L in 6 steps of 4 mm
    np.testing.assert_allclose(panel.pixel_mm, (1, 4))
    assert panel.letters == ("R", "L", "S", "I")
    (panel,) = overlay_slices(make_result(), 1)  # turned by 20 degrees about S
    assert panel.letters == ("RA", "LP", "AL", "PR")


def test_letters_and_positions_by_hand() -> None:
    assert direction_letters(np.array([0.0, 0.0, -1.0])) == "I"
    assert direction_letters(np.array([0.2, 0.98, 0.0])) == "A"
    assert direction_letters(np.array([-0.6, 0.8, 0.0])) == "AL"
    assert position_text((1.0, -2.0, -3.04), "axial") == "I 3.0 mm"
    assert position_text((1.0, -2.0, -3.04), "coronal") == "P 2.0 mm"
    assert position_text((1.0, -2.0, -3.04), "sagittal") == "R 1.0 mm"


def test_slices_are_spread_over_two_lesions_and_ordered_by_position() -> None:
    amap = np.zeros((4, 4, 40))
    heights = np.maximum(0.9 - 0.05 * abs(np.arange(40) - 10), 0.6 - 0.1 * abs(np.arange(40) - 30))
    amap[1, 1] = np.clip(heights, 0, 1)
    result = make_result(affine=np.diag([1.0, 1, -2, 1]), amap=amap)
    shown = [panel.index for panel in overlay_slices(result, 4)]
    assert {10, 30} <= set(shown)
    assert shown == sorted(shown, reverse=True)  # index runs towards inferior here: inferior first
    assert min(-np.diff(shown)) >= 5
    assert len(overlay_slices(result, 100)) == 40


def test_background_is_shown_only_when_there_is_nothing_else() -> None:
    result = make_result()
    marked = tuple(replace(s, background=s.index != 2) for s in result.slices)
    assert [p.index for p in overlay_slices(replace(result, slices=marked), 3)] == [2]
    all_background = tuple(replace(s, background=True, score=0.0) for s in result.slices)
    assert len(overlay_slices(replace(result, slices=all_background), 3)) == 3


def test_the_window_and_an_inverted_display() -> None:
    image = np.zeros((1, *SHAPE))
    image[:] = 30
    grey = overlay_slices(make_result(image=image, window=(20.0, 60.0)), 1)[0].image
    np.testing.assert_allclose(grey, 0.25)
    inverted = make_result(image=image, window=(20.0, 60.0), meta={"display_inverted": True})
    np.testing.assert_allclose(overlay_slices(inverted, 1)[0].image, 0.75)
    np.testing.assert_allclose(overlay_slices(make_result(image=image, window=(30.0, 30.0)), 1)[0].image, 0)


def test_cropping_drops_the_dark_margin_and_keeps_the_mask() -> None:
    image = np.zeros((1, 60, 60, 1))
    image[0, 20:30, 20:30] = 100
    amap = np.zeros((60, 60, 1))
    amap[39, 25, 0] = 0.9
    panels = overlay_slices(make_result(affine=np.diag([-1.0, -1, 1, 1]), image=image, amap=amap), 1)
    (panel,) = cropped(panels)
    assert panel.anomaly.shape == (10 + 2, 20 + 2 * 2)  # rows j: 10 seen; columns i: 20 seen; margin 8 %
    assert panel.mask.sum() == 1


def _outline_pixels(picture: Image.Image) -> int:
    pixels = np.asarray(picture).astype(int)
    return int((np.abs(pixels - [0x35, 0xE0, 0xFF]).max(axis=2) < 25).sum())


def test_the_montage_outlines_findings_and_only_findings(tmp_path: Path) -> None:
    result = make_result()
    with_finding, without = montage(result), montage(without_finding(result))
    assert with_finding.mode == "RGB"
    bar_line = _outline_pixels(without)  # the threshold on the colour bar is in the same colour
    assert _outline_pixels(with_finding) > 2 * bar_line > 0
    save_picture(montage(result), tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(with_finding))


def _colour_image() -> AnomalyResult:
    amap = np.zeros((40, 20, 1))
    amap[5:10, 5:15] = 0.7
    image = np.zeros((3, 40, 20, 1))
    image[0] = 255
    meta = {"is_2d": True, "is_rgb": True, "source_name": "endoscopy.png", "source_format": "png"}
    places = {"centroid_voxel": (7.0, 9.5, 0.0), "voxel_min": (5, 5, 0), "voxel_max": (9, 14, 0)}
    finding = replace(FINDING, voxels=50, slices=(0, 0), **places, **NO_MILLIMETRES)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    return replace(make_result(affine=affine, amap=amap, image=image, meta=meta), findings=(finding,))


def test_a_colour_image_is_shown_bare_beside_its_overlay() -> None:
    (panel,) = overlay_slices(_colour_image(), 8)
    assert panel.image.shape == (20, 40, 3)
    assert panel.image[0, 0].tolist() == [1, 0, 0]
    assert panel.letters == ("", "", "", "")
    pixels = np.asarray(montage(_colour_image())).astype(int)
    red = (pixels[..., 0] > 240) & (pixels[..., 1:].max(axis=2) < 15)
    columns = np.flatnonzero(red.any(axis=0))
    assert (np.diff(columns) > 1).sum() == 1  # two pictures side by side


@pytest.mark.parametrize(
    ("level", "threshold"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.5), (1.0, 1.0), (0.02, 0.01), (0.3, 0.001)]
)
def test_extreme_maps_and_thresholds_are_drawn(level: float, threshold: float) -> None:
    result = replace(make_result(amap=np.full((6, 5, 3), level)), threshold=threshold)
    assert montage(result).width > 400


def test_odd_file_names_are_drawn_as_they_are() -> None:
    name = "脑$x^2$_{_" + "long" * 40 + ".nii.gz"
    assert montage(make_result(meta={"source_name": name})).width > 400


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = [""]
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in {"src", "href", "srcset", "data"}]

    def handle_data(self, data: str) -> None:
        if self.tags[-1] != "style":
            self.words.append(data.strip())


def test_the_page_tells_what_was_found_in_words_and_millimetres() -> None:
    words = _Page(render_report(make_result())).words
    for expected in ("0.800", "test", "one odd thing", "case.nii.gz", "12 × 10 × 6 voxels", "1 × 1.5 × 4 mm"):
        assert expected in words
    assert "L 23.1 · A 10.2 · S 33.0" in words  # FINDING.centroid_mm
    assert "R 1.0 · P 2.0 · I 3.0" in words  # FINDING.peak_mm
    assert "2.0 × 4.5 × 8.0" in words
    assert "3–4" in words
    assert words[words.index("model.weights_sha256") + 1] == "ab" * 32
    assert sum("Research use only" in word for word in words) == 2


def test_the_page_asks_for_nothing_from_outside() -> None:
    text = render_report(make_result())
    page = _Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert len(page.links) == 1
    assert page.links[0].startswith("data:image/png;base64,")
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    picture = Image.open(io.BytesIO(base64.b64decode(page.links[0].split(",")[1])))
    assert picture.width > 400


def test_text_from_files_never_becomes_markup_and_uids_stay_out() -> None:
    evil = "<script>alert('x')<!--"
    result = replace(make_result(meta={"source_name": f"{evil}.nii"}), warnings=(evil,), threshold_origin=evil)
    text = render_report(result)
    assert "<script" not in text
    assert evil in _Page(text).words
    assert UID not in text


def test_a_page_without_findings_does_not_reassure() -> None:
    text = render_report(without_finding(make_result()))
    assert "No region reaches the threshold. This does not exclude disease." in text


def test_a_plain_image_is_measured_in_pixels(tmp_path: Path) -> None:
    write_report(_colour_image(), tmp_path / "report.html")
    words = _Page((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "column 7, row 10" in words
    assert "5 × 10" in words
    assert "40 × 20 pixels" in words
    assert " mm" not in " ".join(words)


def test_hundreds_of_findings_are_cut_short_in_words() -> None:
    many = tuple(replace(FINDING, label=i + 1) for i in range(80))
    page = render_report(replace(make_result(), findings=many))
    assert "30 more in result.json." in page


def test_a_volume_of_integers_is_shown_too() -> None:
    image = tensor(np.full((1, *SHAPE), 50.0), oblique_affine()).to(dtype=torch.int16)
    assert overlay_slices(replace(make_result(), volume=image), 1)[0].image[0, 0, 0] == pytest.approx(0.5)
