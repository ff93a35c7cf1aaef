"""Bad input, one table: what the command line says, how it exits, and that nothing half-written is left."""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries
from PIL import Image
from safetensors.torch import load_file, save_file
from small_cases import write_tiny_pack, write_volume
from typer.testing import CliRunner

from headclip_med.cli.main import app

SHAPE = (20, 24, 6)


@dataclass
class Bench:
    """Where a row of the table builds its input; it may change the ``options`` and the ``out`` folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    options: list[str]
    out: Path


@dataclass(frozen=True)
class Row:
    """One kind of bad input: the exit code and words of its message (of its warnings when it is usable)."""

    build: Callable[[Bench], Path | None]
    code: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return self.build.__name__


def _values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(400, 50, SHAPE).astype(np.float32)


def _nifti(bench: Bench, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path = bench.folder / "bad.nii.gz"
    image = nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0]))
    if affine is not None:
        image.header.set_sform(affine, code=1)
    nib.Nifti1Image(array, None, image.header).to_filename(path)
    return path


def missing(bench: Bench) -> Path:
    return bench.folder / "bad.nii.gz"


def empty(bench: Bench) -> Path:
    path = bench.folder / "bad.nii.gz"
    path.touch()
    return path


def truncated(bench: Bench) -> Path:
    path = _nifti(bench, _values())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def truncated_picture(bench: Bench) -> Path:
    path = bench.folder / "bad.png"
    Image.fromarray(_values()[..., 0].astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:100])
    return path


def text_renamed(bench: Bench) -> Path:
    path = bench.folder / "bad.nii"
    path.write_text("patient,age\n1,42\n" * 60)
    return path


def nifti_renamed(bench: Bench) -> Path:
    return _nifti(bench, _values()).rename(bench.folder / "bad.png")


def corrupt(bench: Bench) -> Path:
    path = _nifti(bench, _values())
    content = bytearray(path.read_bytes())
    content[2000:2400] = bytes(400)
    path.write_bytes(content)
    return path


def some_nan(bench: Bench) -> Path:
    array = _values()
    array[0, 0, 0], array[1, 0, 0] = np.nan, np.inf
    return _nifti(bench, array)


def all_nan(bench: Bench) -> Path:
    return _nifti(bench, np.full(SHAPE, np.nan, dtype=np.float32))


def constant(bench: Bench) -> Path:
    return _nifti(bench, np.full(SHAPE, 7.0, dtype=np.float32))


def one_slice(bench: Bench) -> Path:
    return _nifti(bench, _values()[..., :1])


def four_dimensional(bench: Bench) -> Path:
    return _nifti(bench, np.stack([_values(1), _values(2)], axis=-1))


def singular_affine(bench: Bench) -> Path:
    return _nifti(bench, _values(), np.diag([1.0, 0.0, 3.0, 1.0]))


def sheared_affine(bench: Bench) -> Path:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 1.0
    return _nifti(bench, _values(), affine)


def mixed_series(bench: Bench) -> Path:
    for number in (1, 2):
        CtSeries(series_number=number).write(bench.folder / "bad" / str(number))
    return bench.folder / "bad"


def series_with_a_gap(bench: Bench) -> Path:
    CtSeries(missing=(3,)).write(bench.folder / "bad")
    return bench.folder / "bad"


def series_with_a_damaged_slice(bench: Bench) -> Path:
    CtSeries().write(bench.folder / "bad")
    victim = sorted((bench.folder / "bad").iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:-50])
    return bench.folder / "bad"


def zip_bomb(bench: Bench) -> Path:
    return _zip(bench, "scan.dcm", bytes(70_000_000))


def zip_that_leads_elsewhere(bench: Bench) -> Path:
    return _zip(bench, "../../scan.dcm", b"DICM")


def _zip(bench: Bench, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(bench.folder / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return bench.folder / "bad.zip"


def no_image_in_folder(bench: Bench) -> Path:
    folder = bench.folder / "bad"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def grids_differ(bench: Bench) -> Path:
    other = write_volume(bench.folder / "other.nii.gz", shape=(20, 24, 5))
    return Path(f"{_nifti(bench, _values())},{other}")


def full_disk(bench: Bench) -> Path:
    from headclip_med.writing import record

    genuine = record.write_result_record

    def refuse(result: Any, path: Path) -> None:
        if result.source.name == "bad.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device")
        genuine(result, path)

    bench.monkeypatch.setattr(record, "write_result_record", refuse)
    return _nifti(bench, _values())


def internal_error(bench: Bench) -> Path:
    from headclip_med.engine.engine import Engine

    genuine = Engine.begin

    def stumble(self: Engine, volume: Any, ask: Any, **more: Any) -> Any:
        if volume.meta["source_name"] == "bad.nii.gz":
            raise ZeroDivisionError("Secret^Person")
        return genuine(self, volume, ask, **more)

    bench.monkeypatch.setattr(Engine, "begin", stumble)
    return _nifti(bench, _values())


def folder_of_others(bench: Bench) -> Path:
    (bench.out / "bad").mkdir(parents=True)
    (bench.out / "bad" / "thesis.txt").write_text("mine")
    return _nifti(bench, _values())


def read_only_output(bench: Bench) -> None:
    from headclip_med.base import files as atomic

    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    bench.monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)


def output_below_a_file(bench: Bench) -> None:
    (bench.folder / "file").write_text("not a folder")
    bench.out = bench.folder / "file" / "out"


def no_such_model(bench: Bench) -> None:
    bench.options = ["--model", "headclip-tinny"]


def no_such_weights(bench: Bench) -> None:
    bench.options = ["--model", str(bench.folder / "gone.safetensors")]


def weights_of_another(bench: Bench) -> None:
    pack = write_tiny_pack(bench.folder / "pack")
    state = load_file(pack / "tower.safetensors")
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:16]
    save_file({k: v.contiguous() for k, v in state.items()}, pack / "tower.safetensors")
    bench.options = ["--model", str(pack)]


def weights_exchanged(bench: Bench) -> None:
    pack, other = write_tiny_pack(bench.folder / "pack"), write_tiny_pack(bench.folder / "other", seed=1)
    (other / "tower.safetensors").rename(pack / "tower.safetensors")
    bench.options = ["--model", str(pack)]


def weights_cut_off(bench: Bench) -> None:
    pack = write_tiny_pack(bench.folder / "pack")
    tower = pack / "tower.safetensors"
    tower.write_bytes(tower.read_bytes()[:5000])
    bench.options = ["--model", str(pack)]


def _option(name: str, value: str) -> Callable[[Bench], None]:
    def build(bench: Bench) -> None:
        bench.options = [name, value]

    build.__name__ = f"{name[2:]}={value}"
    return build


TABLE = [
    Row(missing, 1, ("must be a file or folder that exists", "bad.nii.gz", "Check the path")),
    Row(empty, 1, ("must not be empty", "0 bytes", "export the file again")),
    Row(truncated, 1, ("must be a readable NIfTI file", "truncated", "export the file again")),
    Row(truncated_picture, 1, ("must be a readable", "bad.png", "export the file again")),
    Row(text_renamed, 1, ("must be a NIfTI", "a text file", "Convert it first")),
    Row(nifti_renamed, 0, ("the name promises png but the content is nifti",)),
    Row(corrupt, 1, ("must be a readable", "damaged", "again")),
    Row(some_nan, 0, ("2 of 2880 voxels were NaN or Inf and are read as the minimum",)),
    Row(all_nan, 1, ("must contain finite values", "only NaN or Inf", "export the file again")),
    Row(constant, 1, ("must contain an image", "every voxel is 7", "Check that the right file")),
    Row(one_slice, 0, ()),
    Row(four_dimensional, 1, ("must be one volume", "2 volumes", "--time")),
    Row(singular_affine, 1, ("must be invertible", "singular", "Repair the header")),
    Row(sheared_affine, 1, ("must be orthogonal", "shear", "Resample the volume")),
    Row(mixed_series, 1, ("must hold one series", "2 groups", "--series")),
    Row(series_with_a_gap, 1, ("must be evenly spaced", "1 missing slice(s)", "--on-irregular", "keep (empty slices")),
    Row(series_with_a_damaged_slice, 1, ("must hold pixel data", "94 bytes of pixels where", "--on-irregular keep")),
    Row(zip_bomb, 1, ("bad.zip must inflate to at most 4 GiB", "a decompression bomb", "Export the image again")),
    Row(zip_that_leads_elsewhere, 1, ("files of its own folder only", "a name that leads elsewhere", "again")),
    Row(no_image_in_folder, 1, ("must", "file that is not DICOM", "Give the folder of one series")),
    Row(grids_differ, 1, ("must have the same shape", "(20, 24, 5)", "Resample them")),
    Row(full_disk, 1, ("must be writable", "the disk is full", "Free some space")),
    Row(internal_error, 1, ("internal error (ZeroDivisionError)", "HEADCLIP_DEBUG=1")),
    Row(
        folder_of_others,
        1,
        ("must be empty or hold nothing but an earlier result", "thesis.txt", "Move them"),
    ),
    Row(read_only_output, 2, ("must be writable", "read-only file system", "another output folder")),
    Row(output_below_a_file, 2, ("must be writable", "a file where a folder must be", "another output folder")),
    Row(
        no_such_model,
        2,
        ("The model must be", "headclip-tinny", "Did you mean headclip-tiny", "headclip-med models list"),
    ),
    Row(no_such_weights, 2, ("The weight file must exist", "gone.safetensors", "Check the path")),
    Row(weights_of_another, 2, ("must fit the architecture", "(16, 3, 8, 8)", "ARCH@FILE")),
    Row(weights_exchanged, 2, ("must have the sha256 in its pack.json", "Install the package again")),
    Row(weights_cut_off, 2, ("must be a whole file of safetensors", "tower.safetensors", "Download or copy it again")),
    Row(
        _option("--domain", "brain-mir"),
        2,
        ("The domain must be one of", "brain-mir", "Did you mean brain-mri"),
    ),
    Row(_option("--plane", "axail"), 2, ("The plane must be one of", "axail", "Did you mean axial")),
    Row(_option("--plane", "axial,all"), 2, ("must stand alone", "axial,all", "--plane all")),
    Row(_option("--window", "brian"), 2, ("A window must be one of", "brian", "--window brain")),
    Row(_option("--window", "40/0"), 2, ("a width above 0", "40/0", "--window 40/80")),
    Row(_option("--format", "nifti,pdf"), 2, ("A format must be one of", "pdf")),
    Row(_option("--format", ","), 2, ("At least one format", "none")),
    Row(_option("--threshold", "1.5"), 2, ("must lie between 0 and 1", "1.5", "probabilities")),
    Row(_option("--threshold", "nan"), 2, ("must lie between 0 and 1", "nan", "probabilities")),
    Row(_option("--threshold", "high"), 2, ("Invalid value", "--threshold")),
    Row(_option("--on-irregular", "kep"), 2, ("must be one of error, split", "kep", "Did you mean keep")),
    Row(_option("--smooth-mm", "-1"), 2, ("must be 0 mm or more", "-1", "0 switches it off")),
    Row(_option("--time", "-1"), 2, ("must be 0 or more", "-1", "counted from 0")),
    Row(_option("--batch-size", "0"), 2, ("must be at least 1", "given: 0", "Leave it out")),
    Row(_option("--method", "headclop"), 2, ("The method must be one of", "headclop", "Did you mean headclip")),
    Row(_option("--precision", "float8"), 2, ("The precision must be one of", "float8", "Did you mean float")),
    Row(_option("--device", "toaster"), 2, ("The device must be", "toaster", "headclip-med doctor")),
]


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_bad_input_gets_one_message_and_leaves_nothing_behind(
    row: Row, tmp_path: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    bench = Bench(tmp_path, monkeypatch, ["--model", str(tiny_pack)], tmp_path / "out")
    good = write_volume(tmp_path / "in" / "good.nii.gz")
    bad = row.build(bench)
    inputs = [str(path) for path in (bad, good) if path is not None]
    model = [] if "--model" in bench.options else ["--model", str(tiny_pack)]
    arguments = ["predict", *inputs, "--out", str(bench.out), "--device", "cpu", "--format", "nifti", *model]
    ran = CliRunner().invoke(app, [*arguments, *bench.options])

    assert ran.exit_code == row.code, ran.output
    assert "Traceback" not in ran.output
    assert "Secret" not in ran.output
    said = ran.output if row.code else _warnings(bench.out / "bad")
    flat = " ".join(said.split())
    assert [word for word in row.words if word not in flat] == [], flat
    if row.code == 2:
        assert not bench.out.exists()
        return
    assert json.loads((bench.out / "good" / "result.json").read_text())["source"]["name"] == "good.nii.gz"
    bad_results = ["bad"] if row.code == 0 or row.build is folder_of_others else []
    left = sorted(path.name for path in bench.out.iterdir())
    assert left == sorted([*bad_results, "good", "run.json"])
    statuses = [case["status"] for case in json.loads((bench.out / "run.json").read_text())["cases"]]
    assert statuses == ["failed" if row.code else "done", "done"]


def _warnings(folder: Path) -> str:
    return " ".join(json.loads((folder / "result.json").read_text())["warnings"])
