"""What decides the numbers of an evaluation, apart from models and data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headclip_med.base.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Settings of the metrics.

    Attributes:
        exact: Keep every distinct score instead of 65,536 levels. Memory then grows with the data.
        replicates, seed: Of the bootstrap over patients.
        bins: Common score levels that it resamples.
        min_patients: With fewer no interval is given, it would be far too narrow.
        min_overlap: Intersection over union from which a finding counts as hitting a lesion (as PI-CAI's evaluation).
        specificities: At which sensitivity is given.
        rates: False positives per volume or image of the FROC table.
        calibration_bins: Equal-width bins of expected calibration error and reliability curve.
    """

    exact: bool = False
    replicates: int = 1000
    seed: int = 0
    bins: int = 2048
    min_patients: int = 10
    min_overlap: float = 0.1
    specificities: tuple[float, ...] = (0.9, 0.95)
    rates: tuple[float, ...] = (1.0, 2.0, 4.0)
    calibration_bins: int = 15

    def __post_init__(self) -> None:
        if self.replicates != 0 and self.replicates < 100:
            raise InputError("The bootstrap must have at least 100 replicates, or 0 for none", self.replicates)
        if not 0 < self.min_overlap <= 1:
            raise InputError("The smallest overlap must lie above 0 and not above 1", self.min_overlap)
        if self.seed < 0:
            raise InputError("The seed must be 0 or more", self.seed)

    def recorded(self) -> dict[str, Any]:
        """List the settings for the record.

        Returns:
            Plain JSON values by name.
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def per_case(self) -> dict[str, Any]:
        """List the settings that decide what is kept of a single case.

        Returns:
            ``exact`` and ``min_overlap``.
        """
        return {"exact": self.exact, "min_overlap": self.min_overlap}
