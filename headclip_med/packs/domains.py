"""Medical domains: the words and the preprocessing that a training-free detector needs."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from headclip_med.errors import InputError
from headclip_med.intensity import WINDOWS, Channels, Fit


@dataclass(frozen=True)
class Domain:
    """What is known about a kind of image before any of it is seen.

    Attributes:
        name: as given to ``--domain``.
        anatomy: words for the prompts; abnormal: further abnormal states, each with ``{}`` for the anatomy.
        window: name of a CT window, or None.
        fit, channels: see :class:`headclip_med.intensity.Preprocessing`.
    """

    name: str
    anatomy: tuple[str, ...]
    abnormal: tuple[str, ...] = ()
    window: str | None = None
    fit: Fit = "pad"
    channels: Channels = "repeat"


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("generic", ("medical scan", "organ", "tissue")),
        Domain("brain-mri", ("brain MRI", "brain"), ("{} with a tumour", "{} with white matter lesions")),
        Domain("head-ct", ("head CT", "brain"), ("{} with a haemorrhage", "{} with an infarct"), window="brain"),
        Domain("chest-xray", ("chest X-ray", "lung"), ("{} with pneumonia", "{} with an opacity")),
        Domain("liver-ct", ("liver CT", "liver"), ("{} with a tumour",), window="liver"),
        Domain("colonoscopy", ("colonoscopy image", "colon"), ("{} with a polyp",), fit="stretch"),
        Domain("dermoscopy", ("dermoscopy image", "skin"), ("{} with a melanoma",), fit="stretch"),
        Domain("breast-ultrasound", ("breast ultrasound", "breast"), ("{} with a tumour",)),
        Domain("thyroid-ultrasound", ("thyroid ultrasound", "thyroid"), ("{} with a nodule",)),
        Domain("retina-oct", ("retinal OCT", "retina"), ("{} with macular oedema", "{} with drusen")),
        Domain(
            "histopathology",
            ("histopathology image", "tissue section"),
            ("{} with metastasis",),
            fit="stretch",
        ),
    )
}


def get_domain(name: str) -> Domain:
    """The domain of that name, or :class:`InputError` with the nearest name."""
    if name not in DOMAINS:
        near = get_close_matches(name, DOMAINS, 1)
        hint = f"Did you mean {near[0]}" if near else "Choose one of them"
        raise InputError(f"The domain must be one of {', '.join(DOMAINS)}", name, hint)
    return DOMAINS[name]


def window_of(domain: Domain) -> tuple[float, float] | None:
    """The domain's CT window as ``(level, width)`` in HU, or None."""
    return None if domain.window is None else WINDOWS[domain.window]
