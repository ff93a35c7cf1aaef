"""The checks that MONAI's model zoo makes of a bundle, and a few of ours, without a network.

Those that read files are in :mod:`verify_files`; those that import, build or run what a config names are in
:mod:`verify_configs`, and wait for a word of trust where the bundle is not ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.bundle import verify_configs, verify_files
from headclip_med.bundle.folder import BundleFolder, check_installed
from headclip_med.bundle.verify_files import Look, Skipped

Status = Literal["ok", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``words`` say what was found, or why it was not looked at."""

    name: str
    status: Status
    words: str


def verify(bundle: BundleFolder, dataset_dir: Path | None = None, trust: bool = False) -> list[Check]:
    """Make every check; a failing one stops no other.

    Args:
        dataset_dir: data of the kind that the bundle reads; without it no workflow is built.
        trust: the config of a bundle that is not ours may be run.

    Raises:
        InputError: ``dataset_dir`` does not exist; MissingExtraError.
    """
    check_installed("jsonschema", "ignite")
    if dataset_dir is not None and not dataset_dir.exists():
        raise InputError("dataset_dir must be a folder that exists", dataset_dir, "Check the path")
    checks = [_checked(name, look, bundle) for name, look in verify_files.LOOKS.items()]
    checks.append(_checked("references", verify_configs.references, bundle))
    running: dict[str, Look] = {
        "targets": verify_configs.targets,
        "properties": lambda bundle: verify_configs.properties(bundle, dataset_dir),
        "network input and output": verify_configs.network_io,
    }
    for name, look in running.items():
        allowed = bundle.own or trust
        checks.append(_checked(name, look if allowed else _not_trusted, bundle))
    return checks


def _not_trusted(bundle: BundleFolder) -> str:
    raise Skipped("this would run the bundle's config, which is code; read it, then add --trust")


def _checked(name: str, look: Look, bundle: BundleFolder) -> Check:
    try:
        return Check(name, "ok", look(bundle))
    except Skipped as reason:
        return Check(name, "skipped", str(reason))
    except HeadclipError as error:
        return Check(name, "fail", str(error))
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
