"""From a configuration to the pack of any method that learns: read, split, cut, fit, calibrate, save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headclip_med.base.errors import InputError, ModelError
from headclip_med.detectors import HeadCLIP, LabelledPixels, Parts, get_method
from headclip_med.detectors.base import read_method_config
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.models.domains import get_domain
from headclip_med.models.load import check_method, may_have_text
from headclip_med.models.record import Threshold
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.auxiliary import auxiliary_parts, check_labels, run_identity, slices_of
from headclip_med.training.batches import batch_indices, collate
from headclip_med.training.config import TrainConfig
from headclip_med.training.loop import Fitted, Run, TrainWatcher
from headclip_med.training.objective import Quality, validate_maps
from headclip_med.training.save import save_trained


def check_trains(config: TrainConfig) -> None:
    """Refuse, before anything is loaded, a method that does not learn and options that are not its own.

    Args:
        config: Of the run.

    Raises:
        ModelError: A method that does not learn, or not on this tower.
        InputError: Options that are not the method's own.
    """
    method = get_method(config.method)
    if not method.capabilities.trains:
        raise ModelError("The method must be one that learns", config.method, "It needs no training: use it as it is")
    if config.method == HeadCLIP.name:
        if config.options:
            raise InputError(
                "Options must be given to other methods than headclip",
                ", ".join(config.options),
                "Its choices are fields of the training configuration itself",
            )
        return
    read_method_config(method.Config, _options(config), f"the method {config.method}")
    name = config.tower.rpartition("/")[2]
    check_method(method, name, has_text=may_have_text(config.tower), has_state=True, training=True)


def train_method(
    config: TrainConfig, resume: bool, watcher: TrainWatcher, cancel: Callable[[], bool] | None
) -> tuple[Fitted, Threshold, dict[str, int]]:
    """Train ``config.method`` by its own recipe and write its pack.

    Args:
        config, resume, watcher, cancel: As of :func:`headclip_med.training.run.train`.

    Returns:
        The fit, the threshold, and how many slices by use.

    Raises:
        HeadclipError: Unusable data, model, options or folder. The last good checkpoint is kept.
    """
    watcher.stage("loading the tower")
    built = build_tower(config.tower)
    untrained = _parts(config, built)
    detector = get_method(config.method).from_parts(untrained)
    watcher.stage("reading the data")
    parts = auxiliary_parts(config)
    watcher.stage("cutting slices")
    tower = detector.tower
    spec = Preprocessing(detector.image_size, tower.mean, tower.std, kind=config.preprocessing)
    train, held_out = (slices_of(parts, which, config, spec) for which in ("train", "held_out"))
    check_labels("training", train)
    check_labels("validation", held_out)
    labels = [part.label for part in train]

    def batch(step: int) -> LabelledPixels:
        return collate([train[i] for i in batch_indices(labels, step, config.batch, config.seed)])

    def judge() -> Quality:
        """Score as a pack of the present state would."""
        return validate_maps(type(detector).from_parts(replace(untrained, tensors=detector.state())), held_out)

    run = Run(
        config.out,
        run_identity(config, built, parts),
        batch,
        steps=config.steps,
        every=config.validate_every,
        seed=config.seed,
        judge=judge,
        resume=resume,
        watcher=watcher,
        cancel=cancel,
    )
    detector.fit(run)
    fitted = run.finish()
    title = f"{config.method} on {built.architecture}, {config.domain}"
    fields = {**_options(config), "image_size": detector.image_size}
    threshold = save_trained(config, built, title, detector.state(), fields, fitted, parts, watcher)
    return fitted, threshold, {"training": len(train), "validation": len(held_out)}


def _parts(config: TrainConfig, built: BuiltTower) -> Parts:
    domain = get_domain(config.domain)
    return Parts(built, _options(config), {}, domain.anatomy, domain.abnormal, f"the method {config.method}")


def _options(config: TrainConfig) -> dict[str, Any]:
    """The method's own fields: those under ``options``, and the size and the taps where they were set."""
    own: dict[str, Any] = {}
    if config.image_size is not None:
        own["image_size"] = config.image_size
    if "feature_layers" in config.model_fields_set:
        own["feature_layers"] = config.feature_layers
    return {**own, **config.options}
