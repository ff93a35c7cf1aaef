"""Checks of a bundle's files; nothing of the bundle is imported or run."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.bundle.folder import OVERRIDES, BundleFolder

Look = Callable[[BundleFolder], str]
SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
LARGEST_MB = 25  # in MONAI's model zoo; what is larger is downloaded
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
WEIGHTS = "models/model.pt"

# Headings of the zoo's template for docs/README.md, in the words that its bundles use for them.
HEADINGS = {
    "Authors": ("authors",),
    "Tags": ("tags",),
    "Model Description": ("model description", "model overview", "description"),
    "Data": ("data", "dataset", "data source"),
    "Performance": ("performance", "scores"),
    "System Configuration": ("system configuration", "training configuration"),
}
_NOT_CLINICAL = re.compile(r"\bnot\b[^.]*\b(diagnos\w+|clinical|medical device)|research use only", re.IGNORECASE)
_PERSONAL = re.compile(r"(?:^|[\s'\"=(])(/(?:home|root|Users|mnt|media)/[^\s'\")]*|~/[^\s'\")]*|[A-Za-z]:\\[^\s'\")]*)")
_STATED = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


class Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """Why a check was not made."""


"""Looks at one thing: what was found; raises :class:`Skipped`, or any other exception when it is not as it must be."""


def licence(bundle: BundleFolder) -> str:
    file = bundle.root / "LICENSE"
    if not _has_text(file):
        raise InputError("The bundle must have its licence in LICENSE", "none", "Add the text of the licence")
    return file.read_text(encoding="utf-8").strip().splitlines()[0].strip()


def metadata(bundle: BundleFolder) -> str:
    from jsonschema import Draft201909Validator

    if not bundle.meta_file.is_file():
        raise InputError("The bundle must have configs/metadata.json", "none", "Add it")
    wrong = sorted(
        Draft201909Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).iter_errors(bundle.metadata()),
        key=lambda error: list(map(str, error.path)),
    )
    if wrong:
        told = "; ".join(f"{'#'.join(map(str, error.path)) or 'metadata'}: {error.message[:160]}" for error in wrong)
        raise InputError(f"configs/metadata.json must follow {SCHEMA.stem}", told, "Correct it")
    return f"follows {SCHEMA.stem}"


def changelog(bundle: BundleFolder) -> str:
    told = bundle.metadata()
    latest = told.get("version")
    if latest is None or latest not in (told.get("changelog") or {}):
        raise InputError("The changelog in metadata.json must tell of its version", latest, "Add an entry")
    return str(latest)


def versions(bundle: BundleFolder) -> str:
    """The installed packages are those of the metadata or newer; ours states nothing older than it can run with."""
    told = bundle.metadata()
    stated = {package: told[key] for key, package in _STATED.items() if key in told}
    stated |= told.get("required_packages_version") or {}
    wrong = [why for name, value in stated.items() if (why := _unfit(name, str(value), bundle.own))]
    if wrong:
        raise InputError("The versions in metadata.json must fit what is installed", "; ".join(wrong), "Correct them")
    return ", ".join(f"{name} {value}" for name, value in stated.items())


def weights(bundle: BundleFolder) -> str:
    import torch

    file = bundle.root / WEIGHTS
    if not file.is_file():
        if WEIGHTS in _large_files(bundle):
            raise Skipped(f"{WEIGHTS} is in large_files and was not downloaded")
        if _told_how_to_build(bundle):
            raise Skipped(f"{WEIGHTS} was not built; docs/README.md says how")
        raise InputError(f"The weights must be in {WEIGHTS}", "none", "Add them, or a large_files.yml that names them")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{WEIGHTS} must load with weights_only", type(error).__name__, "Save a state dict") from error
    if not isinstance(state, dict):
        raise InputError(f"{WEIGHTS} must hold a state dict", type(state).__name__, "Save network.state_dict()")
    return f"{len(state)} entries, {file.stat().st_size / 1e6:.1f} MB"


def sizes(bundle: BundleFolder) -> str:
    listed = _large_files(bundle)
    files = [file for file in bundle.root.rglob("*") if file.is_file()]
    large = {_inside(bundle, file): file.stat().st_size / 1e6 for file in files}
    wrong = [f"{name} ({mb:.0f} MB)" for name, mb in large.items() if mb > LARGEST_MB and name not in listed]
    if wrong:
        raise InputError(
            f"A file over {LARGEST_MB} MB must be in large_files.yml", ", ".join(sorted(wrong)), "Host it and list it"
        )
    return f"{len(files)} files, the largest {max(large.values(), default=0):.1f} MB"


def configs(bundle: BundleFolder) -> str:
    """Every config can be read, and those it is laid over exist."""
    known = bundle.workflows()
    if not known:
        raise InputError("A bundle must have configs beside metadata.json", "none", "Add configs/inference.yaml")
    return "; ".join(" + ".join(file.stem for file in bundle.config_files(name)) for name in known)


def bundle_root(bundle: BundleFolder) -> str:
    wrong = []
    for name in bundle.workflows():
        root = _merged(bundle, name).get("bundle_root")
        if root != ".":
            wrong.append(f"{root!r} in {name}")
    if wrong:
        raise InputError("bundle_root must be '.' in every config", ", ".join(wrong), "Write bundle_root: .")
    return "'.' everywhere"


def personal_paths(bundle: BundleFolder) -> str:
    found = [
        f"{match[1]} in {name}"
        for name, file in bundle.workflows().items()
        for text in _texts(_loaded(file))
        for match in _PERSONAL.finditer(text)
    ]
    if found:
        raise InputError("A config must not name folders of one machine", ", ".join(found), "Use @bundle_root")
    return "none"


def readme(bundle: BundleFolder) -> str:
    file = bundle.root / "docs" / "README.md"
    if not _has_text(file):
        raise InputError("The bundle must have docs/README.md", "none", "Write it after the model zoo's template")
    text = file.read_text(encoding="utf-8")
    headings = {re.sub(r"[*_`#]", "", line).strip().lower() for line in text.splitlines() if line.startswith("#")}
    missing = [name for name, also in HEADINGS.items() if not headings.intersection(also)]
    if not _NOT_CLINICAL.search(text):
        missing.append("a sentence that it is not for diagnostic use")
    if missing:
        raise InputError("docs/README.md must follow the zoo's template", f"no {', no '.join(missing)}", "Add them")
    return f"{len(headings)} headings"


def data_licence(bundle: BundleFolder) -> str:
    if not _has_text(bundle.root / "docs" / "data_license.txt"):
        raise InputError("The licence of the data must be in docs/data_license.txt", "none", "Add it")
    return "docs/data_license.txt"


def logging_conf(bundle: BundleFolder) -> str:
    """The file is as ``logging.config`` reads it: three lists, and a section for each name in them."""
    file = bundle.configs / "logging.conf"
    if not file.is_file():
        raise InputError("The bundle must have configs/logging.conf", "none", "Add it")
    parser = configparser.RawConfigParser()
    parser.read_string(file.read_text(encoding="utf-8"))
    named = {
        kind: [key.strip() for key in parser.get(f"{kind}s", "keys", fallback="").split(",") if key.strip()]
        for kind in ("logger", "handler", "formatter")
    }
    missing = [f"[{kind}_{key}]" for kind, keys in named.items() for key in keys if f"{kind}_{key}" not in parser]
    if missing or "root" not in named["logger"]:
        raise InputError(
            "configs/logging.conf must define what it lists, root among it", ", ".join(missing) or "no root"
        )
    return f"handlers {', '.join(named['handler'])}"


LOOKS: dict[str, Look] = {
    "licence": licence,
    "metadata": metadata,
    "changelog": changelog,
    "versions": versions,
    "weights": weights,
    "file sizes": sizes,
    "configs": configs,
    "bundle_root": bundle_root,
    "personal paths": personal_paths,
    "readme": readme,
    "data licence": data_licence,
    "logging.conf": logging_conf,
}


def _unfit(package: str, stated: str, own: bool) -> str | None:
    """Why a stated version cannot be right here, if it cannot."""
    from packaging.requirements import Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        installed = Version(version(package))
        wanted = SpecifierSet(stated if stated[:1] in "<>=!~" else f">={Version(stated)}")
    except PackageNotFoundError:
        return f"{package} {stated} is not installed"
    except (InvalidVersion, InvalidSpecifier):
        return f"{package} {stated} is no version"
    if not wanted.contains(installed.base_version, prereleases=True):
        return f"{package} {stated}, installed is {installed}"
    ours = {need.name.lower(): need for need in map(Requirement, requires("headclip-med") or ()) if need.marker is None}
    need = ours.get(package.lower())
    if own and need is not None and stated[:1].isdigit() and not need.specifier.contains(stated, prereleases=True):
        return f"{package} {stated} is older than headclip_med can run with ({need.specifier})"
    return None


def _large_files(bundle: BundleFolder) -> set[str]:
    listed = [bundle.root / name for name in LARGE_FILES if (bundle.root / name).is_file()]
    entries = _loaded(listed[0]).get("large_files") or [] if listed else []
    return {Path(entry["path"]).as_posix() for entry in entries}


def _told_how_to_build(bundle: BundleFolder) -> bool:
    """Whether a command in the README makes the weights."""
    file = bundle.root / "docs" / "README.md"
    commands = re.findall(r"```.*?```", file.read_text(encoding="utf-8"), re.DOTALL) if file.is_file() else []
    return any("model.pt" in command for command in commands)


def _merged(bundle: BundleFolder, workflow: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in bundle.config_files(workflow):
        merged |= _loaded(file)
    return merged


def _loaded(file: Path) -> dict[str, Any]:
    import yaml

    text = file.read_text(encoding="utf-8")
    return dict(json.loads(text) if file.suffix == ".json" else yaml.safe_load(text))


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict):
        for key, value in config.items():
            if key != OVERRIDES:
                yield from _texts(value)
    elif isinstance(config, list):
        for value in config:
            yield from _texts(value)


def _has_text(file: Path) -> bool:
    return file.is_file() and bool(file.read_text(encoding="utf-8").strip())


def _inside(bundle: BundleFolder, file: Path) -> str:
    return file.relative_to(bundle.root).as_posix()
