"""Irregular DICOM series through the whole job: what is empty is never scored, what is found lies where it should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_series import MARK, CtSeries, edit
from monai.transforms import Flipd
from oracle import oracle_engine
from typer.testing import CliRunner

from headclip_med.base.errors import InputError
from headclip_med.cli.main import app
from headclip_med.engine.result import AnomalyResult
from headclip_med.reading import read_volume
from headclip_med.writing import write_result

BIG = {"rows": 40, "columns": 40, "row_spacing": 2.0, "column_spacing": 2.0, "slices": 9}


def _predict(folder: Path, policy: str, **options: object) -> AnomalyResult:
    own = {"threshold": 0.3, "window": (500.0, 1000.0), **options}  # only the mark is bright
    return oracle_engine().predict(folder, on_irregular=policy, **own)  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
def test_empty_slices_are_background_whatever_they_are_filled_with(
    tmp_path: Path, modality: str, orientation: str
) -> None:
    series = CtSeries(orientation=orientation, modality=modality, missing=(4, 5), **BIG).write(tmp_path)
    result = _predict(tmp_path, "keep")
    assert [s.index for s in result.slices if s.background] == [4, 5]
    assert [s.index for s in result.slices if s.uid is None] == [4, 5]
    assert result.map_array[..., 4:6].max() == 0
    peak = result.findings[0].peak_mm
    assert peak == pytest.approx(series.mark_ras, abs=1e-3)
    resampled = _predict(tmp_path, "resample")
    assert [s.index for s in resampled.slices if s.background] == [4, 5]


def test_empty_slices_stay_empty_through_a_flip(tmp_path: Path) -> None:
    CtSeries(modality="MR", missing=(2, 3), **BIG).write(tmp_path)
    volume = read_volume(tmp_path, on_irregular="keep")
    flipped = Flipd("v", 2)({"v": volume})["v"]
    result = oracle_engine().predict(flipped)
    assert [s.index for s in result.slices if s.background] == [9 - 1 - 3, 9 - 1 - 2]
    uids = volume.meta["slice_uids"]
    assert [s.uid or "" for s in result.slices] == uids[::-1]


def test_uneven_slices_are_known_by_uid_and_true_position(tmp_path: Path) -> None:
    places = (0.0, 1.0, 2.0, 3.5, 4.5, 5.5, 7.2, 8.2, 9.2)
    series = CtSeries(places=places, **BIG).write(tmp_path)
    result = _predict(tmp_path, "keep")
    assert [s.uid for s in result.slices] == list(result.meta["slice_uids"])
    heights = [s.position_mm[2] for s in result.slices]
    assert heights == pytest.approx([40 + series.step * place for place in places], abs=1e-3)
    with pytest.raises(InputError, match="must be axial: its slices are tilted or unevenly spaced"):
        _predict(tmp_path, "keep", plane="coronal")


def test_a_kept_tilt_scores_the_very_slices_and_places_findings_in_mm(tmp_path: Path) -> None:
    series = CtSeries(tilt_mm=0.6, **BIG).write(tmp_path)
    result = _predict(tmp_path, "keep")
    assert result.findings[0].peak_mm == pytest.approx(series.mark_ras, abs=1e-3)
    assert all(s.uid for s in result.slices)
    (tmp_path / "out").mkdir()
    write_result(result, tmp_path / "out", ("nifti", "html"))
    written = "".join(path.read_text("utf-8", "replace") for path in (tmp_path / "out").glob("*.[jh]*"))
    assert str(tmp_path) not in written
    with pytest.raises(InputError, match="tilted"):
        _predict(tmp_path, "keep", plane="all")
    upright = _predict(tmp_path, "resample", plane="all")
    assert upright.planes == ("axial", "coronal", "sagittal")
    assert all(s.uid is None for s in upright.slices)


def test_frames_of_a_cine_are_scored_one_by_one(tmp_path: Path) -> None:
    CtSeries(slices=1, rows=40, columns=40).write(tmp_path)
    path = next(tmp_path.iterdir())
    frames = np.random.default_rng(0).integers(0, 500, (4, 40, 40)).astype("<i2")
    edit(path, NumberOfFrames=4, PixelData=frames.tobytes(), ImagePositionPatient=None, Modality="US")
    result = oracle_engine().predict(path)
    assert len(result.slices) == 4
    assert not any(s.background for s in result.slices)
    one = oracle_engine().predict(path, time_index=1)
    assert len(one.slices) == 1


POLICIES = {
    "error": (1, "3 missing slice(s). Choose on_irregular="),
    "split": (0, "split into 2 regular stretches, the largest was read"),
    "resample": (0, "resampled onto a regular grid of 3.000 mm"),
    "keep": (0, "3 missing slice(s) are empty: never scored"),
    "squeeze": (2, "must be one of error, split, resample, keep"),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_command_line_under_every_policy(tmp_path: Path, tiny_pack: Path, policy: str) -> None:
    code, words = POLICIES[policy]
    CtSeries(missing=(3, 4, 5), **BIG).write(tmp_path / "series")
    out, files = tmp_path / "out", ["--format", "nifti", "--on-irregular", policy]
    arguments = ["predict", tmp_path / "series", "--out", out, "--model", tiny_pack, "--device", "cpu", *files]
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == code, ran.output
    if code:
        assert words in " ".join(ran.output.split())
        return
    record = json.loads((out / "series" / "result.json").read_text())
    assert words in " ".join(record["warnings"])
    assert record["provenance"]["options"]["on_irregular"] == policy
    assert record["source"]["shape"][2] == {"split": 3, "resample": 9, "keep": 9}[policy]


def test_the_mark_is_where_the_tests_think() -> None:
    assert MARK[2] == 2  # not among the slices that are left out above
