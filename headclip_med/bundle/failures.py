"""What goes wrong inside MONAI → one message that names the component that failed.

MONAI wraps an error once for every component that refers to the failed one, and writes none of their ids.
They are in the frames of its resolver: the innermost one is at the component that failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from headclip_med.base.errors import CancelledError, HeadclipError, InputError
from headclip_med.bundle.overrides import shown

_RESOLVER = "_resolve_one_item"  # monai.bundle.ReferenceResolver: calls itself for every reference
_IMPORTS = "is_import_statement"  # at the first item of all, MONAI looks through every expression for imports
_LONGEST = 600  # characters of a library's message
_TOLD = "Traceback (most recent call last)"  # how torch's workers and MONAI's SaveImage repeat an error as text
_OURS = "headclip_med.base.errors."
_ERROR_LINE = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): (.+)$", re.MULTILINE)
_REFERENCE = re.compile(r"@\w+(::\w+)*")
_UNDEFINED = re.compile(r"the referring item `(@[\w:]+)` is not defined")
_TRANSFORM = re.compile(r"applying transform <?([\w.]+)")


class BundleRunError(HeadclipError):
    """A run of a bundle began and failed."""


@dataclass(frozen=True)
class Failed:
    """The item of a config at which MONAI stopped.

    Attributes:
        id: with ``::`` between its parts; config: as it is written there; outermost: id of the item that was
        asked for, such as ``run::0``.
    """

    id: str
    config: Any
    outermost: str

    def __str__(self) -> str:
        """``net (monai.networks.nets.UNet)``, ``run#0 ($@trainer.run())``."""
        config = self.config.get("_target_", "") if isinstance(self.config, dict) else self.config
        what = (
            _REFERENCE.sub(lambda match: shown(match[0]), " ".join(config.split())) if isinstance(config, str) else ""
        )
        return f"{shown(self.id)} ({what})" if what else shown(self.id)


def failed_item(error: BaseException) -> Failed | None:
    """The innermost item that MONAI was resolving; None where it was resolving nothing."""
    every = list(_frames(error.__traceback__))
    frames = [frame.f_locals for frame in every if frame.f_code.co_name == _RESOLVER]
    if not frames:
        return None
    ids = [str(known["id"]).replace("#", "::") for known in frames]
    if any(frame.f_code.co_name == _IMPORTS for frame in every):
        return Failed(frames[-1]["t"], frames[-1]["v"].get_config(), ids[0])
    return Failed(ids[-1], frames[-1].get("item_config"), ids[0])


def in_words(error: Exception, run_id: str | None = None) -> HeadclipError:
    """The error that a user should see: :class:`BundleRunError` if a run had begun, else :class:`InputError`.

    With ``HEADCLIP_DEBUG`` in the environment the error itself is raised, traceback and all.

    Args:
        run_id: the config's list of what to run, once MONAI was told to run it.
    """
    if os.environ.get("HEADCLIP_DEBUG") and not isinstance(error, HeadclipError):
        raise error
    item = failed_item(error)
    kind = BundleRunError if run_id is not None and _had_begun(item, run_id) else InputError
    cause = _cause(error)
    if isinstance(cause, BundleRunError):
        return cause
    place = "The bundle" if item is None else str(item)
    if isinstance(cause, HeadclipError):
        return kind(f"{place}: {cause.must}" if item else cause.must, cause.given, cause.do)
    if isinstance(cause, ModuleNotFoundError) and str(cause).startswith("Cannot locate class or function"):
        do = "Correct the name, or install the package it is in"
        return kind(f"{place}: its _target_ must be a class or function that can be imported", cause.args[0], do)
    if undefined := next(filter(None, (_UNDEFINED.search(str(link)) for link in _chain(error))), None):
        return kind(f"{place}: {shown(undefined[1])} must be in the config", "no such id", "Correct the reference")
    must = "must run to its end" if kind is BundleRunError else "must be built without an error"
    return kind(f"{place} {must}", _words(error, cause), "Run again with HEADCLIP_DEBUG=1 for the traceback")


def reason(error: BaseException) -> str:
    """Why something failed, in one line: our own words, or the kind and text of what was raised."""
    cause = _cause(error)
    return str(cause) if isinstance(cause, HeadclipError) else _words(error, cause)


def was_stopped(error: BaseException) -> bool:
    """Whether a run ended because somebody stopped it."""
    return any(isinstance(link, CancelledError) for link in _chain(error))


def _had_begun(item: Failed | None, run_id: str) -> bool:
    """Whether anything of the list had been done: a component that cannot be built stops its first step."""
    run = run_id.replace("#", "::")
    if item is None or f"{item.id}::".startswith(f"{run}::"):
        return True
    step = item.outermost.removeprefix(run).removeprefix("::")
    return step not in ("", "0")


def _cause(error: BaseException) -> BaseException:
    """The innermost error of ours, else the innermost one."""
    chain = list(_chain(error))
    ours = [link for link in chain if isinstance(link, HeadclipError) and _TOLD not in link.must]
    return ours[-1] if ours else chain[-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__


def _words(error: BaseException, cause: BaseException) -> str:
    """Kind and text of the cause, and the transform in which it happened."""
    text = str(cause)
    told = f"{type(cause).__name__}: {' '.join(text.split())}".removesuffix(": ")
    if _TOLD in text and (lines := list(_ERROR_LINE.finditer(text, text.index(_TOLD)))):
        ours = [line for line in lines if line[1].startswith(_OURS)]
        told = ours[-1][2] if ours else f"{lines[0][1].rsplit('.', 1)[-1]}: {lines[0][2]}"
    told = told if len(told) <= _LONGEST else f"{told[:_LONGEST]} …"
    for link in _chain(error):
        if (match := _TRANSFORM.search(str(link))) and not match[1].endswith(".Compose"):
            return f"{told} (in {match[1].rsplit('.', 1)[-1]})"
    return told.rstrip(".")


def _frames(trace: TracebackType | None) -> Iterator[Any]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
