"""Slices through a detector on torch: stored values → pixels → maps in the slices' own size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headclip_med.detectors import Detector, SliceBatch
from headclip_med.detectors.memory import adapted
from headclip_med.engine.device import Precision, choose_device, choose_dtype
from headclip_med.engine.memory import fitting_batch, shortage
from headclip_med.engine.normals import Normals, normal_pixels
from headclip_med.engine.result import AnomalyResult, to_metatensors
from headclip_med.engine.scan_run import Piece
from headclip_med.engine.scorer import Batching, Setup
from headclip_med.models.domains import Domain, get_domain
from headclip_med.models.load import Model, detector_for, own_preprocessing, place_model
from headclip_med.models.record import UNCALIBRATED
from headclip_med.models.scope import Scope
from headclip_med.models.speed import get_speed
from headclip_med.slicing.intensity import PreprocessingKind
from headclip_med.slicing.pixels import from_square, slice_limits, slice_pixels
from headclip_med.slicing.scan import Floats
from headclip_med.slicing.view import other_preprocessing

_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)


@dataclass(frozen=True)
class TorchBatch:
    """A batch on its way to the CPU.

    Attributes:
        insides: Foreground ``(n, H, W)`` bool of each.
        copied: Happens once they are there. None where nothing is waited for.
        maps: Of each piece ``(n, H, W)``.
        scores: Of each piece ``(n,)``.
    """

    maps: list[Tensor]
    scores: list[Tensor]
    insides: list[Any]
    copied: torch.cuda.Event | None


class TorchScorer:
    """A model on a device: a :class:`headclip_med.engine.scorer.Scorer` that makes a detector for each domain.

    Args:
        model: Placed on the device in the type of ``precision``. Stays the engine's from then on.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: Of the matrix products, see :func:`headclip_med.engine.device.choose_dtype`.
        batch_size: Slices at once, default 1 to 8 on a CPU, what fits its memory on a GPU.
        speed: A preset's name.
        normals: Images that the method also compares with, None for none.

    Raises:
        ModelError: No such device, or a model that cannot be placed there.
        InputError: An unknown speed, or a batch below 1.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
        speed: str = "exact",
        normals: Normals | None = None,
    ) -> None:
        self.device, self.speed, self.normals = choose_device(device), get_speed(speed), normals
        self.dtype = choose_dtype(self.device, precision)
        self.model = place_model(model, self.device, self.dtype)
        self._detectors: dict[tuple[str, str | None], Detector] = {}
        self._fits_batch = batch_size is None
        in_flight, across = 2 if self.device.type == "cuda" else 1, self.device.type != "cpu"
        self.batching = Batching(1 if batch_size is None else batch_size, self.device.type, in_flight, across)
        if normals is not None or (model.pack is not None and model.pack.tensors):
            self.detector(model.domain)  # what does not fit is refused now, not at the first case

    @property
    def threshold(self) -> tuple[float, str]:
        """Cut on the map and where it came from. What was chosen without normal images says nothing with them."""
        own = UNCALIBRATED if self.normals is not None else self.model.threshold
        return own.value, own.origin

    def setup(self, domain: str | None, preprocessing: PreprocessingKind | None = None) -> Setup:
        """Give what it brings for a domain and a preprocessing, by default the model's.

        Args:
            domain: By name, None for the model's own.
            preprocessing: ``own`` or ``released``, None for the model's own.

        Returns:
            The domain's detector, and what the model says of smoothing, threshold and scope.

        Raises:
            InputError: No such domain.
            ModelError: The model cannot be used for it.
        """
        chosen = get_domain(domain) if domain else self.model.domain
        kind = preprocessing or self.model.preprocessing
        detector = self.detector(chosen, kind)
        return Setup(
            domain=chosen.name,
            preprocessing=own_preprocessing(detector, chosen, kind),
            detector=detector,
            configuration=detector.describe(),
            smoothing_mm=self.model.pack.record.slice_smoothing_mm if self.model.pack else 0.0,
            threshold=self.threshold,
            device=_device_name(self.device),
            warnings=(
                *self.model.warnings,
                *_limits(detector),
                *_few(self.normals),
                *other_preprocessing(kind, self.model.preprocessing),
            ),
            expected=[*self.model.expected(chosen), *_alike(self.normals)],
        )

    def submit(self, detector: Detector, pieces: Sequence[Piece]) -> TorchBatch | None:
        """Begin to score the slices of ``pieces``, or give None when the device's memory ran out.

        Args:
            detector: Of :meth:`setup`.
            pieces: Slices of one batch.

        Returns:
            A batch on its way to the CPU.
        """
        batch = _begin_batch(detector, pieces, self.device)
        if batch is None and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return batch

    def collect(self, batch: TorchBatch) -> list[tuple[Floats, Floats]]:
        """Wait for the maps and scores of a batch.

        Args:
            batch: Of :meth:`submit`.

        Returns:
            Maps ``(n, H, W)`` in display orientation, 0 outside the patient, and scores ``(n,)`` of each piece, both in
            [0, 1].
        """
        if batch.copied is not None:
            batch.copied.synchronize()
        maps = [part.numpy() * inside for part, inside in zip(batch.maps, batch.insides, strict=True)]
        return list(zip(maps, (part.numpy() for part in batch.scores), strict=True))

    def foreseen(self, detector: Detector, map_bytes: int) -> list[str]:
        """Warn about too little memory for a batch, and on a CPU for two more copies of a map of so many bytes.

        Args:
            detector: Of :meth:`setup`.
            map_bytes: Size of the case's map of one plane.

        Returns:
            One sentence, none where it fits.
        """
        note = shortage(map_bytes, detector, self.batching.size, self.device)
        return [] if note is None else [note]

    def handed_out(self, result: AnomalyResult) -> AnomalyResult:
        """Give the result with MetaTensors.

        Args:
            result: With the map as a numpy array.

        Returns:
            The same result with MetaTensors.
        """
        return to_metatensors(result)

    def identity(self) -> dict[str, Any]:
        """Give what decides the numbers, under the names of a result's provenance: names, hashes, precision.

        Returns:
            Plain JSON values.
        """
        precision = str(self.dtype).removeprefix("torch.")
        seen = self.normals
        facts = {} if seen is None else {"normals": len(seen.sources), "normals_sha256": seen.sha256}
        return {**self.model.provenance(), **facts, "precision": precision, "speed": self.speed.name}

    def setting(self) -> dict[str, Any]:
        """Give where and how it runs, which changes no number but by rounding.

        Returns:
            Plain JSON values.
        """
        return {"device": self.device.type, "batch_size": self.batching.size}

    def score_pixels(self, pixels: Tensor, *, domain: str | None = None) -> SliceBatch:
        """Score ready model input in batches, the seam for other readers.

        Args:
            pixels: ``(N, 3, S, S)``, normalised.
            domain: By name, None for the model's own.

        Returns:
            Maps ``(N, S, S)`` and scores ``(N,)`` in [0, 1], on the CPU.
        """
        detector = self.detector(get_domain(domain) if domain else self.model.domain)
        parts = [detector.score(part.to(self.device)) for part in pixels.split(self.batching.size)]
        return SliceBatch(torch.cat([p.maps.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))

    def detector(self, domain: Domain, preprocessing: PreprocessingKind | None = None) -> Detector:
        """Give the detector for a domain, and for normal images that were prepared as a case will be.

        Args:
            domain: Its class features are used.
            preprocessing: Of the normal images, None for the model's own.

        Returns:
            One that is made once and kept.

        Raises:
            ModelError: The model cannot be used for the domain.
            InputError: Normal images that cannot be used.
        """
        kind = preprocessing or self.model.preprocessing
        key = domain.name, kind if self.normals is not None else None
        if key not in self._detectors:
            detector = detector_for(self.model, domain, self.speed)
            if self.normals is not None:
                detector = adapted(detector, normal_pixels(self.normals, detector, domain, kind))
            if self._fits_batch and not self._detectors:
                self.batching.size = fitting_batch(detector, self.device)
            self._detectors[key] = detector
        return self._detectors[key]


def _begin_batch(detector: Detector, pieces: Sequence[Piece], device: torch.device) -> TorchBatch | None:
    """Start one batch, or None when the device's memory ran out.

    The caller goes on after this has returned: within the handler the traceback would still hold the tensors.
    """
    insides = [piece.scan.inside(piece.plane.frame, piece.indices) for piece in pieces]
    try:
        pixels = [slice_pixels(piece.scan, piece.plane.frame, piece.indices, device) for piece in pieces]
        limits = [
            slice_limits(piece.scan, piece.plane.frame, inside, device)
            for piece, inside in zip(pieces, insides, strict=True)
        ]
        out = detector.score(torch.cat(pixels), torch.cat(limits))
        sizes = [len(piece.indices) for piece in pieces]
        maps = [
            from_square(part, piece.scan.placement(piece.plane.frame), (inside.shape[1], inside.shape[2]))
            for part, piece, inside in zip(out.maps.split(sizes), pieces, insides, strict=True)
        ]
        return _to_host(maps, out.scores.float().split(sizes), insides)
    except RuntimeError as error:  # only CUDA has a type of its own for it
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return None
        raise


def _to_host(maps: Sequence[Tensor], scores: Sequence[Tensor], insides: list[Any]) -> TorchBatch:
    """Begin to copy maps and scores to the CPU, into pinned memory where they come from CUDA."""
    on_cuda = maps[0].device.type == "cuda"
    here = [[part.to("cpu", non_blocking=on_cuda) for part in parts] for parts in (maps, scores)]
    copied = torch.cuda.Event() if on_cuda else None
    if copied is not None:
        copied.record()
    return TorchBatch(here[0], here[1], insides, copied)


def _limits(detector: Detector) -> tuple[str, ...]:
    """What a reader of the map must know of the method."""
    if detector.capabilities.localises:
        return ()
    return (f"{detector.name} does not localise: its map is the slice's score everywhere",)


def _few(normals: Normals | None) -> tuple[str, ...]:
    """What a reader must know of a memory of one patient."""
    if normals is None or len(normals.sources) > 1:
        return ()
    return ("the normal images are one alone: another patient or scanner may look abnormal all over",)


def _alike(normals: Normals | None) -> list[tuple[str, Scope]]:
    """Scans must be of the kind of the normal images."""
    return [] if normals is None else [(f"the normal images of {normals.name} are", normals.scope)]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
