"""The napari plugin: a valid manifest, layers in one millimetre world, a real viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari_headclip_med.files.reader import get_reader, read_result_folder
from napari_headclip_med.files.sample_data import LESION, synthetic_head
from napari_headclip_med.layers.grid import display_grid
from orientations import every_orientation
from writing_phantom import SHAPE, make_result, oblique_affine

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import directions, voxel_to_world
from headclip_med.writing import write_result

npe2 = pytest.importorskip("npe2")
napari_layers = pytest.importorskip("napari.layers")

MANIFEST = "headclip-med"


def layer_of(data: Any, kwargs: dict[str, Any], kind: str) -> Any:
    return {"image": napari_layers.Image, "labels": napari_layers.Labels}[kind](data, **kwargs)


def lesion_world(ras_mm: tuple[float, float, float]) -> np.ndarray:
    """The documented axis mapping of an axis-aligned volume: inferior, posterior, left."""
    right, anterior, superior = ras_mm
    return np.array([-superior, -anterior, -right])


# -- manifest


def test_the_manifest_is_valid_and_installed_under_the_distributions_name() -> None:
    manifest = npe2.PluginManifest.from_distribution(MANIFEST)
    assert manifest.name == MANIFEST
    assert manifest.package_metadata is not None
    manifest.validate_imports()
    assert [reader.accepts_directories for reader in manifest.contributions.readers] == [True, True, False]
    assert [sample.key for sample in manifest.contributions.sample_data] == ["synthetic_head", "synthetic_result"]
    assert [widget.display_name for widget in manifest.contributions.widgets] == ["Review anomaly maps"]


# -- geometry


@pytest.mark.parametrize("affine", every_orientation(), ids=lambda a: "".join(nib.aff2axcodes(a)))
def test_every_orientation_is_shown_in_the_same_world(affine: np.ndarray) -> None:
    array = np.zeros(SHAPE)
    voxel = (3, 7, 2)
    array[voxel] = 1
    grid = display_grid(affine, SHAPE)
    shown = grid.view(array)
    assert np.shares_memory(shown, array)
    index = np.argwhere(shown == 1)[0]
    ras = voxel_to_world(affine, np.array(voxel))
    assert (grid.scale > 0).all()
    np.testing.assert_allclose(index * grid.scale + grid.translate, lesion_world(tuple(ras)), atol=1e-9)
    np.testing.assert_allclose(voxel_to_world(grid.display_to_voxel, index), voxel)


def test_an_oblique_volume_keeps_its_millimetres_and_the_way_back() -> None:
    affine = oblique_affine()
    grid = display_grid(affine, SHAPE)
    np.testing.assert_allclose(grid.scale, [4, 1.5, 1])  # slices (S), rows (A), columns (R)
    first, last = np.zeros(3), np.array(grid.view(np.zeros(SHAPE)).shape) - 1
    for index in (first, last):
        world = index * grid.scale + grid.translate
        ras = voxel_to_world(affine, voxel_to_world(grid.display_to_voxel, index))
        np.testing.assert_allclose(voxel_to_world(grid.world_to_ras, world), ras, atol=1e-9)


def test_the_world_axes_run_inferior_posterior_left() -> None:
    cosines = directions(display_grid(oblique_affine(), SHAPE).display_to_ras)
    assert (np.diag(cosines.T @ [[0, 0, -1], [0, -1, 0], [-1, 0, 0]]) > 0.9).all()


# -- sample data


def test_the_sample_lesion_lies_at_its_millimetres() -> None:
    (image, _, image_kind), (truth, truth_kwargs, truth_kind) = synthetic_head()
    assert (image_kind, truth_kind) == ("image", "labels")
    assert image.shape == truth.shape
    layer = layer_of(truth, truth_kwargs, truth_kind)
    centre = np.argwhere(np.asarray(layer.data) == 1).mean(axis=0)
    np.testing.assert_allclose(layer.data_to_world(centre), lesion_world(LESION.centre_mm), atol=1.0)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("I", "P", "L")
    way_back = layer.metadata["headclip_med"]["world_to_ras"]
    np.testing.assert_allclose(voxel_to_world(way_back, layer.data_to_world(centre)), LESION.centre_mm, atol=1.0)
    inside = np.asarray(truth, dtype=bool)
    around = np.asarray(image)[(np.asarray(image) > 0) & ~inside]
    assert image[inside].mean() > 1.5 * around.mean()


# -- result folders


def test_a_result_folder_opens_as_map_and_mask_in_place(tmp_path: Path) -> None:
    result = make_result()
    write_result(result, tmp_path, formats=("nifti",))
    read = get_reader(str(tmp_path))
    assert read is not None
    (amap, map_kwargs, _), (mask, mask_kwargs, _) = read(str(tmp_path))
    layer = layer_of(amap, map_kwargs, "image")
    peak = np.array((2, 5, 3))  # first voxel of the block in the array on disk
    index = np.linalg.solve(layer.metadata["headclip_med"]["display_to_voxel"], [*peak, 1])[:3]
    assert layer.data[tuple(index.round().astype(int))] == pytest.approx(0.8)
    ras = voxel_to_world(layer.metadata["headclip_med"]["world_to_ras"], np.array(layer.data_to_world(index)))
    np.testing.assert_allclose(ras, voxel_to_world(result.affine, peak), atol=1e-4)
    np.testing.assert_array_equal(mask == 1, amap >= 0.5)
    assert map_kwargs["contrast_limits"] == (0, 1)
    assert mask_kwargs["metadata"]["headclip_med"]["threshold"] == 0.5
    assert "Research use only" in mask_kwargs["metadata"]["headclip_med"]["research_use_only"]


def test_the_record_itself_opens_its_folder(tmp_path: Path) -> None:
    write_result(make_result(), tmp_path, formats=("nifti",))
    path = str(tmp_path / "result.json")
    read = get_reader(path)
    assert read is not None
    assert [kwargs["name"] for _, kwargs, _ in read(path)] == [
        "case.nii.gz anomaly map",
        "case.nii.gz anomaly mask",
    ]


def test_what_is_not_ours_is_left_to_other_readers(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path)) is None
    (tmp_path / "result.json").write_text('{"accuracy": 1}', encoding="utf-8")
    assert get_reader(str(tmp_path)) is None
    assert get_reader([str(tmp_path)]) is None


def test_a_result_that_cannot_be_shown_is_refused_in_words(tmp_path: Path) -> None:
    write_result(make_result(), tmp_path, formats=("json",))
    with pytest.raises(InputError, match="Run the prediction again with --format nifti"):
        read_result_folder(str(tmp_path))
    write_result(make_result(), tmp_path, formats=("nifti",))
    (tmp_path / "anomaly_map.nii.gz").write_bytes(b"altered")
    with pytest.raises(InputError, match=r"anomaly_map\.nii\.gz has changed"):
        read_result_folder(str(tmp_path))


# -- a real viewer


def test_sample_and_result_open_in_a_viewer_in_millimetres(viewer: Any, tmp_path: Path, npe2pm: Any) -> None:
    npe2pm.register(npe2.PluginManifest.from_distribution(MANIFEST))
    head, truth = viewer.open_sample(MANIFEST, "synthetic_head")
    first, last = head.extent.world
    np.testing.assert_allclose(last - first, 2.0 * (np.array((96, 112, 96)) - 1))  # between voxel centres
    np.testing.assert_allclose(first + last, 0, atol=1e-9)
    viewer.dims.set_point(range(3), lesion_world(LESION.centre_mm))
    assert truth.get_value(lesion_world(LESION.centre_mm), world=True) == 1

    write_result(make_result(), tmp_path, formats=("nifti",))
    opened = viewer.open(str(tmp_path), plugin=MANIFEST)
    assert [layer.name for layer in opened] == ["case.nii.gz anomaly map", "case.nii.gz anomaly mask"]
    assert [str(unit) for unit in viewer.layers.extent.units] == ["millimeter"] * 3
    assert viewer.screenshot(canvas_only=True, flash=False).any()
