"""What a check of a bundle is: a function that looks at one thing."""

from __future__ import annotations

from collections.abc import Callable

from headclip_med.bundle.folder import BundleFolder


class Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """Why a check was not made."""


Look = Callable[[BundleFolder], str]
"""Looks at one thing: what was found; raises :class:`Skipped`, or any other exception when it is not as it must be."""
