"""Run a workflow of a MONAI bundle after everything that can be checked has been; MONAI itself runs it."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError, MissingExtraError
from headclip_med.bundle.failures import in_words
from headclip_med.bundle.folder import SUFFIXES, BundleFolder, check_installed
from headclip_med.bundle.overrides import Given, check_overrides, shown

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

# Loggers outside of the bundle's logging.conf, on stdout: summaries of the input, and a decoder that few have.
_BANNERS = ("monai.bundle", "monai.data.nvimgcodec")
_DECODER = "NvImgCodecPydicomReader"  # the same as a warning, from every LoadImage
_REPEATED = ("run is terminating due to exception", "Exception: ")  # ignite, and MONAI's StatsHandler


_NOTHING = "headclip_med_runs_nothing"  # an id that no config has: MONAI then runs no list of expressions
_CHECKPOINTS = ("ckpt_path", "ckpt_file")
_RESULTS = {"output_dir": "eval", "ckpt_dir": "models"}  # where a run writes, and the folder of it
_TRACKED_CONFIG = "config_%Y%m%d_%H%M%S.json"


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Hold back MONAI's banners, and put the root logger back when the bundle has had its way with it."""
    import monai.bundle  # noqa: F401 - makes the loggers

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    banners = [logger for logger in _loggers() if logger.name.startswith(_BANNERS)]
    levels = [(logger, logger.level) for logger in banners]
    streams = [(handler, handler.stream) for logger in banners for handler in _screens(logger)]
    try:
        for logger in () if _debug() else banners:
            logger.setLevel(logging.ERROR)
        for handler, _ in streams:
            handler.stream = sys.stderr
        with warnings.catch_warnings():
            if not _debug():
                warnings.filterwarnings("ignore", message=_DECODER)
            yield
    finally:
        for logger, before in levels:
            logger.setLevel(before)
        for handler, stream in streams:
            handler.stream = stream
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def repeated_errors_muted() -> Iterator[None]:
    """On the screen, leave out what engines log of an error that is told once at the end; files keep it."""
    screens: list[logging.Handler] = []
    if not _debug():
        screens = [handler for logger in (logging.getLogger(), *_loggers()) for handler in _screens(logger)]
        if logging.lastResort is not None:
            screens.append(logging.lastResort)  # of a logger that MONAI found without a handler and cut off
    for screen in screens:
        screen.addFilter(_is_news)
    try:
        yield
    finally:
        for screen in screens:
            screen.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    told_later = _REPEATED[0] in text or (bool(record.exc_info) and text.startswith(_REPEATED[1]))
    return record.levelno < logging.ERROR or not told_later


def _screens(logger: logging.Logger) -> list[logging.StreamHandler]:
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logger for logger in known if isinstance(logger, logging.Logger)]


def _debug() -> bool:
    return bool(os.environ.get("HEADCLIP_DEBUG"))


@dataclass(frozen=True)
class BundleRun:
    """One workflow with its overrides, checked.

    Attributes:
        name: of the workflow; config_files: each laid over those before it; overrides: as MONAI takes them;
        tracking: mlflow or a file of settings; output_dir: where the config says that results go, if it does.
    """

    bundle: BundleFolder
    name: str
    config_files: tuple[Path, ...]
    overrides: dict[str, Any]
    tracking: str | None = None
    output_dir: Path | None = None


@dataclass(frozen=True)
class BundleOutcome:
    """What was run, how long it took in seconds, and the files that are new or changed in ``output_dir``."""

    run: BundleRun
    seconds: float
    files: list[str] = field(default_factory=list)


def chosen_files(bundle: BundleFolder, workflow: str | None, config_files: Sequence[str]) -> tuple[str, list[Path]]:
    """Name and config files of what is to be run; ``config_files``, paths or names, stand instead of its own.

    Raises:
        InputError: nothing was chosen, or a file does not exist.
    """
    if not config_files:
        if workflow is None:
            names = ", ".join(bundle.workflows())
            raise InputError("A workflow must be named", "none", f"Choose one of {names}; overrides come after it")
        files = bundle.config_files(workflow)
        return files[-1].stem, files
    files = [_config_file(bundle, file) for file in config_files]
    return workflow or files[-1].stem, files


def check_trust(bundle: BundleFolder, files: Sequence[Path], trust: bool) -> bool:
    """Whether code of somebody else is about to run.

    Raises:
        InputError: it is, and nobody said that it may.
    """
    foreign = not bundle.own or any(bundle.root not in file.resolve().parents for file in files)
    if foreign and not trust:
        raise InputError(
            "A bundle that is not part of headclip_med must be trusted, for its config is code and can do anything",
            bundle.root,
            "Read it, then add --trust",
        )
    return foreign


