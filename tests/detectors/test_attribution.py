"""Shares of heads add up to the detector's own logits, and say which way a head moves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from towers import clip_tower, timm_tower
from typer.testing import CliRunner

from headclip_med.base.errors import ModelError
from headclip_med.cli.main import app
from headclip_med.detectors import ClassFeatures, HeadCLIP, HeadCLIPConfig
from headclip_med.detectors.headclip.attribution import HeadShares, acting_weights, detector_shares, strongest_heads
from headclip_med.encoders.head_weights import DynamicHeadWeights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.tower import ImageTower
from headclip_med.engine.load import load_engine

LAYERS = (3, 1)


def _timm_tower() -> ImageTower:
    """Heads that say something: timm draws its matrices so small that they would hardly count."""
    tower = timm_tower()
    for block in tower.blocks:
        block.qkv_weight.data *= 5
        block.out_weight.data *= 5
    return tower


def _detector(tower: ImageTower, weights: object = None, *, centred: bool = True, **config: object) -> HeadCLIP:
    draw = torch.Generator().manual_seed(1)
    width = tower.output_dim
    patch = {layer: normalize(torch.randn(2, width, generator=draw), dim=-1) for layer in LAYERS}
    centre = {layer: 0.3 * torch.randn(width, generator=draw) for layer in LAYERS} if centred else {}
    chosen = HeadCLIPConfig(**{"feature_layers": LAYERS, "local_start": 1, **config})
    return HeadCLIP(tower, ClassFeatures(patch, None, centre), chosen, weights)


def _pixels(tower: ImageTower, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, tower.native_size, tower.native_size, generator=torch.Generator().manual_seed(seed))


def _weights(tower: ImageTower, channels: bool = False) -> HeadWeights:
    shape = (tower.depth, tower.heads, tower.width // tower.heads) if channels else (tower.depth, tower.heads)
    return HeadWeights(1 + 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(2)))


def _own_logits(detector: HeadCLIP, pixels: torch.Tensor) -> torch.Tensor:
    """Logit difference ``(T, P)`` from the detector's own features and probabilities."""
    with torch.no_grad():
        features = detector.encode(pixels).patch_features
    both = [features[layer][0] @ detector.classes.patch[layer].T for layer in LAYERS]
    return torch.stack([part[:, 1] - part[:, 0] for part in both]) / detector.config.temperature


@pytest.mark.parametrize("kind", ["none", "per head", "per channel", "predicted"])
@pytest.mark.parametrize("make", [clip_tower, _timm_tower])
def test_all_parts_add_up_to_the_detectors_own_logits(make, kind: str) -> None:
    tower = make()
    weights = None if kind == "none" else _weights(tower, kind == "per channel")
    if kind == "predicted":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights = DynamicHeadWeights(tower.width, tower.depth, tower.heads, hidden=8)
            torch.nn.init.normal_(weights.output.weight, std=0.3)
        weights.requires_grad_(False)
    detector, pixels = _detector(tower, weights), _pixels(tower)
    shares, own = detector_shares(detector, pixels), _own_logits(detector, pixels)
    assert shares.heads.shape == (2, 3, 4, 16)
    assert torch.allclose(shares.logits(), own, atol=1e-4)
    assert all(part.abs().mean() > 1e-2 for part in (shares.heads, shares.base, shares.biases, shares.centre))
    assert (shares.heads[1, 1:] == 0).all()  # blocks after the tap at layer 1
    assert detector.score(pixels).maps.isfinite().all()


def test_without_a_centre_its_part_is_zero() -> None:
    tower = clip_tower()
    detector, pixels = _detector(tower, centred=False), _pixels(tower)
    shares = detector_shares(detector, pixels)
    assert (shares.centre == 0).all()
    assert torch.allclose(shares.logits(), _own_logits(detector, pixels), atol=1e-4)


def test_a_weight_scales_its_heads_share_before_the_norm() -> None:
    """With norm and length taken out, a head's share is proportional to its weight."""
    tower = _timm_tower()
    tower.norm_post = torch.nn.Identity()
    pixels = _pixels(tower)
    weights = torch.ones(tower.depth, tower.heads)
    weights[3, 2] = 3.0
    plain, raised = (detector_shares(_detector(tower, w, centred=False), pixels) for w in (None, HeadWeights(weights)))
    # every share of one patch is divided by the same length, so ratios within a patch are what the weight changes
    ratio = (raised.heads / raised.base[:, None, None]) / (plain.heads / plain.base[:, None, None])
    assert torch.allclose(ratio[0, 2, 2], torch.tensor(3.0), rtol=1e-3)
    assert torch.allclose(ratio[0, 2, 1], torch.tensor(1.0), rtol=1e-3)
    assert torch.allclose(
        raised.logits(), _own_logits(_detector(tower, HeadWeights(weights), centred=False), pixels), atol=1e-4
    )


