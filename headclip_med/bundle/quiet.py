"""Logging while a bundle runs: its own ``logging.conf`` holds, nothing is said twice, and all is put back."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Loggers outside of the bundle's logging.conf, on stdout: summaries of the input, and a decoder that few have.
_BANNERS = ("monai.bundle", "monai.data.nvimgcodec")
_DECODER = "NvImgCodecPydicomReader"  # the same as a warning, from every LoadImage
_REPEATED = ("run is terminating due to exception", "Exception: ")  # ignite, and MONAI's StatsHandler


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Hold back MONAI's banners, and put the root logger back when the bundle has had its way with it."""
    import monai.bundle  # noqa: F401 - makes the loggers

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    banners = [logger for logger in _loggers() if logger.name.startswith(_BANNERS)]
    levels = [(logger, logger.level) for logger in banners]
    streams = [(handler, handler.stream) for logger in banners for handler in _screens(logger)]
    try:
        for logger in () if _debug() else banners:
            logger.setLevel(logging.ERROR)
        for handler, _ in streams:
            handler.stream = sys.stderr
        with warnings.catch_warnings():
            if not _debug():
                warnings.filterwarnings("ignore", message=_DECODER)
            yield
    finally:
        for logger, before in levels:
            logger.setLevel(before)
        for handler, stream in streams:
            handler.stream = stream
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def repeated_errors_muted() -> Iterator[None]:
    """On the screen, leave out what engines log of an error that is told once at the end; files keep it."""
    screens: list[logging.Handler] = []
    if not _debug():
        screens = [handler for logger in (logging.getLogger(), *_loggers()) for handler in _screens(logger)]
        if logging.lastResort is not None:
            screens.append(logging.lastResort)  # of a logger that MONAI found without a handler and cut off
    for screen in screens:
        screen.addFilter(_is_news)
    try:
        yield
    finally:
        for screen in screens:
            screen.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    told_later = _REPEATED[0] in text or (bool(record.exc_info) and text.startswith(_REPEATED[1]))
    return record.levelno < logging.ERROR or not told_later


def _screens(logger: logging.Logger) -> list[logging.StreamHandler]:
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logger for logger in known if isinstance(logger, logging.Logger)]


def _debug() -> bool:
    return bool(os.environ.get("HEADCLIP_DEBUG"))
