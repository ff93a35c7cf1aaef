"""Texts for the normal and the abnormal class: anatomy × state × template.

A fixed medical ensemble in the manner of WinCLIP (arXiv 2303.14814), whose state and template lists are
industrial; the wording here is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

NORMAL_STATES: tuple[str, ...] = (
    "normal {}",
    "healthy {}",
    "{} without any lesion",
    "{} with no abnormality",
    "unremarkable {}",
)

ABNORMAL_STATES: tuple[str, ...] = (
    "abnormal {}",
    "diseased {}",
    "{} with a lesion",
    "{} with an abnormality",
    "{} with pathology",
)

TEMPLATES: tuple[str, ...] = (
    "{}",
    "a photo of the {}",
    "a medical image of the {}",
    "a cropped medical image of the {}",
    "a radiology image showing the {}",
    "a close-up of the {}",
    "a grayscale image of the {}",
    "an example of the {}",
)


def ensemble(anatomy: Sequence[str], abnormal: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Write normal and abnormal texts for every anatomy word.

    Args:
        anatomy: Words such as ``brain MRI``.
        abnormal: Further states of a domain, each with ``{}`` for the anatomy.

    Returns:
        Normal texts and abnormal texts.
    """

    def texts(states: Sequence[str]) -> list[str]:
        return [t.format(s.format(word)) for word in anatomy for s in states for t in TEMPLATES]

    return texts(NORMAL_STATES), texts((*ABNORMAL_STATES, *abnormal))
