"""Files that belong together by their names: a rule says how an image is called and how its masks are.

A rule is a pair of patterns, each of a folder below the root and of a name without its ending, with named groups. An
image and a mask belong together where the groups that both patterns have say the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from headclip_med.datasets.layouts.lists import Tree
from headclip_med.datasets.names import IMAGE_ENDINGS, VOLUME_ENDINGS

Groups = Mapping[str, str]
Key = tuple[str, ...]

# Anything above a folder of interest.
ABOVE = r"(?P<above>(?:[^/]+/)*?)"

_ENDING = "|".join(re.escape(ending) for ending in (*VOLUME_ENDINGS, *IMAGE_ENDINGS))


@dataclass(frozen=True)
class Rule:
    """How images and masks are called: ``(folder, name)`` each, folders such as ``a/b/``.

    Names are without their ending, unless they begin with ``=``.
    """

    image: tuple[str, str]
    mask: tuple[str, str]

    @property
    def shared(self) -> tuple[str, ...]:
        """Groups that an image and its mask have in common."""
        ours, theirs = (_compiled(pair) for pair in (self.image, self.mask))
        names = [{**folder.groupindex, **name.groupindex} for folder, name in (ours, theirs)]
        return tuple(sorted(set(names[0]) & set(names[1])))


@dataclass
class Found:
    """An image: its groups, its masks with theirs, other files that are called alike, and masks in further folders."""

    image: str
    groups: Groups
    rule: Rule
    masks: list[tuple[str, Groups]] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
    rivals: list[str] = field(default_factory=list)


def pair(tree: Tree, rules: Iterable[Rule], files: Mapping[str, Sequence[str]] | None = None) -> list[Found]:
    """Pair images with masks by rules, earlier ones first, where each mask belongs to one image.

    Where several images are called alike, those that differ in their ending only are one image in several formats, of
    which the first counts. Any others leave the mask without an image, as nobody can tell whose it is.

    Args:
        tree: What lies in the folder.
        rules: By preference.
        files: Names by folder to look among, all by default.

    Returns:
        Images that have a mask.
    """
    left = {folder: list(names) for folder, names in (tree.folders if files is None else files).items()}
    found: list[Found] = []
    for rule in rules:
        masks = _by_key(left, rule.mask, rule.shared)
        images = _by_key(left, rule.image, rule.shared) if masks else {}
        truths = {file for group in masks.values() for file, _ in group}
        used: set[str] = set()
        for key, group in masks.items():
            named = [item for item in images.get(key, []) if item[0] not in truths]
            if not named or len({without_ending(file) for file, _ in named}) > 1:
                continue
            image, groups = named[0]
            place = folder_of(group[0][0])
            of_image = [(file, theirs) for file, theirs in group if folder_of(file) == place]
            rivals = [file for file, _ in group if folder_of(file) != place]
            found.append(Found(image, groups, rule, of_image, [file for file, _ in named[1:]], rivals))
            used.update([file for file, _ in named], [file for file, _ in of_image])
        for folder in {folder_of(file) for file in used}:
            left[folder] = [name for name in left[folder] if folder + name not in used]
    return found


def matches(tree: Tree, pattern: tuple[str, str]) -> list[tuple[str, Groups]]:
    """List the files that a pattern fits.

    Args:
        tree: What lies in the folder.
        pattern: Of folder and name.

    Returns:
        Files with the pattern's groups.
    """
    return list(_matches(tree.folders, pattern))


def rules_of_globs(image: str, mask: str) -> tuple[Rule, Rule]:
    """Make rules of two patterns as in a shell, whose first wildcards stand for the same in image and mask.

    A pattern without ``/`` holds in every folder, ``**/`` is any folders, and wildcards in an ending say nothing.

    Args:
        image, mask: Patterns of a user.

    Returns:
        Two rules, of which the first takes as few letters as it can for a wildcard.
    """
    together = "/" not in image and "/" not in mask
    count = len(_WILD.findall(image.rpartition(".")[0] or image))
    lazy, greedy = (
        Rule(_of_glob(image, count, star, together), _of_glob(mask, count, star, together))
        for star in ("[^/]*?", "[^/]*")
    )
    return lazy, greedy


_WILD = re.compile(r"\*\*/|\*|\?|\[!?[^\]/]+\]")
_GLOB = re.compile(rf"{_WILD.pattern}|.", re.DOTALL)


def _of_glob(glob: str, count: int, star: str, together: bool) -> tuple[str, str]:
    """Folder and name; the first ``count`` wildcards are groups ``w0``, ``w1``, …"""
    number, parts = 0, []
    for piece in _GLOB.findall(glob.lstrip("/")):
        if _WILD.fullmatch(piece):
            text = {"**/": "(?:[^/]+/)*", "*": star, "?": "[^/]"}.get(piece, piece.replace("[!", "[^"))
            parts.append(f"(?P<w{number}>{text})" if number < count else f"(?:{text})")
            number += 1
        else:
            parts.append(piece if piece == "/" else re.escape(piece))
    cut = max((i for i, part in enumerate(parts) if part.endswith(("/", "/)*)"))), default=-1) + 1
    anywhere = "(?P<place>(?:[^/]+/)*)" if together else "(?:[^/]+/)*"
    return "".join(parts[:cut]) if "/" in glob else anywhere, "=" + "".join(parts[cut:])


def key_of(groups: Groups, names: Sequence[str]) -> Key:
    """Combine what groups say, whatever the case of letters.

    Args:
        groups: By name.
        names: Which of them, in order.

    Returns:
        Their values in lower case.
    """
    return tuple((groups.get(name) or "").casefold() for name in names)


def folder_of(file: str) -> str:
    """Cut a path down to its folder.

    Args:
        file: With ``/`` between its parts.

    Returns:
        The folder with its ``/``, nothing for the root.
    """
    return file[: file.rfind("/") + 1]


def without_ending(file: str) -> str:
    """Cut the ending off a path.

    Args:
        file: With ``/`` between its parts.

    Returns:
        The path without it.
    """
    return re.sub(rf"(?:{_ENDING})$", "", file, flags=re.IGNORECASE)


def _by_key(
    files: Mapping[str, Sequence[str]], pattern: tuple[str, str], names: Sequence[str]
) -> dict[Key, list[tuple[str, Groups]]]:
    found: dict[Key, list[tuple[str, Groups]]] = defaultdict(list)
    for file, groups in _matches(files, pattern):
        found[key_of(groups, names)].append((file, groups))
    return found


def _matches(files: Mapping[str, Sequence[str]], pattern: tuple[str, str]) -> Iterable[tuple[str, Groups]]:
    """Groups of the folder and of the name must not contradict each other."""
    in_folder, in_name = _compiled(pattern)
    for folder, names in files.items():
        above = in_folder.fullmatch(folder) if names else None
        if above is None:
            continue
        for name in names:
            match = in_name.fullmatch(name)
            if match is None:
                continue
            theirs = {key: value or "" for key, value in above.groupdict().items()}
            ours = {key: value or "" for key, value in match.groupdict().items()}
            if all(theirs[key].casefold() == ours[key].casefold() for key in theirs.keys() & ours.keys()):
                yield folder + name, {**theirs, **ours}


@lru_cache(maxsize=512)
def _compiled(pattern: tuple[str, str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    folder, name = pattern
    whole = name[1:] if name.startswith("=") else rf"(?:{name})(?:{_ENDING})"
    flags = re.IGNORECASE | re.DOTALL  # a name may hold the end of a line
    return re.compile(folder, flags), re.compile(whole, flags)
