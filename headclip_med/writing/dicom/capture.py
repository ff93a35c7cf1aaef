"""Secondary captures: slices as pictures with contour and score burnt in, for viewers that show nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from highdicom.sc import SCImage
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.writing.dicom.study import Study
from headclip_med.writing.overlay import slice_picture
from headclip_med.writing.panels import Panel, cropped, is_plain_image, overlay_slices

_NO_DIRECTION = ("L", "P")  # highdicom wants one; it is taken out again
_TO_DICOM = str.maketrans("SI", "HF")  # superior is head, inferior is foot


def secondary_captures(study: Study) -> Iterator[SCImage]:
    """Make one RGB picture of 8 bits per slice, with contour and score burnt in.

    Args:
        study: What is written about. Its option ``captures`` is the most that are made, 0 for no limit.

    Yields:
        The pictures of the most suspicious slices in patient order: inferior, posterior or left first. Background
        slices only where there are no others.
    """
    result = study.result
    panels = overlay_slices(result, study.options.captures or len(result.slices))
    panels = panels if is_plain_image(result) else cropped(panels)
    for number, panel in enumerate(panels, start=1):
        yield _capture(study, panel, number)


def _capture(study: Study, panel: Panel, number: int) -> SCImage:
    pixels = np.asarray(slice_picture(study.result, panel))
    right, down = (panel.letters[edge].translate(_TO_DICOM)[:1] for edge in (1, 3))
    made = SCImage.from_ref_dataset(
        ref_dataset=study.sources.header,
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=(right, down) if right and down else _NO_DIRECTION,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **study.series("sc", number),
    )
    if not (right and down):
        made.PatientOrientation = []
    made.copy_patient_and_study_information(study.sources.header)
    made.BurnedInAnnotation = "YES"
    _state_loss(made, study.sources.header)
    made.DerivationDescription = f"Slice with contour and score of an anomaly map. {RESEARCH_ONLY}"
    made.ImageComments = f"Score {panel.score:.3f}. {RESEARCH_ONLY}"
    study.state_body_part(made)
    study.finish(made)
    return made


def _state_loss(made: SCImage, source: Dataset) -> None:
    """Once lossy, always lossy: what happened to the source's pixels has happened to the picture's."""
    lossy = source.get("LossyImageCompression") == "01" and "LossyImageCompressionRatio" in source
    made.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod") if lossy else ():
        if keyword in source:
            made[keyword] = source[keyword]
