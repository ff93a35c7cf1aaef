"""Versions for records: what a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

# Packages that can change a number in a result.
PACKAGES = (
    "torch",
    "torchvision",
    "monai",
    "open_clip_torch",
    "timm",
    "numpy",
    "scipy",
    "nibabel",
    "pydicom",
    "SimpleITK",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)


def package_versions() -> dict[str, str]:
    """Tell the versions of this package, of Python and of those of :data:`PACKAGES` that are installed.

    Returns:
        Versions by name.
    """
    found = {"headclip-med": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
