"""A labelled case, and a set of them: what evaluation and training share, whatever folder layout it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import readable
from headclip_med.datasets.values import NOT_KNOWN, MaskValues

if TYPE_CHECKING:
    from monai.data import MetaTensor


def _make_readable(record: object, *fields: str) -> None:
    """Names of files and folders may hold what no table, page or JSON can."""
    for field_name in fields:
        value = getattr(record, field_name)
        shown = readable(value) if isinstance(value, str) else tuple(map(readable, value))
        object.__setattr__(record, field_name, shown)


@dataclass(frozen=True)
class Case:
    """One image or volume with what is known about it, before anything is read.

    Attributes:
        name: unique in its set, and safe as the name of a folder.
        images: one file, or several sequences on one grid, or, where ``stacked``, the slices of one volume in order.
        masks: truth: none, or one file, or several that are one truth together, or, where ``stacked``, one per slice
            (None: a slice without lesion).
        label: True abnormal, False normal, None where only the mask can tell.
        patient: who it is of. Splits and intervals never part the cases of one patient.
        stacked: the images are slices of one volume.
        category: class of a set with several (an MVTec object, an organ), else empty.
        split: train, val, test or empty, where the layout says so.
        columns: further facts by column name, for subgroup tables.
        volumes: for 4-D files, which of its volumes each image is, 0-based. Empty: files of one volume.
        values: what the values of the masks mean.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path | None, ...] = ()
    label: bool | None = None
    patient: str = ""
    stacked: bool = False
    category: str = ""
    split: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[int, ...] = ()
    values: MaskValues = NOT_KNOWN

    def __post_init__(self) -> None:
        _make_readable(self, "name", "patient", "category", "split")
        facts = {key: value.encode(errors="backslashreplace").decode() for key, value in self.columns.items()}
        object.__setattr__(self, "columns", facts)  # text of tables, with its lines

    @property
    def has_mask(self) -> bool:
        """Whether a file says where the lesions are."""
        return any(mask is not None for mask in self.masks)


@dataclass(frozen=True)
class LabelledVolume:
    """A case that has been read.

    Attributes:
        volume: ``(C, I, J, K)`` MetaTensor as :func:`headclip_med.read_volume` gives it, where a plain image has K = 1.
        gt_mask: ``(I, J, K)`` bool on exactly that grid, None where nothing says where the lesions are.
        gt_label: True abnormal, False normal, None unknown.
        image_sha256: of the decoded values, so that copies are found whatever their files say. Three equal channels
            count as one.
        sha256: of the values and the mask.
        warnings: what was odd about the files, in words.
        ignored: ``(I, J, K)`` bool, voxels about which nothing is known, never lesion. None: there are none.
        mask_values: those in the masks beside 0.
    """

    volume: MetaTensor
    gt_mask: NDArray[np.bool_] | None
    gt_label: bool | None
    image_sha256: str
    sha256: str
    warnings: tuple[str, ...] = ()
    ignored: NDArray[np.bool_] | None = None
    mask_values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _make_readable(self, "warnings")
