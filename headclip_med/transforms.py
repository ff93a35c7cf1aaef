"""The steps of a prediction as MONAI dictionary transforms, under their public name."""

from headclip_med.bundle.transforms import (
    AnomalyMapd,
    CutSlicesd,
    DetectSlicesd,
    ToPixelsd,
    WindowIntensityd,
)

__all__ = ["AnomalyMapd", "CutSlicesd", "DetectSlicesd", "ToPixelsd", "WindowIntensityd"]
