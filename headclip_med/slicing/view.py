"""What was asked and what the volume says → planes, window and channels. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import acquisition_plane
from headclip_med.base.types import PLANES, Affine, Plane
from headclip_med.base.volume import AnyVolume, volume_array
from headclip_med.slicing.intensity import CHANNELS, Channels, PreprocessingKind, looks_like_hu, parse_window

Window = tuple[float, float]  # level and width

# No CT in HU spans so little; what was scaled to [0, 1] or to standard deviations does.
_SCALED = 20.0


def choose_planes(
    affine: Affine, volume: AnyVolume, plane: str | Sequence[str] | None
) -> tuple[tuple[Plane, ...], str]:
    """Choose the planes to run, the primary one first.

    Args:
        affine: Voxel index → RAS mm, ``(4, 4)``.
        volume: Its shape and metadata tell the acquisition plane.
        plane: Names, one or several with commas, ``all``, or None for the acquisition plane.

    Returns:
        The planes, and why these.

    Raises:
        InputError: a name that is no plane, or none.
    """
    if bool(volume.meta.get("is_2d", False)):
        return ("axial",), "a 2-D image has one plane"
    if plane is None:
        normal = volume.meta.get("slice_normal")
        shape = (volume.shape[1], volume.shape[2], volume.shape[3])
        chosen, reason = acquisition_plane(affine, None if normal is None else np.asarray(normal), shape)
        return (chosen,), reason
    if not isinstance(plane, (str, list, tuple)):
        raise InputError("A plane must be given by name", type(plane).__name__)
    names: list[str] = plane.replace(" ", "").split(",") if isinstance(plane, str) else list(plane)
    names = list(PLANES) if names == ["all"] else names
    wrong = [name for name in names if name not in PLANES]
    if wrong or not names:
        raise InputError(f"A plane must be one of {', '.join(PLANES)} or all", ", ".join(wrong) or "nothing")
    return tuple(p for name in dict.fromkeys(names) for p in PLANES if p == name), "chosen by the user"


def window_or_own(window: str | Window | None, own: Window | None, volume: AnyVolume) -> tuple[Window | None, str]:
    """Choose the window: the one asked for, else that of the model's domain, else one by modality.

    Args:
        window: Name, ``LEVEL/WIDTH``, a pair, or None.
        own: ``(level, width)`` that the model's domain has, if it has one.
        volume: Its metadata tell modality, units and colour.

    Returns:
        ``(level, width)`` in stored units or None for percentiles, and a warning, empty where there is none.
    """
    if bool(volume.meta.get("is_rgb", False)):
        return None, "" if window is None else "a colour image has no window: the window option was ignored"
    if window is not None:
        return given_window(window), ""
    modality = volume.meta.get("modality")
    if own is not None and modality != "CT" and _is_of_grey_levels(volume):
        return None, f"a plain picture has grey levels, not HU: the domain's window {own[0]:g}/{own[1]:g} was left out"
    if own is not None:
        return _in_units(volume, own), ""
    if modality == "CT":
        return _ct_window(volume)
    if modality is None and looks_like_hu(volume_array(volume)):
        return None, "values look like CT (HU); percentiles are used: give --window or --domain if it is CT"
    return None, ""


def given_window(window: str | Window) -> Window:
    """Read level and width of what was asked for.

    Args:
        window: Name, ``LEVEL/WIDTH`` or a pair.

    Returns:
        ``(level, width)`` in stored units.

    Raises:
        InputError: no name, ``LEVEL/WIDTH`` or pair, or no width.
    """
    if isinstance(window, str):
        return parse_window(window)
    if not isinstance(window, (list, tuple)) or len(window) != 2:
        raise InputError("A window must be a name, LEVEL/WIDTH, or a pair (level, width)", window)
    return parse_window(f"{window[0]}/{window[1]}")


def _in_units(volume: AnyVolume, window: Window) -> Window:
    """A window that was not asked for, once the values can be in its units.

    Raises:
        InputError: values that were scaled before, which it would turn all black.
    """
    data = volume_array(volume)
    low, high = float(data.min()), float(data.max())
    if high - low <= _SCALED:
        raise InputError(
            f"{source_name(volume)} must be in the units of the window {window[0]:g}/{window[1]:g}, such as HU",
            f"values from {low:.4g} to {high:.4g}",
            "Leave out what scales intensities before, or give the window for these values",
        )
    return window


def _is_of_grey_levels(volume: AnyVolume) -> bool:
    """Whether a volume is a plain picture, and not one in HU, where air is negative and white is high."""
    if not volume.meta.get("is_2d", False):
        return False
    return bool(volume.meta.get("display_inverted", False)) or float(volume_array(volume).min()) >= 0


def _ct_window(volume: AnyVolume) -> tuple[Window, str]:
    """The window stored in the file, or the brain window; either is said."""
    stored = volume.meta.get("default_window")
    if stored is not None and stored[1] > 0:
        level, width = _in_units(volume, (float(stored[0]), float(stored[1])))
        return (level, width), f"CT without a window or a domain: the file's own window {level:g}/{width:g} is used"
    brain = _in_units(volume, parse_window("brain"))
    return brain, "CT without a window or a domain: the brain window 40/80 is used"


def choose_channels(channels: Channels | None, own: Channels) -> Channels:
    """Choose the way to make three channels: the one asked for, or the model's own.

    Args:
        channels: ``repeat``, ``neighbours`` or None.
        own: The model's own.

    Returns:
        One of :data:`CHANNELS`.

    Raises:
        InputError: a way that does not exist.
    """
    if channels is not None and channels not in CHANNELS:
        raise InputError(f"Channels must be one of {', '.join(CHANNELS)}", channels)
    return channels or own


def check_released(window: str | Window | None, channels: str | None) -> None:
    """Refuse what was asked for that the released preprocessing does not have.

    Args:
        window: What was asked for, or None.
        channels: What was asked for, or None.

    Raises:
        InputError: a window, or channels other than ``repeat``.
    """
    asked = [name for name, value in (("a window", window), ("channels", channels)) if value not in (None, "repeat")]
    if asked:
        raise InputError(
            "The released preprocessing must be used as it is: 8-bit values divided by 255",
            " and ".join(asked),
            "Leave them out, or the preprocessing",
        )


def other_preprocessing(kind: PreprocessingKind, own: PreprocessingKind) -> tuple[str, ...]:
    """Say what must be known of a result under another preprocessing than the model's own.

    Args:
        kind: The preprocessing that was used.
        own: The one under which the threshold was chosen.

    Returns:
        One note, or none where they are the same.
    """
    return () if kind == own else (f"{kind} preprocessing as asked: the threshold was chosen under the {own} one",)


def source_name(volume: AnyVolume) -> str:
    """Name a volume in a message.

    Args:
        volume: Its metadata may hold ``source_name``.

    Returns:
        That name, else ``the volume``.
    """
    return str(volume.meta.get("source_name", "the volume"))
