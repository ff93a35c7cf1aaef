"""What an installation has and lacks, and the command that mends it. Nothing is changed, no hub contacted."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from headclip_med.base.errors import HeadclipError

Status = Literal["ok", "warn", "fail"]

_GIB = 2**30
_LITTLE_MEMORY_GIB = 4.0  # a ViT-L in float32 with a 256³ volume beside it
_LITTLE_DISK_GIB = 2.0  # one large tower, or the results of a small cohort

_MATCHING_TORCH = "pip install --upgrade torch torchvision (both in one command, from the same index)"

_OPTIONAL = {
    "highdicom": ("DICOM results", "dicom"),
    "napari": ("the viewer", "review"),
    "onnxruntime": ("ONNX export", "onnx"),
}
_QT_BINDINGS = ("PySide6", "PyQt6", "PyQt5", "PySide2")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: ``warn`` works with a limit, ``fail`` does not work.
        detail: what was found.
        fix: the command or step that mends it, empty when there is nothing to mend.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def diagnose() -> list[Check]:
    """Look at everything the package depends on, which never raises and takes a few seconds."""
    return [check for look in _LOOKS for check in _guarded(look)]


def _guarded(look: Callable[[], list[Check]]) -> list[Check]:
    """A look that stumbles over a broken installation is itself a finding."""
    try:
        return look()
    except Exception as error:
        name = look.__name__.lstrip("_").replace("_", " ")
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        return [Check(name, "fail", f"{type(error).__name__}: {reason}", "pip install --upgrade headclip-med")]


def _python() -> list[Check]:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    return [Check("python", "ok", f"{found} on {platform.system()} {platform.machine()}")]


def _packages() -> list[Check]:
    """Every declared dependency, present and new enough."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in requires("headclip-med") or []]
    except PackageNotFoundError:
        return [Check("packages", "warn", "headclip-med runs from a source folder", "pip install -e .")]
    core = [need for need in declared if need.marker is None or need.marker.evaluate({"extra": ""})]
    checks = [_package(str(need.name), str(need.specifier), need.specifier.contains) for need in core]
    return [Check("headclip-med", "ok", version("headclip-med")), *checks]


def _package(name: str, wanted: str, fits: Callable[[str], bool]) -> Check:
    fix = f'pip install "{name}{wanted}"'
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "fail", f"not installed; {wanted} is needed", fix)
    if not fits(found.split("+")[0]):
        return Check(name, "fail", f"{found}; {wanted} is needed", fix)
    return Check(name, "ok", found)


def _torch_pair() -> list[Check]:
    """torch and torchvision are compiled against each other: a mismatch shows only on import."""
    name = "torch and torchvision"
    try:
        import torch
        import torchvision
    except Exception as error:
        return [Check(name, "fail", _torch_problem(str(error)), _MATCHING_TORCH)]
    return [Check(name, "ok", f"{torch.__version__} and {torchvision.__version__} import together")]


def _torch_problem(message: str) -> str:
    first = message.strip().splitlines()[0] if message.strip() else "import failed"
    if "torchvision::nms" in message:
        return f"they do not match ({first})"
    return f"cannot be imported ({first[:200]})"


def _devices() -> list[Check]:
    import torch

    from headclip_med.engine.device import choose_device, choose_dtype

    chosen = choose_device("auto")
    precision = str(choose_dtype(chosen)).removeprefix("torch.")
    checks = [Check("device", "ok", f"auto chooses {chosen.type} with {precision}")]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        checks.append(Check(f"cuda:{index}", "ok", f"{facts.name}, {facts.total_memory / _GIB:.1f} GiB"))
    if chosen.type == "cpu" and precision == "float32":
        slow = "no GPU and no bfloat16 instructions: large towers take seconds per slice"
        checks.append(Check("speed", "warn", slow, "Use headclip-tiny or ViT-B-16, or a machine with a GPU"))
    return checks


