"""Volumes of known lesions, or of none, → a bank of slices of all planes to pretrain on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import check_affine, slice_frame, spacing
from headclip_med.base.types import PLANES, Affine
from headclip_med.datasets import Case, open_dataset
from headclip_med.datasets.loading import load_labelled
from headclip_med.datasets.names import VOLUME_ENDINGS, files_in, stem_of
from headclip_med.models.record import SHORT_HASH, LedgerEntry
from headclip_med.reading.content import existing_path
from headclip_med.slicing.intensity import Preprocessing, foreground, intensity_ranges, place
from headclip_med.slicing.pixels import rescale, to_square
from headclip_med.slicing.slices import cut_slices
from headclip_med.training.pretraining.config import PretrainConfig, Source
from headclip_med.training.pretraining.lesions import SEQUENCES
from headclip_med.training.synthetic import TRAINING_SEED_LIMIT, random_phantom

Floats = NDArray[np.float32]

_PHANTOM_SEED = 22
_SEEN = 0.01  # of a slice that must be patient for it to be worth a look


@dataclass(frozen=True)
class Anatomy:
    """Slices of all planes in display orientation, in the model's square.

    Attributes:
        images: ``(N, S, S)`` uint8.
        lesions: ``(N, S, S)`` bool, known ones.
        inside: ``(N, S, S)`` bool, the patient.
        brain: ``(N, S, S)`` bool, where a lesion may be painted.
        share: ``(N,)`` how often a slice is drawn, relative to the others.
        sequence: ``(N,)`` index into SEQUENCES.
    """

    images: Tensor
    lesions: Tensor
    inside: Tensor
    brain: Tensor
    share: Tensor
    sequence: Tensor

    def __len__(self) -> int:
        return len(self.images)


def read_anatomy(
    config: PretrainConfig, spec: Preprocessing, told: Callable[[str], None] | None = None
) -> tuple[Anatomy, tuple[LedgerEntry, ...]]:
    """Read the bank of every source and of the synthetic heads, and what goes into the data ledger.

    Args:
        config: Names the sources.
        spec: Gives the input size.
        told: Called with the name of each volume that was cut.

    Returns:
        Slices of all sources, and one line of the ledger for each.

    Raises:
        InputError: A source that cannot be read, or a patient to leave out that no source has.
    """
    parts: list[Anatomy] = []
    ledger: list[LedgerEntry] = []
    unknown = set(config.leave_out)
    for source in config.sources:
        hashes = []
        for sequence, case, masks_known in _cases(source):
            unknown.discard(case.patient or case.name)
            if (case.patient or case.name) in config.leave_out:
                continue
            labelled = load_labelled(case, masks_known=masks_known)
            volume = labelled.volume
            array = np.asarray(volume.as_tensor()[0].numpy(), dtype=np.float32)
            truth = np.zeros(array.shape, dtype=bool) if labelled.gt_mask is None else labelled.gt_mask
            affine = check_affine(np.asarray(volume.affine, dtype=np.float64), case.name)
            share = source.share * (config.flair_share if sequence == "t2f" else 1.0)
            parts.append(
                cut_anatomy(
                    array,
                    truth,
                    affine,
                    spec,
                    sequence,
                    share=share,
                    skull_mm=source.skull_mm,
                    ignored=labelled.ignored,
                )
            )
            hashes.append(labelled.image_sha256[:SHORT_HASH])
            if told is not None:
                told(f"{case.name} {sequence}")
        if hashes:
            entry = LedgerEntry(name=source.name, licence=source.licence, count=len(hashes))
            ledger.append(entry.model_copy(update={"image_sha256": tuple(sorted(hashes))}))
    if unknown:
        raise InputError("A patient to leave out must be in a source", ", ".join(sorted(unknown)), "Check leave_out")
    if config.phantoms:
        parts += _phantoms(config, spec, told)
        ledger.append(
            LedgerEntry(
                name=f"headclip_med.datasets.phantom, seed {_PHANTOM_SEED}: synthetic heads",
                licence="Apache-2.0",
                count=config.phantoms,
            )
        )
    if not parts:
        raise InputError("Pretraining must have something to learn from", "no volume", "Give sources or phantoms")
    return _joined(parts), tuple(ledger)


def _cases(source: Source) -> list[tuple[str, Case, bool]]:
    """Sequence, case, and whether its mask is known, of every volume of a source."""
    if source.healthy is not None:
        path = existing_path(source.path)
        files = files_in(path, VOLUME_ENDINGS) if path.is_dir() else [path]
        return [(source.healthy, Case(stem_of(file), (file,)), False) for file in files]
    found: list[tuple[str, Case, bool]] = []
    for sequence in source.sequences:
        dataset = open_dataset(source.path, sequences=[sequence])
        for case in dataset:
            if not case.has_mask:
                raise InputError(
                    "A source with lesions must say where they are", f"{case.name} has no mask", "Choose its folder"
                )
            found.append((sequence, case, True))
    return found


def _phantoms(config: PretrainConfig, spec: Preprocessing, told: Callable[[str], None] | None) -> list[Anatomy]:
    parts = []
    for number in range(config.phantoms):
        rng = np.random.default_rng([_PHANTOM_SEED, number])
        head = random_phantom(rng, int(rng.integers(TRAINING_SEED_LIMIT)))
        skull = 16.0 if _has_skull(head.array, head.truth) else 0.0
        share = config.phantom_share / config.phantoms
        parts.append(cut_anatomy(head.array, head.truth > 0, head.affine, spec, "t1c", share=share, skull_mm=skull))
        if told is not None:
            told(f"synthetic head {number + 1} of {config.phantoms}")
    return parts


def _has_skull(array: Floats, truth: NDArray[np.uint8]) -> bool:
    """Whether a phantom's outermost tissue is scalp: bright above the dark ring of the skull."""
    inside = array > 0
    depth = ndimage.distance_transform_edt(inside)
    outer, ring = array[inside & (depth <= 2)], array[inside & (depth > 4) & (depth <= 6)]
    return bool(np.median(outer) > np.median(ring))


