"""The fast path of head-weight training gives what autograd through the tower gives."""

from __future__ import annotations

import pytest
import torch
from towers import timm_tower

from headclip_med.base.errors import ModelError
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import EncodeOptions, encode_images, local_contributions
from headclip_med.training.linear import in_half, stack_contributions, tapped_features

OPTIONS = EncodeOptions(layers=(3, 1), local_attention="vv", local_start=1, want_global=True)


def _case():
    tower = timm_tower()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, tower.native_size, tower.native_size, generator=generator)
    weights = 1 + 0.3 * torch.randn(tower.depth, tower.heads, generator=generator)
    target = torch.randn(3, (tower.native_size // tower.patch_size) ** 2, tower.output_dim, generator=generator)
    return tower, pixels, weights, target


@pytest.mark.parametrize("shape", ["per head", "per channel", "per image"])
@pytest.mark.parametrize("attention", ["vv", "qk", "qq+kk+vv"])
def test_fast_path_equals_autograd(shape: str, attention: str) -> None:
    tower, pixels, weights, target = _case()
    options = EncodeOptions(layers=OPTIONS.layers, local_attention=attention, local_start=1)
    if shape == "per channel":
        weights = weights[..., None].expand(-1, -1, tower.width // tower.heads).clone()
    if shape == "per image":
        weights = weights + 0.1 * torch.arange(3).view(3, 1, 1)
    centre = {layer: torch.full((tower.output_dim,), 0.01) for layer in options.layers}
    found = []
    for fast in (True, False):
        theta = weights.clone().requires_grad_()
        factors = HeadWeights(theta, per_image=shape == "per image")
        if fast:
            parts = local_contributions(tower, pixels, options)
            features = tapped_features(tower, parts, factors, options, centre=centre)
            global_feature = parts.global_feature
        else:
            out = encode_images(tower, pixels, options, head_weights=factors, centre=centre)
            features, global_feature = out.patch_features, out.global_feature
        loss = sum((part * target).sum() for part in features.values())  # large, so that gradients are
        loss.backward()
        found.append((loss.detach(), theta.grad, global_feature))
    (fast_loss, fast_grad, fast_global), (slow_loss, slow_grad, slow_global) = found
    assert torch.allclose(fast_loss, slow_loss, rtol=1e-5, atol=1e-4)
    assert torch.allclose(fast_grad, slow_grad, rtol=1e-4, atol=1e-4)
    assert fast_grad.abs().max() > 0.01  # a gradient of zero would agree with anything
    assert torch.allclose(fast_global, slow_global, atol=1e-5)


def test_batches_stack_and_halve() -> None:
    tower, pixels, weights, _ = _case()
    whole = local_contributions(tower, pixels, OPTIONS)
    parts = stack_contributions([local_contributions(tower, pixels[i : i + 1], OPTIONS) for i in range(3)])
    ours, theirs = (tapped_features(tower, p, HeadWeights(weights), OPTIONS)[3] for p in (parts, whole))
    assert torch.allclose(ours, theirs, atol=1e-5)
    halved = tapped_features(tower, in_half(whole), HeadWeights(weights), OPTIONS)[3]
    assert torch.nn.functional.cosine_similarity(halved, theirs, dim=-1).min() > 0.9999


def test_weights_elsewhere_are_refused() -> None:
    tower, pixels, weights, _ = _case()
    parts = local_contributions(tower, pixels, OPTIONS)
    for wrong in (HeadWeights(weights, weights), HeadWeights(weights, site="attention_temperature")):
        with pytest.raises(ModelError, match="fast path must have weights on the outputs"):
            tapped_features(tower, parts, wrong, OPTIONS)


@pytest.mark.parametrize(("layers", "attention"), [((1,), "none"), ((0, 3), "vv")])
def test_a_tap_before_the_local_path_has_no_contributions(layers: tuple[int, ...], attention: str) -> None:
    """A tap before the first local block once got the tokens of the block before it."""
    tower, pixels, *_ = _case()
    with pytest.raises(ModelError, match="begins before every tap"):
        local_contributions(tower, pixels, EncodeOptions(layers=layers, local_attention=attention, local_start=2))
