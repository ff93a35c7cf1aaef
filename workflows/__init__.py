"""MONAI bundles of headclip_med, found by name. Importing it does not load torch."""

from __future__ import annotations

from pathlib import Path

from headclip_med.base.errors import ModelError

_ROOT = Path(__file__).parent

__all__ = ["available_bundles", "bundle_root"]


def available_bundles() -> tuple[str, ...]:
    """Names of the bundles that are installed: the folders here that hold ``configs/metadata.json``."""
    return tuple(sorted(path.parent.parent.name for path in _ROOT.glob("*/configs/metadata.json")))


def bundle_root(name: str) -> Path:
    """Folder of the bundle ``name``, as MONAI's ``bundle_root`` wants it.

    Raises:
        ModelError: there is no bundle of that name; the message lists those there are.
    """
    names = available_bundles()
    if name not in names:
        choice = f"be one of {', '.join(names)}" if names else "be installed, and this version ships none"
        raise ModelError(f"A MONAI bundle must {choice}", repr(name))
    return _ROOT / name