def cut_anatomy(
    array: Floats,
    truth: NDArray[np.bool_],
    affine: Affine,
    spec: Preprocessing,
    sequence: str,
    *,
    every: int = 2,
    share: float = 1.0,
    skull_mm: float = 0.0,
    ignored: NDArray[np.bool_] | None = None,
) -> Anatomy:
    """Cut every so many slices of each plane that show the patient, and of those with a lesion all.

    Args:
        array: ``(I, J, K)``.
        truth: ``(I, J, K)``, known lesions.
        affine: Voxel → RAS mm.
        spec: Gives the input size and black and white.
        sequence: One of SEQUENCES.
        every: From one slice to the next, of those without lesion.
        share: How often its slices are drawn, all together.
        skull_mm: How deep the brain lies below the surface, 0 where the skull was stripped.
        ignored: ``(I, J, K)``, voxels about which nothing is known: slices that hold any are left out.

    Returns:
        Slices of all three planes.
    """
    mask = foreground(array[None], modality=None)
    brain = mask
    if skull_mm:
        brain = ndimage.distance_transform_edt(ndimage.binary_fill_holes(mask), sampling=spacing(affine)) > skull_mm
    ranges = intensity_ranges(array[None], mask, spec, is_rgb=False)
    layers = torch.from_numpy(np.stack([array, *(part.astype(np.float32) for part in (truth, mask, brain))]))
    squares = []
    for plane in PLANES:
        frame = slice_frame(affine, plane)
        others = tuple(a for a in range(3) if a != frame.axis)
        seen = np.flatnonzero(mask.mean(axis=others) > _SEEN)
        with_lesion = np.flatnonzero(truth.any(axis=others))
        is_open = set() if ignored is None else {*np.flatnonzero(ignored.any(axis=others)).tolist()}
        cut = cut_slices(layers, frame, sorted(({*seen[::every].tolist()} | {*with_lesion.tolist()}) - is_open))
        steps = spacing(affine)
        pixel_mm = (float(steps[frame.row_axis]), float(steps[frame.col_axis]))
        where = place((int(cut.shape[2]), int(cut.shape[3])), pixel_mm, spec.image_size, spec.fit)
        squares.append(to_square(torch.cat([rescale(cut[:, :1], ranges), cut[:, 1:]], dim=1), where))
    images, lesions, inside, inner = torch.cat(squares).unbind(dim=1)
    count = len(images)
    return Anatomy(
        images=(images * 255).round().to(torch.uint8),
        lesions=lesions >= 0.5,
        inside=(inside >= 0.5) | (lesions >= 0.5),
        brain=inner >= 0.5,
        share=torch.full((count,), share / max(1, count)),
        sequence=torch.full((count,), SEQUENCES.index(sequence)),
    )


def _joined(parts: Sequence[Anatomy]) -> Anatomy:
    return Anatomy(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Anatomy)})
