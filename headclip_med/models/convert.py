"""Convert prompts that others trained to a pack: the checkpoints of AnomalyCLIP (arXiv 2310.18961) and of Crane.

Such a file is ``{"prompt_learner": state_dict}``. Used are ``ctx_pos`` and ``ctx_neg`` ``(1, 1, 12, width)`` and
``compound_prompts_text.{0..7}`` ``(4, width)``. The token numbers and token embeddings stored beside them follow from
the tokenizer and the tower. They are compared with ours, as a checksum. ``compound_prompt_projections`` take no part
in that family's forward pass. AnomalyCLIP's files have them, Crane's do not, which tells the two apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.errors import ModelError
from headclip_med.base.files import leaving_nothing, sha256_file
from headclip_med.detectors.crane.crane import CraneConfig
from headclip_med.detectors.crane.crane_plus import CranePlusConfig
from headclip_med.encoders.build import BuiltTower, build_tower, has_quick_gelu, with_weights
from headclip_med.encoders.text import PromptLearner, TextSide, prompt_tokens, text_side
from headclip_med.encoders.weight_files import read_plain, read_weights
from headclip_med.encoders.weight_names import tower_names
from headclip_med.models.domains import get_domain
from headclip_med.models.new_pack import Conversion, check_new_folder, tower_record, unknown_training, write_pack
from headclip_med.models.record import PACK_FORMAT, UNCALIBRATED, PackRecord
from headclip_med.slicing.intensity import PreprocessingKind

# The configuration that the released prompts were trained with.
ANOMALYCLIP_CONFIG: dict[str, Any] = {
    "feature_layers": [-1],
    "local_attention": "vv",
    "temperature": 0.07,
    "global_norm": False,
    "position_mode": "bilinear",
    "jas": False,
}

# What the authors' code computes with released Crane prompts, by method: its four taps are all the last one, and the
# values of Crane+ are taken after the block's attention (see the two configurations).
_CRANE_CONFIGS: dict[str, CraneConfig] = {
    "crane": CraneConfig(feature_layers=(-1,)),
    "crane+": CranePlusConfig(values_after_attention=True),
}
PROMPT_METHODS = ("anomalyclip", *_CRANE_CONFIGS)

# Embeddings of CLIP spread by about 0.01; what 16-bit storage rounds off them is below this.
_EMBEDDING_TOLERANCE = 1e-4
_LEARNER = "prompt_learner"
_PROJECTIONS = "compound_prompt_projections."
_DEEP = re.compile(r"compound_prompts_text\.(\d+)")


@dataclass(frozen=True)
class PromptCheckpoint:
    """Learned prompts as stored, ``[normal, abnormal]`` first where there are two.

    Attributes:
        context: ``(2, contexts, width)`` float32.
        deep: ``(blocks, tokens, width)`` float32.
        tokens: ``(2, length)`` token numbers.
        prefix, suffix: ``(2, n, width)`` embeddings of the tokens before and after the contexts. None where the file
            has none.
        projections: whether it has the unused layers that AnomalyCLIP saves and Crane does not.
        file, sha256: its name without folders, and its hash.
    """

    context: Tensor
    deep: Tensor
    tokens: Tensor | None
    prefix: Tensor | None
    suffix: Tensor | None
    projections: bool
    file: str
    sha256: str


def is_prompt_checkpoint(value: Any) -> bool:
    """Tell whether a loaded file has the layout of the AnomalyCLIP family.

    Args:
        value: what :func:`headclip_med.encoders.weight_files.read_plain` gives.

    Returns:
        Whether it is a dictionary that holds one named ``prompt_learner``.
    """
    return isinstance(value, Mapping) and isinstance(value.get(_LEARNER), Mapping)


def read_prompts(path: Path) -> PromptCheckpoint:
    """Read a checkpoint of the AnomalyCLIP family.

    Args:
        path: a ``.pth`` file. Nothing that is stored in it is run.

    Returns:
        Its prompts, with what is stored beside them.

    Raises:
        ModelError: an unreadable file, another layout, tensors that are missing, of a wrong shape, or not finite.
    """
    value = read_plain(path)
    if not is_prompt_checkpoint(value):
        raise ModelError(f"A prompt checkpoint must hold a dictionary named {_LEARNER}", path.name)
    state = {str(key).removeprefix("module."): tensor for key, tensor in value[_LEARNER].items()}
    blocks = sorted(int(m.group(1)) for key in state if (m := _DEEP.fullmatch(key)))
    if "ctx_pos" not in state or "ctx_neg" not in state or not blocks or blocks != list(range(len(blocks))):
        raise ModelError(
            "A prompt checkpoint must hold ctx_pos, ctx_neg and compound_prompts_text.0, .1, …",
            f"{path.name} with {', '.join(sorted(state)[:4]) or 'nothing'}",
        )
    context = _pair(state, "ctx_", path.name)
    deep = [_matrix(state[f"compound_prompts_text.{block}"], path.name) for block in blocks]
    if context is None or len({tuple(rows.shape) for rows in deep} | {(len(deep[0]), context.shape[-1])}) != 1:
        raise ModelError("Deep prompts must all have one shape, of the width of the contexts", path.name)
    return PromptCheckpoint(
        context=context,
        deep=torch.stack(deep),
        tokens=_tokens(state, path.name),
        prefix=_pair(state, "token_prefix_", path.name),
        suffix=_pair(state, "token_suffix_", path.name),
        projections=any(key.startswith(_PROJECTIONS) for key in state),
        file=path.name,
        sha256=sha256_file(path),
    )


def convert_prompts(
    prompts: PromptCheckpoint,
    built: BuiltTower,
    *,
    method: str | None = None,
    name: str | None = None,
    domain: str = "generic",
    preprocessing: PreprocessingKind | None = None,
    trained_on: str | None = None,
) -> Conversion:
    """Send the prompts through the tower's text side once, so that the pack needs no text side.

    Args:
        prompts: of :func:`read_prompts`.
        built: the CLIP tower that they were trained for.
        method: one of :data:`PROMPT_METHODS`. None: by the layout, which Crane and Crane+ share.
        name: of the pack. None: that of the file.
        domain: that predictions with the pack begin with.
        preprocessing: that predictions with the pack begin with, ``own`` by default.
        trained_on: words for the training ledger. Without them it says that the data are not known.

    Returns:
        Record and tensors of a pack with class features ``(2, D)``, and what its user should know.

    Raises:
        ModelError: a tower without a fitting text side, or whose tokenizer gives other tokens.
    """
    if built.clip is None or built.tokenizer is None:
        raise ModelError(
            "Prompts must be converted with a tower that has a text side",
            f"{built.architecture}, which is vision-only",
            "Choose the CLIP tower that they were trained for",
        )
    side, width = text_side(built.clip), prompts.context.shape[-1]
    if width != side.width:
        raise ModelError(
            f"The text side of {built.architecture} must have the width of the prompts, {width}",
            side.width,
            "Choose the tower that they were trained for: those of AnomalyCLIP and Crane belong to ViT-L-14-336",
        )
    tokens = prompt_tokens(built.tokenizer, prompts.context.shape[1])
    _check_tokens(prompts, tokens, built.architecture)
    facts = embedding_facts(prompts, side, tokens)
    notes = _notes(facts, side, built)
    if method is None and not prompts.projections:
        notes = (*notes, f"{prompts.file} is taken for prompts of crane; name crane+ or anomalyclip if it is of those")
    chosen = method or ("anomalyclip" if prompts.projections else "crane")
    classes = _class_features(prompts, side, tokens)
    record = PackRecord(
        format=PACK_FORMAT,
        name=name or Path(prompts.file).stem,
        title=f"Learned prompts from {prompts.file} for {built.architecture}",
        method=chosen,
        tower=tower_record(built),
        config=_config_of(chosen),
        domain=get_domain(domain).name,
        preprocessing=None if preprocessing == "own" else preprocessing,
        threshold=UNCALIBRATED,
        ledger=(unknown_training(prompts.file, trained_on),),
        validation={
            "converted_from": {"file": prompts.file, "sha256": prompts.sha256, "layout": _LEARNER},
            "tokens": "equal" if prompts.tokens is not None else "not in the file",
            **facts,
            "notes": list(notes),
        },
    )
    tensors = {
        "patch_classes": classes,
        "image_classes": classes.clone(),
        "prompt.context": prompts.context,
        "prompt.deep": prompts.deep,
    }
    return Conversion(record, tensors, notes)


def convert_model(
    file: Path,
    out: Path,
    *,
    tower: str | None = None,
    weights: str | Path | None = None,
    method: str | None = None,
    name: str | None = None,
    domain: str | None = None,
    preprocessing: PreprocessingKind | None = None,
    trained_on: str | None = None,
) -> Conversion:
    """Convert learned prompts, and write the pack into ``out``.

    Args:
        file: a checkpoint of prompts.
        out: folder of the pack, empty or not there.
        tower: a tower's name or weight file.
        weights: weight file or folder of the tower, instead of its hub's.
        method, name, domain, preprocessing, trained_on: as of :func:`convert_prompts`.

    Returns:
        What was written.

    Raises:
        ModelError: a file that holds no prompts, or that does not fit the tower.
        OutputError: ``out`` holds something. A folder that was not there is not left behind.
    """
    with leaving_nothing(out):
        check_new_folder(out)
        if domain is not None:
            get_domain(domain)
        named = with_weights(tower, weights) if tower is not None else None if weights is None else str(weights)
        _refuse_a_tower(file)
        prompts = read_prompts(file)
        if named is None:
            raise ModelError(
                "Prompts must be converted with a tower, the one that they were trained for",
                file.name,
                "Name it with --tower, and its weights with --weights FILE; those of AnomalyCLIP and Crane belong to "
                "ViT-L-14-336-quickgelu",
            )
        made = convert_prompts(
            prompts,
            build_tower(named),
            method=method,
            name=name,
            domain=domain or "generic",
            preprocessing=preprocessing,
            trained_on=trained_on,
        )
        write_pack(out, made)
        return made


def _config_of(method: str) -> dict[str, Any]:
    """The configuration that the released prompts of a method mean something under."""
    if method == "anomalyclip":
        return ANOMALYCLIP_CONFIG
    if method not in _CRANE_CONFIGS:
        raise ModelError(f"Prompts must be converted for one of {', '.join(PROMPT_METHODS)}", method)
    plain = json.loads(json.dumps(asdict(_CRANE_CONFIGS[method])))
    return {key: value for key, value in plain.items() if value is not None}


def embedding_facts(prompts: PromptCheckpoint, side: TextSide, tokens: Tensor) -> dict[str, Any]:
    """Measure how far the tower's token embeddings are from those in the file.

    Args:
        prompts: as stored.
        side: text side of the tower.
        tokens: ``(2, length)`` token numbers that its tokenizer gives.

    Returns:
        Empty where the file has none, else ``equal``, the absolute ``max_difference`` and ``relative``, which is
        ‖ours − file‖ / ‖file‖ over all of them.

    Raises:
        ModelError: embeddings that do not fit the tokens.
    """
    if prompts.prefix is None or prompts.suffix is None:
        return {}
    ours = side.embedding(tokens).detach().float()
    before, after = prompts.prefix.shape[1], prompts.suffix.shape[1]
    stored = torch.cat([prompts.prefix, prompts.suffix], dim=1)
    ours = torch.cat([ours[:, :before], ours[:, ours.shape[1] - after :]], dim=1)
    if ours.shape != stored.shape or before + prompts.context.shape[1] + after != tokens.shape[1]:
        raise ModelError(
            "The token embeddings in a prompt checkpoint must fit its tokens",
            f"{before} before and {after} after {prompts.context.shape[1]} contexts, of {tokens.shape[1]} tokens",
        )
    largest = float((ours - stored).abs().max())
    return {
        "token_embeddings": {
            "equal": largest <= _EMBEDDING_TOLERANCE,
            "max_difference": largest,
            "relative": float((ours - stored).norm() / stored.norm()),
        }
    }


def _refuse_a_tower(file: Path) -> None:
    """Refuse a tower's weights, which need no conversion."""
    if not file.is_dir() and is_prompt_checkpoint(read_plain(file)):
        return
    try:
        tower_names(read_weights(file).state, file.name)
    except ModelError:
        return
    raise ModelError(
        "A file to convert must hold prompts",
        f"{file.name}, the weights of a tower",
        "They need no conversion: name them with predict --model [ARCH@]FILE or --weights FILE, or here with --weights",
    )


