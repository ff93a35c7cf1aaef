"""Synthetic head volumes with lesions of known place and size, for demos, tests and the embedded model.

Anatomy is procedural and defined in RAS millimetres around the origin, so that any grid (any affine) samples
the same head. Nothing here comes from a patient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.geometry import voxel_to_world
from headclip_med.base.types import Affine

Floats = NDArray[np.float32]

LesionKind = Literal["bright", "dark", "rim", "mottled"]
LESION_KINDS: tuple[LesionKind, ...] = ("bright", "dark", "rim", "mottled")

# Relative signal of scalp, skull, CSF, grey matter, white matter, deep nuclei.
CONTRASTS: dict[str, tuple[float, ...]] = {
    "flair": (0.70, 0.12, 0.12, 0.58, 0.45, 0.52),
    "t2": (0.55, 0.10, 1.00, 0.60, 0.42, 0.48),
    "t1": (0.90, 0.10, 0.18, 0.50, 0.74, 0.58),
}

# Half-width of the cube (mm) in which the smooth random fields are defined.
_FIELD_HALF_WIDTH = 128.0


@dataclass(frozen=True)
class Lesion:
    """A lesion: an ellipsoid with an irregular border.

    Attributes:
        centre_mm: RAS mm.
        radii_mm: semi-axes along R, A, S.
        kind: how its signal differs from the tissue around it.
        strength: signal difference relative to the brightest tissue, in (0, 1].
        irregularity: amplitude of the border's deviation relative to the radius, where 0 is an exact ellipsoid.
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    kind: LesionKind = "bright"
    strength: float = 0.5
    irregularity: float = 0.25


@dataclass(frozen=True)
class Phantom:
    """A synthetic volume and its truth.

    Attributes:
        array: ``(I, J, K)`` float32 signal in about [0, 1000], 0 outside the head.
        affine: voxel index → RAS mm.
        truth: ``(I, J, K)`` uint8, 1 inside a lesion.
        lesions: what was put in.
    """

    array: Floats
    affine: Affine
    truth: NDArray[np.uint8]
    lesions: tuple[Lesion, ...] = field(default=())


def centred_affine(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Affine:
    """Put the middle of a grid at the origin.

    Args:
        shape: Voxels along R, A, S.
        spacing_mm: Of the voxels, mm.

    Returns:
        Voxel index → RAS mm, ``(4, 4)``.
    """
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape, dtype=float) - 1) / 2)
    return affine


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (96, 112, 96),
    affine: Affine | None = None,
    contrast: str | tuple[float, ...] = "flair",
    lesions: tuple[Lesion, ...] = (),
    skull: bool = True,
    noise: float = 0.02,
    bias: float = 0.15,
) -> Phantom:
    """Sample one head on a grid.

    Args:
        seed: Of everything random: anatomy, folding, bias field, noise.
        shape: Voxels.
        affine: Of the grid, voxel index → RAS mm (default: 2 mm isotropic around the origin).
        contrast: A name of :data:`CONTRASTS` or six relative signals in its order.
        lesions: To insert, only where there is brain.
        skull: Keep scalp and skull, or strip them to 0.
        noise: Standard deviation relative to the brightest tissue.
        bias: Amplitude of the smooth gain field.

    Returns:
        The volume and its truth.
    """
    rng = np.random.default_rng(seed)
    grid_affine = centred_affine(shape, (2.0, 2.0, 2.0)) if affine is None else np.asarray(affine, dtype=float)
    ras = _grid_points(shape, grid_affine)
    fold, coarse, gain = (_smooth_field(rng, ras, wavelength) for wavelength in (14.0, 45.0, 110.0))
    tissue, brain = _tissues(rng, ras, fold, coarse)
    levels = np.array([0.0, *(CONTRASTS[contrast] if isinstance(contrast, str) else contrast)], dtype=np.float32)
    signal = levels[tissue]
    if not skull:
        signal = np.where(brain, signal, np.float32(0))
    signal, truth = _insert(signal, brain, ras, lesions, rng)
    head = signal > 0 if not skull else tissue > 0
    signal = ndimage.gaussian_filter(signal, 0.6)
    signal = signal * (1 + bias * gain) * head
    signal += head * rng.normal(0, noise, shape).astype(np.float32)
    array = np.clip(signal, 0, None) * np.float32(1000)
    return Phantom(array.astype(np.float32), grid_affine, truth, lesions)


def random_lesions(
    rng: np.random.Generator, count: int, radius_mm: tuple[float, float] = (4.0, 18.0)
) -> tuple[Lesion, ...]:
    """Draw lesions at random places of the brain, of random kind, size and contrast.

    Args:
        rng: Source of randomness.
        count: How many.
        radius_mm: Smallest and largest radius.

    Returns:
        The lesions.
    """
    return tuple(_random_lesion(rng, radius_mm) for _ in range(count))


