"""AnomalyCLIP (arXiv 2310.18961): HeadCLIP's detector with head weights at 1 and no joint score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from headclip_med.detectors.base import ClassFeatures
from headclip_med.detectors.headclip import HeadCLIP, HeadCLIPConfig
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.tower import ImageTower


class AnomalyCLIP(HeadCLIP):
    """The detector as the released code computes it; ``head_weights`` are ignored on purpose.

    The class token goes without the final norm and position embeddings are interpolated bilinearly, which the
    released prompts were trained with.
    """

    name = "anomalyclip"

    def __init__(
        self,
        tower: ImageTower,
        classes: ClassFeatures,
        config: HeadCLIPConfig | None = None,
        head_weights: HeadWeights | Callable[[Tensor], HeadWeights] | None = None,
    ) -> None:
        released = replace(
            config or HeadCLIPConfig(),
            jas=False,
            jas_score_pool=False,
            global_norm=False,
            position_mode="bilinear",
        )
        super().__init__(tower, classes, released, None)