@torch.no_grad()
def _class_features(prompts: PromptCheckpoint, side: TextSide, tokens: Tensor) -> Tensor:
    learner = PromptLearner(
        side.width,
        contexts=prompts.context.shape[1],
        deep_blocks=len(prompts.deep),
        deep_tokens=prompts.deep.shape[1],
        round_deep=True,
    )
    learner.context.copy_(prompts.context)
    learner.deep.copy_(prompts.deep)
    return learner(side, tokens)


def _check_tokens(prompts: PromptCheckpoint, tokens: Tensor, architecture: str) -> None:
    if prompts.tokens is None or torch.equal(prompts.tokens.long(), tokens.long()):
        return
    raise ModelError(
        f"The tokenizer of {architecture} must give the tokens that the prompts were trained with",
        f"other token numbers in {prompts.file}",
        "Choose the tower that they were trained for",
    )


def _notes(facts: Mapping[str, Any], side: TextSide, built: BuiltTower) -> tuple[str, ...]:
    notes = []
    embeddings = facts.get("token_embeddings")
    if embeddings is not None and not embeddings["equal"]:
        notes.append(
            f"the token embeddings of {built.source} differ from those in the file by up to "
            f"{embeddings['max_difference']:.2g} ({embeddings['relative']:.0%} of their length): "
            "these are not the weights that the prompts were trained for"
        )
    if not has_quick_gelu(side.blocks[0]):
        notes.append(
            f"{built.architecture} computes GELU, the family's prompts were trained with QuickGELU: "
            "name the architecture with -quickgelu"
        )
    return tuple(notes)


