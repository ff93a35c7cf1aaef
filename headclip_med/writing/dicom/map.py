"""The anomaly map as a DICOM Parametric Map, float32 on the source's own frames."""

from __future__ import annotations

from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.sr.codedict import codes

from headclip_med.base.errors import OutputError
from headclip_med.writing.dicom.frames import frame_scores
from headclip_med.writing.dicom.study import Study


def parametric_map(study: Study) -> ParametricMap:
    """Make a Parametric Map of every source frame, with the float32 values of the map from 0 to 1 and no unit.

    Args:
        study: What is written about.

    Returns:
        The object, finished.

    Raises:
        OutputError: images without a place in the patient, of which highdicom makes no parametric map, or two in one
            place.
    """
    if not study.sources.placed:
        raise OutputError("An image must say where it lies for a parametric map of it", "none", "Leave pm out")
    scores = frame_scores(study.result, study.sources)
    mapping = RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly map, 0 normal to 1 abnormal, not calibrated",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.DCM.Probability,
    )
    made = ParametricMap(
        source_images=study.sources.headers,
        pixel_array=scores,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="ANOMALY",
        content_description="Anomaly map, research use only",
        **study.series("pm"),
    )
    study.state_body_part(made)
    study.finish(made)
    return made
