"""A data folder → items that MONAI's datasets take: plain dictionaries of paths, split by patient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from monai.data import Dataset, MetaTensor
from monai.transforms import MapTransform, Transform

from headclip_med.base.errors import InputError
from headclip_med.base.volume import flat_meta
from headclip_med.bundle.network import IGNORE, DetectorNetwork
from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.datasets.case import Case
from headclip_med.datasets.fingerprints import Inventory, fingerprint_case, take_inventory
from headclip_med.datasets.loading import load_labelled
from headclip_med.datasets.split import split_patients
from headclip_med.datasets.values import Words, plain_values, values_from_plain
from headclip_med.evaluation.protocol import overlap_with
from headclip_med.models.record import SHORT_HASH, LedgerEntry
from headclip_med.reading.inputs import expand_inputs
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.config import SliceConfig
from headclip_med.training.slices import TrainingSlice, cut_case

log = logging.getLogger(__name__)

Item = dict[str, Any]


@dataclass(frozen=True)
class Cases:
    """The usable cases of a labelled set: copies once, no patient on both sides.

    Attributes:
        train, held_out: items ``{"name", "patient", "image", "label", ...}``. See :func:`item_of`.
        name: of the set.
        content_sha256: hash of the set.
        images: hash of every image in it.
        unreadable: items that were left out because they cannot be read. An evaluation tells of them.
    """

    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    name: str
    content_sha256: str
    images: tuple[str, ...]
    unreadable: tuple[Item, ...] = ()

    @property
    def training(self) -> list[Item]:
        """Items to train on."""
        return list(self.train)

    @property
    def validation(self) -> list[Item]:
        """Items held back from training.

        Raises:
            InputError: there are none, or fewer than processes.
        """
        if not self.held_out:
            raise InputError(
                "Validation must have a patient of its own",
                f"{len(self.train)} case(s) of one patient in {self.name}",
                "Give a set of two patients or more",
            )
        return _enough_for_all(self.held_out, "Raise val_fraction, or start fewer processes")

    def everything(self, ledger: Sequence[Mapping[str, Any]] = (), allow_overlap: bool = False) -> list[Item]:
        """List every item, the unreadable ones at the end, to evaluate a model that saw none of them.

        Args:
            ledger: of the model, as it stands beside its checkpoint (:func:`headclip_med.bundle.handlers.read_ledger`).
            allow_overlap: the model may have been trained on some of them.

        Returns:
            Items as of :func:`item_of`.

        Raises:
            InputError: the model was trained on some of them, or there are fewer than processes.
        """
        seen = overlap_with(ledger, self.content_sha256, self.images)
        if seen and not allow_overlap:
            raise InputError(
                "A model must not be evaluated on data that it was trained on",
                f"{seen} in its training ledger",
                "Set held_out_only to true, choose other data, or set allow_overlap to true",
            )
        return _enough_for_all([*self.train, *self.held_out, *self.unreadable], "Start fewer processes")


def find_cases(
    dataset_dir: str | Path,
    *,
    layout: str | None = None,
    sequences: Sequence[str] = (),
    val_fraction: float = 0.2,
    seed: int = 0,
    lesion_values: Words | None = None,
    ignore_values: Words | None = None,
) -> Cases:
    """Read a labelled set once and split it by patient.

    Args:
        dataset_dir: the set.
        layout: one of `headclip-med data layouts`, None: recognised.
        sequences: which become channels, where a case has several.
        val_fraction: share of the patients held back, above 0 and below 1. With one patient nobody is.
        seed: of the split.
        lesion_values, ignore_values: what the values of the masks mean. See :func:`headclip_med.open_dataset`.

    Returns:
        The usable cases. Those left out (copies, unreadable ones, those without a mask) are named in the log.

    Raises:
        InputError: no such folder or layout, no masks, or no case that can be read.
    """
    if not 0 < val_fraction < 1:
        raise InputError("val_fraction must lie above 0 and below 1", val_fraction)
    dataset = open_dataset(
        f"{layout}:{dataset_dir}" if layout else dataset_dir,
        sequences=list(sequences) or None,
        lesion_values=lesion_values,
        ignore_values=ignore_values,
    )
    if not dataset.has_masks:
        raise InputError("A labelled set must say where lesions are", f"{dataset.name} has no masks")
    found = [fingerprint_case(dataset, case) for case in _with_bar(dataset.cases, "reading the data")]
    inventory = take_inventory(found)
    by_name = {fingerprint.case: fingerprint for fingerprint in found}
    counted = set(inventory.counted)
    usable = tuple(case for case in dataset if case.name in counted and by_name[case.name].has_mask)
    if not usable:
        reasons = list(inventory.failed.values())
        given = reasons[0] if reasons else "none"
        raise InputError(f"{dataset.name} must have a case with a mask that can be read", given, "Check the data")
    for words in _left_out(inventory, {case.name for case in usable}):
        log.warning("%s: %s", dataset.name, words)
    images = {case.name: by_name[case.name].image_sha256 for case in usable}
    chosen = CaseDataset(dataset.name, dataset.layout, dataset.root, usable, dataset.notes)
    splits = _split(chosen, {c.name: by_name[c.name].label for c in usable}, images, val_fraction, seed)
    items = {case.name: item_of(case, by_name[case.name].label) for case in usable}
    return Cases(
        train=tuple(items[case.name] for case in usable if splits[case.name] == "train"),
        held_out=tuple(items[case.name] for case in usable if splits[case.name] == "val"),
        name=dataset.name,
        content_sha256=inventory.content_sha256,
        images=tuple(images.values()),
        unreadable=tuple(item_of(case, None) for case in dataset if case.name in inventory.failed),
    )


def find_images(dataset_dir: str | Path, pattern: str = "*") -> list[Item]:
    """List everything that can be scored in a folder, or one file.

    Args:
        dataset_dir: the folder, or the file.
        pattern: of file names, such as ``*flair.nii.gz``. A DICOM series goes by its folder's name.

    Returns:
        Items ``{"name", "image"}`` with unique names.

    Raises:
        InputError: no such path, or nothing in it that fits.
    """
    cases = expand_inputs([dataset_dir])
    items = []
    for case in cases:
        paths = case.source if isinstance(case.source, tuple) else (case.source,)
        if all(path.match(pattern) for path in paths):
            items.append({"name": case.name, "image": [str(path) for path in paths]})
    if not items:
        raise InputError(
            f"There must be an image that fits the pattern {pattern!r}",
            f"{len(cases)} others in {Path(dataset_dir).name}",
            "Choose another pattern or folder",
        )
    return items


def item_of(case: Case, label: bool | None) -> Item:
    """Write a case as plain values.

    Args:
        case: of a labelled set.
        label: whether it is abnormal, None where that is not known.

    Returns:
        Paths as strings: ``image``, and ``label`` for its mask files. ``abnormal`` is what is known of it.
    """
    return {
        "name": case.name,
        "patient": case.patient or case.name,
        "image": [str(path) for path in case.images],
        "label": ["" if path is None else str(path) for path in case.masks],
        "abnormal": label,
        "stacked": case.stacked,
        "volumes": list(case.volumes),
        "values": plain_values(case.values),
    }


def case_of(item: Mapping[str, Any]) -> Case:
    """Read an item as a case.

    Args:
        item: ours, or anyone's ``{"image": path, "label": path}``.

    Returns:
        The case. Its files are not looked at.

    Raises:
        InputError: it names no image.
    """
    images, masks = (_listed(item.get(key)) for key in ("image", "label"))
    if not images:
        raise InputError("An item must name its image", ", ".join(map(str, item)) or "nothing")
    return Case(
        name=str(item.get("name") or Path(images[0]).name),
        images=tuple(Path(path) for path in images),
        masks=tuple(Path(path) if path else None for path in masks),
        label=item.get("abnormal"),
        patient=str(item.get("patient") or ""),
        stacked=bool(item.get("stacked", False)),
        volumes=tuple(item.get("volumes") or ()),
        values=values_from_plain(item.get("values")),
    )


class LoadCase(Transform):
    """An item of paths → ``image`` and ``label`` MetaTensors ``(C, I, J, K)`` and ``(1, I, J, K)`` on one grid, and
    ``name``. The label is 1 in a lesion, 0 elsewhere, and -1 where nothing is known. Masks are read by the rules of
    :mod:`headclip_med.datasets`, and must lie on the image's grid. An item's
    ``{"values": {"lesion": [2], "ignored": [3]}}`` says what their values mean.
    """

    def __call__(self, data: Mapping[str, Any]) -> Item:
        """Read one case.

        Args:
            data: paths, as :func:`item_of` makes them.

        Returns:
            ``image``, ``label`` and ``name``.

        Raises:
            InputError: an image or a mask that cannot be used, or a case that does not say where its lesions are.
        """
        case = case_of(data)
        labelled = load_labelled(case, masks_known=True)
        if labelled.gt_mask is None:
            raise InputError("A case must say where its lesions are", f"{case.name} has no mask")
        label = torch.from_numpy(labelled.gt_mask[None].astype("float32"))
        if labelled.ignored is not None:
            label[torch.from_numpy(labelled.ignored[None])] = -1
        meta = {**flat_meta(labelled.volume.meta), "filename_or_obj": _file_name(case.name)}
        image = MetaTensor(labelled.volume.as_tensor(), meta=dict(meta))
        meta["original_channel_dim"] = float("nan")
        return {"image": image, "label": MetaTensor(label, meta=meta), "name": case.name}


class NameByCased(MapTransform):
    """Call an image by its case's unique ``name`` instead of its path, so that ``SaveImaged`` overwrites no other
    case's map and no path reaches a result."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Name every key, and leave data without a ``name`` as it is.

        Args:
            data: with MetaTensors under the keys.

        Returns:
            The same, named in place.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            if out.get("name"):
                out[key].meta["filename_or_obj"] = _file_name(str(out["name"]))
        return out


