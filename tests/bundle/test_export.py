"""A detector as one file gives the detector's numbers, says what they mean, and is whole or absent."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from towers import clip_visual, timm_tower
from typer.testing import CliRunner

from headclip_med.base.errors import InputError, MissingExtraError, ModelError, OutputError
from headclip_med.base.files import sha256_file
from headclip_med.bundle.build_model import build_network
from headclip_med.bundle.export import onnx_file, program
from headclip_med.bundle.export.formats import KINDS, parse_kinds, targets
from headclip_med.bundle.export.graph import ExportGraph, exportable
from headclip_med.bundle.export.run import Exported, export_model, load_network
from headclip_med.cli.main import app
from headclip_med.encoders.adapters import tower_from_open_clip
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.head_weights import DynamicHeadWeights
from headclip_med.encoders.tower import ImageTower
from headclip_med.engine.card import card_path, parse_card
from headclip_med.models.load import Model, detector_for
from headclip_med.models.pack import Pack
from headclip_med.models.record import LedgerEntry, PackRecord, Threshold, TowerRecord

ALL = parse_kinds("pt2,onnx", Path("out"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On towers this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_model(tower: ImageTower, tensors: dict[str, torch.Tensor], **config: object) -> Model:
    """A model on ``tower`` with random class features and whatever else ``tensors`` holds."""
    taps = len(config.get("feature_layers", (3,)))  # type: ignore[arg-type]
    classes = F.normalize(torch.randn(taps, 2, tower.output_dim, generator=seeded(5)), dim=-1)
    record = PackRecord(
        format="headclip_med/1",
        name="random",
        title="Random features",
        method="headclip",
        tower=TowerRecord(kind="timm", name="tiny"),
        config={"feature_layers": [3], **config},
        domain="brain-mri",
        slice_smoothing_mm=2.0,
        threshold=Threshold(value=0.3, origin="made up"),
        ledger=(LedgerEntry(name="set", licence="CC0", count=2, content_sha256="ab", image_sha256=("1", "2")),),
    )
    pack = Pack(Path("random"), record, {"patch_classes": classes, **tensors}, "f00d")
    return Model("random", "headclip", BuiltTower(tower, "timm", "tiny", "nowhere", "beef"), pack)


def image_classes(tower: ImageTower) -> dict[str, torch.Tensor]:
    return {"image_classes": F.normalize(torch.randn(2, tower.output_dim, generator=seeded(6)), dim=-1)}


def theta(*shape: int) -> torch.Tensor:
    return 1 + 0.4 * torch.randn(*shape, generator=seeded(7))


def short_clip(blocks: int, **options: object) -> ImageTower:
    """The tiny CLIP tower with fewer blocks, which are exported faster."""
    visual = clip_visual("tiny", **options)
    visual.transformer.resblocks = visual.transformer.resblocks[:blocks]
    return tower_from_open_clip(visual)


def clip_with_two_taps() -> Model:
    tower = short_clip(3)
    tensors = {**image_classes(tower), "head_weights": theta(2, 4)}
    config = {"feature_layers": (1, 2), "jas_score_pool": True, "jas_pool": "topk_mean", "global_norm": False}
    return make_model(tower, tensors, **config)


def registers_centre_and_intensity() -> Model:
    tower = timm_tower(reg_tokens=2, depth=3)
    tensors = {"centre": 0.2 * torch.randn(2, 48, generator=seeded(8)), "head_weights": theta(1, 4, 12)}
    config = {"feature_layers": (1, 2), "local_attention": "qq+kk+vv", "jas_order": "before_smooth", "jas_pool": "lse"}
    return make_model(tower, tensors, intensity_fusion=(0.8, 2.0, -0.5), **config)


def predicted_weights_and_average_pooling() -> Model:
    tower = short_clip(2, pool_type="avg", final_ln_after_pool=True)
    predictor = DynamicHeadWeights(tower.width, tower.depth, tower.heads, 8)
    torch.nn.init.normal_(predictor.output.weight, generator=seeded(9))
    dynamic = {f"dynamic.{name}": value for name, value in predictor.state_dict().items()}
    config = {"feature_layers": (1,), "lhw_dynamic": True, "lhw_branch": "both", "jas_pool": "p99.5"}
    return make_model(tower, {**image_classes(tower), **dynamic}, **config)


def temperature_and_another_size() -> Model:
    tower = timm_tower(reg_tokens=1, no_embed_class=True, depth=2)
    config = {"lhw_site": "attention_temperature", "local_attention": "qk", "jas": False, "image_size": 48}
    return make_model(tower, {**image_classes(tower), "head_weights": theta(1, 4)}, feature_layers=(1,), **config)


def plain_tokens_of_a_middle_block() -> Model:
    config = {"feature_layers": (1,), "local_attention": "none", "map_upsampling": "nearest", "map_sigma": 0.0}
    return make_model(timm_tower(qk_norm=True), {}, **config)


def decoupled_weights() -> Model:
    tower = short_clip(2, pool_type="avg", final_ln_after_pool=False)
    tensors = {**image_classes(tower), "head_weights": theta(1, 4), "head_weights_global": theta(2, 4)}
    config = {
        "feature_layers": (1,),
        "lhw_task_decoupled": True,
        "lhw_param": "softplus",
        "image_size": 40,
        "position_mode": "bilinear",
    }
    return make_model(tower, tensors, **config)


MODELS = (
    clip_with_two_taps,
    registers_centre_and_intensity,
    predicted_weights_and_average_pooling,
    temperature_and_another_size,
    plain_tokens_of_a_middle_block,
    decoupled_weights,
)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_every_form_gives_the_detectors_numbers_at_any_batch(make, tmp_path: Path) -> None:
    model = make()
    exported = export_model(model, tmp_path, ALL, images=4, tolerance=1e-5)
    assert [e.file.name for e in exported] == ["model.pt2", "model.onnx"]
    detector, size = detector_for(model, model.domain), detector_for(model, model.domain).image_size
    for count in (1, 3, 5):
        pixels = torch.randn(count, 3, size, size, generator=seeded(count))
        valid = (torch.rand(count, size, size, generator=seeded(count)) > 0.9).float()
        wanted = detector.score(pixels, valid)
        for kind, file in zip(ALL, exported, strict=True):
            maps, scores = kind.writer().reopen(file.file)[0](pixels, valid)
            torch.testing.assert_close(maps[:, 0], wanted.maps, atol=1e-5, rtol=0)
            torch.testing.assert_close(scores, wanted.scores, atol=1e-5, rtol=0)
    for entry in exported:
        assert_card_inside_and_beside(entry.file)


def assert_card_inside_and_beside(file: Path) -> None:
    kind = next(kind for kind in ALL if kind.suffix == file.suffix)
    card = kind.writer().reopen(file)[1]
    beside = json.loads(card_path(file).read_text(encoding="utf-8"))
    assert (beside.pop("file"), beside.pop("file_sha256")) == (file.name, sha256_file(file))
    assert parse_card(json.dumps(beside), file.name) == card
    assert (card.kind, card.model, card.pack, card.pack_sha256) == (kind.name, "random", "random", "f00d")
    assert card.parity is not None
    assert (card.parity.batches, card.parity.images) == ((1, 3), 4)
    assert card.parity.map_error <= 1e-5
    assert card.parity.score_error <= 1e-5
    assert (card.domain, card.threshold.value, card.slice_smoothing_mm) == ("brain-mri", 0.3, 2.0)
    assert card.ledger == ({"name": "set", "licence": "CC0", "count": 2, "content_sha256": "ab"},)
    assert [port.name for port in card.inputs] == ["pixels", "valid"]


def test_valid_limits_the_score_and_not_the_map() -> None:
    graph = ExportGraph(exportable(registers_centre_and_intensity())[1])
    pixels, everywhere = graph.example(2)
    nowhere = torch.zeros_like(everywhere)
    assert torch.equal(graph(pixels, everywhere)[0], graph(pixels, nowhere)[0])
    assert (graph(pixels, everywhere)[1] > graph(pixels, nowhere)[1] + 0.1).all()


def test_the_graph_holds_what_it_uses_and_leaves_the_tower_alone() -> None:
    model = plain_tokens_of_a_middle_block()
    before = {name: value.clone() for name, value in model.built.tower.model.state_dict().items()}
    graph = ExportGraph(exportable(model)[1])
    assert not any(name.startswith("tower._parts.2") for name, _ in graph.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in model.built.tower.model.state_dict().items())


@pytest.fixture(scope="module")
def plain_files(tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """One small model in every form."""
    return export_model(plain_tokens_of_a_middle_block(), tmp_path_factory.mktemp("plain"), ALL, images=3)


def test_the_onnx_file_is_whole_and_names_its_axes(plain_files: list[Exported]) -> None:
    import onnx

    model = onnx.load(plain_files[1].file, load_external_data=False)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] >= 18
    shapes = {
        port.name: [axis.dim_param or axis.dim_value for axis in port.type.tensor_type.shape.dim]
        for port in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "pixels": ["batch", 3, 32, 32],
        "valid": ["batch", 32, 32],
        "anomaly_map": ["batch", 1, 32, 32],
        "slice_score": ["batch"],
    }
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_no_file_names_a_folder_of_this_machine(plain_files: list[Exported]) -> None:
    here = str(Path(__file__).parents[2]).encode()
    for entry in plain_files:
        content = [entry.file.read_bytes()]
        if zipfile.is_zipfile(entry.file):
            with zipfile.ZipFile(entry.file) as archive:
                content = [archive.read(name) for name in archive.namelist()]
        assert not any(here in part or b"site-packages" in part for part in content), entry.file.name


def test_the_shipped_model_through_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["bundle", "export", str(out), "--kind", "pt2,onnx", "--images", "4", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    files = json.loads(result.stdout)["files"]
    assert [entry["kind"] for entry in files] == ["pt2", "onnx"]
    for entry in files:
        assert entry["parity"]["map_error"] < 1e-5
        assert entry["bytes"] < 8e6
    assert sorted(p.name for p in out.iterdir()) == [
        *("model.onnx", "model.onnx.json", "model.pt2", "model.pt2.json"),
    ]


def test_a_tolerance_that_cannot_be_met_leaves_nothing(tmp_path: Path) -> None:
    out, kinds = tmp_path / "new", parse_kinds("pt2,onnx", tmp_path)
    with pytest.raises(ModelError, match=r"model\.onnx must give the detector's probabilities within 1e-12"):
        export_model(plain_tokens_of_a_middle_block(), out, kinds, images=3, tolerance=1e-12)
    assert not out.exists()


def test_a_checkpoint_of_the_network_is_what_is_exported(tmp_path: Path) -> None:
    network = build_network(precision="float32", learn=("heads", "classes"))
    with torch.no_grad():
        network.head_weights.mul_(1.7)
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    loaded = load_network(checkpoint=tmp_path / "model.pt")
    (file,) = export_model(loaded, tmp_path / "m.pt2", parse_kinds(None, tmp_path / "m.pt2"), images=3)
    run, card = program.reopen(file.file)
    pixels = torch.randn(1, 3, 256, 256, generator=seeded(1))
    with torch.no_grad():
        maps = run(pixels, torch.ones(1, 256, 256))[0]
        torch.testing.assert_close(maps, network(pixels), atol=1e-5, rtol=0)
        assert (maps - build_network(precision="float32")(pixels)).abs().max() > 1e-3
    assert (card.pack, card.pack_sha256) == ("headclip-tiny", None)


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    state = build_network(precision="float32").state_dict()
    path = tmp_path / "model.pt"
    for change, words in (
        ({"patch_classes": torch.ones(1, 2, 7)}, r"1 of another shape \(first patch_classes\)"),
        ({"surplus": torch.ones(1)}, r"1 unknown \(first surplus\)"),
        ({"tower.cls_token": state["tower.cls_token"] + 1}, "frozen weights of the model"),
    ):
        torch.save({**state, **change}, path)
        with pytest.raises(ModelError, match=words):
            load_network(checkpoint=path)
    torch.save({key: value for key, value in state.items() if key != "patch_classes"}, path)
    with pytest.raises(ModelError, match=r"1 missing \(first patch_classes\)"):
        load_network(checkpoint=path)


def test_a_network_that_was_not_prepared_is_not_traced(tiny_pack: Path) -> None:
    network = build_network(tiny_pack)
    pixels = torch.zeros(1, 3, network.image_size, network.image_size)
    with torch.no_grad(), pytest.raises(ModelError, match="in evaluation mode and in float32 to be traced"):
        torch.export.export(network, (pixels,), strict=False)


def test_missing_packages_are_named_with_their_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "headclip_med.bundle.export.onnx_file.find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    result = CliRunner().invoke(app, ["bundle", "export", str(tmp_path / "out"), "--kind", "onnx"])
    assert result.exit_code == 2
    assert "pip install 'headclip-med[onnx]'" in result.stderr
    with pytest.raises(MissingExtraError, match="no onnxscript"):
        export_model(plain_tokens_of_a_middle_block(), tmp_path / "out", (KINDS["onnx"],))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out", "--kind", "pt3"], "The kinds must be among pt2, onnx, each once; given: pt3"),
        (["out", "--kind", "torchscript"], "python -m monai.bundle ckpt_export"),
        (["out", "--kind", "pt2,pt2"], "each once"),
        (["model.onnx", "--kind", "pt2"], "A file of the kind pt2 must end in .pt2; given: model.onnx"),
        (["model.onnx", "--kind", "pt2,onnx"], "Several kinds must go to a folder"),
        (["file/model.pt2", "--images", "3"], "must be writable; given: a file where a folder must be"),
        (["out", "--images", "2"], "measured on at least 3 slices"),
        (["out", "--tolerance", "0"], "The tolerance must lie between 0 and 1"),
        (["out", "--model", "headclip-tinny"], "Did you mean headclip-tiny"),
        (["out", "--domain", "head-ct"], "must stay brain-mri"),
        (["out", "--ckpt", "nowhere.pt"], "The checkpoint must be a file that exists; given: nowhere.pt"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_message(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    result = CliRunner().invoke(app, ["bundle", "export", *arguments])
    assert result.exit_code == 2
    assert result.stderr.count("error:") == 1
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_without_a_card_are_refused(tmp_path: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return 2 * pixels

    with (tmp_path / "a.pt2").open("wb") as file:
        torch.export.save(torch.export.export(Doubled(), (torch.ones(1),)), file)
    (tmp_path / "b.pt2").write_bytes(b"no archive")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    for form, name, words in (
        (program, "a.pt2", "score card of a.pt2 must follow the format headclip_med.export/1"),
        (program, "b.pt2", "must be a readable .pt2 file"),
        (onnx_file, "b.onnx", "must be a readable .onnx file"),
    ):
        with pytest.raises(ModelError, match=words):
            form.reopen(tmp_path / name)


def test_a_model_in_16_bits_is_refused_in_words(tmp_path: Path) -> None:
    network = build_network(precision="bfloat16")
    network.as_engine()
    with pytest.raises(ModelError, match="must stay on the device and in the precision"):
        export_model(network, tmp_path, ALL)


def test_weights_above_two_gigabytes_are_refused_for_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST_BYTES", 1000)
    (tmp_path / "model.pt2").write_text("an earlier one")
    with pytest.raises(ModelError, match="below 2 GB to lie inside one ONNX file"):
        export_model(plain_tokens_of_a_middle_block(), tmp_path, parse_kinds("pt2,onnx", tmp_path), images=3)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "an earlier one"


def test_a_card_that_cannot_be_written_takes_its_file_with_it(tmp_path: Path) -> None:
    (tmp_path / "model.pt2.json").mkdir()
    with pytest.raises(OutputError):
        export_model(plain_tokens_of_a_middle_block(), tmp_path, parse_kinds("pt2", tmp_path), images=3)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2.json"]


def test_kinds_and_their_files() -> None:
    assert [kind.name for kind in parse_kinds(None, Path("x.onnx"))] == ["onnx"]
    assert [kind.name for kind in parse_kinds(None, Path("x"))] == ["pt2"]
    assert targets(ALL, Path("x"))[KINDS["pt2"]] == Path("x/model.pt2")
    assert targets(ALL, Path("v1.2"))[KINDS["onnx"]] == Path("v1.2/model.onnx")
    with pytest.raises(InputError, match="each once"):
        parse_kinds(",", Path("x"))


@pytest.mark.parametrize("name", ["model.pt", "model.pt2x", "model.onx"])
def test_a_file_name_with_another_ending_makes_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"must end in .onnx, .pt2; given: {name}"):
        targets(parse_kinds(None, tmp_path / name), tmp_path / name)
    (tmp_path / name).mkdir()
    assert list(targets((KINDS["pt2"],), tmp_path / name).values()) == [tmp_path / name / "model.pt2"]
