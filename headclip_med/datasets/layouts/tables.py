"""A CSV of paths: the layout of whoever has none of the others, and what ``data split`` writes; or one of labels."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import Listing, counted, needed, read_label, read_text, read_tree, told_apart
from headclip_med.datasets.layouts.patients import with_patients
from headclip_med.datasets.layouts.patterns import without_ending
from headclip_med.datasets.names import files_in, label_of, split_of, stem_of, word_set
from headclip_med.datasets.values import MaskValues, value_of, value_text

VALUES = ("lesion_values", "ignore_values")
FIELDS = ("image", "mask", "label", "patient", "name", "category", "split", *VALUES)

# What others call our columns; the first that is there counts.
_CALLED = {
    "image": ("image_path", "img_path", "image_file", "png_image_path", "tif_image_path"),
    "mask": ("mask_path", "mask_file", "png_mask_path", "tif_mask_path"),
    "patient": ("patient_id", "subject", "subject_id", "sequence_id"),
    "category": ("object",),
}
_NAMES_OF_IMAGES = ("id", "image_id", "img_id", "id_code", "filename", "file", "file_name", "name")
_NOT_LISTS = ("image_anno.csv",)  # of VisA: labels are kinds, paths those of its parent folder
_EVERY = "all"
# Columns whose 1 means abnormal, words that may stand beside, and cells that say nothing without their column.
_LABEL_WORDS = word_set("label labels target targets y class gt truth groundtruth outcome result diagnosis")
_BESIDE = word_set("is has image img scan slice case patient sample test flag only binary subject group 0 1")
_RELATIVE = word_set(
    "0 1 0.0 1.0 true false yes no y n pos neg positive negative positives negatives ok ko good bad control"
)
_OF_OTHERS = word_set("history family prior previous risk quality")

Rows = list[tuple[int, list[str]]]


def recognise(root: Path) -> bool:
    """Tell whether this is a CSV of images, or the folder has exactly one, or a list of names beside its images.

    Args:
        root: The file or its folder.

    Returns:
        True where it is.
    """
    return _list_of(root) is not None


def list_cases(root: Path) -> Listing:
    """List the rows of a CSV with a column ``image`` (several joined by ``;``), and any of the others of
    :data:`FIELDS`.

    ``lesion_values`` and ``ignore_values`` say what the values of the mask mean. Every other column is kept for
    subgroup tables. Paths are relative to the file or to the folder above it, or absolute. Without a column ``image``,
    a column such as ``id`` and one of labels are enough where the images lie below: 1 is abnormal, but normal where the
    column is called normal, healthy and the like.

    Args:
        root: The file or its folder.

    Returns:
        The cases.

    Raises:
        InputError: no column ``image``, and none of labels whose name says what 1 means, or a row without image, with
            more fields than columns, or with a label that is none, whose number is named, the header being row 1.
    """
    found = _list_of(root) or (root if root.is_file() else next(iter(_csv_files(root)), None))
    path = needed(found, root, "one file that ends in .csv")
    text = read_text(path)
    columns = _columns(text)
    if "image" not in columns:
        if (places := _label_column(text)) is not None:
            return _by_name(path, text, *places)
        raise open_question(root) or InputError(
            "A CSV of paths must have a column image", f"{path.name} with {', '.join(columns)}"
        )
    if len(set(columns)) < len(columns):
        raise InputError(f"Every column of {path.name} must have a name of its own", ", ".join(columns))
    rows = [(f"{path.name}, row {number}", row) for number, row in _rows(text)[1:]]
    named = [(where, _by_column(columns, row, where)) for where, row in rows]
    ends = told_apart([without_ending(row["image"].replace("\\", "/")) for _, row in named])
    cases = [_case(path.parent, row, where, end) for (where, row), end in zip(named, ends, strict=True)]
    notes: list[str] = []
    if not any(case.patient for case in cases):
        cases = with_patients(path.parent, cases, notes, by_numbers=False)
    return Listing(cases, notes, why=path.name)


def _case(folder: Path, row: Mapping[str, str], where: str, end: str) -> Case:
    images, masks = (
        [part.strip() for part in row.get(key, "").split(";") if part.strip()] for key in ("image", "mask")
    )
    if not images:
        raise InputError("Every row must name its image", where)
    return Case(
        name=row.get("name") or (end if len(images) == 1 else "+".join(stem_of(Path(image)) for image in images)),
        images=tuple(_path(folder, image) for image in images),
        masks=tuple(_path(folder, mask) for mask in masks),
        label=read_label(row.get("label"), where),
        patient=row.get("patient", ""),
        category=row.get("category", ""),
        split=split_of(row.get("split", "")),
        columns={key: value for key, value in row.items() if key not in FIELDS},
        values=_mask_values(row, where),
    )


def _path(folder: Path, text: str) -> Path:
    """Relative to the folder of the list, or to the one above where only that has it."""
    here, above = folder / text, folder.parent / text
    return above if _exists(above) and not _exists(here) else here


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _mask_values(row: Mapping[str, str], where: str) -> MaskValues:
    try:
        return MaskValues(_lesion(row.get("lesion_values", "")), _values(row.get("ignore_values", "")))
    except InputError as error:
        raise InputError(error.must, f"{error.given} in {where}") from error


def _lesion(text: str) -> tuple[int, ...] | None:
    """``1;2``, or ``all``; nothing: not known."""
    return None if not text else () if text.lower() == _EVERY else _values(text)


def _values(text: str) -> tuple[int, ...]:
    return tuple(value_of(part.strip()) for part in text.split(";") if part.strip())


def written_values(values: MaskValues) -> dict[str, str]:
    """Write the two columns of what the values of a mask mean.

    Args:
        values: What they mean.

    Returns:
        Text by column.
    """
    lesion = "" if values.lesion is None else ";".join(map(value_text, values.lesion)) or _EVERY
    return dict(zip(VALUES, (lesion, ";".join(map(value_text, values.ignored))), strict=True))


# --- lists of names and labels -----------------------------------------------------------------------------------


def _by_name(path: Path, text: str, name_at: int, label_at: int) -> Listing:
    """A case per row whose name is that of an image below; ``7`` is ``007.png`` too."""
    header = next(iter(_rows(text)))[1]
    called = header[label_at]
    one = "normal" if _one_means(called) is False else "abnormal"
    is_relative = not _RELATIVE.isdisjoint(_two_valued(text)[2][label_at])
    files = _files_by_name(path.parent)
    cases: list[Case] = []
    missing: list[str] = []
    twice: list[str] = []
    for number, row in _rows(text)[1:]:
        where = f"{path.name}, row {number}"
        fields = _by_column(header, row, where)
        said = fields[header[name_at]]
        found = files.get(_name_key(said), [])
        if len(found) != 1:
            (twice if found else missing).append(said)
            continue
        label = _label(fields[called], called, where)
        kind = fields[called] if not is_relative else called if one == "abnormal" else ""
        cases.append(
            Case(stem_of(found[0]), (found[0],), label=label, columns={"kind": kind} if label and kind else {})
        )
    notes = [f"labels from the column {called} of {path.name}{f': 1 is {one}' * is_relative}"]
    notes += [counted(missing, "{} without an image of that name", "row")] if missing else []
    notes += [counted(twice, "{} left out: several images have that name", "row")] if twice else []
    used = {case.images[0] for case in cases}
    rest = sorted(file for group in files.values() for file in group if file not in used)
    names = [file.relative_to(path.parent).as_posix() for file in dict.fromkeys(rest)]
    notes += [counted(names, f"{{}} not in {path.name} passed over")] if names else []
    return Listing(with_patients(path.parent, cases, notes, by_numbers=False), notes, why=path.name)


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    tree = read_tree(folder)
    found: dict[str, list[Path]] = defaultdict(list)
    for file in tree.files:
        found[_name_key(file.rpartition("/")[2])].append(tree.path(file))
    return found


def _name_key(name: str) -> str:
    """The same for ``7``, ``007`` and ``007.png``."""
    stem = without_ending(name.replace("\\", "/").rpartition("/")[2]).casefold()
    return str(int(stem)) if stem.isdecimal() else stem


def _label_column(text: str) -> tuple[int, int] | None:
    """Places of the column of names and of the only column that says what is abnormal, in a table of labels."""
    names, header, labels = _two_valued(text)
    known = [i for i, cells in labels.items() if _one_means(header[i]) is not None or _RELATIVE.isdisjoint(cells)]
    return (names[0], known[0]) if len(known) == 1 and len(header) <= 3 else None


def open_question(root: Path) -> InputError | None:
    """Ask about a table of names whose columns of 0 and 1 do not say which is abnormal.

    Args:
        root: The file or its folder.

    Returns:
        The error to raise, or None.
    """
    for path in [root] if root.is_file() else _csv_files(root):
        try:
            text = read_text(path) if path.name.lower().endswith((".csv", ".tsv")) else ""
            _, header, labels = _two_valued(text)
        except InputError:  # said when the layout is named
            continue
        if labels and "image" not in _columns(text):
            must = f"One column of {path.name} must say by its name which images are abnormal"
            do = (
                "Call it label or abnormal where 1 means abnormal, normal where 1 means normal, and take the others out"
            )
            return InputError(must, ", ".join(header[i] for i in labels), do)
    return None


def _two_valued(text: str) -> tuple[list[int], list[str], dict[int, set[str]]]:
    """Places of columns of names; the header; cells, in lower case, of columns that hold both labels."""
    rows = _rows(text)
    header = rows[0][1] if rows else []
    names = [i for i, name in enumerate(header) if name.lower() in _NAMES_OF_IMAGES]
    if not names or len(rows) < 2:
        return [], header, {}
    columns = {i: {row[i].lower() if i < len(row) else "" for _, row in rows[1:]} for i in range(len(header))}
    return names, header, {i: cells for i, cells in columns.items() if i not in names and _are_labels(cells)}


def _are_labels(cells: Iterable[str]) -> bool:
    try:
        return {_label(cell, "", "") for cell in cells} >= {True, False}
    except InputError:
        return False


def _label(cell: str, column: str, where: str) -> bool | None:
    """What a cell says; 0, 1, yes, no and the like mean what their column says."""
    text = cell.strip().lower()
    said = text in ("1", "y") if text in ("0", "1", "y", "n") else read_label(cell, where)
    return not said if said is not None and text in _RELATIVE and _one_means(column) is False else said


def _one_means(column: str) -> bool | None:
    """Whether 1 in a column means abnormal, by the name of the column; None: it does not say."""
    words = set(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()))
    if words & _OF_OTHERS:
        return None
    if "benign" in words:  # of benign and malignant
        return False if words - {"benign"} <= _LABEL_WORDS | _BESIDE else None
    said = label_of(column)
    if said is None:
        return True if words & _LABEL_WORDS and words <= _LABEL_WORDS | _BESIDE else None
    rest = words - _RELATIVE
    if words & _RELATIVE - _BESIDE and all(label_of(word) is None for word in rest):
        return said if rest <= _LABEL_WORDS | _BESIDE else None  # contrast_positive
    return said


# --- the file ----------------------------------------------------------------------------------------------------


def _list_of(root: Path) -> Path | None:
    """The CSV that lists images: the file itself, or the only one such in the folder."""
    found = [path for path in ([root] if root.is_file() else _csv_files(root)) if _is_list(path)]
    return found[0] if len(found) == 1 else None


def _csv_files(root: Path) -> list[Path]:
    return [path for path in files_in(root, (".csv", ".tsv")) if path.name.lower() not in _NOT_LISTS]


def _is_list(path: Path) -> bool:
    if not path.name.lower().endswith((".csv", ".tsv")):
        return False
    try:
        text = read_text(path)
        if "image" in _columns(text):
            return True
        place = _label_column(text)
        if place is None:
            return False
        names = [row[place[0]] for _, row in _rows(text)[1:] if place[0] < len(row)]
        files = _files_by_name(path.parent)
        return 2 * sum(_name_key(name) in files for name in names) > len(names)
    except InputError:  # said when the layout is named
        return False


def _columns(text: str) -> list[str]:
    """Names in the first row; ours in whatever case they are written, and for what others call them."""
    header = next(iter(_rows(text)), (1, []))[1]
    names = [name.lower() if name.lower() in FIELDS else name for name in header]
    for ours, others in _CALLED.items():
        theirs = next((name for other in others for name in names if name.lower() == other), None)
        if theirs is not None and ours not in names:
            names[names.index(theirs)] = ours
    return names


def _rows(text: str) -> Rows:
    """Rows that are not blank with the number of the line on which they end."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError("A list of cases must be a readable CSV", f"line {reader.line_num}: {error}") from error
    return [(number, row) for number, row in rows if any(row)]


def _by_column(columns: list[str], row: list[str], where: str) -> dict[str, str]:
    if len(row) > len(columns):
        hint = "Put quotation marks around what contains the separator"
        raise InputError(f"A row must have at most {len(columns)} fields", f"{len(row)} in {where}", hint)
    return dict(zip(columns, row + [""] * (len(columns) - len(row)), strict=True))


def _delimiter(text: str) -> str:
    return max(",;\t", key=text.partition("\n")[0].count)