def _tokens(state: Mapping[str, Tensor], file: str) -> Tensor | None:
    names = ("tokenized_prompts_pos", "tokenized_prompts_neg")
    if not all(name in state for name in names):
        return None
    rows = [state[name].flatten() for name in names]
    if rows[0].shape != rows[1].shape:
        raise ModelError("The two token lists of a prompt checkpoint must have one length", file)
    return torch.stack(rows)


def _pair(state: Mapping[str, Tensor], prefix: str, file: str) -> Tensor | None:
    """``(2, n, width)`` of ``…pos`` and ``…neg``, or None where one is missing."""
    if f"{prefix}pos" not in state or f"{prefix}neg" not in state:
        return None
    rows = [_matrix(state[f"{prefix}{side}"], file) for side in ("pos", "neg")]
    if rows[0].shape != rows[1].shape:
        raise ModelError(f"{prefix}pos and {prefix}neg must have one shape", file)
    return torch.stack(rows)


def _matrix(tensor: Any, file: str) -> Tensor:
    """``(…, n, width)`` with leading ones → ``(n, width)`` float32, finite."""
    usable = isinstance(tensor, Tensor) and tensor.ndim >= 2 and tensor.numel() == tensor.shape[-1] * tensor.shape[-2]
    if not usable or tensor.numel() == 0 or not tensor.isfinite().all():
        raise ModelError("Prompts must be matrices of finite numbers", file, "Download the checkpoint again")
    return tensor.reshape(tensor.shape[-2:]).detach().float()