def test_switching_a_head_off_moves_the_logit_as_its_share_says() -> None:
    tower = _timm_tower()
    agree, changes, told = 0, [], []
    for seed in range(3):
        pixels = _pixels(tower, seed)
        full = _detector(tower)
        shares, own = detector_shares(full, pixels).heads[0].mean(dim=-1), _own_logits(full, pixels)[0]
        for place in range(shares.numel()):
            layer, head = divmod(place, tower.heads)
            weights = torch.ones(tower.depth, tower.heads)
            weights[1 + layer, head] = 0
            without = _own_logits(_detector(tower, HeadWeights(weights)), pixels)[0]
            changes.append(float((own - without).mean()))
            told.append(float(shares[layer, head]))
            agree += changes[-1] * told[-1] > 0
    together = torch.corrcoef(torch.tensor([changes, told]))[0, 1]
    assert agree > 0.8 * len(told)
    assert together > 0.9


def test_heads_are_ranked_over_the_patches_inside() -> None:
    heads = torch.zeros(2, 2, 2, 3)
    heads[:, 0, 1] = torch.tensor([4.0, 2.0, 0.0])
    heads[0, 1, 0] = torch.tensor([2.0, 2.0, 90.0])
    heads[:, 1, 1] = -1.0
    nothing = torch.zeros(2, 3)
    shares = HeadShares((5, 6), 5, heads, nothing, nothing, nothing, (1, 3))
    found = strongest_heads(shares, torch.tensor([True, True, False]))
    assert [(e.layer, e.head, e.logits) for e in found] == [(5, 1, 3.0), (6, 0, 1.0)]
    assert strongest_heads(shares, torch.tensor([False, False, True]), 1)[0].logits == 45.0
    with pytest.raises(ModelError, match="At least one patch must be inside"):
        strongest_heads(shares, torch.tensor([False, False, False]))


def test_what_has_no_shares_is_refused() -> None:
    tower = clip_tower()
    pixels, weights = _pixels(tower), _weights(tower).local
    for wrong in (HeadWeights(weights, weights), HeadWeights(weights, site="attention_temperature")):
        with pytest.raises(ModelError, match="outputs of the local heads only"):
            detector_shares(_detector(tower, wrong), pixels)
    with pytest.raises(ModelError, match=r"begins before every tap; .* first local block 2, taps \[3, 1\]"):
        detector_shares(_detector(tower, local_start=2), pixels)
    with pytest.raises(ModelError, match="begins before every tap; given: local attention none"):
        detector_shares(_detector(tower, local_attention="none", local_start=None), pixels)
    with pytest.raises(ModelError, match="one slice; given: 2 slices"):
        detector_shares(_detector(tower), pixels.expand(2, -1, -1, -1))
    tower.norm_post = torch.nn.ReLU()
    with pytest.raises(ModelError, match="final norm must be a layer norm"):
        detector_shares(_detector(tower), pixels)


def test_weights_are_shown_where_they_act() -> None:
    tower = clip_tower()
    weights = torch.arange(16.0).view(4, 4)
    shown = acting_weights(_detector(tower, HeadWeights(weights, weights), feature_layers=(1,), local_start=1))
    assert torch.equal(shown["local"][1], weights[1])
    assert shown["local"][[0, 2, 3]].isnan().all()  # no local path yet, and after the last tap
    assert shown["global"].isnan().any(dim=1).tolist() == [True, False, False, False]  # 'dual' leaves block 0 out
    last = acting_weights(_detector(tower, HeadWeights(weights), feature_layers=(3,), lhw_layers=1))
    assert last["local"].isnan().all(dim=1).tolist() == [True, True, True, False]
    channels = HeadWeights(torch.arange(12.0).expand(4, 4, 12))
    assert (acting_weights(_detector(tower, channels))["local"][1:] == 5.5).all()
    plain = acting_weights(_detector(tower))
    assert (plain["local"][1:] == 1).all()
    assert list(plain) == ["local"]


def test_predicted_weights_need_a_slice() -> None:
    tower = clip_tower()
    predictor = DynamicHeadWeights(tower.width, tower.depth, tower.heads, hidden=8).requires_grad_(False)
    predictor.output.bias.data.fill_(0.5)
    detector = _detector(tower, predictor)
    with pytest.raises(ModelError, match="must be shown for a slice"):
        acting_weights(detector)
    assert (acting_weights(detector, _pixels(tower))["local"][1:] == 1.5).all()
    with pytest.raises(ModelError, match="local path or head weights"):
        acting_weights(_detector(tower, local_attention="none", local_start=None))


