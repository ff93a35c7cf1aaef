"""Everything that decides a pretraining run of ``headclip-tiny``; a YAML file sets these fields and adds no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headclip_med.base.fields import checked_fields
from headclip_med.encoders.attention import LocalAttention
from headclip_med.encoders.timm_vit import TimmVitSpec

Sequence_ = Literal["t2f", "t2w", "t1n", "t1c"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Volumes to learn from.

    Attributes:
        path: ``[LAYOUT:]PATH``.
        name, licence: For the ledger. The licence must allow a trained model to be given on.
        sequences: Each is a volume of its own. Their masks say where lesions are.
        healthy: Instead, volumes without lesions, and of which sequence they are.
        share: How often its slices are drawn, relative to the others.
        skull_mm: How deep the brain lies below the surface. 0 where the skull was stripped.
    """

    path: str
    name: str
    licence: str
    sequences: tuple[Sequence_, ...] = ()
    healthy: Sequence_ | None = None
    share: float = Field(1.0, gt=0)
    skull_mm: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if bool(self.sequences) == (self.healthy is not None):
            raise ValueError("a source has either sequences with masks or healthy volumes")
        return self


class Stage(_Strict):
    """So many ``steps`` see ``count`` windows of ``size`` pixels each. A whole slice where that is the image size."""

    steps: int = Field(ge=1)
    count: int = Field(ge=1)
    size: int = Field(ge=1)


class PretrainConfig(_Strict):
    """A pretraining run.

    Attributes:
        sources: Volumes.
        leave_out: Patients that are never seen.
        flair_share: Of FLAIR among the sequences.
        phantoms, phantom_share: Synthetic heads, and their share.
        image_size, patch_size, width, depth, heads: Of the tower.
        local_attention, local_start, taps: Of its use.
        stages: Small windows first, for steps are cheap then, whole slices at the end.
        painted: Share of the slices that lesions are painted into.
        small_lesions: Exponent with which a pixel's weight falls with the area of lesion in its slice. 0: every pixel
            alike, 1: every slice alike.
        head_decay: Of the pull of head weights towards 1.
        save_every: Steps between checkpoints, and entries of the history.
        threads: Of the matrix products. Fixed, for results depend on it.
        fuse_on: Sequences whose labelled slices weigh brightness against the map.
        threshold: Of the pack, and its origin. None: chosen on synthetic heads.
    """

    sources: tuple[Source, ...] = ()
    leave_out: tuple[str, ...] = ()
    flair_share: float = Field(4.0, gt=0)
    phantoms: int = Field(10, ge=0)
    phantom_share: float = Field(2.0, gt=0)
    out: Path
    name: str = "headclip-tiny"
    image_size: int = Field(256, ge=1)
    patch_size: int = Field(8, ge=1)
    width: int = Field(128, ge=1)
    depth: int = Field(6, ge=2)
    heads: int = Field(8, ge=1)
    local_attention: LocalAttention = "vv"
    local_start: int = Field(3, ge=1)
    taps: tuple[int, ...] = (5,)
    stages: tuple[Stage, ...] = (
        Stage(steps=1200, count=32, size=64),
        Stage(steps=200, count=10, size=128),
        Stage(steps=50, count=4, size=256),
    )
    painted: float = Field(0.7, ge=0, le=1)
    small_lesions: float = Field(0.7, ge=0, le=1)
    learning_rate: float = Field(1.5e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    head_decay: float = Field(1e-3, ge=0)
    save_every: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    fuse_on: tuple[Sequence_, ...] = ("t2f",)
    threshold: float | None = Field(None, gt=0, lt=1)
    threshold_origin: str = ""

    @model_validator(mode="after")
    def _patches_fill_windows(self) -> PretrainConfig:
        sizes = [self.image_size, *(stage.size for stage in self.stages)]
        if any(size % self.patch_size or size > self.image_size for size in sizes):
            raise ValueError(
                f"windows must be at most the image size {self.image_size} and multiples of the patch size "
                f"{self.patch_size}, not {', '.join(map(str, sizes))}"
            )
        return self

    @model_validator(mode="after")
    def _tower_can_be_built(self) -> PretrainConfig:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, not {self.width} with {self.heads} heads")
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size must be a power of two, not {self.patch_size}")
        if not self.local_start <= min(self.taps, default=-1) <= max(self.taps, default=-1) < self.depth:
            raise ValueError(
                f"taps must lie from local_start {self.local_start} on and below depth {self.depth}, not {self.taps}"
            )
        return self

    @property
    def steps(self) -> int:
        """Of optimisation, in all."""
        return sum(stage.steps for stage in self.stages)

    @property
    def tower(self) -> TimmVitSpec:
        """The architecture."""
        return TimmVitSpec(self.image_size, self.patch_size, self.width, self.depth, self.heads, stem=True)


def pretraining_recipe(**fields: Any) -> PretrainConfig:
    """Make the configuration with these fields.

    Args:
        fields: By name.

    Returns:
        The configuration, checked.

    Raises:
        InputError: Names the first wrong field.
    """
    return checked_fields(PretrainConfig, fields, "A pretraining configuration")
