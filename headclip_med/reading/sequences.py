"""Which MR sequence a file name or a series description names."""

from __future__ import annotations

import re
from typing import Literal

Sequence = Literal["flair", "t1", "t1c", "t2", "t2star", "pd", "dwi", "adc", "angiography", "bold"]

# Words of file names and series descriptions, each a whole word in lower case.
_SEQUENCE_WORDS: dict[Sequence, str] = {
    "flair": r"\w*flair\w*|t2f|\w*darkfluid|tirm",
    "t1c": r"t1\w?(c|ce|gd|gad\w*|post\w*|km|kontrast|contrast)|t1(c|ce)?w?ce|cet1\w*",
    "t1": r"[s3]?d?t1(w|wi|n|w?3d|pre\w*|tfe|tse|mprage|w?flair)?|mp2?rage|spgr|bravo",
    "t2star": r"t2(s|star|gre)w?|swi|swan|susceptibility",
    "t2": r"[s3]?d?t2(w|wi|w?3d|tse|fse)?",
    "pd": r"pd(w|wi|fs)",
    "dwi": r"dwi|dti|diffusion|trace\w?|ep2d",
    "adc": r"adc",
    "angiography": r"tof|mra|angio\w*",
    "bold": r"bold|fmri",
}
_AGENT = r"c|ce|gd|gad|gado\w*|gadavist|dotarem|magnevist|prohance|multihance|km|kontrast|contrast|enhanced"
_CONTRAST_WORDS = rf"{_AGENT}|post|post({_AGENT})"  # beside T1
_BOTH = re.compile(r"\b(?:with|w) (?:and )?(?:without|wo|w o)\b")
_WITHOUT = re.compile(rf"\b(?:without|wo|w o|no|non|pre|un|ohne) ?(?:iv )?(?:{_AGENT})\b")
# What an image was brought to is not what it shows: T1_to_FLAIR, FLAIR in T1 space, T1-FLAIR.
_TARGET = re.compile(
    r"\b(?:in|to|on|onto|into|reg|coreg|registered|coregistered|aligned) (?:to )?"
    r"(?:flair|t1\w?|t2\w?|pd\w?|dwi|adc|swi)(?: ?space)?\b"
    r"|(?<=[a-z0-9])(?:(?<=flair)|(?<=t1)|(?<=t1w)|(?<=t2)|(?<=t2w))(?:to|2)(?:flair|t1\w?|t2\w?)\b"
    r"|(?<=\bt1 )flair\b|(?<=\bt1w )flair\b"
)
_BIDS = re.compile(r"(?:^|[/ _])(sub-[a-z0-9]+|space-[a-z0-9]+)_(?:\S*_)?(?P<suffix>[a-z0-9]+)(?:\.[a-z.]+)?$")


def sequences_in(text: str) -> frozenset[Sequence]:
    """Find the MR sequences that a file name or a series description names, by the suffix in names of BIDS.

    Args:
        text: Name or description.

    Returns:
        The sequences, maybe none.
    """
    lowered = text.lower()
    bids = _BIDS.search(lowered)
    if bids and (found := _named(bids["suffix"] + " contrast" * ("_ce-" in lowered))):
        return found
    return _named(_TARGET.sub(" ", " ".join(re.findall(r"[a-z0-9]+", lowered))))


def _named(text: str) -> frozenset[Sequence]:
    text = text.replace("dark fluid", "darkfluid")
    words = _WITHOUT.sub(" ", text).split()
    found = {name for word in words for name, pattern in _SEQUENCE_WORDS.items() if re.fullmatch(pattern, word)}
    if "flair" in found and "t2" in found:
        found.discard("t2")  # T2-FLAIR is one sequence
    if "flair" in found and any(re.fullmatch("t1w?flair", word) for word in words):
        found.discard("flair")
    if "t1" in found and _BOTH.search(text):
        return frozenset({*found, "t1c"})
    if "t1" in found and any(re.fullmatch(_CONTRAST_WORDS, word) for word in words):
        found.add("t1c")
    if "t1c" in found:
        found.discard("t1")
    return frozenset(found)
