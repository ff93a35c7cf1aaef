"""An exported model without torch: the same numbers as the engine, the same words, and nothing heavy imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from affines import affine_of, rotation
from dicom_series import CtSeries
from monai.data import MetaTensor
from onnx_model import add_card, export
from oracle import oracle_engine
from PIL import Image
from small_cases import write_volume
from torch.nn import functional as F
from typer.testing import CliRunner

import headclip_med
from headclip_med.base.errors import CancelledError, HeadclipError, InputError, MissingExtraError, ModelError
from headclip_med.cli.main import app
from headclip_med.cohort.options import CaseOptions
from headclip_med.cohort.run import run_cohort
from headclip_med.datasets.phantom import centred_affine, make_phantom
from headclip_med.engine.engine import Engine
from headclip_med.engine.load import check_onnx_options, load_engine, load_onnx_engine
from headclip_med.engine.onnx_graph import open_graph
from headclip_med.engine.onnx_scorer import OnnxScorer
from headclip_med.engine.result import AnomalyResult
from headclip_med.reading import load
from headclip_med.reading.inputs import expand_inputs
from headclip_med.slicing.pixels_numpy import cubic_matrix, linear_matrix

TOLERANCE = 1e-5

GRIDS = {
    "RAS": (centred_affine((40, 48, 36), (4, 4, 4)), (40, 48, 36)),
    "thick slices": (affine_of(("R", "P", "I"), (2.5, 2.5, 7.0)), (64, 76, 22)),
    "permuted": (affine_of(("A", "I", "L"), (4, 3, 5)), (48, 50, 32)),
    "oblique": (rotation(17, 0) @ rotation(-11, 2) @ affine_of(("L", "S", "A"), (4, 4, 4)), (40, 38, 46)),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a tower this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine(tiny_pack: Path) -> Engine:
    return load_engine(tiny_pack, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def exported(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random pack of the tests as an ONNX file."""
    return export(engine, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="module")
def onnx_engine(exported: Path) -> Engine[OnnxScorer]:
    return load_onnx_engine(exported, device="cpu", batch_size=3)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    return path


def head(grid: str) -> tuple[np.ndarray, np.ndarray]:
    affine, shape = GRIDS[grid]
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom(5, shape=shape, affine=affine).array, affine  # type: ignore[arg-type]


def check_same(with_torch: AnomalyResult, without: AnomalyResult) -> None:
    """Everything that a user sees is the same, numbers to within rounding."""
    np.testing.assert_allclose(without.map_array, with_torch.map_array, atol=TOLERANCE)
    assert with_torch.map_array.std() > 1e-3
    assert without.pred_score == pytest.approx(with_torch.pred_score, abs=TOLERANCE)
    assert without.planes == with_torch.planes
    assert without.display_window == with_torch.display_window
    assert (without.threshold, without.threshold_origin) == (with_torch.threshold, with_torch.threshold_origin)
    assert without.warnings == with_torch.warnings
    np.testing.assert_allclose(without.affine, with_torch.affine)
    np.testing.assert_array_equal(without.source_array, with_torch.source_array)
    for one, other in zip(with_torch.slices, without.slices, strict=True):
        assert other.score == pytest.approx(one.score, abs=TOLERANCE)
        assert replace(other, score=0.0) == replace(one, score=0.0)
    assert len(without.findings) == len(with_torch.findings)
    for found, again in zip(with_torch.findings, without.findings, strict=True):
        assert again.peak == pytest.approx(found.peak, abs=TOLERANCE)
        assert abs(again.voxels - found.voxels) <= 2


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("options", [{}, {"plane": "all", "smooth_mm": 3.0}, {"channels": "neighbours"}], ids=str)
def test_a_volume_scores_as_with_torch(
    grid: str, options: Any, engine: Engine, onnx_engine: Engine[OnnxScorer]
) -> None:
    array, affine = head(grid)
    threshold = float(np.quantile(engine.predict(array, affine=affine, **options).map_array, 0.995))
    results = [e.predict(array, affine=affine, threshold=threshold, **options) for e in (engine, onnx_engine)]
    check_same(*results)
    assert results[0].findings


