"""One line for the one cause of what goes wrong inside MONAI, with the component that failed.

MONAI wraps an error once for every component that refers to the failed one, and writes none of their ids.
They are in the frames of its resolver: the innermost one is at the component that failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from traceback import walk_tb

from headclip_med.base.errors import CancelledError, HeadclipError, InputError

_RESOLVER = "_resolve_one_item"  # monai.bundle.ReferenceResolver: calls itself for every reference
_IMPORTS = "is_import_statement"  # at the first item of all, MONAI looks through every expression for imports
_LONGEST = 600  # characters of a library's message
_TOLD = "Traceback (most recent call last)"  # how torch's workers and MONAI's SaveImage repeat an error as text
_OURS = "headclip_med.base.errors."
_ERROR_LINE = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): (.+)$", re.MULTILINE)


class BundleRunError(HeadclipError):
    """A run of a bundle began and failed."""


def explain_error(error: Exception, kind: type[HeadclipError] = InputError) -> HeadclipError:
    """Make the error that a user should see of what MONAI raised.

    With ``HEADCLIP_DEBUG`` in the environment the error itself is raised, traceback and all.

    Args:
        error: as it was caught.
        kind: :class:`BundleRunError` once a run has begun, else :class:`InputError`.

    Returns:
        An error of that kind, which names the component that failed.
    """
    if os.environ.get("HEADCLIP_DEBUG") and not isinstance(error, HeadclipError):
        raise error
    cause, place = _cause(error), _failed_component(error)
    if isinstance(cause, BundleRunError):
        return cause
    if isinstance(cause, HeadclipError):
        return kind(f"{place}: {cause.must}" if place else cause.must, cause.given, cause.do)
    must = "must run to its end" if kind is BundleRunError else "must be built without an error"
    return kind(f"{place or 'The bundle'} {must}", _text(cause), "Run again with HEADCLIP_DEBUG=1 for the traceback")


def reason(error: BaseException) -> str:
    """Say in one line why something failed.

    Args:
        error: as it was caught.

    Returns:
        Our own words, or the kind and text of what was raised first.
    """
    cause = _cause(error)
    return str(cause) if isinstance(cause, HeadclipError) else _text(cause)


def was_stopped(error: BaseException) -> bool:
    """Tell whether a run ended because somebody stopped it.

    Args:
        error: that ended it.

    Returns:
        Whether a :class:`CancelledError` is among its causes.
    """
    return any(isinstance(link, CancelledError) for link in _chain(error))


def _failed_component(error: BaseException) -> str:
    """``net (monai.networks.nets.UNet)``, ``run#0 ($@trainer.run())``, empty where MONAI was resolving nothing."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    known = [frame.f_locals for frame in frames if frame.f_code.co_name == _RESOLVER]
    if not known:
        return ""
    id_, config = str(known[-1]["id"]), known[-1].get("item_config")
    if any(frame.f_code.co_name == _IMPORTS for frame in frames):
        id_, config = known[-1]["t"], known[-1]["v"].get_config()
    what = config.get("_target_") if isinstance(config, dict) else config
    told = f"{id_} ({' '.join(what.split())})" if isinstance(what, str) and what else id_
    return told.replace("::", "#")


def _cause(error: BaseException) -> BaseException:
    """The innermost error of ours, else the innermost one."""
    chain = list(_chain(error))
    ours = [link for link in chain if isinstance(link, HeadclipError) and _TOLD not in link.must]
    return ours[-1] if ours else chain[-1]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, each once: one that is raised from an error that it caused is its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__


def _text(cause: BaseException) -> str:
    """Kind and text of an error, or of the error in its text where that holds a traceback."""
    text = str(cause)
    told = f"{type(cause).__name__}: {' '.join(text.split())}".removesuffix(": ")
    if _TOLD in text and (lines := list(_ERROR_LINE.finditer(text, text.index(_TOLD)))):
        ours = [line for line in lines if line[1].startswith(_OURS)]
        told = ours[-1][2] if ours else f"{lines[0][1].rsplit('.', 1)[-1]}: {lines[0][2]}"
    return (told if len(told) <= _LONGEST else f"{told[:_LONGEST]} …").rstrip(".")
