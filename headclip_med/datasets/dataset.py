"""The cases of a labelled set, with what was noticed about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headclip_med.datasets.case import Case, LabelledVolume, _make_readable

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class CaseDataset:
    """Labelled cases in a fixed order.

    Attributes:
        name: of the set, for tables.
        layout: the reader that listed it.
        root: what was listed.
        cases: in order.
        notes: what the listing passed over or guessed, in words.
        strays: names of masks that belong to no image.
        why: what the layout was recognised by.
    """

    name: str
    layout: str
    root: Path
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        _make_readable(self, "name", "notes", "strays", "why")

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, index: int) -> Case:
        return self.cases[index]

    @property
    def has_masks(self) -> bool:
        """Whether any case says where its lesions are, so that a normal case counts as an empty mask."""
        return any(case.has_mask for case in self.cases)

    def load(self, case: Case) -> LabelledVolume:
        """Read a case with its truth, as of :func:`headclip_med.datasets.loading.load_labelled`.

        Args:
            case: One of the set.

        Returns:
            Its volume and masks.

        Raises:
            InputError: an unreadable image or mask.
        """
        from headclip_med.datasets.loading import load_labelled

        return load_labelled(case, masks_known=self.has_masks)
