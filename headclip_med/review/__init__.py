"""Reviewing results as a reader works: everything but the window. No Qt, no napari, no torch.

A tour of what a window needs::

    from headclip_med.review import Session, components_at

    session = Session.open(["results"], reader="r1", unaided_first=False, session_dir=None, sources=[])
    session.changed.connect(lambda change: ...)     # change.what, change.message
    session.cases                                   # CaseEntry: key, score, done, judged, concealed, problem
    case = session.open_case(session.cases[0].key)  # OpenCase; also session.case
    case.data.volume_map, case.data.affine, case.data.frame, case.record, case.read_only
    case.show_overlay()                             # whenever the overlay is shown; refused while case.concealed
    case.start_slice(); case.slices("score"); case.suspicious_slice(here, +1)
    case.slice_mask(index, threshold)               # contour of one slice at once, in array order
    found = components_at(case.data.volume_map, case.data.affine, threshold, case.data.axis)  # in a thread
    case.set_threshold(threshold, found)            # at the end of a drag: one action
    case.findings                                   # ReviewFinding: id, finding, status, label, note, carried, mixed
    case.judge(id, "accepted", label="mets", note="", confidence=90); case.next_finding(id, +1); case.slice_of(id)
    case.mask_of(id); case.draw(mask) -> "d1"; case.edit_drawn("d1", label="..."); case.erase("d1")
    case.drawn_labels(); case.set_drawn_labels(labels)   # for a Labels layer in the source's grid
    case.give_opinion("abnormal", 80, marks=[(x, y, z)])  # the first one before the overlay, then the one with it
    case.set_note(text); case.set_done(); case.undo(); case.redo(); case.can_undo; case.can_redo
    session.step_case(+1); session.close()

Files: ``match_source(record, places)`` and ``linked_image(path, data)`` in :mod:`headclip_med.review.sources`; exports
of ``ReviewedCase.of(case)`` in :mod:`headclip_med.review.exports`; heads in :mod:`headclip_med.review.heads`.
Whatever cannot be done raises a :class:`headclip_med.base.errors.HeadclipError` in words for the status line.
"""

from __future__ import annotations

from headclip_med.review.components import Components, components_at, slice_mask
from headclip_med.review.decisions import ReviewFinding
from headclip_med.review.lists import CaseEntry, SliceRow
from headclip_med.review.model import RATINGS, STATUSES, CaseReview, Mark
from headclip_med.review.open_case import KEEP, OpenCase
from headclip_med.review.session import Session
from headclip_med.review.signals import Change, Signal

__all__ = [
    "KEEP",
    "RATINGS",
    "STATUSES",
    "CaseEntry",
    "CaseReview",
    "Change",
    "Components",
    "Mark",
    "OpenCase",
    "ReviewFinding",
    "Session",
    "Signal",
    "SliceRow",
    "components_at",
    "slice_mask",
]
