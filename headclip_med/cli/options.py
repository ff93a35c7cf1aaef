"""The options of the command line: names, help with units and defaults, and what shell completion offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup

from headclip_med.base import names as choices
from headclip_med.cli.errors import DEBUG
from headclip_med.engine.ask import Ask

Command = TypeVar("Command", bound=Callable[..., Any])


class CommandList(TyperGroup):
    """A group whose help lists its commands with their whole first sentence, without an ellipsis."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help text."""
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=1000)) for name, command in commands])


class CommandApp(typer.Typer):
    """An app whose help is shown as it is written, as brackets are no markup, with commands that can be quiet or
    verbose."""

    def __init__(self, words: str, **more: Any) -> None:
        super().__init__(help=words, no_args_is_help=True, cls=CommandList, rich_markup_mode=None, **more)

    def command(self, name: str | None = None, **more: Any) -> Callable[[Command], Command]:
        """Register a command as Typer does, with ``--quiet`` and ``--verbose`` after its own options."""
        add = super().command(name, **more)
        return lambda function: add(_for_typer(function)) and function


@dataclass(frozen=True)
class Together:
    """Options of a command that its function takes as one object.

    Attributes:
        make: makes the object of their values, which it gets by name.
        options: annotations by name.
        defaults: of those whose default is not None.
    """

    make: Callable[..., Any]
    options: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _for_typer(function: Command) -> Command:
    """The function as Typer sees it: grouped options one by one, and two more that say how loud the console is."""
    hints = get_type_hints(function, include_extras=True)
    parts = {name: part.replace(annotation=hints[name]) for name, part in signature(function).parameters.items()}
    groups = {name: group for name in parts for group in _groups(hints[name])}

    @wraps(function)
    def spoken(*, quiet: bool = False, verbose: bool = False, **given: Any) -> Any:
        from headclip_med.cli.screen import console

        console.speak(quiet=quiet, verbose=verbose or bool(os.environ.get(DEBUG)))
        for name, group in groups.items():
            given[name] = group.make(**{option: given.pop(option) for option in group.options})
        return function(**given)

    shown: list[Parameter] = []
    for name, part in parts.items():
        shown += _alone(groups[name].options, groups[name].defaults) if name in groups else [part]
    voice = {"quiet": QuietOption, "verbose": VerboseOption}
    shown += _alone(voice, dict.fromkeys(voice, False))
    spoken.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    spoken.__annotations__ = {part.name: part.annotation for part in shown}
    return spoken  # type: ignore[return-value]


def _groups(hint: Any) -> list[Together]:
    return [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Together)]


def _alone(hints: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Parameter]:
    kind = Parameter.POSITIONAL_OR_KEYWORD
    return [Parameter(name, kind, default=defaults.get(name), annotation=hint) for name, hint in hints.items()]


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Say nothing but warnings, errors, and what --json or a listing command prints."
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Say more: each warning of each case, model and device, tracebacks of internal errors."
    ),
]


