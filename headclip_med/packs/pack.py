"""Reading and writing a pack: what it must hold, checked before anything is built from it.

``pack.json`` is validated by :class:`PackRecord`. ``pack.safetensors`` holds, for a pack with its own class
features, ``patch_classes`` ``(2, D)`` or ``(taps, 2, D)``, taps in the order of the configuration's ``feature_layers``;
and optionally ``image_classes`` ``(2, D)`` and ``centre`` ``(taps, D)``. Prompts, learned or not, end as such features.

Head weights are trained parameters that become weights by ``lhw_param``: ``head_weights`` ``(rows, heads)``, or
``(rows, heads, head_dim)`` for one weight a channel, with one row for each layer of ``lhw_layers`` or one row for all
of them; with ``lhw_task_decoupled`` also ``head_weights_global``, of the same shapes but over every block. With
``lhw_dynamic`` there are instead ``dynamic.hidden.weight`` ``(hidden, width)``, ``dynamic.hidden.bias``,
``dynamic.output.weight`` ``(depth · heads, hidden)`` and ``dynamic.output.bias`` of :class:`DynamicHeadWeights`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from headclip_med.detectors import HeadCLIPConfig
from headclip_med.detectors.base import ClassFeatures
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import resolve_layers
from headclip_med.encoders.timm_vit import TimmVitSpec
from headclip_med.encoders.tower import ImageTower
from headclip_med.errors import ModelError
from headclip_med.head_weights import Branch, DynamicHeadWeights, LayerChoice, parametrise, place_head_weights
from headclip_med.writing.atomic import atomic_path

PACK_FORMAT: Literal["headclip_med/1"] = "headclip_med/1"
RECORD_NAME = "pack.json"
SHORT_HASH = 16  # characters of an image's sha256 in a ledger: enough to know it again
_DYNAMIC = "dynamic."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TowerRecord(_Strict):
    """Which tower a pack belongs to.

    ``kind`` ``embedded``: built from ``spec`` with the weights in ``file`` beside ``pack.json``;
    ``timm`` / ``open_clip``: an architecture name, its weights come from the user or a hub.
    """

    kind: Literal["embedded", "timm", "open_clip"]
    name: str
    sha256: str | None = None
    file: str | None = None
    spec: TimmVitSpec | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class Threshold(_Strict):
    """A cut on the map and how it was chosen."""

    value: float
    origin: str


class LedgerEntry(_Strict):
    """One source of training data.

    ``content_sha256`` is of all its cases together; ``image_sha256`` names each image by the first characters of its
    hash, so that a part of the set is known again too.
    """

    name: str
    licence: str
    count: int
    content_sha256: str | None = None
    image_sha256: tuple[str, ...] = ()


class PackRecord(_Strict):
    """Contents of ``pack.json``."""

    format: Literal["headclip_med/1"]
    name: str
    title: str
    method: str
    tower: TowerRecord
    config: dict[str, Any] = {}
    domain: str = "generic"
    slice_smoothing_mm: float = 0.0
    threshold: Threshold
    ledger: tuple[LedgerEntry, ...] = ()
    validation: dict[str, Any] = {}


@dataclass(frozen=True)
class Pack:
    """A validated pack: its folder, record and tensors (empty when it has none), and the hash of both."""

    folder: Path
    record: PackRecord
    tensors: dict[str, Tensor]
    sha256: str

    def config(self) -> HeadCLIPConfig:
        """The method's configuration; unknown keys are refused."""
        known = {field.name for field in fields(HeadCLIPConfig)}
        unknown = sorted(set(self.record.config) - known)
        if unknown:
            raise ModelError(f"The configuration of pack {self.record.name} must use known keys", ", ".join(unknown))
        try:
            return TypeAdapter(HeadCLIPConfig).validate_python(self.record.config)
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(
                f"The configuration of pack {self.record.name} must hold allowed values",
                f"{first['loc'][0]}: {first['msg']}",
            ) from error

    def class_features(self, tower: ImageTower) -> ClassFeatures | None:
        """The pack's own class features, or None when they come from prompts."""
        if "patch_classes" not in self.tensors:
            return None
        layers = resolve_layers(self.config().feature_layers, tower.depth)
        patch = F.normalize(self.tensors["patch_classes"].float(), dim=-1)
        patch = patch.expand(len(layers), *patch.shape[-2:]) if patch.ndim == 2 else patch
        image = self.tensors.get("image_classes")
        centre = self.tensors.get("centre")
        if len(patch) != len(layers) or (centre is not None and len(centre) != len(layers)):
            raise ModelError(
                f"Pack {self.record.name} must have class features for each of its {len(layers)} tapped layers",
                f"{len(patch)} class features, {'no' if centre is None else len(centre)} centres",
            )
        return ClassFeatures(
            patch=dict(zip(layers, patch, strict=True)),
            image=None if image is None else F.normalize(image.float(), dim=-1),
            centre={} if centre is None else dict(zip(layers, centre.float(), strict=True)),
        )

    def head_weights(self, tower: ImageTower) -> HeadWeights | DynamicHeadWeights | None:
        """The pack's head weights on every layer of the tower, or what predicts them, or None.

        Raises:
            ModelError: the configuration and the tensors disagree, or the tensors do not fit the tower.
        """
        config = self.config()
        self._check_head_tensors(config)
        if config.lhw_dynamic:
            return self._predictor(tower, config)
        if "head_weights" not in self.tensors:
            return None
        weights = self._placed("head_weights", tower, config.lhw_branch, config.lhw_layers)
        if not config.lhw_task_decoupled:
            return weights
        decoupled = self._placed("head_weights_global", tower, "global", "all")
        return HeadWeights(weights.local, decoupled.global_, config.lhw_site)

    def _check_head_tensors(self, config: HeadCLIPConfig) -> None:
        """Refuse tensors that the configuration leaves unused, and fields whose tensors are missing."""
        dynamic = any(name.startswith(_DYNAMIC) for name in self.tensors)
        static = "head_weights" in self.tensors
        decoupled = "head_weights_global" in self.tensors
        for field, asked, words, given in (
            ("lhw_dynamic", config.lhw_dynamic, f"tensors {_DYNAMIC}*", dynamic),
            ("lhw_task_decoupled", config.lhw_task_decoupled, "the tensor head_weights_global", decoupled),
        ):
            if asked != given:
                raise ModelError(
                    f"Pack {self.record.name} must have {words} exactly where its configuration sets {field}",
                    f"{field} {asked}, {words} {'present' if given else 'missing'}",
                    "Correct the pack's configuration or its tensors",
                )
        if (config.lhw_dynamic and static) or (config.lhw_task_decoupled and not static):
            with_or_without = "no" if config.lhw_dynamic else "the"
            raise ModelError(
                f"Pack {self.record.name} must have {with_or_without} tensor head_weights with its configuration",
                f"head_weights {'present' if static else 'missing'}",
                "Correct the pack's configuration or its tensors",
            )

    def _placed(self, name: str, tower: ImageTower, branch: Branch, layers: LayerChoice) -> HeadWeights:
        config = self.config()
        return place_head_weights(
            parametrise(self.tensors[name].float(), config.lhw_param),
            tower.depth,
            branch=branch,
            layers=layers,
            local_start=config.local_start,
            tapped=resolve_layers(config.feature_layers, tower.depth),
            site=config.lhw_site,
        )

    def _predictor(self, tower: ImageTower, config: HeadCLIPConfig) -> DynamicHeadWeights:
        state = {k.removeprefix(_DYNAMIC): v.float() for k, v in self.tensors.items() if k.startswith(_DYNAMIC)}
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise ModelError("Head weights must be finite numbers", "NaN or infinity", "Use another pack")
        hidden = len(state.get("hidden.bias", ()))
        predictor = DynamicHeadWeights(
            tower.width, tower.depth, tower.heads, max(1, hidden), branch=config.lhw_branch, site=config.lhw_site
        )
        want = {name: tuple(tensor.shape) for name, tensor in predictor.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if got != want:
            raise ModelError(
                f"The predicted head weights of pack {self.record.name} must fit the tower", got, f"They must be {want}"
            )
        predictor.load_state_dict(state)
        return predictor.eval().requires_grad_(False)


def load_pack(folder: Path) -> Pack:
    """Read and check the pack in ``folder``.

    Raises:
        ModelError: no ``pack.json``, an invalid one, or tensors that cannot be read.
    """
    path = folder / RECORD_NAME
    try:
        text = path.read_bytes()
        record = PackRecord.model_validate_json(text)
    except OSError as error:
        raise ModelError(
            "A pack must be a folder with a readable pack.json", f"{folder.name}: {error.strerror}"
        ) from error
    except ValidationError as error:
        raise _wrong_record(folder, error) from error
    digest = hashlib.sha256(text)
    tensors: dict[str, torch.Tensor] = {}
    weights = folder / "pack.safetensors"
    if weights.exists():
        digest.update(weights.read_bytes())
        tensors = read_safetensors(weights)
    return Pack(folder, record, tensors, digest.hexdigest())


def write_record(folder: Path, record: PackRecord) -> Path:
    """Write ``record``, validated once more, as the ``pack.json`` of an existing folder: whole or not at all.

    Raises:
        ModelError: values that no pack may have; OutputError: the folder cannot be written to.
    """
    path = folder / RECORD_NAME
    try:
        text = PackRecord.model_validate(record.model_dump()).model_dump_json(indent=1, exclude_none=True)
    except ValidationError as error:
        raise _wrong_record(folder, error) from error
    with atomic_path(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def _wrong_record(folder: Path, error: ValidationError) -> ModelError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ModelError(
        f"The pack.json of {folder.name} must follow the format {PACK_FORMAT}", f"{where}: {first['msg']}"
    )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or :class:`ModelError` in words."""
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "Weights must be a readable safetensors file",
            f"{path.name}: {error}",
            "Copy or download the file again",
        ) from error


def builtin_packs() -> dict[str, Path]:
    """Packs shipped inside the package: name → folder."""
    here = Path(__file__).parent
    return {folder.name: folder for folder in sorted(here.iterdir()) if (folder / RECORD_NAME).exists()}