def prepare(
    bundle: BundleFolder, name: str, files: Sequence[Path], overrides: Sequence[Given], tracking: str | None = None
) -> BundleRun:
    """Check overrides, folders and checkpoints; nothing is built or written.

    Raises:
        InputError: a key or value that cannot be meant, or a path that cannot be used; OutputError: nothing
        can be written to ``output_dir``; MissingExtraError.
    """
    check_installed("fire", "ignite")
    if tracking == "mlflow" and find_spec("mlflow") is None:
        raise MissingExtraError(
            "Tracking with mlflow must have its packages installed",
            "no mlflow",
            "Run: pip install 'headclip-med[track]'",
        )
    parser = read_config(bundle, files)
    checked = check_overrides(parser, overrides)
    if "bundle_root" not in checked:
        checked["bundle_root"] = parser["bundle_root"] = str(bundle.root)
    checked |= _results_here(bundle, parser, checked)
    _check_run_list(parser, checked.get("run_id", "run"))
    with bundle_on_path(bundle):
        _check_dataset(parser, checked)
        _check_checkpoints(checked)
        output_dir = _checked_output(parser)
    if tracking == "mlflow" and output_dir is not None and "save_execute_config" not in parser:
        # MONAI writes the file, but its name for it is right only where output_dir is an expression
        checked["save_execute_config"] = str(output_dir / time.strftime(_TRACKED_CONFIG))
    return BundleRun(bundle, name, tuple(files), checked, tracking, output_dir)


def execute(run: BundleRun) -> BundleOutcome:
    """Initialize, run and finalize as ``monai.bundle run`` does.

    Raises:
        InputError: a component cannot be built, nothing was run; BundleRunError: it began and failed.
    """
    started, run_id, begun = time.time(), run.overrides.get("run_id", "run"), None
    with quiet_monai(), bundle_on_path(run.bundle):
        try:
            workflow = _workflow(run)
            workflow.initialize()
            build_first_step(workflow.parser, run_id)  # as run() would; engines have their loggers then
            begun = run_id
            with repeated_errors_muted():
                workflow.run()
                workflow.finalize()
        except Exception as error:
            raise in_words(error, begun) from error
    return BundleOutcome(run, time.time() - started, _files_since(run.output_dir, started))


def rehearse(run: BundleRun) -> BundleOutcome:
    """Build what the workflow needs, and run nothing, ``initialize`` included.

    Raises:
        InputError: a component cannot be built, or there is nothing to run.
    """
    started = time.time()
    with quiet_monai(), bundle_on_path(run.bundle):
        try:
            workflow = _workflow(run, rehearsal=True)
            workflow.initialize()
            build_what_runs(workflow.parser, run.overrides.get("run_id", "run"))
        except Exception as error:
            raise in_words(error) from error
    return BundleOutcome(run, time.time() - started)


def build_what_runs(parser: ConfigParser, run_id: str) -> None:
    """Build every component that the list ``run_id`` refers to."""
    for number, step in enumerate(_steps(parser, run_id)):
        _build_references(parser, step, f"{run_id}::{number}")


def build_first_step(parser: ConfigParser, run_id: str) -> None:
    """Build the components of the first step that is more than an import: nothing comes before them."""
    from monai.bundle import ConfigExpression

    for number, step in enumerate(_steps(parser, run_id)):
        if not ConfigExpression.is_import_statement(step):
            return _build_references(parser, step, f"{run_id}::{number}")


def _steps(parser: ConfigParser, run_id: str) -> list[Any]:
    steps = parser[run_id]
    return steps if isinstance(steps, list) else [steps]


def _build_references(parser: ConfigParser, step: Any, id_: str) -> None:
    for reference in parser.ref_resolver.find_refs_in_config(step, id_):
        parser.get_parsed_content(reference)


def read_config(bundle: BundleFolder, files: Sequence[Path]) -> ConfigParser:
    """The merged config with its metadata, not resolved.

    Raises:
        InputError: a file cannot be read, or does not fit those before it.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    try:
        parser.read_config([str(file) for file in files])
        if bundle.meta_file.is_file():
            parser.read_meta(str(bundle.meta_file))
    except Exception as error:
        names = ", ".join(file.name for file in files)
        told = " ".join(str(error).split())
        raise InputError("The config files must be readable and fit together", f"{names}: {told}") from error
    return parser


@contextmanager
def bundle_on_path(bundle: BundleFolder) -> Iterator[None]:
    """Let a bundle's own ``scripts`` be imported, from any working folder."""
    before = list(sys.path)
    sys.path.insert(1, str(bundle.root))
    try:
        yield
    finally:
        sys.path[:] = before


