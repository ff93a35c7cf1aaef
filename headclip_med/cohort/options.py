"""What can be asked of every case of a run, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.engine.ask import Ask, check_ask
from headclip_med.writing import ALL_FORMATS, FORMATS, DicomOptions, check_formats
from headclip_med.writing.dicom.options import check_dicom_extra


@dataclass(frozen=True)
class CaseOptions:
    """What is asked of a case, and what is written of it.

    Attributes:
        ask: See :class:`headclip_med.engine.ask.Ask`.
        formats: Files to write.
        keep_identifiers: SOPInstanceUIDs in ``result.json``.
        keep_empty_frames, deidentify: Of DICOM objects, see :class:`headclip_med.writing.DicomOptions`.
    """

    ask: Ask = field(default_factory=Ask)
    formats: tuple[str, ...] = FORMATS
    keep_identifiers: bool = False
    keep_empty_frames: bool = False
    deidentify: bool = False

    @property
    def dicom(self) -> DicomOptions:
        """How DICOM objects are written."""
        return DicomOptions(keep_empty_frames=self.keep_empty_frames, deidentify=self.deidentify)

    def recorded(self) -> dict[str, Any]:
        """Give the options as plain JSON values, without what may identify a study.

        Returns:
            Options by name, those of the ask among them.
        """
        return {
            **self.ask.recorded(),
            "formats": sorted(set(self.formats)),
            "keep_identifiers": self.keep_identifiers,
            "keep_empty_frames": self.keep_empty_frames,
            "deidentify": self.deidentify,
        }


def check_options(options: CaseOptions) -> None:
    """Refuse options that no case could be run with.

    Args:
        options: Of every case of a run.

    Raises:
        InputError, OutputError, MissingExtraError: The first one that is wrong.
    """
    check_formats(options.formats)
    if not options.formats:
        raise InputError(f"At least one format of {', '.join(ALL_FORMATS)} must be named", "none")
    check_dicom_extra(options.formats)
    check_ask(options.ask)


def check_batch_size(batch_size: int | None) -> None:
    """Refuse a batch of less than one slice.

    Args:
        batch_size: Slices at once, None for the default.

    Raises:
        InputError: Below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError("The batch size must be at least 1", batch_size, "Leave it out for the default")
