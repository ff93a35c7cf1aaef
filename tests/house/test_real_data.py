"""Real volumes, series and pictures through the whole job, with the embedded model. Skipped where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from headclip_med import load_engine, read_volume
from headclip_med.cohort.run import predict_case
from headclip_med.engine.engine import Engine
from headclip_med.writing.record import load_result

# Slices kept of each volume: enough for a lesion and the grid, few enough for two cores.
CASES = {
    "ms_flair/patient07/flair.nii.gz": "",
    "brats/TCGA-DU-7294/TCGA-DU-7294-t2f.nii.gz": "",
    "dicom/ct_philips": "CT without a window",
    "nrrd/brain2_image.nrrd": "",
    "polyps_2d/images/test_0.jpg": "",
    "brain_mri_2d/yes/Y1.jpg": "",
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine("headclip-tiny", "cpu")


@pytest.mark.parametrize("name", CASES)
def test_real_input_goes_through_predict(name: str, engine: Engine, shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / name
    outcome = predict_case(engine, source, tmp_path, "case")
    assert outcome.error is None
    record, map_path, mask_path = load_result(tmp_path / "case")
    volume = read_volume(source)
    saved = nib.load(map_path)
    assert saved.shape == tuple(volume.shape[1:])
    np.testing.assert_allclose(saved.affine, volume.affine, atol=1e-4)  # NIfTI stores float32
    if name.endswith(".nii.gz"):
        before = nib.load(source)
        np.testing.assert_allclose(saved.affine, before.affine, atol=1e-6)
        for code in ("qform_code", "sform_code"):
            assert int(saved.header[code]) == int(before.header[code])
        assert saved.header.get_xyzt_units()[0] == "mm"
    values = np.asarray(saved.dataobj)
    assert 0 <= values.min() < values.max() <= 1
    np.testing.assert_array_equal(np.asarray(nib.load(mask_path).dataobj) > 0, values >= record.threshold)
    assert CASES[name] in " ".join(record.warnings)
    assert (tmp_path / "case" / "preview.png").stat().st_size > 10_000
    text = json.dumps(record.model_dump(mode="json")) + (tmp_path / "case" / "report.html").read_text()
    assert str(shared) not in text, "no folder of this machine in a result"


def test_a_vision_only_tower_from_a_file_takes_its_built_in_class_vectors(shared: Path) -> None:
    engine = load_engine(shared / "weights" / "dinov2_vits14_timm_fp16.safetensors", "cpu")
    volume = nib.load(shared / "data" / "ms_flair/patient26/flair.nii.gz").slicer[:, :, 100:104]
    array, affine = np.asarray(volume.dataobj, dtype=np.float32), volume.affine
    one, two = engine.predict(array, affine=affine), engine.predict(array, affine=affine)
    np.testing.assert_array_equal(one.map_array, two.map_array)
    assert any("has no text side" in warning for warning in one.warnings)
    assert one.provenance["weights_sha256"].startswith("61b85d06")