class TrainingSlices(Dataset):
    """The slices that a network is trained on, cut and kept in memory: ``image (3, S, S)`` float32 as the tower
    expects it, ``label (1, S, S)`` uint8 with 1 in a lesion, 0 elsewhere, 255 outside the patient.

    Args:
        data: items, ours or anyone's ``{"image": path, "label": path}``.
        network: decides size, pixels and domain.
        transform: random augmentation of one slice.
        lesion, free: at most so many slices with and without lesion of every case.
        name, licence: of the data, for the ledger.

    Attributes:
        entry: the line in the data ledger of what is trained on these slices.

    Raises:
        InputError: a case that cannot be used, or no lesion in any slice.
    """

    def __init__(
        self,
        data: Sequence[Item],
        network: DetectorNetwork,
        transform: Callable[[Item], Item] | None = None,
        lesion: int = 12,
        free: int = 12,
        name: str = "training data",
        licence: str = "not stated",
    ) -> None:
        super().__init__(data, transform)
        config = SliceConfig(lesion=lesion, free=free)
        cut = [part for item in _with_bar(data, "cutting slices") for part in _cut(item, network, config)]
        self.slices = [{"image": part.pixels, "label": _training_label(part)} for part in cut]
        if not any(part.label for part in cut):
            raise InputError("The training slices must show lesions", f"none in {len(data)} case(s)")
        images = sorted({part.image_sha256[:SHORT_HASH] for part in cut})
        self.entry = LedgerEntry(name=name, licence=licence, count=len(data), image_sha256=tuple(images))

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def lesion_share(self) -> float:
        """Share of lesion in the patients' pixels, for a balanced loss."""
        lesion = sum(int((part["label"] == 1).sum()) for part in self.slices)
        return lesion / sum(int((part["label"] != IGNORE).sum()) for part in self.slices)

    def _transform(self, index: int) -> Any:
        part = {key: value.clone() for key, value in self.slices[index].items()}
        part["image"] = part["image"].float()
        return part if self.transform is None else self.transform(part)


