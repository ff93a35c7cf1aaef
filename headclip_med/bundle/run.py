"""Run a workflow of a MONAI bundle after everything that can be checked has been. MONAI itself runs it."""

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

from headclip_med.base.errors import HeadclipError, InputError, MissingExtraError
from headclip_med.base.files import check_writable
from headclip_med.bundle.failures import BundleRunError, explain_error
from headclip_med.bundle.folder import SUFFIXES, BundleFolder, check_bundle_extra
from headclip_med.bundle.overrides import Given, check_overrides, shown

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

# Loggers outside of the bundle's logging.conf, on stdout: summaries of the input, downloads, a decoder that few have.
_BANNERS = ("monai.bundle", "monai.apps", "monai.data.nvimgcodec")
_DECODER = "NvImgCodecPydicomReader"  # the same as a warning, from every LoadImage
_REPEATED = ("run is terminating due to exception", "Exception: ")  # ignite, and MONAI's StatsHandler

_NOTHING = "headclip_med_runs_nothing"  # an id that no config has: MONAI then runs no list of expressions
_MUST_EXIST = ("dataset_dir", "ckpt_path", "ckpt_file")
_RESULTS = {"output_dir": "eval", "ckpt_dir": "models"}  # where a run writes, and the folder of it
_TRACKED_CONFIG = "config_%Y%m%d_%H%M%S.json"


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Hold back MONAI's banners, and put the root logger back when the bundle has had its way with it."""
    import monai.bundle  # noqa: F401 - makes the loggers

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {logger: logger.level for logger in _loggers() if logger.name.startswith(_BANNERS)}
    try:
        with warnings.catch_warnings():
            if not _debug():
                warnings.filterwarnings("ignore", message=_DECODER)
                for logger in levels:
                    logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, before in levels.items():
            logger.setLevel(before)
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _repeated_errors_muted() -> Iterator[None]:
    """Leave out what engines log of an error that is told once at the end."""
    loggers = [] if _debug() else _loggers()
    for logger in loggers:
        logger.addFilter(_is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    told_later = _REPEATED[0] in text or (bool(record.exc_info) and text.startswith(_REPEATED[1]))
    return record.levelno < logging.ERROR or not told_later


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _debug() -> bool:
    return bool(os.environ.get("HEADCLIP_DEBUG"))


@dataclass(frozen=True)
class BundleRun:
    """One workflow with its overrides, checked.

    Attributes:
        bundle: whose workflow it is.
        name: of the workflow.
        config_files: each laid over those before it.
        overrides: as MONAI takes them.
        tracking: mlflow or a file of settings.
        output_dir: where the config says that results go, if it does.
    """

    bundle: BundleFolder
    name: str
    config_files: tuple[Path, ...]
    overrides: dict[str, Any]
    tracking: str | None = None
    output_dir: Path | None = None


@dataclass(frozen=True)
class BundleOutcome:
    """What a run left.

    Attributes:
        run: what was run.
        seconds: how long it took.
        files: that are new or changed, relative to ``run.output_dir``.
    """

    run: BundleRun
    seconds: float
    files: list[str] = field(default_factory=list)


def chosen_files(bundle: BundleFolder, workflow: str | None, config_files: Sequence[str]) -> tuple[str, list[Path]]:
    """Choose the config files of what is to be run.

    Args:
        bundle: whose they are.
        workflow: its name.
        config_files: paths or names that stand instead of the workflow's own.

    Returns:
        Name and config files, each laid over those before it.

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
    """Tell whether code of somebody else is about to run.

    Args:
        bundle: that is run.
        files: its config files.
        trust: whether somebody said that it may.

    Returns:
        Whether the bundle, or a file, is not part of headclip_med.

    Raises:
        InputError: it is not, and nobody said that it may.
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
    """Check overrides, folders and checkpoints, and build or write nothing.

    Args:
        bundle: that is run.
        name: of the workflow.
        files: its config files, of :func:`chosen_files`.
        overrides: of :func:`headclip_med.bundle.overrides.read_overrides`.
        tracking: mlflow or a file of settings, as of ``monai.bundle run``.

    Returns:
        What :func:`execute` takes.

    Raises:
        InputError: a key or value that cannot be meant, or a path that does not exist.
        OutputError: nothing can be written to ``output_dir``.
        MissingExtraError: a package that is needed is not installed.
    """
    check_bundle_extra("fire", "ignite")
    if tracking == "mlflow" and find_spec("mlflow") is None:
        raise MissingExtraError(
            "Tracking with mlflow must have its packages installed",
            "no mlflow",
            "Run: pip install 'headclip-med[track]'",
        )
    parser = read_config(bundle, files)
    checked = check_overrides(parser, overrides)
    _check_paths(checked)
    added = _added_places(bundle, parser, checked)
    for key, value in added.items():
        parser[key] = value
    checked |= added
    run_id = checked.get("run_id", "run")
    if run_id not in parser:
        do = "Give the name of its list with --run_id, or choose a workflow that has one"
        raise InputError("A workflow must have a list of what to run", f"no {shown(run_id)!r} in its config", do)
    with bundle_on_path(bundle):
        _check_default_data(parser, checked)
        output_dir = _output_dir(parser)
    if tracking == "mlflow" and output_dir is not None and "save_execute_config" not in parser:
        # MONAI writes the file, but its name for it is right only where output_dir is an expression
        checked["save_execute_config"] = str(output_dir / time.strftime(_TRACKED_CONFIG))
    return BundleRun(bundle, name, tuple(files), checked, tracking, output_dir)


def execute(run: BundleRun, dry_run: bool = False) -> BundleOutcome:
    """Initialize, run and finalize as ``monai.bundle run`` does.

    Args:
        run: of :func:`prepare`.
        dry_run: build all that the workflow needs and run nothing, ``initialize`` included.

    Returns:
        How long it took, and the files that it wrote.

    Raises:
        InputError: a component cannot be built, nothing was run.
        BundleRunError: it began and failed.
    """
    started = time.time()
    kind: type[HeadclipError] = InputError
    with quiet_monai(), bundle_on_path(run.bundle):
        try:
            workflow = _workflow(run, dry_run)
            workflow.initialize()
            _build(workflow.parser, run.overrides.get("run_id", "run"), first_alone=not dry_run)
            if dry_run:
                return BundleOutcome(run, time.time() - started)
            kind = BundleRunError
            with _repeated_errors_muted():  # engines have their loggers now
                workflow.run()
                workflow.finalize()
        except Exception as error:
            raise explain_error(error, kind) from error
    return BundleOutcome(run, time.time() - started, _files_since(run.output_dir, started))


def _build(parser: ConfigParser, run_id: str, first_alone: bool) -> None:
    """Build the components that the steps of a run refer to, or those of its first step that is no import."""
    from monai.bundle import ConfigExpression

    steps = parser[run_id] if isinstance(parser[run_id], list) else [parser[run_id]]
    for number, step in enumerate(steps):
        for reference in parser.ref_resolver.find_refs_in_config(step, f"{run_id}::{number}"):
            parser.get_parsed_content(reference)
        if first_alone and not ConfigExpression.is_import_statement(step):
            return


def read_config(bundle: BundleFolder, files: Sequence[Path]) -> ConfigParser:
    """Merge config files and the metadata, and resolve nothing.

    Args:
        bundle: whose metadata.
        files: each laid over those before it.

    Returns:
        The config.

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
    """Let a bundle's own ``scripts`` be imported, from any working folder.

    Args:
        bundle: whose scripts.
    """
    before = list(sys.path)
    sys.path.insert(1, str(bundle.root))
    try:
        yield
    finally:
        sys.path[:] = before


def _workflow(run: BundleRun, dry_run: bool) -> ConfigWorkflow:
    from monai.bundle import ConfigWorkflow

    of_bundle = {"meta_file": run.bundle.meta_file, "logging_file": run.bundle.configs / "logging.conf"}
    files = {key: str(file) for key, file in of_bundle.items() if file.is_file()}
    options = {**files, **run.overrides}
    if dry_run:
        options["init_id"] = _NOTHING
    return ConfigWorkflow(
        [str(file) for file in run.config_files], tracking=None if dry_run else run.tracking, **options
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


def _added_places(bundle: BundleFolder, parser: ConfigParser, overrides: dict[str, Any]) -> dict[str, Any]:
    """The bundle's folder, and the working folder for results of a bundle that is installed with the package."""
    root = str(bundle.root)
    added = {} if "bundle_root" in overrides else {"bundle_root": root}
    if bundle.own and overrides.get("bundle_root", root) == root:
        results = {key: str(Path.cwd() / name) for key, name in _RESULTS.items() if key in parser}
        added |= {key: place for key, place in results.items() if key not in overrides}
    return added


def _check_paths(overrides: dict[str, Any]) -> None:
    for key, value in overrides.items():
        named = key.split("::")[-1] in _MUST_EXIST and isinstance(value, str) and not value.startswith(("$", "@", "%"))
        if named and not Path(value).exists():
            raise InputError(f"{shown(key)} must be a path that exists", value or "an empty path", "Check it")


def _check_default_data(parser: ConfigParser, overrides: dict[str, Any]) -> None:
    """Refuse a config's own ``dataset_dir`` that is not there, unless nothing refers to it."""
    if "dataset_dir" in overrides or not re.search(r"@dataset_dir\b", str(parser.config)):
        return
    place = _path_of(parser, "dataset_dir")
    if place is not None and not place.exists():
        do = "Give the folder of your images with --dataset_dir"
        raise InputError("dataset_dir must be a path that exists", place, do)


def _output_dir(parser: ConfigParser) -> Path | None:
    place = _path_of(parser, "output_dir")
    if place is not None:
        check_writable(place)
    return place


def _path_of(parser: ConfigParser, key: str) -> Path | None:
    """A place that the config names. A copy is resolved, so that the workflow still builds everything itself."""
    from monai.bundle import ConfigParser

    if key not in parser:
        return None
    try:
        value = ConfigParser(deepcopy(parser.config)).get_parsed_content(key)
    except Exception as error:
        raise explain_error(error) from error
    return Path(value).absolute() if isinstance(value, str | os.PathLike) else None


def _files_since(folder: Path | None, started: float) -> list[str]:
    if folder is None or not folder.is_dir():
        return []
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime >= started - 1]
    return sorted(path.relative_to(folder).as_posix() for path in files)
