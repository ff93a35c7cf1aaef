"""Which MR sequence a file name or a series description names."""

from __future__ import annotations

import re
from typing import Literal

Sequence = Literal["flair", "t1", "t1c", "t2", "t2star", "pd", "dwi", "adc", "angiography", "bold"]

# Words of file names and series descriptions, each a whole word in lower case.
_SEQUENCE_WORDS: dict[Sequence, str] = {
    "flair": r"\w*flair\w*|t2f|darkfluid",
    "t1c": r"t1\w?(c|ce|gd|gado|post|km|kontrast|contrast)|t1(c|ce)?w?ce|cet1\w*",
    "t1": r"[s3]?d?t1(w|wi|n|w?3d|pre|tfe|tse|mprage)?|mp2?rage|spgr|bravo",
    "t2star": r"t2(s|star|gre)w?|swi|swan|susceptibility",
    "t2": r"[s3]?d?t2(w|wi|w?3d|tse|fse)?",
    "pd": r"pd(w|wi|fs)",
    "dwi": r"dwi|dti|diffusion|trace\w?|ep2d",
    "adc": r"adc",
    "angiography": r"tof|mra|angio\w*",
    "bold": r"bold|fmri",
}
_CONTRAST_WORDS = r"c|ce|gd|gado|gadolinium|km|post|contrast"  # beside T1


def sequences_in(text: str) -> frozenset[Sequence]:
    """The MR sequences that a file name or a series description names."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    found = {name for word in words for name, pattern in _SEQUENCE_WORDS.items() if re.fullmatch(pattern, word)}
    if "flair" in found and "t2" in found:
        found.discard("t2")  # T2-FLAIR is one sequence
    if "t1" in found and any(re.fullmatch(_CONTRAST_WORDS, word) for word in words):
        found.add("t1c")
    if "t1c" in found:
        found.discard("t1")
    return frozenset(found)
