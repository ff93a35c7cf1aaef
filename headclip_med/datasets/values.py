"""Which values of a mask mean lesion, which mean nothing at all, and what a set's own names say about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headclip_med.base.errors import InputError

# The value of a coloured pixel is this plus its 0xRRGGBB, so that no grey value is mistaken for a colour.
COLOUR = 1 << 24

Words = str | int | Sequence[str | int]  # as a user gives values: 2,4 or [2, "cancer"] or all


@dataclass(frozen=True)
class MaskValues:
    """What the values of masks mean.

    Attributes:
        lesion: values that are lesion. Empty: every value but 0 and those ignored. None: not known, so that masks with
            more than one value besides 0 are refused.
        ignored: values of voxels about which nothing is known: they enter no metric and no training.
        names: of values, as the set has them, where no other value may occur.
        chosen: named by the user.
    """

    lesion: tuple[int, ...] | None = None
    ignored: tuple[int, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    chosen: bool = False

    def meaning(self, value: int) -> str:
        """Say what a value means.

        Args:
            value: Of a mask.

        Returns:
            ``lesion``, ``no lesion``, ``ignored`` or ``not known``.
        """
        if value in self.ignored:
            return "ignored"
        if self.lesion is None:
            return "not known"
        return "lesion" if value in self.lesion or (not self.lesion and value != 0) else "no lesion"

    def shown(self, values: Iterable[int]) -> str:
        """Write values with their names, such as ``1 liver, 2 cancer``.

        Args:
            values: Of a mask.

        Returns:
            The text.
        """
        return ", ".join(f"{value_text(value)} {self.names.get(value, '')}".strip() for value in values)


EVERY_VALUE, NOT_KNOWN = MaskValues(lesion=()), MaskValues()


def value_text(value: int) -> str:
    """Write a value.

    Args:
        value: Whole number, or a colour beyond :data:`COLOUR`.

    Returns:
        ``2``, or ``#ff0000`` for a colour.
    """
    return f"#{value - COLOUR:06x}" if value >= COLOUR else str(value)


def value_of(text: str | int) -> int:
    """Read what :func:`value_text` wrote.

    Args:
        text: ``2`` or ``#ff0000``.

    Returns:
        The value.

    Raises:
        InputError: neither a whole number nor a colour.
    """
    if _is_whole(text) and abs(int(text)) < COLOUR:
        return int(text)
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", str(text)):
        must = f"A value of a mask must be a whole number below {COLOUR} or a colour such as #ff0000"
        raise InputError(must, text)
    return COLOUR + int(str(text)[1:], 16)


def ask_for_values(values: MaskValues, found: Iterable[int], whose: str) -> InputError:
    """Make the error where nothing says which of several values are lesions.

    Args:
        values: What is known about them.
        found: The values.
        whose: What to call the masks in the message.

    Returns:
        The error to raise.
    """
    shown = values.shown(sorted(found))
    return InputError(
        f"It must be known which values of {whose} are lesions",
        shown,
        "Name them, as in --lesion-values 2,4 (Python: lesion_values=[2, 4]), or say --lesion-values all",
    )


def chosen_values(known: MaskValues, lesion: Words | None, ignored: Words | None) -> MaskValues:
    """Add what the user says to what is known: numbers, colours such as #ff0000, names that the set has, or ``all``.

    What the set itself ignores stays ignored, unless the user calls it lesion.

    Args:
        known: What the set says.
        lesion: Values that are lesion, or None.
        ignored: Values about which nothing is known, or None.

    Returns:
        Both together.

    Raises:
        InputError: no value, one that is none of these, or one that is both lesion and ignored.
    """
    found = known
    if lesion is not None:
        parts = _parts(lesion, "lesion values")
        every = [str(part).lower() for part in parts] == ["all"]
        values = () if every else tuple(dict.fromkeys(_value(part, known) for part in parts))
        left = tuple(value for value in known.ignored if value not in values)
        found = replace(found, lesion=values, ignored=left, chosen=True)
    if ignored is not None:
        values = tuple(dict.fromkeys(_value(part, known) for part in _parts(ignored, "ignored values")))
        both = set(values) & set(found.lesion or ()) if lesion is not None else set()
        if both:
            raise InputError("A value must be lesion or ignored, not both", known.shown(sorted(both)))
        kept = found.lesion and tuple(value for value in found.lesion if value not in values)
        found = replace(found, lesion=kept, ignored=tuple(dict.fromkeys((*found.ignored, *values))))
    return found


def values_of_labels(labels: Any, where: str) -> MaskValues:
    """Read what the ``labels`` of a dataset.json mean.

    Names that say lesion, tumour and the like are lesions, names of organs and tissues are not, ``ignore`` is ignored.
    ``lesion`` is None where a name is none of these, or where none is a lesion, but a single label that is called
    lesion, mask or nothing at all is the lesion.

    Args:
        labels: ``{"1": "liver"}``, ``{"liver": 1, "tumour": [2, 3]}`` or a list.
        where: What to call the file in the message.

    Returns:
        What the values mean.

    Raises:
        InputError: labels of another structure.
    """
    named = _named(labels, where)
    names: dict[int, str] = {}
    for name, values in sorted(named.items(), key=lambda item: len(item[1])):  # a region names what nothing else does
        names |= {value: name for value in values if value not in names and value != 0}
    kinds: dict[str, set[int]] = {"lesion": set(), "ignored": set(), "organ": set(), "unknown": set()}
    for name, values in named.items():
        kinds[_kind(name)] |= set(values) - {0}
    ignored, lesion = kinds["ignored"], kinds["lesion"] - kinds["ignored"]
    open_values = kinds["unknown"] - lesion - ignored - kinds["organ"]
    if not lesion and len(open_values) == 1 and not kinds["organ"] and _PLAIN.search(_spaced(names[min(open_values)])):
        lesion, open_values = open_values, set()
    known = tuple(sorted(lesion)) if lesion and not open_values else None
    return MaskValues(known, tuple(sorted(ignored)), dict(sorted(names.items())))


def plain_values(values: MaskValues) -> dict[str, Any]:
    """Turn the meaning into plain JSON values, which :func:`values_from_plain` takes.

    Args:
        values: What the values mean.

    Returns:
        Lesion and ignored values.
    """
    lesion = None if values.lesion is None else list(values.lesion)
    return {"lesion": lesion, "ignored": list(values.ignored)}


def values_from_plain(plain: Mapping[str, Any] | None) -> MaskValues:
    """Read the meaning that :func:`plain_values` wrote, without names.

    Args:
        plain: Its values, or None.

    Returns:
        What the values mean.
    """
    if not plain:
        return MaskValues()
    lesion = plain.get("lesion")
    return MaskValues(None if lesion is None else tuple(map(int, lesion)), tuple(map(int, plain.get("ignored") or ())))


# --- words -------------------------------------------------------------------------------------------------------

_LESION = re.compile(
    r"lesion|tumou?r|cancer|carcinom|malignan|benign|metasta|neoplas|gliom|glioblast|meningiom|schwannom|adenom|melanom|"
    r"lymphom|sarcom|edema|necro|enhancing|^(ncr|ed|et|tc|wt|net|netc|snfh)$|\bgtv|infarct|stroke|ischa?em|penumbra|"
    r"ha?emorr?h|ha?ematom|bleed|\b[se]dh\b|\bsah\b|\bi[cpv]h\b|\bwmh\b|hyperintens|plaque|\bcysts?\b|polyp|nodul|"
    r"\bmass(es)?\b|abscess|ulcer|infect|covid|pneumon|consolidation|opacit|ground.?glass|\bggo\b|effusion|embol|thromb|"
    r"aneurysm|fractur|exudat|drusen|(intra|sub)retinal fluid|abnormal|anomal|patholog|defect|disease|malform|stones?\b"
)
_ORGAN = re.compile(
    r"liver|hepat|kidney|renal|pancrea|spleen|lungs?\b|lobe|prostat|\b[pt]z\b|zone|brain|heart|cardia|atri|ventric|myocard|"
    r"aorta|vessel|arter|vein|\bvena\b|bones?\b|ribs?\b|verteb|sacrum|femur|\bhips?\b|pelvi|muscle|\bfat\b|skin|scalp|"
    r"skull|colon\b|bowel|duoden|stomach|oesophag|esophag|bladder|rect(um|al)|adrenal|thyroid|trachea|airway|bronch|breast|"
    r"uter(us|ine)|ovar(y|ies)|gland|eyes?\b|optic|\blens|retina|choroid|\bdis[ck]s?\b|\bcup\b|fovea|macula|tooth|teeth|"
    r"mandib|maxill|\bcsf\b|cerebro|gr[ea]y matter|white matter|\b[gw]m\b|hippocamp|anterior|posterior|thalam|caudate|"
    r"putamen|cerebell|brainstem|cortex|spinal|\bcord\b|nerve|tissue|organ|body|\bducts?\b|instrument|catheter|\btools?\b"
)
_NO_LESION = re.compile(r"\b(no|not|without|normal|healthy|free)\b|\bnon ?(tumou?r|lesion|cancer)")
# Around a lesion, or without one: perilesional, uninfected, anti-tumor.
_BESIDE_LESION = re.compile(
    rf"\b(un|non|anti|peri|para|extra|juxta|pre|post|pseudo) ?(?!enhancing)({_LESION.pattern})\w*"
)
# What may follow the word for a lesion without turning it into another thing.
_LESION_PARTS = re.compile(
    r"( (core|region|area|part|component|volume|mask|label|roi|seg\w*|class|type|grade|primar(?:y|ies)|total|whole|"
    r"left|right|lymph|nodes?|[a-z]|\d+|i+v?))+$"
)
_NO_MASS = re.compile(r"\b(muscle|fat|body|bone|lean|tissue|organ|brain) mass")
_IGNORED = re.compile(
    r"\bignored?\b|other patholog|uncertain|unlabell?ed|don.?t care|\bvoid\b|\b(resection|surgical)\b"
)
_PLAIN = re.compile(r"^(label|mask|foreground|fg|roi|target|object|class|segmentation|seg|region|positive)? ?\d*$")
_JOINT = re.compile(r"\b(?:and|with|plus|incl\w*)\b|[+&/]")


def _kind(name: str) -> str:
    """lesion, ignored, organ or unknown; kidney and tumour are unknown, oedema and tumour or a renal tumour lesion."""
    text = _spaced(name)
    if _IGNORED.search(text):
        return "ignored"
    kinds = {_part_kind(part) for part in _JOINT.split(text)}
    return kinds.pop() if len(kinds) == 1 else "unknown"


def _part_kind(text: str) -> str:
    if _NO_LESION.search(text):
        return "organ"
    if not _LESION.search(text):
        return "organ" if _ORGAN.search(text) else "unknown"
    return "lesion" if _names_lesion(text) else "unknown"


def _names_lesion(text: str) -> bool:
    """Whether the thing that is named is a lesion: a liver tumour is, a tumour bearing liver or its margin is not."""
    thing = re.split(r" (?:of|in|within|on) ", _NO_MASS.sub("", _BESIDE_LESION.sub("", text)).strip())[0]
    thing = _LESION_PARTS.sub("", thing)
    last = thing.rpartition(" ")[0]
    return any(match.end() > len(last) for match in _LESION.finditer(thing))


def _spaced(name: str) -> str:
    return re.sub(r"[^a-z0-9+&/.']+", " ", name.lower()).strip()


def _named(labels: Any, where: str) -> dict[str, tuple[int, ...]]:
    """Name → values, background left out."""
    if isinstance(labels, list):
        labels = dict(enumerate(labels))
    if not isinstance(labels, dict):
        raise InputError(f"The labels of {where} must be a JSON object", type(labels).__name__, _LABELS)
    found: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        if isinstance(value, str) and _is_whole(key) and abs(int(key)) < COLOUR and not _is_whole(value):
            name, numbers = value, [int(key)]
        else:
            listed = value if isinstance(value, list) else [value]
            if not listed or not all(_is_whole(number) and abs(int(number)) < COLOUR for number in listed):
                raise InputError(f"The labels of {where} must be whole numbers with names", f"{key}: {value}", _LABELS)
            name, numbers = str(key), [int(number) for number in listed]
        if _spaced(name) != "background" and set(numbers) != {0}:
            found[name] = (*found.get(name, ()), *numbers)
    return found


_LABELS = 'Write them as {"background": 0, "lesion": 1}'


def _is_whole(value: object) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"-?\d+", str(value)) is not None


def _parts(words: Words, what: str) -> list[str | int]:
    listed = words.split(",") if isinstance(words, str) else list(words) if isinstance(words, Iterable) else [words]
    parts = [part.strip() if isinstance(part, str) else part for part in listed]
    if not parts or "" in parts:
        raise InputError(f"The {what} must be named", words or "nothing", "For example 2,4")
    return parts


def _value(part: str | int, known: MaskValues) -> int:
    named = [value for value, name in known.names.items() if name.lower() == str(part).lower()]
    if named:
        return named[0]
    try:
        return value_of(part)
    except InputError as error:
        names = f", or one of the names {', '.join(known.names.values())}" if known.names else ""
        raise InputError(error.must + names, part) from error
