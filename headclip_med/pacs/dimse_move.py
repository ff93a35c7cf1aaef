"""C-MOVE by address; apart, so that the command needs no DIMSE until it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from headclip_med.base.errors import InputError
from headclip_med.pacs.access import Access
from headclip_med.pacs.address import Address


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
    from headclip_med.pacs.dimse import DimseArchive

    return DimseArchive(address, access).move(study, address.series, destination, progress)
