"""Open an archive, and tell which series of a study are meant: the one that is named, or all that can be images."""

from __future__ import annotations

from collections.abc import Sequence

from headclip_med.base.errors import InputError
from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import (
    DEFAULT_ATTEMPTS,
    Archive,
    Progress,
    SeriesFound,
    check_pacs_extra,
    with_retries,
)

_SEE = "See what is there: headclip-med pacs find"
_NO_IMAGES = (
    *("ANN", "AU", "DOC", "ECG", "EPS", "FID", "HD", "KER", "KO", "LEN", "M3D", "PLAN", "PR", "REG", "RTDOSE"),
    *("RTINTENT", "RTPLAN", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SMR", "SR", "SRF", "TEXTUREMAP"),
)


def open_archive(address: Address, access: Access) -> Archive:
    """Make the client for an address. Nothing is sent yet.

    Args:
        address: of the archive. A study or series in it makes no difference.
        access: how we present ourselves.

    Returns:
        A client of the address's protocol.

    Raises:
        MissingExtraError: the packages for it are not installed.
        InputError: certificates that cannot be read.
    """
    check_pacs_extra()
    if address.is_web:
        from headclip_med.cohort.pacs.dicomweb import DicomwebArchive

        return DicomwebArchive(address, access)
    from headclip_med.cohort.pacs.dimse import DimseArchive

    return DimseArchive(address, access)


def check_movable(address: Address) -> str:
    """Give the study of a DIMSE address.

    Args:
        address: from which to move.

    Returns:
        Its UID.

    Raises:
        InputError: an address of DICOMweb, or one without a study.
    """
    if address.is_web or address.study is None:
        raise InputError("A move must start from dimse://CALLED_AE@HOST:PORT/STUDY[/SERIES]", address.service)
    return address.study


def move(address: Address, access: Access, destination: str, progress: Progress) -> int:
    """Have the archive send what ``address`` names to another application.

    Args:
        address: of DIMSE, with a study or series.
        access: how we present ourselves.
        destination: AE title that the archive knows.
        progress: told after each answer.

    Returns:
        How many objects it sent.

    Raises:
        InputError: see :func:`check_movable`.
        PacsError: see :meth:`headclip_med.cohort.pacs.dimse.DimseArchive.move`.
    """
    study = check_movable(address)
    from headclip_med.cohort.pacs.dimse import DimseArchive

    return DimseArchive(address, access).move(study, address.series, destination, progress)


def series_of(
    archive: Archive, address: Address, wanted: str | None, attempts: int = DEFAULT_ATTEMPTS
) -> list[SeriesFound]:
    """List the series that an address means.

    Args:
        archive: at that address.
        address: of a study, or of a series, about which the archive is not asked.
        wanted: see :func:`choose_series`. None where the address names a series.
        attempts: how often a silent or busy archive is asked.

    Returns:
        At least one series.

    Raises:
        InputError: an address without study, one that leaves nothing to choose, a study that is not there.
        PacsError: the archive cannot be asked.
    """
    study = check_choice(address, wanted)
    if address.series is not None:
        return [SeriesFound(study, address.series, "", None, "", None)]
    found = with_retries(lambda: archive.find_series(study), attempts)
    if not found:
        raise InputError("The study must be in the archive", "none of this UID", _SEE)
    return choose_series(found, wanted)


def check_choice(address: Address, wanted: str | None) -> str:
    """Give the study of an address, where ``wanted`` goes with it.

    Args:
        address: of a study or a series.
        wanted: see :func:`choose_series`.

    Returns:
        Its UID.

    Raises:
        InputError: there is none, or nothing left to choose.
    """
    if address.study is None:
        raise InputError("The address must name a study, or a study and a series", "neither", _SEE)
    if address.series is not None and wanted is not None:
        raise InputError("--series must choose within a study", "an address that names the series already")
    return address.study


def choose_series(found: Sequence[SeriesFound], wanted: str | None) -> list[SeriesFound]:
    """Choose among the series of a study.

    Args:
        found: all of them, as listed.
        wanted: a series number, ``#1``, ``#2``, … as listed, or either end of a UID. None stands for all series of
            images, without reports, segmentations and the like, and without what we pushed.

    Returns:
        One series, or at least one without ``wanted``.

    Raises:
        InputError: none, or several where one is named.
    """
    if wanted is None:
        chosen = [series for series in found if series.modality not in _NO_IMAGES and not _is_ours(series)]
        if not chosen:
            raise InputError("The study must hold a series of images", f"{len(found)} series without images")
        return chosen
    matching = [series for place, series in enumerate(found, start=1) if _is_meant(series, place, wanted.strip())]
    if len(matching) != 1:
        raise InputError(
            "--series must name one series of the study",
            f"{len(matching)} of {len(found)} match",
            _SEE,
        )
    return matching


def _is_ours(series: SeriesFound) -> bool:
    """Whether it is a map or an overlay of ours, by the UID's root and the description that we give them."""
    return series.uid.startswith("2.25.") and series.description.startswith("Anomaly ")


def _is_meant(series: SeriesFound, place: int, wanted: str) -> bool:
    if wanted.startswith("#"):
        return wanted[1:] == str(place)
    if wanted.isdigit() and len(wanted) < 12:
        return series.number == int(wanted)
    return series.uid.startswith(wanted) or series.uid.endswith(wanted)
