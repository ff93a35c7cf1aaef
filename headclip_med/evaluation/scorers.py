"""What can be evaluated: an engine with its options, or a trivial control, behind one small protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.base.names import split_method
from headclip_med.base.versions import package_versions
from headclip_med.cohort.resume import known_identity
from headclip_med.engine.ask import Ask, check_ask
from headclip_med.models.record import SHORT_HASH, UNCALIBRATED, LedgerEntry

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from headclip_med.datasets.dataset import CaseDataset
    from headclip_med.engine.batches import Cancel
    from headclip_med.engine.engine import Engine
    from headclip_med.engine.normals import Normals
    from headclip_med.engine.result import AnomalyResult
    from headclip_med.engine.scan_run import SlicesDone
    from headclip_med.engine.torch_scorer import TorchScorer
    from headclip_med.models.load import KnownModel

CONTROL_PREFIX = "control:"
_OF_READING = ("time", "on_irregular")  # a case of a set is read before it is asked for


class CaseScorer(Protocol):
    """Scores one volume at a time, knowing nothing of the others."""

    def predict(
        self, volume: MetaTensor, *, progress: SlicesDone | None = None, cancel: Cancel | None = None
    ) -> AnomalyResult:
        """Score one volume.

        Args:
            volume: ``(C, I, J, K)``.
            progress: Called with slices done and slices in all.
            cancel: Tells whether to stop.

        Returns:
            The map on the volume's grid, with scores and findings.
        """

    def identity(self) -> dict[str, Any]:
        """Name everything that decides its numbers.

        Returns:
            Plain JSON values, with its name as ``model``.
        """

    def threshold(self) -> tuple[float, str]:
        """Tell the cut on the map, and where it came from.

        Returns:
            The cut in [0, 1], and its origin in words.
        """

    def ledger(self) -> tuple[dict[str, Any], ...]:
        """Tell what it was trained on, as far as it says.

        Returns:
            Entries of the ledger, none for a model without training data.
        """


@dataclass(frozen=True)
class EngineScorer:
    """An engine with what is asked of every case."""

    engine: Engine[TorchScorer]
    ask: Ask = field(default_factory=Ask)

    def predict(
        self, volume: MetaTensor, *, progress: SlicesDone | None = None, cancel: Cancel | None = None
    ) -> AnomalyResult:
        """Score one volume.

        Args:
            volume: ``(C, I, J, K)``.
            progress: Called with slices done and slices in all.
            cancel: Asked before each batch whether to stop.

        Returns:
            The map on the volume's grid, with scores and findings.

        Raises:
            InputError: An unusable volume.
            CancelledError: ``cancel`` returned True.
            ModelError: Not even one slice fits the device's memory.
        """
        return self.engine.predict(volume, self.ask, progress=progress, cancel=cancel)

    def identity(self) -> dict[str, Any]:
        """Name everything that decides its numbers.

        Returns:
            Model, hashes, precision, version and options, as plain JSON values.
        """
        version = package_versions()["headclip-med"]
        return {**self.engine.scorer.identity(), "version": version, "options": _decides_numbers(self.ask)}

    def threshold(self) -> tuple[float, str]:
        """Tell the cut on the map: the user's, or the pack's.

        Returns:
            The cut in [0, 1], and its origin in words.
        """
        return _threshold(self.ask, self.engine.scorer.threshold)

    def ledger(self) -> tuple[dict[str, Any], ...]:
        """Tell what the model was trained on, and the normal images that the engine compares with.

        Returns:
            Entries of the pack's training-data ledger, then one for the normal images, where there are any.
        """
        return _ledger(self.engine.scorer.model.ledger, self.engine.scorer.normals)


@dataclass(frozen=True)
class ModelSpec:
    """How to make a scorer: what a worker process needs instead of the scorer itself."""

    name: str
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    method: str | None = None
    weights: str | None = None
    ask: Ask = field(default_factory=Ask)
    speed: str = "exact"
    normals: str | None = None

    def build(self) -> CaseScorer:
        """Load the model, or make the control.

        Returns:
            A scorer with what is asked of every case.

        Raises:
            ModelError, InputError: it cannot be had. The message says what to do.
        """
        check_ask(self.ask)
        if self.name.startswith(CONTROL_PREFIX):
            from headclip_med.evaluation.controls import make_control

            return make_control(self.name.removeprefix(CONTROL_PREFIX), self.ask.threshold)
        from headclip_med.engine.load import load_engine

        engine = load_engine(
            self.name,
            self.device,
            method=self.method,
            precision=self.precision,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            weights=self.weights,
            speed=self.speed,
            normals=self.normals,
        )
        return EngineScorer(engine, self.ask)

    def as_stored(self, stored: dict[str, Any] | None) -> StoredScorer | None:
        """Make a stand-in for the scorer that measured the stored cases, where files tell that it is this one.

        Args:
            stored: Its identity, None where no case is stored.

        Returns:
            A scorer without its model, None where the model has to be built.

        Raises:
            HeadclipError: as :meth:`build`, where that is known before a model is loaded.
        """
        if stored is None or self.name.startswith(CONTROL_PREFIX):
            return None
        found = known_identity(
            self.name,
            method=self.method,
            weights=self.weights,
            normals=self.normals,
            device=self.device,
            precision=self.precision,
            speed=self.speed,
        )
        if found is None or (model := found[1]) is None or (model.pack is None and model.lender is None):
            return None  # a weight file's threshold and ledger are those of a pack that its content decides
        expected = {**found[0], "options": _decides_numbers(self.ask)}
        if any(stored.get(key) != value for key, value in json.loads(json.dumps(expected)).items()):
            return None
        return StoredScorer(self, stored, model)


@dataclass(frozen=True)
class StoredScorer:
    """A scorer whose cases are all kept: what it is, without its model."""

    spec: ModelSpec
    stored: dict[str, Any]
    model: KnownModel

    def predict(
        self, volume: MetaTensor, *, progress: SlicesDone | None = None, cancel: Cancel | None = None
    ) -> AnomalyResult:
        """Score one volume with the model after all, which is built for it.

        Args:
            volume: ``(C, I, J, K)``.
            progress: Called with slices done and slices in all.
            cancel: Asked before each batch whether to stop.

        Returns:
            The map on the volume's grid, with scores and findings.

        Raises:
            HeadclipError: as :meth:`ModelSpec.build` and :meth:`EngineScorer.predict`.
        """
        return self.spec.build().predict(volume, progress=progress, cancel=cancel)

    def identity(self) -> dict[str, Any]:
        """Name everything that decides its numbers.

        Returns:
            What was stored.
        """
        return self.stored

    def threshold(self) -> tuple[float, str]:
        """Tell the cut on the map: the user's, or the pack's.

        A model that compares with normal images is uncalibrated, and has the cut of such.

        Returns:
            The cut in [0, 1], and its origin in words.
        """
        own = UNCALIBRATED if self.spec.normals is not None else self.model.threshold
        return _threshold(self.spec.ask, (own.value, own.origin))

    def ledger(self) -> tuple[dict[str, Any], ...]:
        """Tell what the model was trained on, and the normal images that it is compared with.

        Returns:
            Entries of the pack's training-data ledger, then one for the normal images, where there are any.

        Raises:
            InputError: the normal images cannot be read.
        """
        from headclip_med.engine.normals import read_normals

        return _ledger(self.model.ledger, None if self.spec.normals is None else read_normals(self.spec.normals))


def _decides_numbers(ask: Ask) -> dict[str, Any]:
    return {name: value for name, value in ask.recorded().items() if name not in _OF_READING}


def _threshold(ask: Ask, own: tuple[float, str]) -> tuple[float, str]:
    if ask.threshold is not None:
        return ask.threshold, "chosen by the user before the evaluation"
    return own


def _ledger(entries: Sequence[LedgerEntry], normals: Normals | None) -> tuple[dict[str, Any], ...]:
    found = [entry.model_dump(mode="json") for entry in entries]
    if normals is not None:
        short = [image[:SHORT_HASH] for image in normals.image_sha256]
        name = f"{normals.name} (normal images)"
        found.append({"name": name, "licence": "not stated", "count": len(short), "image_sha256": short})
    return tuple(found)


def controls_for(dataset: CaseDataset) -> list[str]:
    """List the trivial controls that a table of this set carries.

    Args:
        dataset: Whose first readable case tells whether its images have colours.

    Returns:
        Names such as ``control:edges``. ``control:redness`` is among them only where images have colours.
    """
    from headclip_med.evaluation.controls import CONTROLS

    names = [name for name in CONTROLS if name != "redness" or _in_colour(dataset)]
    return [f"{CONTROL_PREFIX}{name}" for name in names]


def _in_colour(dataset: CaseDataset) -> bool:
    """By the first case that can be read: what is wrong with the others is told when they are measured."""
    for case in dataset:
        try:
            return bool(dataset.load(case).volume.meta.get("is_rgb", False))
        except HeadclipError:
            continue
    return False


def short_names(given: Sequence[str]) -> list[str]:
    """Shorten each path or id to its last part, and as many before it as tell it from the others.

    Args:
        given: Names or paths of models. A method in front, as in ``METHOD:NAME``, stays there.

    Returns:
        The short names in the same order.
    """
    methods, rests = zip(*map(split_method, given), strict=True) if given else ((), ())
    parts = [Path(text).parts or (text,) for text in rests]

    def short(own: tuple[str, ...]) -> str:
        others = [other for other in parts if other != own]
        depths = (n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others))
        return str(Path(*own[-next(depths, len(own)) :]))

    fronts = ("" if method is None else f"{method}:" for method in methods)
    return [front + short(own) for front, own in zip(fronts, parts, strict=True)]


def check_names(names: list[str]) -> None:
    """Refuse no model at all, and the same name twice.

    Args:
        names: Of the models.

    Raises:
        InputError: no name, or one that stands there twice.
    """
    if not names:
        raise InputError("At least one model must be named", "none", "Add --model headclip-tiny")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError("Every model must be named once", ", ".join(twice))
