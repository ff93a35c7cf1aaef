"""List the names that shell completion offers.

Importing this is cheap, without torch, so that the TAB key answers at once.

The registries themselves (detectors, domains, windows) need torch. A test holds this list to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from headclip_med.base.errors import InputError

DEFAULT_MODEL = "headclip-tiny"

METHODS = (
    "headclip",
    "anomalyclip",
    "crane",
    "crane+",
    "mvfa",
    "vectors",
    "winclip",
    "clip-vv",
    "clip",
    "memory",
)
DOMAINS = (
    "generic",
    "brain-mri",
    "head-ct",
    "chest-xray",
    "liver-ct",
    "colonoscopy",
    "dermoscopy",
    "breast-ultrasound",
    "thyroid-ultrasound",
    "retina-oct",
    "histopathology",
)
WINDOWS = ("brain", "subdural", "stroke", "bone", "lung", "mediastinum", "abdomen", "liver")
PLANES = ("axial", "coronal", "sagittal", "all")
CHANNELS = ("repeat", "neighbours")
PREPROCESSINGS = ("own", "released")
IRREGULAR = ("error", "split", "resample", "keep")
CONTROLS = ("intensity", "redness", "edges", "chance")
LAYOUTS = (
    "brats",
    "wmh",
    "isbi",
    "mslesseg",
    "nnunet",
    "bids",
    "msd",
    "pairs",
    "folders",
    "mvtec",
    "visa",
    "mosmed",
    "bmad",
    "meta",
    "jsonl",
    "csv",
)
FORMATS = ("nifti", "png", "html", "json")  # written by default
DICOM_FORMATS = ("seg", "segscore", "pm", "sr", "sc", "dicom")
SPEEDS = ("exact", "balanced", "fast")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps", "openvino")

# Towers of open_clip and timm that are worth a first try, and why.
RECOMMENDED_TOWERS = {
    "ViT-L-14-336-quickgelu/openai": "open_clip; the tower of HeadCLIP and AnomalyCLIP, runs at 518 px",
    "ViT-L-14-quickgelu/dfn2b": "open_clip; the same size at 224 px, trained on more and cleaner data",
    "ViT-B-16-quickgelu/openai": "open_clip; a quarter of the size, for a CPU",
    "timm:vit_small_patch14_dinov2.lvd142m": "timm; vision only, needs a pack made for it",
}


def entry_point_methods() -> dict[str, EntryPoint]:
    """List the methods that other installed packages bring under ``headclip_med.detectors``, not loaded yet.

    Returns:
        Entry points by the method's name, without names of ours.
    """
    return {point.name: point for point in entry_points(group="headclip_med.detectors") if point.name not in METHODS}


def method_names() -> list[str]:
    """List our methods, then those of other packages.

    Returns:
        Names, none of them twice.
    """
    return [*METHODS, *entry_point_methods()]


def split_method(name: str) -> tuple[str | None, str]:
    """Split ``METHOD:NAME``.

    Args:
        name: as a user types it.

    Returns:
        The method and the model's name, or None and the whole where no known method stands in front.
    """
    head, colon, rest = name.partition(":")
    return (head, rest) if colon and rest and head in method_names() else (None, name)


def pack_names() -> list[str]:
    """List the packs that are shipped in the package.

    Returns:
        Names in alphabetical order.
    """
    return sorted(record.parent.name for record in (Path(__file__).parents[1] / "models" / "packs").glob("*/pack.json"))


def model_names() -> list[str]:
    """List the built-in packs, then the recommended towers.

    Returns:
        Names as ``--model`` takes them.
    """
    return [*pack_names(), *RECOMMENDED_TOWERS]


def complete_list(names: tuple[str, ...], typed: str) -> list[str]:
    """Complete a comma-joined list.

    Args:
        names: that may be in it.
        typed: so far. What stands before its last comma is kept and not offered again.

    Returns:
        The whole list with each name that fits.
    """
    head, comma, tail = typed.rpartition(",")
    chosen = head.split(",")
    return [head + comma + name for name in names if name.startswith(tail) and name not in chosen]


def check_name(kind: str, name: str | None, known: Sequence[str]) -> None:
    """Refuse a name that is not among the known ones, naming the nearest.

    Args:
        kind: what it is a name of, in words.
        name: None is a default.
        known: all there are.

    Raises:
        InputError: another name.
    """
    from difflib import get_close_matches

    if name is None or name in known:
        return
    near = get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}" if near else "Choose one of them"
    raise InputError(f"The {kind} must be one of {', '.join(known)}", name, hint)
