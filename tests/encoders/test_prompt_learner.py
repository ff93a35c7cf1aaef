"""Learned prompts go through the frozen text side exactly as plain texts do."""

from __future__ import annotations

import open_clip
import pytest
import torch
from prompt_files import small_clip

from headclip_med.base.errors import ModelError
from headclip_med.encoders.text import PromptLearner, encode_texts, prompt_tokens, text_side


def _clip(kind: str = "plain"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
        vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
        if kind == "custom":
            return open_clip.CustomTextCLIP(24, vision, text).eval().requires_grad_(False)
        return open_clip.CLIP(24, vision, text).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["plain", "custom"])
def test_placeholders_with_their_own_embeddings_are_the_plain_text(kind: str) -> None:
    clip, tokenizer = _clip(kind), open_clip.get_tokenizer("ViT-B-32")
    side, tokens = text_side(clip), prompt_tokens(tokenizer)
    learner = PromptLearner(side.width, deep_blocks=0)
    word = side.embedding(tokens)[:, 1:13]
    with torch.no_grad():
        learner.context.copy_(word)
        ours = learner(side, tokens)
    theirs = encode_texts(clip, tokenizer, ["X " * 12 + "object.", "X " * 12 + "damaged object."])
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_deep_tokens_replace_what_the_block_before_made_of_them() -> None:
    clip, tokenizer = _clip(), open_clip.get_tokenizer("ViT-B-32")
    side, tokens = text_side(clip), prompt_tokens(tokenizer)
    learner = PromptLearner(side.width, deep_blocks=2)
    with torch.no_grad():
        first = learner(side, tokens)
        learner.deep[1].mul_(torch.linspace(-100, 100, side.width))
        assert not torch.allclose(first, learner(side, tokens), atol=1e-4)


def test_gradients_reach_every_prompt_and_nothing_frozen() -> None:
    clip, tokenizer = _clip(), open_clip.get_tokenizer("ViT-B-32")
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    side, tokens = text_side(clip), prompt_tokens(tokenizer)
    learner = PromptLearner(side.width, deep_blocks=2)
    (learner(side, tokens)[1] * torch.arange(24.0)).sum().backward()
    assert learner.context.grad.abs().amin(dim=(1, 2)).tolist() != [0, 0]
    assert (learner.deep.grad.abs().sum(dim=(1, 2)) > 0).all()
    torch.optim.Adam(learner.parameters(), lr=0.1).step()
    assert all(torch.equal(before[name], value) for name, value in clip.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_a_learner_has_43008_parameters_on_vit_l() -> None:
    # 2 · 12 · 768 + 8 · 4 · 768, what AnomalyCLIP's released prompts use
    assert sum(p.numel() for p in PromptLearner(768).parameters()) == 43008


def test_more_deep_prompts_than_blocks_are_refused() -> None:
    clip, tokenizer = _clip(), open_clip.get_tokenizer("ViT-B-32")
    with pytest.raises(ModelError, match="3 blocks must have fewer deep prompts; given: 8"):
        PromptLearner(32)(text_side(clip), prompt_tokens(tokenizer))


def test_a_text_side_that_pools_otherwise_is_refused() -> None:
    clip = _clip()
    clip.text_pool_type = "first"
    with pytest.raises(ModelError, match="must go through a CLIP text transformer"):
        text_side(clip)


def test_gradients_of_deep_tokens_are_rounded_for_each_class_as_released() -> None:
    """Rounding their sum instead gives other numbers in the last places of 16 bits."""
    clip = small_clip().clip
    side, tokens = text_side(clip), prompt_tokens(small_clip().tokenizer)
    learner = PromptLearner(side.width, round_deep=True)
    weights = torch.randn(2, clip.text_projection.shape[1], generator=torch.Generator().manual_seed(0))

    def released() -> torch.Tensor:
        """The text path with the tokens repeated for every class before they are rounded."""
        deep = learner.deep.detach().clone().requires_grad_()
        x = torch.cat([side.embedding(tokens)[:, :1], learner.context, side.embedding(tokens)[:, 13:]], dim=1)
        x = x + side.positions
        for number, block in enumerate(side.blocks):
            if 1 <= number <= len(deep):
                x = torch.cat([x[:, :1], deep[number - 1].expand(2, -1, -1).half().float(), x[:, 5:]], dim=1)
            x = block(x, attn_mask=side.mask)
        ends = side.norm(x)[torch.arange(2), tokens.argmax(dim=-1)] @ side.projection
        (torch.nn.functional.normalize(ends, dim=-1) * weights).sum().backward()
        assert deep.grad is not None
        return deep.grad

    (learner(side, tokens) * weights).sum().backward()
    assert torch.equal(learner.deep.grad, released())
    assert not torch.equal(learner.deep.grad, learner.deep.grad.half().float()), "sums of two rounded numbers"
