"""Programs and libraries that read the same DICOM, and whether they agree with us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from headclip_med.reading import LoadedVolume


def dcm2niix(source: Path, out: Path) -> nib.Nifti1Image:
    """The one volume that dcm2niix makes of a folder; the test is skipped where it is not installed."""
    program = Path(sys.executable).with_name("dcm2niix")
    if not program.exists():
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    out.mkdir(exist_ok=True)
    ran = subprocess.run(
        [program, "-z", "n", "-f", "scan", "-o", out, source], capture_output=True, text=True, timeout=60, check=False
    )
    files = sorted(out.glob("*.nii"))
    assert len(files) == 1, ran.stdout
    return nib.Nifti1Image.from_filename(files[0])


def assert_same(volume: LoadedVolume, theirs: np.ndarray, affine: np.ndarray) -> None:
    """Every voxel of ours has their value at the same millimetres, whatever the order of their axes."""
    ours = volume.array[0]
    to_theirs = np.linalg.inv(affine) @ volume.affine
    order = np.round(to_theirs)
    np.testing.assert_allclose(affine @ order, volume.affine, atol=1e-3)
    index = np.argwhere(np.ones(ours.shape, bool))
    there = (order @ np.c_[index, np.ones(len(index))].T).T[:, :3].astype(int)
    assert sorted(theirs.shape) == sorted(ours.shape)
    np.testing.assert_allclose(theirs[tuple(there.T)], ours[tuple(index.T)], atol=1e-3)
