"""Bundle folders: whose they are, what they hold, and which config files a workflow is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headclip_med.base.errors import InputError, MissingExtraError

SUFFIXES = (".yaml", ".yml", ".json")  # of a config; the first one wins where a name has several
DEFAULT = "headclip_zero_shot"
OVERRIDES = "overrides"  # the key with which a config says which ones it is laid over

# MONAI knows no such key, its model zoo says it in prose: bundles without the key are read as the zoo's are.
_ZOO = {
    "evaluate": ("train",),
    "multi_gpu_train": ("train",),
    "multi_gpu_evaluate": ("train", "evaluate"),
    "inference_trt": ("inference",),
}


@dataclass(frozen=True)
class BundleFolder:
    """A folder laid out as MONAI's Bundle Specification says.

    Attributes:
        root: absolute.
        own: shipped with headclip_med, so that its config is as trusted as its code.
    """

    root: Path
    own: bool

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def meta_file(self) -> Path:
        return self.configs / "metadata.json"

    def metadata(self) -> dict[str, Any]:
        """Read ``configs/metadata.json``, empty where there is none.

        Returns:
            Its content.

        Raises:
            InputError: it cannot be read as JSON.
        """
        return _content(self.meta_file) if self.meta_file.is_file() else {}

    def workflows(self) -> dict[str, Path]:
        """List the names of the workflows with their config files, in alphabetical order.

        Returns:
            One file for each name.
        """
        found: dict[str, Path] = {}
        for suffix in SUFFIXES:
            for file in sorted(self.configs.glob(f"*{suffix}")):
                if file.stem != "metadata":
                    found.setdefault(file.stem, file)
        return dict(sorted(found.items()))

    def config_files(self, workflow: str) -> list[Path]:
        """List the files that make up a workflow, each laid over those before it.

        A config that is laid over others names them in ``overrides``, such as ``overrides: [train]``. One
        without that key stands alone, unless it sets ids of another file and has a name of MONAI's model zoo.

        Args:
            workflow: its name, or that of its file.

        Returns:
            At least one file.

        Raises:
            InputError: there is no such config here, or configs name each other in a circle.
        """
        return list(_laid_over(self, self._config_name(workflow), ()))

    def _config_name(self, workflow: str) -> str:
        """``train``, ``train.yaml`` and ``configs/train.yaml`` → ``train``."""
        known = self.workflows()
        name = Path(workflow).stem if Path(workflow).suffix in SUFFIXES else workflow
        if name in known:
            return name
        near = get_close_matches(name, known, 1)
        raise InputError(
            f"A workflow of {self.name} must be one of {', '.join(known) or 'none: it has no configs'}",
            workflow,
            f"Did you mean {near[0]}" if near else "Choose one of them",
        )


def find_bundle(name_or_folder: str) -> BundleFolder:
    """Find the bundle shipped under a name, or the one in a folder.

    Args:
        name_or_folder: either of them.

    Returns:
        The bundle. Its configs are not read.

    Raises:
        InputError: it is neither. The message names the nearest.
    """
    from headclip_med_workflows import available_bundles, bundle_root

    own = {name: bundle_root(name).resolve() for name in available_bundles()}
    if name_or_folder in own:
        return BundleFolder(own[name_or_folder], own=True)
    folder = Path(name_or_folder).resolve()
    if (folder / "configs").is_dir():
        return BundleFolder(folder, own=folder in own.values())
    near = get_close_matches(name_or_folder, own, 1)
    hint = f"Did you mean {near[0]}" if near else "See headclip-med bundle list"
    names = f"{', '.join(own)}, or " if own else ""
    raise InputError(f"A bundle must be {names}a folder that holds configs/", name_or_folder, hint)


def own_bundles() -> list[BundleFolder]:
    """List the bundles shipped with headclip_med.

    Returns:
        Bundles in the order of their names.
    """
    from headclip_med_workflows import available_bundles

    return [find_bundle(name) for name in available_bundles()]


def summary(bundle: BundleFolder) -> dict[str, Any]:
    """Give what ``bundle list`` shows of a bundle.

    Args:
        bundle: any.

    Returns:
        Name, version, title, names of its configs, and folder.
    """
    metadata = bundle.metadata()
    return {
        "name": bundle.name,
        "version": metadata.get("version"),
        "title": metadata.get("name") or metadata.get("task"),
        "configs": list(bundle.workflows()),
        "folder": str(bundle.root),
    }


def check_bundle_extra(*packages: str) -> None:
    """Refuse to go on without packages of the extra ``bundle``.

    Args:
        packages: by the names they are imported under.

    Raises:
        MissingExtraError: one is not installed. The message has the command.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            "Running and checking MONAI bundles must have its packages installed",
            f"no {', '.join(missing)}",
            "Run: pip install 'headclip-med[bundle]'",
        )


def _laid_over(bundle: BundleFolder, name: str, above: tuple[str, ...]) -> Iterator[Path]:
    if name in above:
        raise InputError("Configs must not override each other in a circle", " → ".join((*above, name)))
    known = bundle.workflows()
    given: list[Path] = []
    for base in _bases(known[name]):
        if base not in known:
            raise InputError(
                f"'{OVERRIDES}' in {known[name].name} must name configs of {bundle.name}", base, "Correct the name"
            )
        given += [file for file in _laid_over(bundle, base, (*above, name)) if file not in given]
    yield from (*given, known[name])


def _bases(file: Path) -> tuple[str, ...]:
    """Names of the configs that ``file`` is laid over."""
    content = _content(file)
    if OVERRIDES in content:
        names = content[OVERRIDES] or ()
        return (names,) if isinstance(names, str) else tuple(map(str, names))
    reaches_out = any("#" in str(key) or "::" in str(key) for key in content)
    return _ZOO.get(file.stem, ()) if reaches_out else ()


def _content(file: Path) -> dict[str, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("A config must be a readable YAML or JSON file", f"{file}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError("A config must be a table of keys and values", f"{file}: {type(content).__name__}")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