def _workflow(run: BundleRun, rehearsal: bool = False) -> ConfigWorkflow:
    from monai.bundle import ConfigWorkflow

    of_bundle = {"meta_file": run.bundle.meta_file, "logging_file": run.bundle.configs / "logging.conf"}
    files = {key: str(file) for key, file in of_bundle.items() if file.is_file()}
    options = {**files, **run.overrides}
    if rehearsal:
        options["init_id"] = _NOTHING
    return ConfigWorkflow(
        [str(file) for file in run.config_files], tracking=None if rehearsal else run.tracking, **options
    )


def _config_file(bundle: BundleFolder, file: str) -> Path:
    for place in (Path(file), bundle.root / file, bundle.configs / file):
        if place.is_file():
            return place.resolve()
    known = bundle.workflows()
    if file in known:
        return known[file]
    near = get_close_matches(Path(file).stem, known, 1)
    hint = (
        f"Did you mean {known[near[0]].name}" if near else f"Give a {', '.join(SUFFIXES)} file, or a name in configs/"
    )
    raise InputError("A config file must exist", file, hint)


def _resolved(parser: ConfigParser, key: str) -> Any:
    """Value of a top-level key; a copy is resolved, so that the workflow still builds everything itself."""
    from monai.bundle import ConfigParser

    try:
        return ConfigParser(deepcopy(parser.config)).get_parsed_content(key)
    except Exception as error:
        raise in_words(error) from error


def _results_here(bundle: BundleFolder, parser: ConfigParser, overrides: dict[str, Any]) -> dict[str, Any]:
    """Results of a bundle that is installed with the package go to the working folder, not into the installation."""
    if not bundle.own or overrides["bundle_root"] != str(bundle.root):
        return {}
    places = {key: str(Path.cwd() / name) for key, name in _RESULTS.items() if key in parser and key not in overrides}
    for key, place in places.items():
        parser[key] = place
    return places


def _check_run_list(parser: ConfigParser, run_id: str) -> None:
    if run_id not in parser:
        do = "Give the name of its list with --run_id, or choose a workflow that has one"
        raise InputError("A workflow must have a list of what to run", f"no {shown(run_id)!r} in its config", do)


def _check_dataset(parser: ConfigParser, overrides: dict[str, Any]) -> None:
    """The data must be there, unless the config has a ``dataset_dir`` that nothing refers to."""
    if "dataset_dir" not in parser or not ("dataset_dir" in overrides or _is_used(parser.config, "dataset_dir")):
        return
    value = _resolved(parser, "dataset_dir")
    for place in value if isinstance(value, list | tuple) else [value]:
        if isinstance(place, str | os.PathLike) and not Path(place).exists():
            do = "Check the path" if "dataset_dir" in overrides else "Give the folder of your images with --dataset_dir"
            raise InputError("dataset_dir must be a folder that exists", place or "an empty path", do)


def _check_checkpoints(overrides: dict[str, Any]) -> None:
    for key, value in overrides.items():
        named = key.split("::")[-1] in _CHECKPOINTS and isinstance(value, str) and not value.startswith(("$", "@", "%"))
        if named and not Path(value).is_file():
            raise InputError(f"{shown(key)} must be a checkpoint that exists", value, "Check the path")


def _checked_output(parser: ConfigParser) -> Path | None:
    value = _resolved(parser, "output_dir") if "output_dir" in parser else None
    if not isinstance(value, str | os.PathLike):
        return None
    from headclip_med.base.errors import OutputError

    folder = Path(value).absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        why = f"{existing} is a file where a folder must be"
    elif not os.access(existing, os.W_OK | os.X_OK):
        why = f"nothing may be written to {existing}"
    else:
        return folder
    raise OutputError("output_dir must be a folder that can be written to", why, "Give another with --output_dir")


def _is_used(config: Any, key: str) -> bool:
    if isinstance(config, str):
        return config.startswith(("$", "@")) and re.search(rf"@{key}\b", config) is not None
    children = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return any(_is_used(child, key) for child in children)


def _files_since(folder: Path | None, started: float) -> list[str]:
    if folder is None or not folder.is_dir():
        return []
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime >= started - 1]
    return sorted(path.relative_to(folder).as_posix() for path in files)
