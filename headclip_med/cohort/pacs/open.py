"""Which series of a study are meant: the one that is named, or all that can be images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headclip_med.base.errors import InputError
from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import Archive, SeriesFound, check_installed
from headclip_med.cohort.pacs.retry import Retry


def open_archive(address: Address, access: Access) -> Archive:
    """The client for an address; nothing is sent yet.

    Raises:
        MissingExtraError: the packages for it are not installed.
    """
    check_installed()
    if address.is_web:
        from headclip_med.cohort.pacs.dicomweb import DicomwebArchive

        return DicomwebArchive(address, access)
    from headclip_med.cohort.pacs.dimse import DimseArchive

    return DimseArchive(address, access)


def check_movable(address: Address) -> str:
    """The study of a DIMSE address; :class:`InputError` for any other."""
    if address.is_web or address.study is None:
        raise InputError("A move must start from dimse://CALLED_AE@HOST:PORT/STUDY[/SERIES]", address.service)
    return address.study


def move(address: Address, access: Access, destination: str, progress: Callable[[int, int], None]) -> int:
    """Have the archive send what ``address`` names to the AE title ``destination``; how many objects it sent.

    Raises:
        InputError: see :func:`check_movable`; PacsError: see :meth:`DimseArchive.move`.
    """
    study = check_movable(address)
    from headclip_med.cohort.pacs.dimse import DimseArchive

    return DimseArchive(address, access).move(study, address.series, destination, progress)


_SEE = "See what is there: headclip-med pacs find"
_NO_IMAGES = (
    *("ANN", "AU", "DOC", "ECG", "EPS", "FID", "HD", "KER", "KO", "LEN", "M3D", "PLAN", "PR", "REG", "RTDOSE"),
    *("RTINTENT", "RTPLAN", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SMR", "SR", "SRF", "TEXTUREMAP"),
)


def series_of(archive: Archive, address: Address, wanted: str | None, retry: Retry) -> list[SeriesFound]:
    """The series that an address means, with ``wanted`` as in :func:`choose_series` where it names a study.

    Raises:
        InputError: an address without study, one that leaves nothing to choose, a study that is not there.
        PacsError: the archive cannot be asked.
    """
    study = check_choice(address, wanted)
    if address.series is not None:
        return [SeriesFound(study, address.series, "", None, "", None)]
    found = retry.call(lambda: archive.find_series(study))
    if not found:
        raise InputError("The study must be in the archive", "none of this UID", _SEE)
    return choose_series(found, wanted)


def check_choice(address: Address, wanted: str | None) -> str:
    """The study of an address, or :class:`InputError` where there is none, or nothing left to choose."""
    if address.study is None:
        raise InputError("The address must name a study, or a study and a series", "neither", _SEE)
    if address.series is not None and wanted is not None:
        raise InputError("--series must choose within a study", "an address that names the series already")
    return address.study


def choose_series(found: Sequence[SeriesFound], wanted: str | None) -> list[SeriesFound]:
    """The series that ``wanted`` means: its number, ``#1``, ``#2``, … as listed, or either end of its UID.

    Without ``wanted`` all series of images; reports, segmentations and the like are left out, and what we pushed.

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