def test_the_command_draws_weights_and_names_the_strongest_heads(tiny_pack: Path, volume: Path, tmp_path: Path) -> None:
    pack = tmp_path / "weighted"
    shutil.copytree(tiny_pack, pack)
    tensors = load_file(pack / "pack.safetensors")
    save_file({**tensors, "head_weights": torch.tensor([[0.25, 1.75]])}, pack / "pack.safetensors")
    plain, sliced = tmp_path / "plain.png", tmp_path / "slice.png"
    words = CliRunner().invoke(app, ["models", "heads", str(pack), "--out", str(plain)])
    assert words.exit_code == 0, words.output
    assert "local branch: 2 head weights from 0.250 to 1.750" in words.stdout
    run = ["models", "heads", str(pack), "--slice", str(volume), "--index", "3", "--out", str(sliced), "--json"]
    said = CliRunner().invoke(app, run)
    assert said.exit_code == 0, said.output
    facts = json.loads(said.stdout)
    assert facts["head_weights"] == {"local": [[None, None], [0.25, 1.75]]}
    found = facts["slice"]
    assert (found["index"], found["place"]) == (3, "good.nii.gz, axial slice 3 of 0 … 5")
    parts = found["mean_logit"]
    assert sum(value for name, value in parts.items() if name != "logit") == pytest.approx(parts["logit"], abs=1e-4)
    assert all(head["layer"] == 1 and head["logits"] > 0 for head in found["heads"])
    assert sum(head["logits"] for head in found["heads"]) >= parts["heads"] - 1e-5
    with Image.open(plain) as small, Image.open(sliced) as large:
        assert large.height > small.height + 400
        colours = {colour for _, colour in small.getcolors(1 << 20)}
    assert {tuple(round(255 * c) for c in colormaps["RdBu_r"](end)[:3]) for end in (0.0, 1.0)} <= colours


@pytest.mark.parametrize("sliced", [False, True])
def test_the_title_says_what_the_picture_shows(
    sliced: bool, tiny_pack: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once was the model's name alone."""
    titles: list[str] = []
    for kind in (Figure, SubFigure):
        real = kind.suptitle
        monkeypatch.setattr(kind, "suptitle", lambda self, t, real=real, **k: titles.append(t) or real(self, t, **k))
    more = ["--slice", str(volume), "--index", "3"] if sliced else []
    ran = CliRunner().invoke(app, ["models", "heads", str(tiny_pack), "--out", str(tmp_path / "h.png"), *more])
    assert ran.exit_code == 0, ran.output
    weights = "Head weights of tiny-random"
    assert sorted(titles)[0] == (f"{weights}, and the heads that raise the score of one slice" if sliced else weights)
    assert [title[:36] for title in titles if title.startswith("good")] == [
        "good.nii.gz, axial slice 3 of 0 … 5:"
    ] * sliced


def test_shares_beside_a_map_with_brightness_in_it_say_whose_they_are(
    tiny_pack: Path, volume: Path, tmp_path: Path
) -> None:
    """The picture once showed the fused map beside shares of the tower's logits without a word."""
    pack = tmp_path / "fused"
    shutil.copytree(tiny_pack, pack)
    record = json.loads((pack / "pack.json").read_text())
    record["config"]["intensity_fusion"] = [1.0, 2.0, 0.0]
    (pack / "pack.json").write_text(json.dumps(record))
    run = ["models", "heads", str(pack), "--slice", str(volume), "--index", "3", "--out", str(tmp_path / "f.png")]
    ran = CliRunner().invoke(app, run)
    assert ran.exit_code == 0, ran.output
    assert "the map also weighs brightness, the shares are of the tower's part" in ran.stdout


def test_the_command_takes_the_slice_that_scores_highest(tiny_pack: Path, volume: Path, tmp_path: Path) -> None:
    result = load_engine(tiny_pack, "cpu", precision="float32").predict(volume)
    highest = max(result.slices, key=lambda entry: entry.score).index
    run = ["models", "heads", str(tiny_pack), "--slice", str(volume), "--out", str(tmp_path / "h.png"), "--json"]
    assert json.loads(CliRunner().invoke(app, run).stdout)["slice"]["index"] == highest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "2"], "--index must come with --slice FILE"),
        (["--out", "heads.svg"], "The picture must be a PNG file"),
        (["--slice", "SCAN", "--index", "6"], "The slice must lie between 0 and 5; given: 6"),
    ],
)
def test_the_command_refuses_in_words(
    options: list[str], message: str, tiny_pack: Path, volume: Path, tmp_path: Path
) -> None:
    words = [str(volume) if option == "SCAN" else option for option in options]
    out = [] if "--out" in options else ["--out", str(tmp_path / "h.png")]
    run = CliRunner().invoke(app, ["models", "heads", str(tiny_pack), *words, *out])
    assert run.exit_code == 2
    assert message in " ".join(run.stderr.split())
    assert not (tmp_path / "h.png").exists()