def _memory() -> list[Check]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (os.sysconf(name) * page / _GIB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return [Check("memory", "ok", "size unknown on this system")]
    if total < _LITTLE_MEMORY_GIB:
        return [Check("memory", "warn", f"{total:.1f} GiB", "Use headclip-tiny, and one case at a time")]
    return [Check("memory", "ok", f"{total:.1f} GiB, {free:.1f} GiB unused")]


def _built_in_packs() -> list[Check]:
    from headclip_med.base.names import DEFAULT_MODEL
    from headclip_med.models.pack import builtin_packs

    packs = builtin_packs()
    again = "pip install --force-reinstall --no-deps headclip-med"
    checks = [_pack(name, again) for name in packs]
    if DEFAULT_MODEL not in packs:
        checks.append(Check(f"pack {DEFAULT_MODEL}", "fail", "missing: nothing runs without --model", again))
    return checks


def _pack(name: str, again: str) -> Check:
    from headclip_med.base.files import sha256_file
    from headclip_med.models.pack import builtin_packs, load_pack

    try:
        pack = load_pack(builtin_packs()[name])
    except HeadclipError as error:
        return Check(f"pack {name}", "fail", str(error), again)
    tower = pack.record.tower
    if tower.file is None:
        return Check(f"pack {name}", "ok", f"sha256 {pack.sha256[:12]}, for the weights of {tower.name}")
    path = pack.folder / tower.file
    if not path.is_file():
        return Check(f"pack {name}", "fail", f"{tower.file} is missing", again)
    found = sha256_file(path)
    if tower.sha256 is None:
        return Check(f"pack {name}", "warn", "its pack.json states no sha256 to compare with", again)
    if tower.sha256 != found:
        return Check(f"pack {name}", "fail", f"{tower.file} is damaged or was exchanged (sha256 differs)", again)
    return Check(f"pack {name}", "ok", f"weights sha256 {found[:12]} as recorded")


def _dicom_decoders() -> list[Check]:
    from pydicom import uid
    from pydicom.pixels import get_decoder

    kinds = {
        "JPEG": uid.JPEGExtended12Bit,
        "JPEG lossless": uid.JPEGLosslessSV1,
        "JPEG-LS": uid.JPEGLSLossless,
        "JPEG 2000": uid.JPEG2000Lossless,
        "RLE": uid.RLELossless,
    }
    missing = [name for name, syntax in kinds.items() if not get_decoder(syntax).is_available]
    if missing:
        detail = f"compressed files of these kinds cannot be read: {', '.join(missing)}"
        return [Check("DICOM decoders", "warn", detail, 'pip install "headclip-med[dicom]"')]
    return [Check("DICOM decoders", "ok", f"{', '.join(kinds)} and uncompressed")]


def _extras() -> list[Check]:
    return [_extra(name, use, extra) for name, (use, extra) in _OPTIONAL.items()]


def _extra(name: str, use: str, extra: str) -> Check:
    if find_spec(name) is None:
        fix = f'pip install "headclip-med[{extra}]"'
        return Check(name, "ok", f"not installed: optional, for {use}", fix)
    return Check(name, "ok", version(name))


def _viewer() -> list[Check]:
    """What napari needs besides itself: a Qt binding, OpenGL and a screen."""
    if find_spec("napari") is None:
        return []
    binding = next((name for name in _QT_BINDINGS if find_spec(name) is not None), None)
    if binding is None:
        fix = 'pip install "headclip-med[review]"'
        return [Check("napari's Qt", "warn", "no Qt binding: napari cannot open a window", fix)]
    checks = [Check("napari's Qt", "ok", f"{binding} {version(binding)}")]
    return [*checks, *(_linux_display() if sys.platform.startswith("linux") else [])]


def _linux_display() -> list[Check]:
    from ctypes.util import find_library

    checks = []
    if find_library("GL") is None:
        fix = "apt install libgl1 libegl1 libxkbcommon-x11-0"
        checks.append(Check("OpenGL", "warn", "no libGL: napari's canvas stays black or fails", fix))
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        fix = "Run on a desktop, or start napari with xvfb-run"
        checks.append(Check("display", "warn", "no screen here: napari cannot open a window", fix))
    return checks or [Check("OpenGL and display", "ok", "found")]


def _disk_space() -> list[Check]:
    places = {"this folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    checks = []
    for name, place in places.items():
        free = shutil.disk_usage(place).free / _GIB
        little = free < _LITTLE_DISK_GIB
        fix = "Free some space before a large cohort" if little else ""
        checks.append(Check(f"disk: {name}", "warn" if little else "ok", f"{free:.1f} GiB free", fix))
    return checks


def _hugging_face() -> list[Check]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    cached = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    detail = f"{cached} models in the cache"
    if constants.HF_HUB_OFFLINE:
        offline = f"{detail}; HF_HUB_OFFLINE is set: nothing else can be downloaded"
        return [Check("Hugging Face", "ok", offline)]
    return [Check("Hugging Face", "ok", f"{detail}; downloads only when you name such a model")]


_LOOKS: tuple[Callable[[], list[Check]], ...] = (
    _python,
    _packages,
    _torch_pair,
    _devices,
    _memory,
    _built_in_packs,
    _dicom_decoders,
    _extras,
    _viewer,
    _disk_space,
    _hugging_face,
)
