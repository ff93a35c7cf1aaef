"""Everything that is learned on a frozen tower: head weights, and prompts or class vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors.scoring import class_probabilities
from headclip_med.detectors.vectors import ClassVectors, unit_vectors
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.head_weights import DynamicHeadWeights, initial_theta, parametrise, place_head_weights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import resolve_layers
from headclip_med.encoders.text import PromptLearner, prompt_tokens, text_side
from headclip_med.encoders.tower import ImageTower
from headclip_med.training.config import ClassConfig, HeadConfig, TrainConfig

_TEMPERATURE = 0.07  # of the AnomalyCLIP family
_DYNAMIC_HIDDEN = 64


class HeadFactors(nn.Module):
    """Trained head weights of a tower, every one 1 at the start but for the noise asked for.

    Args:
        tower: Whose heads they are.
        config: Which heads are weighted and how.
        config_all: Gives the seed, the tapped layers and the first local layer.
    """

    def __init__(self, tower: ImageTower, config: HeadConfig, config_all: TrainConfig) -> None:
        super().__init__()
        self.config, self.depth = config, tower.depth
        self.local_start = config_all.local_start
        self.tapped = resolve_layers(config_all.feature_layers, tower.depth)
        self.predictor: DynamicHeadWeights | None = None
        if config.dynamic:
            with torch.random.fork_rng():
                torch.manual_seed(config_all.seed)
                self.predictor = DynamicHeadWeights(
                    tower.width, tower.depth, tower.heads, _DYNAMIC_HIDDEN, branch=config.branch
                )
            return
        rows = 1 if config.shape == "shared" else self._rows(tower)
        size = (rows, tower.heads)
        shape = (*size, tower.width // tower.heads) if config.shape == "channel" else size
        self.theta = nn.Parameter(initial_theta(shape, config.param, config.init_noise, config_all.seed))

    def forward(self) -> HeadWeights | Callable[[Tensor], HeadWeights]:
        """Give the weights as the encoder takes them.

        Returns:
            Static weights, or with ``config.dynamic`` what predicts them.
        """
        if self.predictor is not None:
            return self.predictor
        return place_head_weights(
            self.factors(),
            self.depth,
            branch=self.config.branch,
            layers=self.config.layers,
            local_start=self.local_start,
            tapped=self.tapped,
        )

    def factors(self) -> Tensor:
        """Give the static weights, 1 being the frozen tower.

        Returns:
            ``(rows, heads[, head_dim])``.
        """
        return parametrise(self.theta, self.config.param)

    def _rows(self, tower: ImageTower) -> int:
        for rows in range(1, tower.depth + 1):
            try:
                place_head_weights(
                    torch.ones(rows + 1, tower.heads),
                    tower.depth,
                    branch=self.config.branch,
                    layers=self.config.layers,
                    local_start=self.local_start,
                    tapped=self.tapped,
                )
                return rows + 1
            except ModelError:
                continue
        return 1


def opposite_vectors(taps: int, width: int, config: ClassConfig, seed: int) -> ClassVectors:
    """Draw fresh class vectors, normal opposite to abnormal in a random direction for each tap.

    Args:
        taps: How many layers are compared.
        width: Length of a feature.
        config: Whether the image has vectors too, and whether the temperature is learned.
        seed: Of the directions.

    Returns:
        ``(taps, 2, width)``, and with ``config.image`` a copy of the last tap's for the image.
    """
    direction = unit_vectors((taps, 1, width), torch.Generator().manual_seed(seed))
    patch = torch.cat([-direction, direction], dim=1)
    image = patch[-1].clone() if config.image else None
    return ClassVectors(patch, image, _TEMPERATURE, learns_scale=config.learn_temperature)


class LearnedPrompts(nn.Module):
    """Prompts through the frozen text side, whose class features serve every tap and the global feature.

    Args:
        built: A tower with a text side.
        taps: How many layers are compared.
        config: Numbers of contexts, deep blocks and deep tokens.
        seed: Of the first prompts.

    Raises:
        ModelError: A tower without a text side.
    """

    def __init__(self, built: BuiltTower, taps: int, config: ClassConfig, seed: int) -> None:
        super().__init__()
        if built.clip is None or built.tokenizer is None:
            raise ModelError(
                "Learned prompts must have a tower with a text side", built.architecture, "Use classes.kind: vectors"
            )
        self.taps = taps
        self._side = text_side(built.clip)  # a plain dataclass: its tensors are nobody's parameters here
        self._tokens = prompt_tokens(built.tokenizer, config.contexts)
        self.learner = PromptLearner(
            self._side.width,
            contexts=config.contexts,
            deep_blocks=config.deep_blocks,
            deep_tokens=config.deep_tokens,
            seed=seed,
        )
        self.register_buffer("log_scale", torch.tensor(math.log(1 / _TEMPERATURE)))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Compute the class features, L2-normalised.

        Returns:
            ``(taps, 2, D)`` and ``(2, D)``.
        """
        both = self.learner(self._side, self._tokens)
        return both.expand(self.taps, -1, -1), both