def test_the_map_of_a_known_detector_is_the_brightness_in_the_source_grid(tmp_path: Path) -> None:
    """The oracle's map is the level itself: a bright block comes out bright at its own voxels."""
    with_torch = oracle_engine()
    without = load_onnx_engine(export(with_torch, tmp_path / "oracle.onnx"), device="cpu")
    array, affine = head("oblique")
    array[18:22, 16:20, 20:26] = 4000
    results = [e.predict(array, affine=affine, threshold=0.9) for e in (with_torch, without)]
    check_same(*results)
    np.testing.assert_allclose(np.array(results[1].findings[0].voxel_min), (18, 16, 20), atol=1)


@pytest.mark.parametrize("shape", [(37, 61), (150, 90)])
def test_a_colour_picture_scores_as_with_torch(
    shape: tuple[int, int], engine: Engine, onnx_engine: Engine[OnnxScorer], tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "polyp.png")
    check_same(*(e.predict(tmp_path / "polyp.png") for e in (engine, onnx_engine)))


def test_ct_sequences_and_monochrome1_score_as_with_torch(engine: Engine, onnx_engine: Engine[OnnxScorer]) -> None:
    array, affine = head("RAS")
    for options in ({"modality": "CT"}, {"window": "40/400"}):
        check_same(*(e.predict(array - 300, affine=affine, **options) for e in (engine, onnx_engine)))
    three = np.stack([array, array[::-1], np.sqrt(array)])
    check_same(*(e.predict(three, affine=affine) for e in (engine, onnx_engine)))
    inverted = MetaTensor(
        torch.from_numpy(array.max() - array)[None], affine=torch.from_numpy(affine), meta={"display_inverted": True}
    )
    check_same(*(e.predict(inverted) for e in (engine, onnx_engine)))


def test_every_kind_of_source_gives_the_same(onnx_engine: Engine[OnnxScorer], engine: Engine, volume: Path) -> None:
    loaded = load(volume)
    from_file = onnx_engine.predict(volume)
    sources = [str(volume), [volume], loaded, headclip_med.read_volume(volume)]
    for result in [from_file, *(onnx_engine.predict(source) for source in sources)]:
        np.testing.assert_array_equal(result.map_array, from_file.map_array)
        assert result.meta["source_name"] == "good.nii.gz"
    as_array = onnx_engine.predict(loaded.array, affine=loaded.affine)
    np.testing.assert_array_equal(as_array.map_array, from_file.map_array)
    assert isinstance(engine.predict(loaded).volume, MetaTensor)


def test_a_dicom_series_keeps_its_slices_uids(engine: Engine, onnx_engine: Engine[OnnxScorer], tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "ct")
    results = [e.predict(tmp_path / "ct") for e in (engine, onnx_engine)]
    assert [s.uid for s in results[1].slices] == [s.uid for s in results[0].slices]
    assert all(s.uid for s in results[1].slices)
    np.testing.assert_allclose(results[1].map_array, results[0].map_array, atol=TOLERANCE)
    assert results[1].warnings == results[0].warnings


def test_provenance_is_the_packs_and_the_files(
    engine: Engine, onnx_engine: Engine[OnnxScorer], volume: Path, exported: Path
) -> None:
    with_torch, without = (e.predict(volume).provenance for e in (engine, onnx_engine))
    assert {"export_sha256", "runtime"} | set(with_torch) == set(without)
    assert {key for key in with_torch if with_torch[key] != without[key]} <= {"batch_size", "detector"}
    assert without["detector"] == onnx_engine.scorer.card.detector
    assert without["export_sha256"] == open_graph(exported).sha256
    assert without["precision"] == "float32"
    assert "onnxruntime" in without["versions"]


