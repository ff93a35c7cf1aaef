"""What scores slices, torch or an exported graph, as the engine knows it; and how many of them go at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from headclip_med.base.errors import InputError, ModelError
from headclip_med.engine.result import AnomalyResult
from headclip_med.engine.scan_run import Piece
from headclip_med.models.scope import Scope
from headclip_med.models.speed import Speed
from headclip_med.slicing.intensity import Preprocessing, PreprocessingKind
from headclip_med.slicing.scan import Floats


@dataclass(frozen=True)
class Setup:
    """What a scorer brings for a domain.

    Attributes:
        domain: Name.
        preprocessing: With the domain's window, fit and channels.
        detector: What the scorer scores slices with. Those of one detector may share a batch.
        configuration: Of the detector, as plain JSON values.
        smoothing_mm: Sigma along the normal.
        threshold: Cut on the map and where it came from, unless the user says otherwise.
        device: Its name for the provenance.
        warnings: Of the model.
        expected: The images that it is for, see :func:`headclip_med.models.scope.out_of_scope`.
    """

    domain: str
    preprocessing: Preprocessing
    detector: Any
    configuration: dict[str, Any]
    smoothing_mm: float
    threshold: tuple[float, str]
    device: str
    warnings: Sequence[str] = ()
    expected: Sequence[tuple[str, Scope]] = ()


@dataclass
class Batching:
    """How many slices go to the device at once. Halved when its memory runs out, and kept so for later cases.

    Attributes:
        size: Slices at once, at least 1.
        device: For messages.
        in_flight: Batches that the device is given before the first one's maps are waited for.
        across: A batch that one case does not fill is filled from the next. Nothing is won by that on a CPU.
        warnings: What happened that no case was told yet.

    Raises:
        InputError: A size below 1.
    """

    size: int
    device: str = "cpu"
    in_flight: int = 1
    across: bool = True
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError("The batch size must be at least 1", self.size)

    def halve(self, failed: int) -> None:
        """Go on with half of the batch of ``failed`` slices.

        Args:
            failed: Slices in the batch that did not fit.

        Raises:
            ModelError: It was a single slice.
        """
        if failed == 1:
            raise ModelError(
                "One slice must fit the memory of the device",
                f"{self.device} ran out of memory",
                "Use --device cpu",
            )
        self.size = failed // 2
        self.warnings.append(f"out of memory on {self.device}: batch size lowered to {self.size}")

    def take_warnings(self) -> list[str]:
        """Give what happened since the last call.

        Returns:
            Sentences, none where nothing happened.
        """
        taken, self.warnings = self.warnings, []
        return taken


Batch = TypeVar("Batch")


class Scorer(Protocol[Batch]):
    """Scores slices batch by batch: :meth:`submit` begins one, :meth:`collect` waits for what has come of it.

    Attributes:
        speed: Which slices are scored.
        batching: How many at once, changed when memory runs out.
    """

    speed: Speed
    batching: Batching

    def setup(self, domain: str | None, preprocessing: PreprocessingKind | None = None) -> Setup:
        """Give what it brings for a domain and a preprocessing, its own by default.

        Args:
            domain: By name, None for the model's own.
            preprocessing: ``own`` or ``released``, None for the model's own.

        Returns:
            Detector, preprocessing, smoothing, threshold and what is said of them.

        Raises:
            InputError: No such domain, or one that this model cannot have.
            ModelError: The model cannot be used for the domain.
        """

    def submit(self, detector: Any, pieces: Sequence[Piece]) -> Batch | None:
        """Begin to score the slices of ``pieces`` with a setup's detector.

        Args:
            detector: Of :meth:`setup`.
            pieces: Slices of one batch.

        Returns:
            A batch for :meth:`collect`, or None when the device's memory ran out.
        """

    def collect(self, batch: Batch) -> list[tuple[Floats, Floats]]:
        """Wait for the maps and scores of a batch.

        Args:
            batch: Of :meth:`submit`.

        Returns:
            Maps ``(n, H, W)`` in display orientation, 0 outside the patient, and scores ``(n,)`` of each piece, both in
            [0, 1].
        """

    def foreseen(self, detector: Any, map_bytes: int) -> list[str]:
        """Warn before the first slice, such as of too little memory.

        Args:
            detector: Of :meth:`setup`.
            map_bytes: Size of the case's map of one plane.

        Returns:
            Sentences, none where nothing is foreseen.
        """

    def handed_out(self, result: AnomalyResult) -> AnomalyResult:
        """Turn a result's volumes into what this scorer's users work with.

        Args:
            result: With the map as a numpy array.

        Returns:
            A result with the same numbers.
        """

    def identity(self) -> dict[str, Any]:
        """Give what decides the numbers, under the names of a result's provenance: names, hashes, precision.

        Returns:
            Plain JSON values.
        """

    def setting(self) -> dict[str, Any]:
        """Give where and how it runs, which changes no number but by rounding.

        Returns:
            Plain JSON values.
        """