def _one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def _some_of(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: choices.complete_list(names, incomplete)


def _models(incomplete: str) -> list[str]:
    return _one_of(choices.model_names())(incomplete)


def _methods(incomplete: str) -> list[str]:
    return _one_of(choices.method_names())(incomplete)


_PLACES = "Built-in pack, pack folder or file, hf-pack:ORG/NAME, weight file [ARCH@]FILE, open_clip's ARCH/TAG"
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help=f"{_PLACES}, or timm:ARCH.", autocompletion=_models),
]
ModelOrExportOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help=f"{_PLACES}, timm:ARCH, or an exported FILE.onnx, which runs without torch.",
        autocompletion=_models,
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="As for predict --model.", autocompletion=_models),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps; of an .onnx model also openvino, openvino:GPU.",
        autocompletion=_one_of(choices.DEVICES),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Files (NIfTI, NRRD, MetaImage, DICOM, DICOMDIR, PNG, JPEG, TIFF, BMP, zip); folders: one DICOM series, "
        "or one case per image in it; A,B,C: sequences of one case on one grid; "
        "dicomweb://HOST/PATH/studies/STUDY, or that with /series/SERIES; dimse://CALLED_AE@HOST:PORT/STUDY, or that "
        "with /SERIES.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="One folder per case and run.json go here; earlier results are replaced.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="[ARCH@]FILE",
        help="Weights of the tower, for a pack that carries none or an architecture: safetensors, .pt (OpenAI's too), "
        ".bin, or a Hugging Face folder.",
    ),
]
ChannelsOption = Annotated[
    str | None,
    typer.Option(
        help="The three channels of a grey slice: repeat it, or its neighbours 3 mm away (2.5-D).",
        show_default="the domain's, or repeat",
        autocompletion=_one_of(choices.CHANNELS),
    ),
]
PreprocessingOption = Annotated[
    str | None,
    typer.Option(
        help="own: black and white of the patient, shape kept; released: 8-bit pictures, stretched and divided by 255 "
        "as the published codes do, for numbers to compare with theirs.",
        show_default="the pack's, or own",
        autocompletion=_one_of(choices.PREPROCESSINGS),
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        help="Detector.",
        show_default="the pack's, or headclip",
        autocompletion=_methods,
    ),
]
NormalsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Normal images or volumes of the same kind: the method also compares with their patches (at most 64 "
        "slices are taken).",
    ),
]
DomainOption = Annotated[
    str | None,
    typer.Option(
        help="Kind of image: sets prompts, CT window and fit.",
        show_default="the pack's, or generic",
        autocompletion=_one_of(choices.DOMAINS),
    ),
]
PlaneOption = Annotated[
    str | None,
    typer.Option(
        help="axial, coronal, sagittal, several joined by commas (maps are averaged), or all.",
        show_default="the acquisition plane",
        autocompletion=_some_of(choices.PLANES),
    ),
]
SeriesOption = Annotated[
    str | None,
    typer.Option(help="DICOM series: its number, #1, #2, … as listed, or either end of its UID."),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        help="CT window by name, or LEVEL/WIDTH in HU.",
        show_default="the domain's; brain for CT; else percentiles",
        autocompletion=_one_of(choices.WINDOWS),
    ),
]
TimeOption = Annotated[
    int | None,
    typer.Option(help="Which volume of a 4-D file, or frame of a cine, from 0.", show_default="there must be one"),
]
OnIrregularOption = Annotated[
    str,
    typer.Option(
        help="DICOM series with gaps, uneven steps, gantry tilt or damaged slices: error; split into regular "
        "stretches; resample to a regular grid; keep the slices as they are, empty ones where positions are missing.",
        autocompletion=_one_of(choices.IRREGULAR),
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Cut on the map for mask and findings, between 0 and 1.", show_default="the pack's, or 0.5"),
]
SmoothMmOption = Annotated[
    float | None,
    typer.Option(help="Gaussian sigma across slices in mm, 0 is off.", show_default="the pack's, or 0"),
]
FormatsOption = Annotated[
    str,
    typer.Option(
        "--format",
        "--formats",
        help="What to write, joined by commas: nifti, png, html, json; of a DICOM series also seg, segscore "
        "(fractional), pm, sr, sc, or dicom for seg,pm,sr,sc. result.json is always written.",
        autocompletion=_some_of((*choices.FORMATS, *choices.DICOM_FORMATS)),
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto (16 bits where the hardware has them), float32, bfloat16, float16.",
        autocompletion=_one_of(choices.PRECISIONS),
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Slices at once; halved when memory runs out.",
        show_default="1 to 8 on a CPU by the size of a slice, what fits on a GPU",
    ),
]
SpeedOption = Annotated[
    str,
    typer.Option(
        help="exact; balanced: a slice every 3 mm, then all around suspicious ones, the others interpolated; fast: "
        "every 5 mm, at three quarters of the input size, without the last tap. Costs: docs/performance.md.",
        autocompletion=_one_of(choices.SPEEDS),
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Skip cases finished with the same content, model and options.")
]
KeepIdentifiersOption = Annotated[bool, typer.Option("--keep-identifiers", help="Keep SOPInstanceUIDs in result.json.")]
PushOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Archive that gets the DICOM results, dicomweb://HOST/PATH or dimse://CALLED_AE@HOST:PORT; "
        "seg,pm,sr,sc are written if no DICOM format is asked for.",
    ),
]
SpoolOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where images from an archive lie meanwhile.", show_default="in the output folder"
    ),
]
KeepSpoolOption = Annotated[bool, typer.Option("--keep-spool", help="Keep those images once their case is done.")]
KeepEmptyFramesOption = Annotated[
    bool,
    typer.Option("--keep-empty-frames", help="A DICOM SEG has a frame for every slice, empty or not."),
]
DeidentifyOption = Annotated[
    bool,
    typer.Option(
        "--deidentify",
        help="Write DICOM objects without the patient (PS3.15 basic profile, pixels as they are). A secret in "
        "HEADCLIP_DEIDENTIFY_SALT keeps new UIDs equal across runs and unguessable.",
    ),
]
LesionValuesOption = Annotated[
    str | None,
    typer.Option(
        metavar="2,4",
        help="Values of the masks that are lesion: numbers, colours such as #ff0000, names of the set, or all.",
        show_default="what the layout knows, else the only value there is",
    ),
]
IgnoreValuesOption = Annotated[
    str | None,
    typer.Option(
        metavar="255",
        help="Values of the masks about which nothing is known: these voxels enter no metric and no training.",
        show_default="what the layout knows",
    ),
]


_OF_VIEW = {"window": WindowOption, "channels": ChannelsOption, "preprocessing": PreprocessingOption}
_OF_MAP = {"threshold": ThresholdOption, "smooth_mm": SmoothMmOption}
_OF_SOURCE = {"time": TimeOption, "on_irregular": OnIrregularOption}


def _ask(*, time: int | None = None, **asked: Any) -> Ask:
    return Ask(time_index=time, **asked)


NOTHING_ASKED = Ask()
# What is asked of a case that the command reads, and of one that a labelled set has read.
AskOptions = Annotated[
    Ask,
    Together(
        _ask,
        {"domain": DomainOption, "plane": PlaneOption, "series": SeriesOption} | _OF_VIEW | _OF_SOURCE | _OF_MAP,
        {"on_irregular": NOTHING_ASKED.on_irregular},
    ),
]
AskOfSetOptions = Annotated[Ask, Together(_ask, {"domain": DomainOption, "plane": PlaneOption} | _OF_VIEW | _OF_MAP)]