class Adapter(nn.Module):
    """The learned parts, and what they make of features.

    Args:
        built: The frozen tower, and a text side where there is one.
        config: Which parts are learned and how.

    Attributes:
        centre: ``(taps, D)`` mean feature subtracted before normalisation, zero with prompts.

    Raises:
        ModelError: Prompts are asked for and the tower has no text side.
    """

    def __init__(self, built: BuiltTower, config: TrainConfig) -> None:
        super().__init__()
        tower = built.tower
        self.layers = resolve_layers(config.feature_layers, tower.depth)
        self.heads = HeadFactors(tower, config.heads, config) if config.heads.train else None
        kind = config.classes.kind
        uses_prompts = kind == "prompts" or (kind == "auto" and built.clip is not None)
        self.classes: ClassVectors | LearnedPrompts = (
            LearnedPrompts(built, len(self.layers), config.classes, config.seed)
            if uses_prompts
            else opposite_vectors(len(self.layers), tower.output_dim, config.classes, config.seed)
        )
        self.register_buffer("centre", torch.zeros(len(self.layers), tower.output_dim))
        self.centre: Tensor

    @property
    def uses_prompts(self) -> bool:
        """Whether classes come from learned prompts."""
        return isinstance(self.classes, LearnedPrompts)

    def weights(self) -> HeadWeights | Callable[[Tensor], HeadWeights]:
        """Give the head weights as the encoder takes them.

        Returns:
            Weights that are all 1 where none are trained.
        """
        return HeadWeights() if self.heads is None else self.heads()

    def centres(self) -> dict[int, Tensor]:
        """Give the centre by layer.

        Returns:
            A vector ``(D,)`` for every tapped layer.
        """
        return dict(zip(self.layers, self.centre, strict=True))

    def probabilities(
        self, features: Mapping[int, Tensor], global_feature: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the probability of abnormal.

        Args:
            features: Normalised patch features ``(N, P, D)`` by tapped layer.
            global_feature: ``(N, D)``, normalised, or None.

        Returns:
            Of each patch ``(taps, N, P)``, and of each image ``(N,)`` or None, in [0, 1].
        """
        patch, image = self.classes()
        scale = self.classes.log_scale.exp()
        maps = torch.stack(
            [
                class_probabilities(features[layer], vectors, scale)[..., 1]
                for layer, vectors in zip(self.layers, patch, strict=True)
            ]
        )
        if image is None or global_feature is None:
            return maps, None
        return maps, class_probabilities(global_feature, image, scale)[:, 1]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """List the trained parameters by group.

        Returns:
            Those of ``classes`` and of ``heads``, which may be empty.
        """
        classes = [p for p in self.classes.parameters() if p.requires_grad]
        return {"classes": classes, "heads": [] if self.heads is None else list(self.heads.parameters())}
