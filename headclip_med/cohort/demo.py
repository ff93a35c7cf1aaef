"""The main job on an embedded volume whose lesion is known: shows that an installation works, offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from headclip_med.base.files import atomic_path
from headclip_med.base.geometry import voxel_to_world, voxel_volume
from headclip_med.base.types import Affine
from headclip_med.cohort.outcome import CaseOutcome
from headclip_med.cohort.run import predict_case
from headclip_med.datasets.phantom import Lesion, Phantom, make_phantom
from headclip_med.writing.folder import check_case_folder
from headclip_med.writing.record import load_result

if TYPE_CHECKING:
    from headclip_med.engine.batches import Cancel
    from headclip_med.engine.engine import Engine
    from headclip_med.engine.scan_run import SlicesDone

VOLUME_NAME = "demo_volume.nii.gz"
TRUTH_NAME = "demo_truth.nii.gz"
CASE_NAME = "demo_volume"

# The embedded model is trained on seeds below 1 000 000: it has never seen this head.
SEED = 2_000_011
LESION = Lesion(
    centre_mm=(22.0, -22.0, 28.0), radii_mm=(11.0, 12.0, 10.0), kind="bright", strength=0.45, irregularity=0.2
)
SHAPE = (128, 144, 112)
SPACING_MM = 1.5
# A patient never lies exactly straight; turned about the S axis, then about the R axis.
_TURN_DEGREES, _TILT_DEGREES = 6.0, -4.0


@dataclass(frozen=True)
class DemoOutcome:
    """Where the lesion is and where it was found.

    Attributes:
        case: Of the normal predict path.
        files: Everything written, by kind.
        lesion_mm, lesion_volume_mm3: RAS mm centre and size of the truth.
        found_mm: RAS mm centroid of the finding with the highest peak, None without any finding.
        distance_mm: Between the two.
        dice: Of the mask and the truth, 1 is perfect.
    """

    case: CaseOutcome
    files: dict[str, Path]
    threshold: float
    lesion_mm: tuple[float, float, float]
    lesion_volume_mm3: float
    found_mm: tuple[float, float, float] | None
    distance_mm: float | None
    dice: float


def run_demo(
    out_dir: Path,
    engine: Engine[Any] | None = None,
    progress: SlicesDone | None = None,
    cancel: Cancel | None = None,
) -> DemoOutcome:
    """Make the embedded volume, predict it from its file, and compare with the truth.

    Args:
        out_dir: Gets ``demo_volume.nii.gz``, ``demo_truth.nii.gz`` and the case folder ``demo_volume``.
        engine: Default the embedded model on the best device here.
        progress: Told of slices done and slices in all after each batch.
        cancel: Asked before each batch.

    Returns:
        Where the lesion is and where it was found.

    Raises:
        HeadclipError: As :func:`headclip_med.cohort.run.predict_case`.
    """
    check_case_folder(out_dir, CASE_NAME)
    if engine is None:
        from headclip_med.engine.load import load_engine

        engine = load_engine()
    phantom = demo_phantom()
    volume, truth = out_dir / VOLUME_NAME, out_dir / TRUTH_NAME
    _save(np.round(phantom.array).astype(np.int16), phantom.affine, volume)
    _save(phantom.truth, phantom.affine, truth)
    case = predict_case(engine, volume, out_dir, CASE_NAME, progress=progress, cancel=cancel)
    record, _, mask_path = load_result(out_dir / CASE_NAME)
    mask = np.asarray(nib.load(str(mask_path)).dataobj)
    lesion_mm = _centre_mm(phantom)
    found_mm = record.findings[0].centroid_mm if record.findings else None
    written = {kind: out_dir / CASE_NAME / file.name for kind, file in record.files.items()}
    return DemoOutcome(
        case=case,
        files={"volume": volume, "truth": truth, **written, "result": out_dir / CASE_NAME / "result.json"},
        threshold=record.threshold,
        lesion_mm=lesion_mm,
        lesion_volume_mm3=float(phantom.truth.sum()) * voxel_volume(phantom.affine),
        found_mm=found_mm,
        distance_mm=None if found_mm is None else float(np.linalg.norm(np.subtract(found_mm, lesion_mm))),
        dice=dice(mask, phantom.truth),
    )


def demo_phantom() -> Phantom:
    """Make a FLAIR-like brain, 1.5 mm, stored in LPS order on a slightly oblique grid, with one lesion.

    Without its skull, as the volumes are that the embedded model learned from.

    Returns:
        An array ``(128, 144, 112)`` with its affine and the lesion's mask.
    """
    return make_phantom(SEED, shape=SHAPE, affine=demo_affine(), contrast="flair", lesions=(LESION,), skull=False)


def demo_affine() -> Affine:
    """Place the grid: first axis to the left, second to posterior, its middle at the origin.

    Returns:
        Voxel → RAS mm, ``(4, 4)``.
    """
    turn, tilt = np.radians(_TURN_DEGREES), np.radians(_TILT_DEGREES)
    about_s = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_r = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = about_r @ about_s @ np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM])
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(SHAPE, dtype=float) - 1) / 2)
    return affine


def dice(mask: NDArray[Any], truth: NDArray[Any]) -> float:
    """Measure the overlap of two masks, 2 |A ∩ B| / (|A| + |B|).

    Args:
        mask, truth: Of one shape, not 0 inside.

    Returns:
        In [0, 1], 1 when both are empty.
    """
    a, b = mask > 0, truth > 0
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2 * int((a & b).sum()) / total


def _centre_mm(phantom: Phantom) -> tuple[float, float, float]:
    """RAS mm centre of gravity of the truth, which the irregular border moves off the ellipsoid's centre."""
    x, y, z = voxel_to_world(phantom.affine, np.argwhere(phantom.truth).mean(axis=0))
    return float(x), float(y), float(z)


def _save(array: NDArray[Any], affine: Affine, path: Path) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"headclip-med synthetic demo, no patient"
    with atomic_path(path) as draft:
        image.to_filename(draft)
