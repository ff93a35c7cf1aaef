"""Write a detector as files, each checked against the detector before it gets its name."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.errors import InputError, ModelError
from headclip_med.base.files import atomic_path, check_writable, remove_file, sha256_file
from headclip_med.base.names import DEFAULT_MODEL
from headclip_med.base.versions import package_versions
from headclip_med.bundle.build_model import build_network
from headclip_med.bundle.export.formats import Kind, targets
from headclip_med.bundle.export.graph import ExportGraph, exportable
from headclip_med.bundle.export.parity import IMAGES, TOLERANCE, Reference, check_parity, reference
from headclip_med.bundle.network import HeadCLIPNetwork
from headclip_med.detectors import HeadCLIP
from headclip_med.encoders.weight_files import read_state
from headclip_med.engine.card import Cut, Parity, Pixels, Port, ScoreCard, write_card
from headclip_med.models.load import Model, own_preprocessing

# Packages beside the usual ones that decide what an ONNX file computes.
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Attributes:
        kind: pt2 or onnx.
        file, card_file: the model, and its card beside it.
        card: what the card says.
        sha256: of the model file.
        size: of the model file in bytes.
        seconds: for tracing, measuring and writing it.
    """

    kind: str
    file: Path
    card_file: Path
    card: ScoreCard
    sha256: str
    size: int
    seconds: float

    @property
    def parity(self) -> Parity:
        """The parity that was measured on this file."""
        assert self.card.parity is not None
        return self.card.parity

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values.

        Returns:
            Fields by name.
        """
        return {
            "kind": self.kind,
            "file": str(self.file),
            "card_file": str(self.card_file),
            "sha256": self.sha256,
            "bytes": self.size,
            "seconds": round(self.seconds, 2),
            "parity": self.parity.model_dump(mode="json"),
        }


def export_model(
    network: HeadCLIPNetwork | Model,
    out: Path,
    kinds: Sequence[Kind],
    *,
    domain: str | None = None,
    images: int = IMAGES,
    tolerance: float = TOLERANCE,
) -> list[Exported]:
    """Export a detector, as all of ``kinds`` or as none of them.

    Args:
        network: in float32 on the CPU. See :func:`headclip_med.bundle.export.graph.exportable`.
        out: a folder, or a file for a single kind. Earlier exports of the same name are replaced.
        kinds: of :func:`headclip_med.bundle.export.formats.parse_kinds`.
        domain: whose prompts become the class features of a CLIP tower without a pack.
        images: slices on which parity is measured, at least 3.
        tolerance: largest difference of a probability, of map and score.

    Returns:
        What was written, in the order of ``kinds``.

    Raises:
        MissingExtraError: a package that is needed is not installed.
        ModelError: a model that cannot be exported, or a file that does not give the detector's numbers.
        InputError: options that cannot be.
        OutputError: a place that cannot be written to.
    """
    files = targets(tuple(kinds), out)
    check_request(kinds, tolerance)
    model, detector = exportable(network, domain)
    graph = ExportGraph(detector)
    wanted = reference(detector, own_preprocessing(detector, model.domain), images)
    folder = next(iter(files.values())).parent
    existed = folder.is_dir()
    check_writable(folder)
    try:
        written = _write_all(model, detector, graph, files, wanted, tolerance)
    except BaseException:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    return [_finish(*parts) for parts in written]


def check_request(kinds: Sequence[Kind], tolerance: float) -> None:
    """Refuse, before anything is loaded, what cannot be exported.

    Args:
        kinds: of the files.
        tolerance: of probabilities.

    Raises:
        InputError: a tolerance that is none.
        MissingExtraError: a package that is needed is not installed.
    """
    if not 0 < tolerance < 1:
        raise InputError("The tolerance must lie between 0 and 1", tolerance, "Probabilities are compared")
    for kind in kinds:
        kind.writer().check()


def load_network(
    model: str | Path = DEFAULT_MODEL,
    *,
    weights: Path | None = None,
    domain: str | None = None,
    checkpoint: Path | None = None,
) -> HeadCLIPNetwork:
    """Build the network of a model in float32, with the tensors of a MONAI checkpoint in it.

    Args:
        model, weights, domain: as of :func:`headclip_med.bundle.build_model.build_network`.
        checkpoint: state dict of a :class:`HeadCLIPNetwork`, bare or under ``model``.

    Returns:
        The network, on the CPU.

    Raises:
        ModelError: a model that cannot be had, or a checkpoint that is not one of its network.
    """
    state = None if checkpoint is None else read_state(checkpoint)
    learn = ("heads",) if state is not None and "head_weights" in state else ()
    network = build_network(model, weights=weights, domain=domain, learn=learn, precision="float32")
    if not isinstance(network, HeadCLIPNetwork):
        raise ModelError(
            "An exported model must be of the HeadCLIP family", network.model.method, "Use method headclip"
        )
    if state is not None and checkpoint is not None:
        _load_checkpoint(network, state, checkpoint.name)
    return network


def _load_checkpoint(network: HeadCLIPNetwork, state: dict[str, Tensor], name: str) -> None:
    frozen = {key: tensor.clone() for key, tensor in network.state_dict().items() if key.startswith("tower.")}
    network.load_state_dict(state)
    own = network.state_dict()
    if not all(torch.equal(tensor, own[key]) for key, tensor in frozen.items()):
        raise ModelError(
            "The tower of a checkpoint must have the frozen weights of the model",
            f"other tower weights in {name}",
            "Name the model that was trained with --model, and its --weights",
        )


def _write_all(
    model: Model,
    detector: HeadCLIP,
    graph: ExportGraph,
    files: dict[Kind, Path],
    wanted: Reference,
    tolerance: float,
) -> list[tuple[Kind, Path, ScoreCard, float]]:
    """Write every file under a hidden name. They get their own names together, or vanish together."""
    written = []
    with ExitStack() as drafts:
        for kind, path in files.items():
            began = time.perf_counter()
            draft = drafts.enter_context(atomic_path(path))
            card = _write_measured(kind, graph, draft, card_of(model, detector, kind), wanted, tolerance)
            written.append((kind, path, card, time.perf_counter() - began))
    return written


def _write_measured(
    kind: Kind, graph: ExportGraph, draft: Path, card: ScoreCard, wanted: Reference, tolerance: float
) -> ScoreCard:
    """Write, read back and measure, then write once more with the measured card, and read that back."""
    writer = kind.writer()
    built = writer.build(graph)
    writer.write(built, draft, card)
    parity = wanted.measure(writer.reopen(draft)[0], writer.runtime())
    check_parity(parity, tolerance, kind.file)
    card = card.model_copy(update={"parity": parity})
    writer.write(built, draft, card)
    if writer.reopen(draft)[1] != card:
        raise ModelError("The written file must hold its score card", f"another one in {kind.file}", "Export again")
    return card


def _finish(kind: Kind, path: Path, card: ScoreCard, seconds: float) -> Exported:
    """Write the card beside its file. Where that fails the file goes too."""
    digest = sha256_file(path)
    try:
        card_file = write_card(card, path, digest)
    except BaseException:
        remove_file(path)
        raise
    return Exported(kind.name, path, card_file, card, digest, path.stat().st_size, seconds)


def card_of(model: Model, detector: HeadCLIP, kind: Kind) -> ScoreCard:
    """Gather what the score card of a file says, before its parity is measured.

    Args:
        model: that is exported.
        detector: of the model.
        kind: of the file.

    Returns:
        The card without parity.
    """
    record = model.pack.record if model.pack else None
    return ScoreCard(
        kind=kind.name,
        **_origin(model),
        domain=model.domain.name,
        scope=model.expected(model.domain)[0][1],
        detector=json.loads(json.dumps(detector.describe())),  # lists for tuples, as they come back from a file
        pixels=_pixels(model, detector),
        threshold=Cut(value=model.threshold.value, origin=model.threshold.origin),
        slice_smoothing_mm=record.slice_smoothing_mm if record else 0.0,
        inputs=_inputs(detector.image_size),
        outputs=_outputs(detector.image_size),
        ledger=tuple(e.model_dump(mode="json", exclude={"image_sha256"}) for e in record.ledger) if record else (),
        versions=package_versions() | (_onnx_versions() if kind.name == "onnx" else {}),
    )


def _origin(model: Model) -> dict[str, Any]:
    """Names and hashes of a model, without the pack's where the pack is only the prompts of a domain."""
    facts = model.provenance()
    if model.pack is not None and model.pack.folder == Path():
        facts = {key: value for key, value in facts.items() if not key.startswith("pack")}
    return {key: value or None for key, value in facts.items()}


def _pixels(model: Model, detector: HeadCLIP) -> Pixels:
    spec = own_preprocessing(detector, model.domain, model.preprocessing)
    return Pixels.model_validate({field.name: getattr(spec, field.name) for field in fields(spec)})


def _inputs(size: int) -> tuple[Port, ...]:
    pixels = Port(
        name="pixels",
        shape=f"(batch, 3, {size}, {size}) float32",
        meaning="slices scaled to [0, 1], then (value - mean) / std per channel",
    )
    valid = Port(
        name="valid",
        shape=f"(batch, {size}, {size}) float32",
        meaning="1 inside the patient, 0 elsewhere; limits the score, not the map",
    )
    return pixels, valid


def _outputs(size: int) -> tuple[Port, ...]:
    maps = Port(
        name="anomaly_map",
        shape=f"(batch, 1, {size}, {size}) float32",
        meaning="probability of abnormal per pixel, in [0, 1]",
    )
    score = Port(name="slice_score", shape="(batch,) float32", meaning="score of the slice, in [0, 1]")
    return maps, score


def _onnx_versions() -> dict[str, str]:
    found = {}
    for package in _ONNX_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
