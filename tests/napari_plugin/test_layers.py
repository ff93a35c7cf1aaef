"""Layers of a case and letters at the edges, in viewers without a window; readers and writers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries
from napari_case import PEAKS, SHAPE, affine_2mm, anomaly_map, open_session, write_case
from napari_headclip_med.files.reader import get_dicom_reader, get_volume_reader, read_volume_files
from napari_headclip_med.files.writer import write_image, write_labels
from napari_headclip_med.layers.case import CaseLayers
from napari_headclip_med.layers.grid import display_grid
from napari_headclip_med.layers.orientation import PLANE_ORDER, Orientation, camera_orientation, edge_letters
from napari_headclip_med.layers.picture import map_range, picture_of, picture_of_run
from napari_headclip_med.layers.volume import volume_layers
from orientations import every_orientation
from PIL import Image
from writing_phantom import oblique_affine

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.geometry import voxel_to_world
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import LoadedVolume

components = pytest.importorskip("napari.components")

EVERY = pytest.mark.parametrize("affine", every_orientation(), ids=lambda a: "".join(nib.aff2axcodes(a)))


@pytest.fixture
def model() -> Any:
    """A viewer without a window."""
    return components.ViewerModel()


def nearest_letter(direction: np.ndarray) -> str:
    axis = int(np.abs(direction).argmax())
    return (("R", "L"), ("A", "P"), ("S", "I"))[axis][0 if direction[axis] > 0 else 1]


# -- orientation


@EVERY
def test_letters_are_right_in_every_order_of_axes_and_both_conventions(affine: np.ndarray) -> None:
    shape = (3, 4, 5)
    grid = display_grid(affine, shape)

    def ras(index: np.ndarray) -> np.ndarray:
        return voxel_to_world(affine, voxel_to_world(grid.display_to_voxel, index))

    for displayed, convention in itertools.product(
        itertools.permutations(range(3), 2), ("radiological", "neurological")
    ):
        orientation = camera_orientation(displayed, convention)  # type: ignore[arg-type]
        left, right, top, bottom = edge_letters(grid.world_to_ras, displayed, orientation)
        step_down, step_right = np.zeros(3), np.zeros(3)
        step_down[displayed[0]], step_right[displayed[1]] = 1, 1 if orientation[1] == "right" else -1
        origin = ras(np.zeros(3))
        assert right == nearest_letter(ras(step_right) - origin)
        assert left == nearest_letter(origin - ras(step_right))
        assert bottom == nearest_letter(ras(step_down) - origin)
        assert top == nearest_letter(origin - ras(step_down))


def test_planes_are_shown_as_radiologists_and_neurologists_expect(model: Any) -> None:
    orientation = Orientation(model)
    model.add_image(np.zeros((3, 4, 5)))
    shown = {}
    for convention in ("radiological", "neurological"):
        orientation.set_convention(convention)  # type: ignore[arg-type]
        for plane in PLANE_ORDER:
            orientation.show_plane(plane)
            shown[convention, plane] = "".join(orientation.letters)
    assert shown == {
        ("radiological", "axial"): "RLAP",
        ("radiological", "coronal"): "RLSI",
        ("radiological", "sagittal"): "APSI",
        ("neurological", "axial"): "LRAP",
        ("neurological", "coronal"): "LRSI",
        ("neurological", "sagittal"): "APSI",
    }
    model.dims.ndisplay = 3
    assert orientation.letters == ("", "", "", "")


def test_letters_of_an_oblique_volume_say_how_it_leans() -> None:
    world_to_ras = display_grid(oblique_affine(), SHAPE).world_to_ras
    assert edge_letters(world_to_ras, (1, 2)) == ("RA", "LP", "AL", "PR")


# -- layers


@EVERY
def test_a_marked_corner_is_where_it_should_be_in_every_layer(affine: np.ndarray, model: Any, tmp_path: Path) -> None:
    write_case(tmp_path, affine=affine)
    session = open_session(tmp_path)
    case = session.open_case("case")
    corner = (0, 0, 0)
    ras = voxel_to_world(affine, np.array(corner))
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    image[0, 0, 0, 0] = 7
    layers = CaseLayers(model)
    layers.open(picture_of(case, LoadedVolume(image, affine, VolumeMeta(source_name="x.nii.gz"))))
    assert layers.grid is not None
    world = (-ras[2], -ras[1], -ras[0])  # inferior, posterior, left
    np.testing.assert_allclose(layers.grid.world_of(ras), world)
    model.dims.set_point(range(3), world)
    assert layers.sources[0].get_value(world, world=True) == 7
    for layer in model.layers:
        np.testing.assert_allclose(layer.scale, layers.grid.scale)
        assert (np.asarray(layer.scale) > 0).all()
        np.testing.assert_allclose(np.array(layer.data_to_world((0, 0, 0))), layers.grid.translate, atol=1e-9)
    # the most suspicious slice of the source, whatever way its axis runs
    for index in (0, 5, SHAPE[case.data.axis] - 1):
        layers.jump(index)
        assert layers.current_index() == index
    session.close()


def test_maps_of_a_run_go_where_their_slices_are(model: Any) -> None:
    from headclip_med.base.geometry import slice_frame

    affine = affine_2mm()
    layers, amap = CaseLayers(model), anomaly_map().astype(np.float32)
    layers.open(picture_of_run(LoadedVolume(amap[None], affine, VolumeMeta(source_name="x")), affine, 2))
    frame = slice_frame(affine, "axial")
    from headclip_med.slicing.slices import cut_array

    layers.put_maps(frame, [4, 5], cut_array(amap[None], frame, [4, 5])[:, 0])
    assert layers.grid is not None
    shown = layers.grid.to_source(np.asarray(layers.map.data))
    np.testing.assert_array_equal(shown[..., 4:6], amap[..., 4:6])
    assert not shown[..., 6:].any()
    layers.close()
    assert len(model.layers) == 0


def test_what_was_open_before_is_hidden_for_the_case_and_shown_again(model: Any, tmp_path: Path) -> None:
    other = model.add_image(np.zeros((3, 4, 5)))
    write_case(tmp_path)
    layers = CaseLayers(model)
    with open_session(tmp_path) as session:
        layers.open(picture_of(session.open_case("case"), None))
        assert not other.visible
        layers.close()
        assert other.visible


def test_colours_span_from_half_the_threshold_to_the_peak_or_twice_the_threshold() -> None:
    assert map_range(np.full((2, 2, 2), 0.9, dtype=np.float32), 0.3) == pytest.approx((0.15, 0.9))
    assert map_range(np.full((2, 2, 2), 0.1, dtype=np.float32), 0.3) == pytest.approx((0.15, 0.6))


def test_contours_follow_decisions_where_only_they_changed(model: Any, tmp_path: Path) -> None:
    write_case(tmp_path)
    layers = CaseLayers(model)
    with open_session(tmp_path) as session:
        case = session.open_case("case")
        case.show_overlay()
        layers.open(picture_of(case, None))
        assert layers.grid is not None
        codes = layers.grid.to_source(layers.contours.data)
        layers.show_findings(case.components.labels, case.findings)
        before = int(codes[PEAKS[0]])
        case.judge(case.findings[0].id, "accepted")
        layers.show_findings(case.components.labels, case.findings)
        assert codes[PEAKS[0]] not in (0, before)
        assert codes[PEAKS[1]] == before
        np.testing.assert_array_equal(codes > 0, case.data.volume_map >= 0.5)


# -- volumes


def test_sequences_become_layers_of_their_own_and_colours_one() -> None:
    affine = affine_2mm()
    array = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE)).astype(np.float32)
    sequences = volume_layers(LoadedVolume(array, affine, VolumeMeta(source_name="a + b + c", modality="MR")))
    assert [kwargs["name"] for _, kwargs, _ in sequences] == ["a", "b", "c"]
    assert [kwargs["visible"] for _, kwargs, _ in sequences] == [True, False, False]
    ((colours, kwargs, _),) = volume_layers(LoadedVolume(array, affine, VolumeMeta(source_name="a", is_rgb=True)))
    assert kwargs["rgb"]
    assert (colours.dtype, colours.shape[-1]) == (np.uint8, 3)


def test_readers_take_volumes_and_leave_the_rest(tmp_path: Path) -> None:
    source, out = write_case(tmp_path)
    assert get_volume_reader(str(source)) is read_volume_files
    ((_, kwargs, kind),) = read_volume_files(str(source))
    assert kind == "image"
    np.testing.assert_allclose(kwargs["metadata"]["headclip_med"]["affine"], affine_2mm())
    four = tmp_path / "four.nii.gz"
    nib.Nifti1Image(np.zeros((3, 3, 3, 2), dtype=np.float32), np.eye(4)).to_filename(four)
    picture, text = tmp_path / "picture.nii", tmp_path / "text.nrrd"
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(picture, format="PNG")
    text.write_text("hello")
    for path in (four, picture, text, tmp_path / "absent.nii", tmp_path):
        assert get_volume_reader(str(path)) is None
    for folder in (tmp_path / "sources", out):
        assert get_dicom_reader(str(folder)) is None


def test_a_dicom_folder_opens_as_its_series(tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "ct")
    read = get_dicom_reader(str(tmp_path))
    assert read is not None
    ((data, kwargs, _),) = read(str(tmp_path))
    assert data.ndim == 3
    assert kwargs["metadata"]["headclip_med"]["slice_uids"]


# -- writing


@EVERY
def test_labels_are_written_on_the_sources_grid(affine: np.ndarray, tmp_path: Path) -> None:
    grid = display_grid(affine, SHAPE)
    labels = np.zeros(SHAPE, dtype=np.uint16)
    labels[3, 5, 2] = 4
    path = str(tmp_path / "labels.nii.gz")
    assert write_labels(path, grid.view(labels), grid.layer_kwargs(qform_code=1, sform_code=1)) == [path]
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)


def test_a_layer_without_a_place_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="must know its place in the patient"):
        write_image(str(tmp_path / "x.nii.gz"), np.zeros((2, 2, 2)), {"name": "other", "metadata": {}})


def _layer_state(data: Any, *, is_labels: bool = True, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """What napari hands to a writer of a layer that says it lies on the volume of :data:`SHAPE`."""
    from napari.layers import Image as ImageLayer
    from napari.layers import Labels

    place = display_grid(affine_2mm(), SHAPE).layer_kwargs()
    axes = {} if np.ndim(data) == 3 else {"units": None, "axis_labels": None, "scale": None, "translate": None}
    layer = (Labels if is_labels else ImageLayer)(data, **{**place, **axes, **changes})
    data, attributes, _ = layer.as_layer_data_tuple()
    return data, attributes


def _shown() -> np.ndarray:
    return np.ones(display_grid(affine_2mm(), SHAPE).displayed_shape, dtype=np.int64)


OFF_GRID: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "binned": lambda: _layer_state(_shown()[::2, ::2, ::2], scale=(6, 4, 4)),
    "cropped": lambda: _layer_state(_shown()[2:]),
    "transposed": lambda: _layer_state(_shown().transpose(2, 1, 0)),
    "projected": lambda: _layer_state(_shown().max(axis=0)),
    "in colours": lambda: _layer_state(
        np.zeros((*_shown().shape, 3), np.uint8), is_labels=False, rgb=True, **_place_of_three()
    ),
    "moved": lambda: _layer_state(_shown(), translate=(50, 50, 50)),
    "scaled": lambda: _layer_state(_shown(), scale=(1, 1, 1)),
    "turned": lambda: _layer_state(_shown(), rotate=_quarter_turn()),
    "sheared": lambda: _layer_state(_shown(), shear=(0.1, 0, 0)),
    "affine": lambda: _layer_state(_shown(), affine=np.diag([1.0, 2, 1, 1])),
    "image moved": lambda: _layer_state(_shown().astype(float), is_labels=False, translate=(0, 0, 3)),
}


def _quarter_turn() -> np.ndarray:
    return np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def _place_of_three() -> dict[str, Any]:
    place = display_grid(affine_2mm(), SHAPE).layer_kwargs()
    return {key: place[key] for key in ("scale", "translate", "units", "axis_labels")}


@pytest.mark.parametrize("what", OFF_GRID)
def test_a_layer_that_left_its_grid_is_not_written(tmp_path: Path, what: str) -> None:
    data, attributes = OFF_GRID[what]()
    write = write_image if what in ("in colours", "image moved") else write_labels
    with pytest.raises(OutputError, match="exactly the grid of its volume"):
        write(str(tmp_path / "x.nii.gz"), data, attributes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-1, 255, 256, 70000, -(2**31), 2**31 - 1, 2**31, 2**33 + 5])
def test_every_label_is_written_as_it_is_or_refused(tmp_path: Path, value: int) -> None:
    path, shown = str(tmp_path / "x.nii.gz"), _shown()
    shown[0, 0, 0] = value
    data, attributes = _layer_state(shown)
    if value >= 2**31:
        with pytest.raises(OutputError, match="Labels must lie between"):
            write_labels(path, data, attributes)
        return
    write_labels(path, data, attributes)
    assert set(np.unique(np.asarray(nib.load(path).dataobj)).tolist()) == {1, value}


def test_many_series_are_not_opened_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_headclip_med.files import reader

    monkeypatch.setattr(reader, "list_series", lambda folder: list(range(13)))
    with pytest.raises(InputError, match="at most 12 series"):
        reader.read_dicom_folder(str(tmp_path))
