"""What the tensors and the configuration of a pack mean to HeadCLIP: class features, head weights, what predicts them.

Checked against the tower and against each other, with messages that name the pack.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors.data import ClassFeatures
from headclip_med.detectors.headclip.config import HeadCLIPConfig
from headclip_med.encoders.head_weights import Branch, DynamicHeadWeights, LayerChoice, parametrise, place_head_weights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import resolve_layers
from headclip_med.encoders.tower import ImageTower

_DYNAMIC = "dynamic."

Tensors = Mapping[str, Tensor]


def packed_classes(tensors: Tensors, config: HeadCLIPConfig, tower: ImageTower, name: str) -> ClassFeatures | None:
    """Read the class features of a pack.

    Args:
        tensors: What was learned, by name.
        config: Its taps.
        tower: The tower it is for.
        name: Of the pack, for messages.

    Returns:
        Class features of the taps and of the image, or None when they come from prompts.

    Raises:
        ModelError: another number of layers than the taps.
    """
    if "patch_classes" not in tensors:
        return None
    layers = resolve_layers(config.feature_layers, tower.depth)
    patch = F.normalize(tensors["patch_classes"].float(), dim=-1)
    patch = patch.expand(len(layers), *patch.shape[-2:]) if patch.ndim == 2 else patch
    image, centre = tensors.get("image_classes"), tensors.get("centre")
    if len(patch) != len(layers) or (centre is not None and len(centre) != len(layers)):
        raise ModelError(
            f"Pack {name} must have class features for each of its {len(layers)} tapped layers",
            f"{len(patch)} class features, {'no' if centre is None else len(centre)} centres",
        )
    return ClassFeatures(
        patch=dict(zip(layers, patch, strict=True)),
        image=None if image is None else F.normalize(image.float(), dim=-1),
        centre={} if centre is None else dict(zip(layers, centre.float(), strict=True)),
    )


def packed_head_weights(
    tensors: Tensors, config: HeadCLIPConfig, tower: ImageTower, name: str
) -> HeadWeights | DynamicHeadWeights | None:
    """Read the head weights of a pack, on every layer of the tower.

    Args:
        tensors: What was learned, by name.
        config: Where the weights act.
        tower: The tower it is for.
        name: Of the pack, for messages.

    Returns:
        The weights, or what predicts them, or None.

    Raises:
        ModelError: the configuration and the tensors disagree, or the tensors do not fit the tower.
    """
    _check_head_tensors(tensors, config, name)
    if config.lhw_dynamic:
        return _predictor(tensors, config, tower, name)
    if "head_weights" not in tensors:
        return None
    weights = _placed(tensors["head_weights"], config, tower, config.lhw_branch, config.lhw_layers)
    if not config.lhw_task_decoupled:
        return weights
    decoupled = _placed(tensors["head_weights_global"], config, tower, "global", "all")
    return HeadWeights(weights.local, decoupled.global_, config.lhw_site)


def _check_head_tensors(tensors: Tensors, config: HeadCLIPConfig, name: str) -> None:
    """Refuse tensors that the configuration leaves unused, and fields whose tensors are missing."""
    dynamic = any(key.startswith(_DYNAMIC) for key in tensors)
    static = "head_weights" in tensors
    decoupled = "head_weights_global" in tensors
    for field, asked, words, given in (
        ("lhw_dynamic", config.lhw_dynamic, f"tensors {_DYNAMIC}*", dynamic),
        ("lhw_task_decoupled", config.lhw_task_decoupled, "the tensor head_weights_global", decoupled),
    ):
        if asked != given:
            raise ModelError(
                f"Pack {name} must have {words} exactly where its configuration sets {field}",
                f"{field} {asked}, {words} {'present' if given else 'missing'}",
                "Correct the pack's configuration or its tensors",
            )
    if (config.lhw_dynamic and static) or (config.lhw_task_decoupled and not static):
        with_or_without = "no" if config.lhw_dynamic else "the"
        raise ModelError(
            f"Pack {name} must have {with_or_without} tensor head_weights with its configuration",
            f"head_weights {'present' if static else 'missing'}",
            "Correct the pack's configuration or its tensors",
        )


def _placed(
    theta: Tensor, config: HeadCLIPConfig, tower: ImageTower, branch: Branch, layers: LayerChoice
) -> HeadWeights:
    return place_head_weights(
        parametrise(theta.float(), config.lhw_param),
        tower.depth,
        branch=branch,
        layers=layers,
        local_start=config.local_start,
        tapped=resolve_layers(config.feature_layers, tower.depth),
        site=config.lhw_site,
    )


def _predictor(tensors: Tensors, config: HeadCLIPConfig, tower: ImageTower, name: str) -> DynamicHeadWeights:
    state = {k.removeprefix(_DYNAMIC): v.float() for k, v in tensors.items() if k.startswith(_DYNAMIC)}
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ModelError("Head weights must be finite numbers", "NaN or infinity", "Use another pack")
    hidden = len(state.get("hidden.bias", ()))
    predictor = DynamicHeadWeights(
        tower.width, tower.depth, tower.heads, max(1, hidden), branch=config.lhw_branch, site=config.lhw_site
    )
    want = {key: tuple(tensor.shape) for key, tensor in predictor.state_dict().items()}
    got = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if got != want:
        raise ModelError(f"The predicted head weights of pack {name} must fit the tower", got, f"They must be {want}")
    predictor.load_state_dict(state)
    return predictor.eval().requires_grad_(False)