def _random_lesion(rng: np.random.Generator, radius_mm: tuple[float, float]) -> Lesion:
    low, high = np.log(radius_mm)
    radius = float(np.exp(rng.uniform(low, high)))
    direction = rng.normal(size=3)
    centre = direction / np.linalg.norm(direction) * rng.uniform(0, 0.85) ** (1 / 3) * np.array([52.0, 68.0, 50.0])
    return Lesion(
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        radii_mm=tuple(float(r) for r in radius * rng.uniform(0.7, 1.3, 3)),  # type: ignore[arg-type]
        kind=LESION_KINDS[rng.choice(4, p=[0.55, 0.15, 0.2, 0.1])],
        strength=float(rng.uniform(0.25, 0.8)),
        irregularity=float(rng.uniform(0.1, 0.4)),
    )


def _grid_points(shape: tuple[int, int, int], affine: Affine) -> Floats:
    """RAS mm of every voxel centre, ``(I, J, K, 3)`` float32."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return voxel_to_world(affine, index).astype(np.float32)


def _smooth_field(rng: np.random.Generator, ras: Floats, wavelength_mm: float) -> Floats:
    """A random field in about [-1, 1] that varies over ``wavelength_mm``, sampled at RAS points."""
    nodes = int(np.ceil(4 * _FIELD_HALF_WIDTH / wavelength_mm)) + 1
    lattice = rng.normal(size=(nodes, nodes, nodes)).astype(np.float32)
    lattice = ndimage.gaussian_filter(lattice, 0.7, mode="wrap")
    lattice /= 2 * lattice.std()
    where = (ras + _FIELD_HALF_WIDTH) * ((nodes - 1) / (2 * _FIELD_HALF_WIDTH))
    return np.asarray(ndimage.map_coordinates(lattice, np.moveaxis(where, -1, 0), order=1, mode="grid-wrap"))


def _depth(ras: Floats, centre: tuple[float, float, float], radii: NDArray[np.float64]) -> Floats:
    """About the depth in mm below the surface of an ellipsoid: positive inside, negative outside."""
    scaled = (ras - np.asarray(centre, dtype=np.float32)) / radii.astype(np.float32)
    return np.asarray((1 - np.linalg.norm(scaled, axis=-1)) * np.float32(radii.min()))


def _tissues(
    rng: np.random.Generator, ras: Floats, fold: Floats, coarse: Floats
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Labels 0 air, 1 scalp, 2 skull, 3 CSF, 4 grey, 5 white, 6 deep nuclei; and the brain with its CSF."""
    head_radii = np.array([76.0, 95.0, 82.0]) * rng.uniform(0.92, 1.08, 3)
    depth = _depth(ras, (0, 0, 0), head_radii) + 3 * coarse
    below_skull = depth - 12.0
    sulcus = 5.0 * np.abs(fold) - 0.8 + np.maximum(below_skull - 16, 0)  # sheets where the field crosses zero
    cortex = np.minimum(below_skull - 2.5 + 2.0 * coarse, sulcus)
    tissue = np.zeros(depth.shape, dtype=np.uint8)
    for label, where in (
        (1, depth > 0),
        (2, depth > 5),
        (3, below_skull > 0),
        (4, cortex > 0),
        (5, cortex > 2.8),
    ):
        tissue[where] = label
    for side in (-1, 1):
        tissue[_depth(ras, (side * 22, 4, 2), np.array([11.0, 16, 11])) + coarse > 0] = 6
        ventricle = _depth(ras, (side * 9, -2, 10), np.array([6.0, 30, 9]) * rng.uniform(0.8, 1.5)) + 1.5 * coarse
        tissue[ventricle > 0] = 3
    fissure = (np.abs(ras[..., 0] + 2 * coarse) < 1.6) & (ras[..., 2] > 18) & (tissue > 3)
    tissue[fissure] = 3
    return tissue, tissue > 2


def _insert(
    signal: Floats,
    brain: NDArray[np.bool_],
    ras: Floats,
    lesions: tuple[Lesion, ...],
    rng: np.random.Generator,
) -> tuple[Floats, NDArray[np.uint8]]:
    truth = np.zeros(signal.shape, dtype=np.uint8)
    top = float(signal[brain].max()) if brain.any() else 1.0
    for lesion in lesions:
        radii = np.asarray(lesion.radii_mm)
        border = _smooth_field(rng, ras, max(8.0, float(radii.min()))) if lesion.irregularity else np.float32(0)
        depth = _depth(ras, lesion.centre_mm, radii) + lesion.irregularity * float(radii.min()) * border
        inside = (depth > 0) & brain
        blend = np.clip(depth / 1.5 + 0.5, 0, 1) * brain
        signal = signal + blend * (_lesion_signal(lesion, depth, ras, signal, top, rng) - signal)
        truth[inside] = 1
    return signal.astype(np.float32), truth


def _lesion_signal(
    lesion: Lesion, depth: Floats, ras: Floats, signal: Floats, top: float, rng: np.random.Generator
) -> Floats:
    delta = np.float32(lesion.strength * top)
    if lesion.kind == "bright":
        return signal + delta
    if lesion.kind == "dark":
        return np.asarray(np.maximum(signal - delta, 0.02 * top))
    if lesion.kind == "rim":
        rim = np.exp(-(((depth - 2.5) / 2.0) ** 2))
        return np.asarray(np.maximum(signal - 0.6 * delta, 0.05 * top) * (1 - rim) + (signal + delta) * rim)
    return np.asarray(np.maximum(signal + 1.2 * delta * _smooth_field(rng, ras, 6.0), 0.02 * top))
