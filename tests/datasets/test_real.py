"""Real sets as they are found; skipped where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headclip_med.datasets import open_dataset
from headclip_med.datasets.check import check_dataset


def test_brain_mri_has_228_unique_images(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "brain_mri_2d")
    assert dataset.layout == "folders"
    report = check_dataset(dataset)
    assert (report.counts["cases"], report.counts["unique"]) == (253, 228)
    assert (report.counts["abnormal"], report.counts["normal"]) == (155, 98)
    copies = next(problem for problem in report.problems if problem.kind == "copies")
    assert sum(group.count(" = ") for group in copies.cases) == 253 - 228
    assert report.ok


def test_polyps_have_masks_that_are_not_binary(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "polyps_2d")
    assert (dataset.layout, len(dataset), dataset.strays) == ("pairs", 200, ())
    for case in dataset.cases[:10]:
        labelled = dataset.load(case)
        assert labelled.gt_mask is not None
        assert labelled.gt_mask.shape == tuple(labelled.volume.shape[1:])
        assert 0 < labelled.gt_mask.mean() < 0.9
        assert labelled.warnings[0].startswith("the mask is not binary: ")


def test_ms_patients_have_small_lesions(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "ms_flair")
    assert (dataset.layout, [case.patient for case in dataset]) == ("brats", ["patient07", "patient26"])
    assert [case.images[0].name.split(".")[0] for case in dataset] == ["flair", "flair"]
    labelled = dataset.load(dataset[0])
    assert labelled.gt_label is True
    assert labelled.gt_mask is not None
    assert 0 < labelled.gt_mask.mean() < 0.05
    inside = np.asarray(labelled.volume)[0][labelled.gt_mask]
    assert inside.mean() > 2 * np.asarray(labelled.volume)[0].mean()  # lesions are bright in FLAIR


def test_a_case_without_seg_is_said(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "brats")
    assert dataset.layout == "brats"
    labels = {case.patient: dataset.load(case).gt_label for case in dataset}
    assert labels == {"BraTS-GLI-00001": None, "TCGA-DU-7294": True}
    assert "1 case without a mask, and so without truth, such as BraTS-GLI-00001-000" in dataset.notes
