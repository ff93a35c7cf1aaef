"""MONAI's own verification of a bundle, offline: its metadata, and what its network takes and gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.bundle.failures import explain_error
from headclip_med.bundle.folder import BundleFolder, check_bundle_extra
from headclip_med.bundle.run import bundle_on_path, quiet_monai

# What metadata must hold, so that nothing is downloaded; see README.md here.
SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"


@dataclass(frozen=True)
class Verification:
    """One thing that was looked at.

    Attributes:
        name: of MONAI's command.
        status: how it ended.
        words: what was found, or why it was not looked at.
    """

    name: str
    status: Literal["ok", "fail", "skipped"]
    words: str


def verify(bundle: BundleFolder, trust: bool = False) -> list[Verification]:
    """Run MONAI's ``verify_metadata`` and ``verify_net_in_out``, each whatever became of the other.

    Args:
        bundle: whose network is ``network_def`` of the workflow ``inference``.
        trust: the config of a bundle that is not ours may be run.

    Returns:
        A line for each of the two.

    Raises:
        MissingExtraError: a package that is needed is not installed.
    """
    check_bundle_extra("jsonschema", "ignite")
    checks = [_checked("verify_metadata", _metadata, bundle)]
    if "inference" not in bundle.workflows():
        words = "there is no inference config"
    elif not (bundle.own or trust):
        words = "this would run the bundle's config, which is code; read it, then add --trust"
    else:
        return [*checks, _checked("verify_net_in_out", _network, bundle)]
    return [*checks, Verification("verify_net_in_out", "skipped", words)]


def _metadata(bundle: BundleFolder) -> str:
    from monai.bundle import verify_metadata

    if not bundle.meta_file.is_file():
        raise InputError("The bundle must have configs/metadata.json", "none", "Add it")
    verify_metadata(meta_file=str(bundle.meta_file), filepath=str(SCHEMA))
    return f"follows {SCHEMA.stem}"


def _network(bundle: BundleFolder) -> str:
    from monai.bundle import verify_net_in_out

    verify_net_in_out(
        "network_def",
        meta_file=str(bundle.meta_file),
        config_file=[str(file) for file in bundle.config_files("inference")],
        device="cpu",
        bundle_root=str(bundle.root),
    )
    return "as metadata.json says"


def _checked(name: str, look: Callable[[BundleFolder], str], bundle: BundleFolder) -> Verification:
    try:
        with quiet_monai(), bundle_on_path(bundle), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No hash value provided")  # nothing is downloaded
            return Verification(name, "ok", look(bundle))
    except Exception as error:
        return Verification(name, "fail", str(error if isinstance(error, HeadclipError) else explain_error(error)))
