"""Everything that decides a training run; a YAML file sets these fields and never adds others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headclip_med.base.fields import checked_fields, read_fields, set_field
from headclip_med.base.names import DOMAINS
from headclip_med.encoders.attention import LocalAttention
from headclip_med.encoders.head_weights import Branch, LayerChoice, Parametrisation
from headclip_med.models.scope import Scope
from headclip_med.slicing.intensity import PreprocessingKind

Schedule = Literal["joint", "alternate", "text_then_heads"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """One auxiliary set.

    Attributes:
        path: ``[LAYOUT:]PATH``.
        name, licence: For the ledger.
        sequences: Which become channels.
        split: Only these cases of the layout's own split, such as train.
        lesion_values, ignore_values: Which values of the masks are lesion, and which mean nothing. As in
            :func:`headclip_med.open_dataset`.
    """

    path: str
    name: str | None = None
    licence: str = "not stated"
    sequences: tuple[str, ...] = ()
    split: str | None = None
    lesion_values: int | str | tuple[int | str, ...] | None = None
    ignore_values: int | str | tuple[int | str, ...] | None = None


class SliceConfig(_Strict):
    """Which slices are trained on.

    Attributes:
        lesion, free: at most so many slices with and without lesion of every volume, evenly spread.
        min_lesion: share of a slice's foreground that must be lesion for it to count as one with lesion.
        copies: augmented copies of every training slice, beside the slice itself.
    """

    lesion: int = Field(12, ge=1)
    free: int = Field(12, ge=0)
    min_lesion: float = Field(0.0005, ge=0, lt=1)
    copies: int = Field(1, ge=0)


class HeadConfig(_Strict):
    """Head weights. See :class:`headclip_med.detectors.HeadCLIPConfig` for the fields of the same names.

    Attributes:
        train: Whether there are any.
        shape: One weight a head, one a channel, or one row for all layers.
        init_noise: Standard deviation around 1.
        decay: Of the pull towards 1.
    """

    train: bool = True
    branch: Branch = "local"
    layers: LayerChoice = "dual"
    param: Parametrisation = "free"
    shape: Literal["head", "channel", "shared"] = "head"
    dynamic: bool = False
    init_noise: float = Field(0.0, ge=0)
    decay: float = Field(1e-4, ge=0)
    lr: float = Field(1e-2, gt=0)


class ClassConfig(_Strict):
    """What features are compared with.

    Attributes:
        kind: ``vectors`` learned directly, ``prompts`` through the text side, or ``auto``: prompts where there is one.
        contexts, deep_blocks, deep_tokens: of the prompts. fit_first: start vectors from a converged logistic fit.
        image: also learn vectors for the global feature. learn_temperature: with the vectors.
    """

    kind: Literal["auto", "vectors", "prompts"] = "auto"
    contexts: int = Field(12, ge=1)
    deep_blocks: int = Field(8, ge=0)
    deep_tokens: int = Field(4, ge=1)
    fit_first: bool = True
    image: bool = False
    learn_temperature: bool = True
    lr: float = Field(1e-3, gt=0)


class LossConfig(_Strict):
    """Terms of the loss: image + local · (focal + dice + dice) + joint · joint score."""

    image: float = Field(1.0, ge=0)
    local: float = Field(4.0, ge=0)
    joint: float = Field(0.0, ge=0)
    gamma: float = Field(2.0, ge=0)
    balanced: bool = True
    foreground_only: bool = True


class TrainConfig(_Strict):
    """A training run.

    Attributes:
        data: Auxiliary sets.
        model: Tower by name or file.
        weights: File or folder with its weights, in the place of a hub's, or alone where they tell the architecture.
            One of the two must be there.
        domain: Of preprocessing and of the pack.
        scope: The images that the pack is for. None: the domain's.
        method: Detector by name.
        options: Fields of the configuration of another method than headclip, which has its choices here.
        out: Folder of the pack and the checkpoints.
        name: Of the pack.
        preprocessing: Of the slices, and of the pack's predictions: ``own``, or ``released`` as the published codes do.
        feature_layers, local_attention, local_start, image_size: Of the tower's use, as in HeadCLIPConfig.
        fast: The linear path without back-propagation through the tower. None: wherever it applies.
        schedule: Both groups in every step, in turn by epoch, or prompts first and then head weights.
        steps, batch: Of optimisation.
        validate_every: Steps between validations and checkpoints.
        validation: Share of the patients that choose the best step. They are never trained on.
        fuse_intensity: Add the pixel's brightness to the map, weighed by logistic regression on the training slices.
        cache_gib: Memory for what is kept of the training slices, and disk in ``out`` until the run is done. Beyond it
            they are computed again.
        threads: Of the matrix products. Fixed, because results depend on it in the last bit.
    """

    data: tuple[DataConfig, ...] = Field(min_length=1)
    model: str | None = None
    weights: str | None = None
    method: str = "headclip"
    options: dict[str, Any] = {}
    out: Path
    name: str = "trained"
    domain: str = "generic"
    scope: Scope | None = None
    preprocessing: PreprocessingKind = "own"
    feature_layers: tuple[int, ...] = (-1,)
    local_attention: LocalAttention = "vv"
    local_start: int | None = None
    image_size: int | None = None
    fast: bool | None = None
    slices: SliceConfig = SliceConfig()
    heads: HeadConfig = HeadConfig()
    classes: ClassConfig = ClassConfig()
    loss: LossConfig = LossConfig()
    schedule: Schedule = "joint"
    steps: int = Field(400, ge=1)
    batch: int = Field(8, ge=1)
    validate_every: int = Field(50, ge=1)
    validation: float = Field(0.2, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    cache_gib: float = Field(4.0, ge=0)
    cache_dir: Path | None = None
    fuse_intensity: bool = False
    track: Literal["none", "tensorboard", "mlflow"] = "none"

    @property
    def tower(self) -> str:
        """The name that :func:`headclip_med.encoders.build.build_tower` builds it by."""
        from headclip_med.encoders.build import with_weights

        return str(self.weights) if self.model is None else with_weights(self.model, self.weights)

    @property
    def recorded_preprocessing(self) -> PreprocessingKind | None:
        """As a pack's record has it, which says nothing of our own."""
        return None if self.preprocessing == "own" else self.preprocessing

    @model_validator(mode="after")
    def _has_tower(self) -> TrainConfig:
        if self.model is None and self.weights is None:
            raise ValueError("model: a tower must be named with --model, or its weight file with --weights FILE")
        return self

    @field_validator("domain")
    @classmethod
    def _known_domain(cls, value: str) -> str:
        if value not in DOMAINS:
            raise ValueError(f"must be one of {', '.join(DOMAINS)}")
        return value


def load_config(path: Path | None, settings: Mapping[str, str] | None = None, **changes: Any) -> TrainConfig:
    """Read a configuration from a YAML file, with ``changes`` and then ``settings`` on top.

    Args:
        path: Of the file, None for the defaults.
        settings: As a user types them: YAML, or a list without brackets (``feature_layers``: ``5,8,11``).
        changes: Fields by name. A dot reaches into a section.

    Returns:
        The configuration, checked.

    Raises:
        InputError: An unreadable file, an unknown field, or a value that a field may not have.
    """
    values: dict[str, Any] = {} if path is None else read_fields(path)
    for key, value in changes.items():
        set_field(TrainConfig, values, key, value)
    for key, text in (settings or {}).items():
        set_field(TrainConfig, values, key, text, is_text=True)
    return checked_fields(TrainConfig, values, "A training configuration")
