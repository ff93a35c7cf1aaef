"""What can be done with the open case besides judging it: export it, lay a sequence beside it, look at heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headclip_med import keep_triton_out
from headclip_med.base.errors import InputError
from headclip_med.review import OpenCase
from headclip_med.review.sources import LinkedImage, linked_image
from headclip_med.writing.record import ResultRecord

from ..layers.case import CaseLayers
from ..views.heads import HeadsBox
from ..views.parts import told
from .background import Background
from .review import ReviewControl
from .worker import in_words


class CaseTools:
    """Runs what takes time in threads. Errors go into the status line.

    Args:
        review: tells which case is open.
        layers: on which it lies.
        background: runs the work.
        heads: shows the attention heads.
    """

    def __init__(
        self,
        review: ReviewControl,
        layers: CaseLayers,
        background: Background,
        heads: HeadsBox,
    ) -> None:
        self.review, self.views, self._layers, self._background = review, review.views, layers, background
        self._heads = heads

    @told
    def export(self, folder: Path, formats: list[str]) -> None:
        """Write the case as it stands. What is in the way is said in the status line.

        Args:
            folder: the files go into a folder in it.
            formats: names of the formats.
        """
        from headclip_med.review.exports import export_folder, export_review
        from headclip_med.review.reviewed import ReviewedCase

        case = self.review.case
        if case is None:
            raise InputError("A case must be open to be exported", "none", "Open one first")
        if not formats:
            raise InputError("An export must have a format", "none", "Tick at least one")
        reviewed = ReviewedCase.of(case, self.review.source.volume if self.review.source else None)
        place = export_folder(reviewed, folder, case.key)
        self.views.footer.status.say("Exporting…")
        self._background.run(
            lambda: export_review(reviewed, place, formats),
            (),
            lambda files: self.views.footer.status.say(f"{len(files)} files written to '{folder.name}/{place.name}'."),
            lambda error: self.views.footer.status.say(in_words(error), is_wrong=True),
        )

    def add_sequence(self, path: Path) -> None:
        """Lay another image of the same patient beside the source.

        Args:
            path: of the image.
        """
        case = self.review.case
        if case is not None:
            self.views.footer.status.say(f"Reading {path.name}…")
            self._background.run(
                linked_image, (path, case.data), lambda found: self._show_sequence(case, found), self._fail
            )  # fmt: skip

    def show_heads(self) -> None:
        """Run the result's model on the slice on the screen."""
        case, source, index = self.review.case, self.review.source, self._layers.current_index()
        if case is None or source is None or not source.paths or index is None:
            self._heads.show_words("A case with its source must be open, in the plane in which it was scored.")
            return
        if case.concealed:
            self._heads.show_words("Give your first opinion, then the heads can be shown.")
            return
        self._heads.show_working(True)
        self._background.run(
            _explain,
            (case.record, source.paths[0], index),
            lambda found: self._show_heads(case, found),
            self._fail_heads,
        )

    def _show_sequence(self, case: OpenCase, found: LinkedImage) -> None:
        if self.review.case is not case:
            self.views.footer.status.say(f"{found.name} belongs to {case.key}, which is not open any more.")
            return
        self._layers.add_sequence(found.name, found.array)
        names = [layer.name for layer in self._layers.sources]
        self.views.display.show_sequences(names, [layer.visible for layer in self._layers.sources])
        self.views.footer.status.say(found.message or f"{found.name} lies on the same grid.")

    def _show_heads(self, case: OpenCase, found: Any) -> None:
        self._heads.show_working(False)
        if self.review.case is not case:
            self._heads.show_words(f"The heads were those of {case.key}, which is not open any more.")
            return
        lines = [f"layer {row.layer}, head {row.head}: {row.logits:+.3f}" for row in found.rows[:5]]
        self._heads.show_words("\n".join([found.place, found.patches, *lines, *found.notes]))
        self._heads.show_picture(found.picture)

    def _fail_heads(self, error: BaseException) -> None:
        self._heads.show_working(False)
        self._heads.show_words(in_words(error))

    def _fail(self, error: BaseException) -> None:
        self.views.footer.status.say(in_words(error), is_wrong=True)


def _explain(record: ResultRecord, source: Path, index: int) -> Any:
    keep_triton_out()
    from headclip_med.review.heads import explain_heads

    return explain_heads(record, source, index)
