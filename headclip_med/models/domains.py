"""Medical domains: the words and the preprocessing that a training-free detector needs."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from headclip_med.base.errors import InputError
from headclip_med.base.volume import AnyVolume
from headclip_med.models.scope import ANY_IMAGE, Scope
from headclip_med.slicing.intensity import (
    WINDOWS,
    Channels,
    Fit,
)
from headclip_med.slicing.view import Window, window_or_own


def choose_window(window: str | Window | None, domain: Domain, volume: AnyVolume) -> tuple[Window | None, str]:
    """Choose the window: the one asked for, else that of the domain, else one by modality.

    Args:
        window: Name, ``LEVEL/WIDTH``, a pair, or None.
        domain: Whose window counts where none is asked for.
        volume: Its metadata tell modality, units and colour.

    Returns:
        ``(level, width)`` in stored units or None for percentiles, and what was assumed in words, empty where nothing
        was.
    """
    return window_or_own(window, window_of(domain), volume)


@dataclass(frozen=True)
class Domain:
    """What is known about a kind of image before any of it is seen.

    Attributes:
        name: as given to ``--domain``.
        anatomy: words for the prompts.
        abnormal: further abnormal states, each with ``{}`` for the anatomy.
        window: name of a CT window, or None.
        fit, channels: see :class:`headclip_med.slicing.intensity.Preprocessing`.
        scope: the images it is about, for packs that do not say so themselves.
    """

    name: str
    anatomy: tuple[str, ...]
    abnormal: tuple[str, ...] = ()
    window: str | None = None
    fit: Fit = "pad"
    channels: Channels = "repeat"
    scope: Scope = ANY_IMAGE


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("generic", ("medical scan", "organ", "tissue")),
        Domain(
            "brain-mri",
            ("brain MRI", "brain", "MRI slice of the head"),
            (
                "{} with a tumour",
                "{} with a glioma",
                "{} with white matter lesions",
                "{} with a hyperintense lesion",
                "{} with oedema",
            ),
            scope=Scope(modalities=("MR",), colour=False),
        ),
        Domain(
            "head-ct",
            ("head CT", "brain", "CT slice of the head"),
            ("{} with a haemorrhage", "{} with an infarct", "{} with a subdural haematoma", "{} with a mass"),
            window="brain",
            scope=Scope(modalities=("CT",), colour=False),
        ),
        Domain(
            "chest-xray",
            ("chest X-ray", "lung", "chest radiograph"),
            ("{} with pneumonia", "{} with an opacity", "{} with a pleural effusion", "{} with a nodule"),
            scope=Scope(modalities=("DX", "CR", "RG"), colour=False, dimensions=2),
        ),
        Domain(
            "liver-ct",
            ("liver CT", "liver", "abdominal CT"),
            ("{} with a tumour", "{} with a metastasis", "{} with a hypodense lesion", "{} with a cyst"),
            window="liver",
            scope=Scope(modalities=("CT",), colour=False),
        ),
        Domain(
            "colonoscopy",
            ("colonoscopy image", "colon", "colon mucosa"),
            ("{} with a polyp", "{} with an adenoma", "{} with a growth"),
            fit="stretch",
            scope=Scope(modalities=("ES", "XC", "GM"), colour=True, dimensions=2),
        ),
        Domain(
            "dermoscopy",
            ("dermoscopy image", "skin", "skin surface"),
            ("{} with a melanoma", "{} with a pigmented lesion", "{} with a mole"),
            fit="stretch",
            scope=Scope(modalities=("DMS", "XC", "GM"), colour=True, dimensions=2),
        ),
        Domain(
            "breast-ultrasound",
            ("breast ultrasound", "breast", "ultrasound of breast tissue"),
            ("{} with a tumour", "{} with a mass", "{} with a cyst"),
            scope=Scope(modalities=("US",), colour=False),
        ),
        Domain(
            "thyroid-ultrasound",
            ("thyroid ultrasound", "thyroid", "ultrasound of the neck"),
            ("{} with a nodule", "{} with a mass", "{} with a cyst"),
            scope=Scope(modalities=("US",), colour=False),
        ),
        Domain(
            "retina-oct",
            ("retinal OCT", "retina", "optical coherence tomography of the retina"),
            ("{} with macular oedema", "{} with drusen", "{} with fluid", "{} with neovascularisation"),
            scope=Scope(modalities=("OPT", "OP"), colour=False),
        ),
        Domain(
            "histopathology",
            ("histopathology image", "tissue section", "stained tissue"),
            ("{} with metastasis", "{} with tumour cells", "{} with carcinoma"),
            fit="stretch",
            scope=Scope(modalities=("SM", "GM", "XC"), colour=True, dimensions=2),
        ),
    )
}


def get_domain(name: str) -> Domain:
    """Find a domain by its name.

    Args:
        name: As given to ``--domain``.

    Returns:
        The domain.

    Raises:
        InputError: no such domain, with the nearest name.
    """
    if name not in DOMAINS:
        near = get_close_matches(name, DOMAINS, 1)
        hint = f"Did you mean {near[0]}" if near else "Choose one of them"
        raise InputError(f"The domain must be one of {', '.join(DOMAINS)}", name, hint)
    return DOMAINS[name]


def window_of(domain: Domain) -> tuple[float, float] | None:
    """Look up the domain's CT window.

    Args:
        domain: The domain.

    Returns:
        ``(level, width)`` in HU, or None.
    """
    return None if domain.window is None else WINDOWS[domain.window]
