"""Names of models and cases: told apart, and fit for a file system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cases import write_tiny_pack

from headclip_med import evaluate, open_dataset
from headclip_med.evaluation.scorers import short_names


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a/x.pt", "control:chance"], ["x.pt", "control:chance"]),
        (["a/x.pt", "b/x.pt"], ["a/x.pt", "b/x.pt"]),
        (["hf-hub:one/clip", "hf-hub:two/clip/"], ["hf-hub:one/clip", "hf-hub:two/clip"]),
        (["x.pt", "a/x.pt", "c/a/x.pt"], ["x.pt", "a/x.pt", "c/a/x.pt"]),
        (["/m/x.pt", "/m/x.pt"], ["x.pt", "x.pt"]),
        (["clip:A@/m/x.pt", "winclip:A@/m/x.pt"], ["clip:x.pt", "winclip:x.pt"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(given: list[str], names: list[str]) -> None:
    assert short_names(given) == names


def test_two_models_with_one_file_name_stand_side_by_side(tmp_path: Path) -> None:
    packs = [str(write_tiny_pack(tmp_path / part / "pack", seed)) for seed, part in enumerate("ab")]
    for i, folder in enumerate(("no", "yes")):
        (tmp_path / "set" / folder).mkdir(parents=True)
        array = np.random.default_rng(i).integers(60, 120, (24, 24)).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / "set" / folder / "0.png")
    result = evaluate(packs, open_dataset(tmp_path / "set"), tmp_path / "out")
    assert [model.model for model in result.record.models] == ["a/pack", "b/pack"]
    assert (tmp_path / "out" / "cases" / "a-pack" / "no_0.npz").is_file()
    assert (tmp_path / "out" / "cases" / "b-pack" / "no_0.npz").is_file()