def _cut(item: Item, network: DetectorNetwork, config: SliceConfig) -> list[TrainingSlice]:
    case, model = case_of(item), network.model
    labelled = load_labelled(case, masks_known=True)
    if labelled.gt_mask is None:
        raise InputError("Every training case must say where its lesions are", f"{case.name} has no mask")
    tower = model.built.tower
    spec = Preprocessing(network.image_size, tower.mean, tower.std, kind=model.preprocessing)
    return cut_case(case, labelled, labelled.gt_mask, model.domain, spec, config)


def _training_label(part: TrainingSlice) -> torch.Tensor:
    return part.mask.where(part.valid, torch.tensor(IGNORE).to(part.mask))[None]


def _left_out(inventory: Inventory, usable: Collection[str]) -> Iterator[str]:
    """Which cases do not count, and why, a line each."""
    for name, error in inventory.failed.items():
        yield f"{name} is left out: {error}"
    for name, original in inventory.duplicates.items():
        yield f"{name} is left out: it repeats {original}"
    for name in inventory.counted:
        if name not in usable:
            yield f"{name} is left out: it does not say where its lesions are"


def _enough_for_all(items: Sequence[Item], do: str) -> list[Item]:
    """The items, once every process of a run has one: the others would wait for its metrics without end."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if len(items) < processes:
        raise InputError("There must be a case to evaluate for each process", f"{len(items)} for {processes}", do)
    return list(items)


def _split(
    dataset: CaseDataset, labels: dict[str, bool | None], images: dict[str, str], val_fraction: float, seed: int
) -> dict[str, str]:
    if len({case.patient or case.name for case in dataset}) == 1:
        return dict.fromkeys(labels, "train")
    return split_patients(dataset, labels, images, {"train": 1 - val_fraction, "val": val_fraction}, seed)


def _with_bar(items: Sequence[Any], words: str) -> Any:
    """The items with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, words, console=console, transient=True, disable=not console.is_terminal or len(items) < 2)


def _file_name(case: str) -> str:
    """``SaveImage`` takes off an ending: with one of its own the name stays whole."""
    return f"{case}.nii"


def _listed(paths: Any) -> list[str]:
    if paths is None or paths == "":
        return []
    return [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
