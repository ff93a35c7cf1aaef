"""Normal images of the task at hand: read once, cut as a prediction cuts, for a method that compares with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.base.geometry import slice_frame
from headclip_med.base.volume import image_digest
from headclip_med.detectors import Detector, NormalPixels
from headclip_med.engine.case import make_job
from headclip_med.models.domains import Domain
from headclip_med.models.load import own_preprocessing
from headclip_med.models.scope import ANY_IMAGE, ImageKind, Scope, kind_of, scope_of
from headclip_med.reading import load_volume
from headclip_med.reading.inputs import Source, expand_inputs
from headclip_med.slicing.intensity import PreprocessingKind
from headclip_med.slicing.pixels import slice_limits, slice_pixels
from headclip_med.slicing.slices import evenly

# Slices that are looked at, evenly over the volumes and within each: more hardly add patches that a bank keeps.
_MOST_SLICES = 64


@dataclass(frozen=True)
class Normals:
    """Normal images that were read once and are read again when they are cut, one at a time.

    Attributes:
        name: of the folder, for records. sources: in the order of their names. image_sha256: of each one's values.
        scope: the kind of image that they are.
    """

    name: str
    sources: tuple[Source, ...]
    image_sha256: tuple[str, ...]
    scope: Scope = ANY_IMAGE

    @property
    def sha256(self) -> str:
        """Of all of them together."""
        return hashlib.sha256(" ".join(sorted(self.image_sha256)).encode()).hexdigest()


def read_normals(folder: str | Path) -> Normals:
    """Check a folder of normal images or volumes, or one of them, and take at most 64 of them, copies once.

    Args:
        folder: A folder, or a single image or volume.

    Returns:
        Where they lie, with their hashes and the kind of image that they are.

    Raises:
        InputError: Nothing there, or an image that cannot be read.
    """
    found: dict[str, Source] = {}
    kinds: list[ImageKind] = []
    for case in evenly(expand_inputs([folder]), _MOST_SLICES):
        try:
            volume = load_volume(case.source)
        except HeadclipError as error:
            if case.source == Path(folder):  # nothing to take out: the path itself is wrong
                raise
            raise InputError("Every normal image must be readable", str(error), "Take it out of the folder") from error
        found.setdefault(image_digest(volume.array), case.source)
        kinds.append(kind_of(volume))
    return Normals(Path(folder).name, tuple(found.values()), tuple(found), scope_of(kinds))


def normal_pixels(
    normals: Normals, detector: Detector, domain: Domain, kind: PreprocessingKind = "own"
) -> NormalPixels:
    """Cut the acquisition plane as a prediction with the domain's defaults and this preprocessing does.

    Args:
        normals: At most 64 slices in all are taken, evenly over the volumes and within each.
        detector: Gives the input size, and the device of the pixels.
        domain: Its window, fit and channels are used.
        kind: ``own`` or ``released`` preprocessing.

    Returns:
        Pixels ``(n, 3, S, S)``, limits ``(n, S, S)`` and the volume that each slice is of.

    Raises:
        InputError: Nothing but background in them.
    """
    share = max(1, _MOST_SLICES // len(normals.sources))
    device = detector.tower.device
    pixels, valid, volumes = [], [], list[int]()
    for number, source in enumerate(normals.sources):
        job = make_job(load_volume(source), domain.name, own_preprocessing(detector, domain, kind))
        scan, frame = job.scan(), slice_frame(job.affine, job.planes[0])
        for index in evenly(scan.foreground_slices(frame), share):
            pixels.append(slice_pixels(scan, frame, [index], device))
            valid.append(slice_limits(scan, frame, scan.inside(frame, [index]), device))
            volumes.append(number)
    if not pixels:
        raise InputError("Normal images must show the patient", f"{normals.name} with nothing but background")
    return NormalPixels(torch.cat(pixels), torch.cat(valid), tuple(volumes))