def test_progress_cancel_and_batch_size(exported: Path, volume: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = load_onnx_engine(exported, device="cpu")
    many = load_onnx_engine(exported, device="cpu", batch_size=4)
    assert (one.batch_size, many.batch_size) == (1, 4)
    results = [e.predict(volume, progress=lambda done, total: seen.append((done, total))) for e in (one, many)]
    assert seen == [*((n, 6) for n in range(1, 7)), (4, 6), (6, 6)]
    np.testing.assert_allclose(results[0].map_array, results[1].map_array, atol=TOLERANCE)
    with pytest.raises(CancelledError, match="0 of 6"):
        one.predict(volume, cancel=lambda: True)


class _LittleMemory:
    """A session that fails as onnxruntime does when more than two slices are sent."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> Any:
        if len(inputs["pixels"]) > 2:
            raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")
        return self._session.run(names, inputs)


def test_out_of_memory_halves_the_batch(exported: Path, volume: Path, onnx_engine: Engine[OnnxScorer]) -> None:
    graph = open_graph(exported, "cpu")
    little = replace(graph, session=_LittleMemory(graph.session))  # type: ignore[arg-type]
    small = Engine(OnnxScorer(little, batch_size=6))
    result = small.predict(volume)
    assert small.batch_size == 1
    assert [w for w in result.warnings if "out of memory" in w] == [
        f"out of memory on cpu: batch size lowered to {n}" for n in (3, 1)
    ]
    np.testing.assert_allclose(result.map_array, onnx_engine.predict(volume).map_array, atol=TOLERANCE)


# ---- options and files that cannot be used


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"domain": "brain-mri"}, "The domain must be generic, for which tiny.onnx was exported; given: brain-mri"),
        ({"domain": "brain-mr"}, "Did you mean brain-mri"),
        ({"plane": "axal"}, "A plane must be one of"),
        ({"window": "brian"}, "A window must be"),
        ({"channels": "both"}, "Channels must be one of"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"smooth_mm": -1.0}, "between 0 mm"),
    ],
)
def test_wrong_options_are_refused_in_words(
    options: Any, words: str, onnx_engine: Engine[OnnxScorer], volume: Path
) -> None:
    assert onnx_engine.predict(volume, domain="generic").planes == ("axial",)
    with pytest.raises(InputError, match=words):
        onnx_engine.predict(volume, **options)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (123, {}, "The source must be a path"),
        (np.ones((4, 4, 4)), {}, "must come with its affine"),
        (np.full((4, 4, 4), np.nan), {"affine": np.eye(4)}, "must be finite"),
        (np.random.default_rng(0).random((2, 9, 9, 9)), {"affine": np.eye(4)}, "one channel, or three"),
    ],
)
def test_odd_sources_are_refused_in_words(
    source: Any, options: Any, words: str, onnx_engine: Engine[OnnxScorer]
) -> None:
    with pytest.raises(InputError, match=words):
        onnx_engine.predict(source, **options)


def test_files_that_are_no_models_are_refused_in_words(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("a model")
    (tmp_path / "half.onnx").write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    for name, words in {
        "gone.onnx": "must be a file that exists",
        "empty.onnx": "must be a whole ONNX file",
        "text.onnx": "must be a whole ONNX file",
        "half.onnx": "must be a whole ONNX file",
        ".": "must be a file that exists",
    }.items():
        with pytest.raises(ModelError, match=words) as caught:
            load_onnx_engine(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def test_a_model_without_a_card_or_with_a_broken_one_is_refused(copy: Path) -> None:
    add_card(copy, None)
    with pytest.raises(ModelError, match="must carry a score card"):
        load_onnx_engine(copy)
    add_card(copy, '{"format": "other"}')
    with pytest.raises(ModelError, match="must follow the format headclip_med"):
        load_onnx_engine(copy)


@pytest.mark.parametrize("port", ["pixels", "slice_score"])
def test_a_graph_with_other_names_is_refused(port: str, copy: Path) -> None:
    model = onnx.load(str(copy))
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.name = "other" if value.name == port else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["other" if name == port else name for name in names]
    onnx.save(model, str(copy))
    with pytest.raises(ModelError, match=r"puts of model.onnx must be .*; given: .*other"):
        load_onnx_engine(copy)


def test_a_graph_of_another_size_than_its_card_says_is_refused(engine: Engine, tmp_path: Path, exported: Path) -> None:
    pixels = open_graph(exported).card.pixels.model_copy(update={"image_size": 64})
    path = export(engine, tmp_path / "m.onnx", pixels=pixels)
    with pytest.raises(
        ModelError, match=r"must be float32 \(N, 3, 64, 64\) .*given: tensor\(float\) \(.*, 3, 32, 32\)"
    ):
        load_onnx_engine(path)


def test_devices_that_are_not_there_are_refused_in_words(exported: Path) -> None:
    import onnxruntime

    for device in ("mps", "cpu:1", "cuda:x", "gpu"):
        with pytest.raises(ModelError, match="must be auto, cpu, cuda, cuda:N or openvino"):
            load_onnx_engine(exported, device=device)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ModelError, match="one that onnxruntime finds here; given: cuda: this onnxruntime is made"):
            load_onnx_engine(exported, device="cuda")


def test_a_missing_onnxruntime_names_the_pip_command(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'headclip-med\[onnx\]'"):
        load_onnx_engine(exported)


@pytest.mark.parametrize("options", [{"weights": "w.pt"}, {"method": "headclip"}, {"precision": "bfloat16"}])
def test_what_only_torch_can_do_is_refused(options: Any) -> None:
    check_onnx_options(precision="float32")
    with pytest.raises(ModelError, match="must be used as it is; given: --"):
        check_onnx_options(**options)


# ---- the command line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "headclip"], "must be used as it is; given: --method headclip"),
        (["--precision", "float16"], "given: --precision float16"),
        (["--domain", "brain-mri"], "The domain must be generic"),
        (["--device", "mps"], "must be auto, cpu, cuda, cuda:N or openvino"),
        (["--batch-size", "0"], "at least 1"),
    ],
)
def test_the_command_line_refuses_before_any_case(
    options: list[str], words: str, exported: Path, volume: Path, tmp_path: Path
) -> None:
    command = ["predict", str(volume), "--model", str(exported), "--out", str(tmp_path / "out"), *options]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 2
    assert words in " ".join(ran.stderr.split())
    assert not (tmp_path / "out" / "good").exists()


def test_resume_skips_what_this_file_has_finished_and_nothing_else(
    exported: Path, engine: Engine, onnx_engine: Engine[OnnxScorer], tmp_path: Path
) -> None:
    sources = [write_volume(tmp_path / f"{name}.nii.gz", value=800 + i) for i, name in enumerate("ab")]
    options, out = CaseOptions(formats=("json",)), tmp_path / "out"

    def statuses(engine: Engine | Engine[OnnxScorer], count: int = 2) -> list[str]:
        cases = expand_inputs(sources[:count])
        return [o.status for o in run_cohort(engine, cases, out, options, resume=True).outcomes]

    assert statuses(onnx_engine, 1) == ["done"]
    assert statuses(onnx_engine) == ["skipped", "done"]
    run = json.loads((out / "run.json").read_text())
    assert run["model"]["export_sha256"] == open_graph(exported).sha256
    assert (run["arguments"]["device"], run["arguments"]["batch_size"]) == ("cpu", 3)
    assert statuses(engine) == ["done", "done"], "another file made those"
    assert statuses(onnx_engine) == ["done", "done"]


_WITHOUT_TORCH = """
import sys

class NotThere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "monai", "torchvision", "timm", "open_clip"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotThere())
"""

_LIGHT_MODULES = (
    *("base.geometry", "base.volume", "cohort.options", "cohort.run", "cli.screen.console", "models.domains"),
    *("reading.inputs", "reading.nifti", "reading.dicom.reader", "reading.raster", "reading.sitk", "reading.sources"),
    *("slicing.intensity", "slicing.slices", "slicing.view", "engine.batches", "engine.card", "engine.case"),
    *(
        "engine.onnx_scorer",
        "engine.scorer",
        "engine.scan_run",
        "engine.engine",
        "engine.ask",
        "engine.load",
        "engine.result",
        "engine.volume_map",
        "models.record",
    ),
    *("writing.nifti", "writing.overlay", "writing.panels", "writing.record", "writing.report"),
)


def without_torch(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter where nothing of torch can be imported."""
    command = [sys.executable, "-W", "error", "-c", _WITHOUT_TORCH + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_modules_of_a_prediction_load_without_torch() -> None:
    done = without_torch("\n".join(f"import headclip_med.{name}" for name in _LIGHT_MODULES))
    assert (done.returncode, done.stderr) == (0, "")


_CLI = "from headclip_med.cli.main import main\nmain()"


def test_the_command_line_predicts_end_to_end_without_torch(
    exported: Path, engine: Engine, volume: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "in" / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(picture)
    out = tmp_path / "out"
    command = ["predict", volume, picture, "--model", exported, "--out", out, "--device", "cpu", "--threshold", "0.3"]
    done = without_torch(_CLI, *command)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    usual = {"anomaly_map.nii.gz", "anomaly_mask.nii.gz", "preview.png", "report.html", "result.json"}
    for source, name, more in ((volume, "good", ()), (picture, "picture", ("anomaly_map.png", "anomaly_mask.png"))):
        assert {path.name for path in (out / name).iterdir()} == usual.union(more)
        with_torch = engine.predict(source, threshold=0.3)
        on_disk = nib.load(out / name / "anomaly_map.nii.gz")
        np.testing.assert_allclose(np.asarray(on_disk.dataobj), with_torch.map_array, atol=TOLERANCE)
        np.testing.assert_allclose(on_disk.affine, with_torch.affine, atol=1e-6)
        record = json.loads((out / name / "result.json").read_text())
        assert record["pred_score"] == pytest.approx(with_torch.pred_score, abs=TOLERANCE)
    again = without_torch(_CLI, *command, "--resume", "--json")
    assert [case["status"] for case in json.loads(again.stdout)["cases"]] == ["skipped", "skipped"]


def test_help_answers_and_a_model_that_needs_torch_says_so_without_torch(volume: Path, tmp_path: Path) -> None:
    for command in (["--help"], ["predict", "--help"]):
        assert without_torch(_CLI, *command).returncode == 0
    done = without_torch(_CLI, "predict", volume, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "needs the package torch, which is not installed" in " ".join(done.stderr.split())


# ---- resizing


@pytest.mark.parametrize(
    ("source", "target"),
    [((37, 53), (224, 224)), ((240, 155), (518, 335)), ((513, 700), (64, 91)), ((1, 5), (7, 9)), ((64, 64), (64, 64))],
)
def test_resizing_is_torchs(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = torch.rand(1, 1, *source, generator=torch.Generator().manual_seed(0))
    for mode, matrix, more in (("bicubic", cubic_matrix, {"antialias": True}), ("bilinear", linear_matrix, {})):
        expected = F.interpolate(image, size=target, mode=mode, align_corners=False, **more).numpy()  # type: ignore
        rows, cols = (matrix(n, m) for n, m in zip(source, target, strict=True))
        np.testing.assert_allclose(rows @ image.numpy() @ cols.T, expected, atol=1e-6)


def test_resizing_by_hand() -> None:
    assert linear_matrix(2, 4).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert cubic_matrix(3, 3).tolist() == np.eye(3).tolist()
    # Twice the size: the kernel at 1.25, 0.25, 0.75 and 1.75 pixels; at the edge, what is left of it, to a sum of 1.
    np.testing.assert_allclose(cubic_matrix(5, 10)[5], [0, -0.0703125, 0.8671875, 0.2265625, -0.0234375], atol=1e-7)
    edge = np.array([0.8671875, -0.0703125, 0, 0, 0])
    np.testing.assert_allclose(cubic_matrix(5, 10)[0], edge / edge.sum(), atol=1e-7)
    np.testing.assert_allclose(cubic_matrix(7, 3).sum(axis=1), 1, atol=1e-6)


def test_public_names_and_errors() -> None:
    assert headclip_med.load_onnx_engine is load_onnx_engine
    assert issubclass(MissingExtraError, HeadclipError)


def test_openvino_in_float32_gives_the_same_maps_and_says_what_ran(
    onnx_engine: Engine[OnnxScorer], exported: Path, volume: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    engine = load_onnx_engine(exported, device="openvino", precision="float32")
    found, expected = engine.predict(volume), onnx_engine.predict(volume)
    np.testing.assert_allclose(found.map_array, expected.map_array, atol=TOLERANCE)
    assert found.pred_score == pytest.approx(expected.pred_score, abs=TOLERANCE)
    told = {key: found.provenance[key] for key in ("device", "runtime", "precision")}
    assert told == {"device": "cpu", "runtime": "openvino", "precision": "float32"}
    assert "openvino" in found.provenance["versions"]


def test_openvino_by_default_stays_within_the_tolerance_of_16_bits(
    onnx_engine: Engine[OnnxScorer], exported: Path, volume: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    engine = load_onnx_engine(exported, device="openvino", batch_size=3)
    assert engine.scorer.identity()["precision"] in ("float32", "bfloat16", "float16")
    np.testing.assert_allclose(engine.predict(volume).map_array, onnx_engine.predict(volume).map_array, atol=2e-2)


def test_an_openvino_device_that_is_not_there_is_said_in_words(exported: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    with pytest.raises(ModelError, match=r"one that OpenVINO finds here; given: openvino:NPU9.*It finds CPU"):
        load_onnx_engine(exported, device="openvino:NPU9")


def test_without_openvino_its_device_names_the_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"headclip-med\[openvino\]"):
        load_onnx_engine(exported, device="openvino")
