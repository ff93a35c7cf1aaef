"""Checks of what a bundle's configs name; all but the references import, build or run it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError
from headclip_med.bundle.failures import in_words
from headclip_med.bundle.folder import BundleFolder
from headclip_med.bundle.overrides import all_ids, shown
from headclip_med.bundle.run import bundle_on_path, quiet_monai, read_config
from headclip_med.bundle.verify_files import Skipped

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

_NO_INITIALIZE = "headclip_med_verify_runs_nothing"
_SIZES: tuple[dict[str, Any], ...] = (
    {},
    {"p": 5, "n": 4, "any": 64},
)  # for shapes with * in them; many networks refuse MONAI's default of 1


def references(bundle: BundleFolder) -> str:
    """Every ``@id`` in every workflow is an id of it."""
    wrong, count = [], 0
    for name, parser in _parsers(bundle):
        parser.resolve_macro_and_relative_ids()
        for id_ in all_ids(parser.config):
            value = parser.get(id_)
            for target in parser.ref_resolver.match_refs_pattern(value) if isinstance(value, str) else ():
                count += 1
                if target not in parser:
                    wrong.append(f"@{shown(target)} of {shown(id_)} in {name}")
    if wrong:
        raise InputError("A reference must be to something in the config", ", ".join(wrong), "Correct it")
    return f"{count} references"


def targets(bundle: BundleFolder) -> str:
    """Every ``_target_`` in every workflow can be imported."""
    wrong, found = [], set()
    with bundle_on_path(bundle):
        for name, parser in _parsers(bundle):
            for id_, config in _components(parser):
                target = config["_target_"]
                if not isinstance(target, str) or target.startswith(("$", "@", "%")):
                    continue
                found.add(target)
                if not _importable(parser, config):
                    wrong.append(f"{target} of {shown(id_)} in {name}")
    if wrong:
        raise InputError("A _target_ must be importable", ", ".join(wrong), "Correct its name, or install its package")
    return f"{len(found)} classes and functions"


def properties(bundle: BundleFolder, dataset_dir: Path | None) -> str:
    """Every workflow has what other applications ask of it; those for several processes by name only."""
    for name, parser in _parsers(bundle):
        _check_names(name, parser)
    if dataset_dir is None:
        raise Skipped("all names are there; add --dataset_dir DIR to build the workflows too")
    built = [name for name in bundle.workflows() if not name.startswith("multi_gpu")]
    for name in built:
        _check_built(bundle, name, dataset_dir)
    return f"built {', '.join(built)}"


def network_io(bundle: BundleFolder) -> str:
    """The network of the inference workflow takes and gives what the metadata says."""
    from monai.bundle import verify_net_in_out

    if "inference" not in bundle.workflows():
        raise Skipped("there is no inference config")
    files = [str(file) for file in bundle.config_files("inference")]
    if "network_def" not in read_config(bundle, [Path(file) for file in files]):
        raise Skipped("the inference config has no network_def")
    failure: Exception | None = None
    for sizes in _SIZES:
        try:
            with quiet_monai(), bundle_on_path(bundle):
                verify_net_in_out(
                    "network_def",
                    meta_file=str(bundle.meta_file),
                    config_file=files,
                    device="cpu",
                    bundle_root=str(bundle.root),
                    **sizes,
                )
            return "as in metadata.json"
        except Exception as error:
            failure = failure or error
    assert failure is not None
    raise in_words(failure) from failure


def _check_names(name: str, parser: ConfigParser) -> None:
    from monai.bundle.properties import InferProperties, TrainProperties

    wanted = TrainProperties if _type_of(parser) == "train" else InferProperties
    missing = [shown(prop["id"]) for prop in wanted.values() if prop["required"] and prop["id"] not in parser]
    if missing:
        raise InputError(
            f"{name} must have what MONAI's applications ask for", f"no {', no '.join(missing)}", "Add them"
        )


def _check_built(bundle: BundleFolder, name: str, dataset_dir: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="headclip-") as folder, quiet_monai(), bundle_on_path(bundle):
        try:
            wrong = _workflow(bundle, name, dataset_dir, folder).check_properties()
        except Exception as error:
            told = in_words(error)
            raise InputError(f"{name}: {told.must}", told.given, told.do) from error
    if wrong:
        raise InputError(f"{name} must have what MONAI's applications ask for", f"wrong: {', '.join(wrong)}")


def _workflow(bundle: BundleFolder, name: str, dataset_dir: Path, folder: str) -> ConfigWorkflow:
    from monai.bundle import ConfigWorkflow

    files = bundle.config_files(name)
    parser = read_config(bundle, files)
    paths: dict[str, Any] = {"bundle_root": str(bundle.root), "dataset_dir": str(dataset_dir)}
    if "output_dir" in parser:
        paths["output_dir"] = folder
    workflow = ConfigWorkflow(
        [str(file) for file in files],
        meta_file=str(bundle.meta_file),
        logging_file=False,
        workflow_type=_type_of(parser),
        init_id=_NO_INITIALIZE,
        **paths,
    )
    workflow.initialize()
    return workflow


def _type_of(parser: ConfigParser) -> str:
    return "train" if "train::trainer" in parser else "infer"


def _parsers(bundle: BundleFolder) -> Iterator[tuple[str, ConfigParser]]:
    for name in bundle.workflows():
        yield name, read_config(bundle, bundle.config_files(name))


def _components(parser: ConfigParser) -> Iterator[tuple[str, dict[str, Any]]]:
    for id_ in all_ids(parser.config):
        config = parser.get(id_)
        if isinstance(config, dict) and "_target_" in config:
            yield id_, config


def _importable(parser: ConfigParser, config: dict[str, Any]) -> bool:
    from monai.bundle import ConfigComponent

    try:
        return locate(ConfigComponent(config, locator=parser.locator).resolve_module_name()) is not None
    except ErrorDuringImport:
        return False
