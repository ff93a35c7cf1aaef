"""What a model is for, against what it is given: told everywhere that a result is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries
from PIL import Image
from pydicom import dcmread
from small_cases import write_tiny_pack, write_volume
from typer.testing import CliRunner

from headclip_med.base.volume import LoadedVolume
from headclip_med.cli.main import app
from headclip_med.datasets.phantom import centred_affine, make_phantom
from headclip_med.engine.load import load_engine
from headclip_med.models.domains import DOMAINS
from headclip_med.models.pack import builtin_packs, load_pack
from headclip_med.models.scope import OUT_OF_SCOPE, Scope, kind_of, out_of_scope, scope_of, shows_skull
from headclip_med.reading import load_volume
from headclip_med.reading.checks import stack
from headclip_med.reading.sequences import sequences_in
from headclip_med.writing.overlay import montage

FLAIR_BRAIN = load_pack(builtin_packs()["headclip-tiny"]).record.scope or Scope()
DOMAIN_SCOPES = {name: domain.scope for name, domain in DOMAINS.items()}


def _volume(name: str = "scan.nii.gz", **meta: Any) -> LoadedVolume:
    array = np.random.default_rng(0).uniform(0, 1000, (1, 12, 14, 5)).astype(np.float32)
    return LoadedVolume(array, np.diag([2.0, 2.0, 5.0, 1.0]), {"source_name": name, **meta})  # type: ignore[typeddict-item]


def _picture(name: str = "picture.png", rgb: tuple[int, int, int] | None = None, **meta: Any) -> LoadedVolume:
    """Noise of one hue, or grey."""
    light = np.random.default_rng(0).uniform(0.2, 1, (1, 16, 16, 1)).astype(np.float32)
    array = light * (255 if rgb is None else np.float32(rgb)[:, None, None, None])
    known = {"source_name": name, "is_2d": True, "is_rgb": rgb is not None, **meta}
    return LoadedVolume(array.astype(np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]), known)  # type: ignore[typeddict-item]


def _ct(name: str = "scan.nii.gz", **meta: Any) -> LoadedVolume:
    volume = _volume(name, **meta)
    return replace(volume, array=volume.array * 2 - 1000)


def _reasons(scope: Scope, volume: LoadedVolume) -> str:
    """The part of the warning that says what the image is, empty where it is in scope."""
    found = out_of_scope([("it is for", scope)], volume)
    return found[0].partition("; this is ")[2].partition(": do not trust")[0] if found else ""


POLYP, TINTED_GREY = (200, 90, 70), (200, 205, 198)


@pytest.mark.parametrize(
    ("volume", "reasons"),
    [
        (_picture(rgb=POLYP), "a plain picture, in colour"),
        (_picture(modality="ES", rgb=POLYP), "a plain picture, ES (its header), in colour"),
        (_picture("us_0031.png", modality="US"), "a plain picture, US (its header)"),
        (_picture("bus_0001.png"), "a plain picture"),
        (_volume(modality="CT"), "CT (its header)"),
        (_ct(), "CT (its values)"),
        (_volume("ct_head.nii.gz"), "CT (its name)"),
        (_volume("case-US.mha"), "US (its name)"),
        (_volume("BraTS-GLI-00001-000-t1c.nii.gz"), "T1 with contrast (its name)"),
        (_volume("sub-01_T2w.nii.gz"), "T2 (its name)"),
        (_volume(modality="MR", sequence="t1"), "T1 (its header)"),
        (_volume("dwi.nii"), "DWI (its name)"),
        (_volume("", filename_or_obj="/data/anna/sub-01_T1w.nii.gz"), "T1 (its name)"),
        (_volume("scan.nii", modality=["MR"]), ""),  # of a batch: nothing that can be read
    ],
)
def test_a_flair_brain_pack_says_what_is_no_flair_of_a_brain(volume: LoadedVolume, reasons: str) -> None:
    assert _reasons(FLAIR_BRAIN, volume) == reasons


@pytest.mark.parametrize(
    "volume",
    [
        _volume(),
        _volume("sub-01_FLAIR.nii.gz", modality="MR"),
        _volume("BraTS-GLI-00001-000-t2f.nii.gz"),
        _volume("AX_T2_FLAIR_t1space.nii"),  # names both: nobody can tell
        _volume("brain.mha", modality="MR", sequence="flair"),
        _volume("anything", modality="OT"),
    ],
)
def test_nothing_is_said_of_what_may_be_flair_of_a_brain(volume: LoadedVolume) -> None:
    assert _reasons(FLAIR_BRAIN, volume) == ""


@pytest.mark.parametrize(
    ("domain", "volume", "reasons"),
    [
        ("colonoscopy", _volume("t1.nii", modality="MR"), "a volume, MR (its header), grey"),
        ("colonoscopy", _picture(), "grey"),
        ("colonoscopy", _picture(rgb=TINTED_GREY), "grey"),
        ("colonoscopy", _picture(rgb=POLYP), ""),
        ("dermoscopy", _picture(rgb=(225, 190, 170)), ""),
        ("breast-ultrasound", _picture(rgb=POLYP), "in colour"),
        ("breast-ultrasound", _picture(rgb=TINTED_GREY, modality="US"), ""),
        ("thyroid-ultrasound", _volume(modality="CT"), "CT (its header)"),
        ("chest-xray", _ct(), "a volume, CT (its values)"),
        ("chest-xray", _picture(modality="CR"), ""),
        ("head-ct", _volume("sub-01_T1w.nii.gz"), "MR (its name)"),
        ("head-ct", _volume(), "without a value below 0, which HU have"),
        ("liver-ct", _ct(), ""),
        ("retina-oct", _picture(rgb=POLYP), "in colour"),
        ("histopathology", _picture(modality="MR"), "MR (its header), grey"),
        ("brain-mri", _picture(), ""),
        ("generic", _picture(rgb=POLYP), ""),
    ],
)
def test_each_domain_has_a_scope_of_its_own(domain: str, volume: LoadedVolume, reasons: str) -> None:
    assert _reasons(DOMAIN_SCOPES[domain], volume) == reasons


@pytest.mark.parametrize("contrast", ["flair", "t1", "t2"])
@pytest.mark.parametrize("skull", [True, False])
def test_a_head_with_its_scalp_is_told_from_a_stripped_brain(skull: bool, contrast: str) -> None:
    head = make_phantom(3, shape=(64, 76, 64), affine=centred_affine((64, 76, 64), (3.0, 3.0, 3.0)), skull=skull)
    volume = LoadedVolume(head.array[None], head.affine, {"source_name": "scan.nii"})
    assert _reasons(FLAIR_BRAIN, volume) == "a head with skull and scalp" * skull
    assert (
        _reasons(FLAIR_BRAIN, replace(volume, array=volume.array[..., ::-1] + 40))
        == "a head with skull and scalp" * skull
    )


@pytest.mark.parametrize("side_mm", [140.0, 160.0])
def test_a_section_larger_than_a_brain_is_no_brain(side_mm: float) -> None:
    """Without any shell: a square of 140 mm has 196 cm², one of 160 mm has 256 cm²."""
    array = np.zeros((1, 60, 60, 20), dtype=np.float32)
    length = round(side_mm / 4)
    array[:, 5 : 5 + length, 5 : 5 + length, 5:15] = np.random.default_rng(0).normal(500, 5, (length, length, 10))
    volume = LoadedVolume(array, np.diag([4.0, 4.0, 6.0, 1.0]), {"source_name": "box"})
    assert shows_skull(volume) is (side_mm > 150)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("BraTS20_Training_001_t1ce", {"t1c"}),
        ("sub-01_ce-gadolinium_T1w", {"t1c"}),
        ("t1 se tra KM", {"t1c"}),
        ("T1+C", {"t1c"}),
        ("3DT1", {"t1"}),
        ("t1_mprage_sag", {"t1"}),
        ("AX T2 FLAIR", {"flair"}),
        ("T2star", {"t2star"}),
        ("t2_tse_tra", {"t2"}),
        ("sub-1_space-FLAIR_T1w.nii.gz", {"t1"}),  # what an image lies on is not what it shows
        ("sub-1_ses-2_acq-FLAIR_desc-T2_T1w.nii.gz", {"t1"}),
        ("sub-1_space-T1w_FLAIR.nii.gz", {"flair"}),
        ("sub-1_space-FLAIR_ce-gd_T1w", {"t1c"}),
        ("T1_in_FLAIR_space", {"t1"}),
        ("T1_to_FLAIR", {"t1"}),
        ("T1_registered_to_FLAIR.nii", {"t1"}),
        ("t1wtoflair", {"t1"}),
        ("t12flair", {"t1"}),
        ("FLAIR_in_T1space", {"flair"}),
        ("AX T1 FLAIR", {"t1"}),  # a T1 of General Electric
        ("t1flair", {"t1"}),
        ("t2_space_dark-fluid", {"flair"}),
        ("t2_tirm_tra_dark-fluid", {"flair"}),
        ("t2_tirm_tra", {"flair"}),
        ("t2 dark_fluid sag", {"flair"}),
        ("T1_postcontrast", {"t1c"}),
        ("postGd_T1", {"t1c"}),
        ("3D_T1_GAD", {"t1c"}),
        ("T1 Gadovist", {"t1c"}),
        ("t1 post km", {"t1c"}),
        ("T1gadolinium", {"t1c"}),
        ("T1_without_contrast", {"t1"}),
        ("BRAIN_WO_CONTRAST_T1", {"t1"}),
        ("T1 w/o contrast", {"t1"}),
        ("T1_non-contrast", {"t1"}),
        ("T1_precontrast", {"t1"}),
        ("t1 ohne KM", {"t1"}),
        ("T1 unenhanced", {"t1"}),
        ("T1 with and without contrast", {"t1", "t1c"}),
        ("patient12", set()),
        ("volume-3", set()),
        ("", set()),
    ],
)
def test_sequences_are_read_from_words(name: str, found: set[str]) -> None:
    assert sequences_in(name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *((name, {"CT"}) for name in ("headCT.nii", "CTscan_1.nii", "CT1.nii", "CT-12.nii", "brainct_2", "NCCT3")),
        *((name, {"DX"}) for name in ("CXR123.png", "x-ray_1.png")),
        *((name, {"US"}) for name in ("US1.png", "us_001.png", "USG12")),
        *((name, {"MR"}) for name in ("us_001_flair.nii", "oct_2021_flair.nii", "PET_flair.nii", "brainMRI_3.nii")),
        ("CT_T1.nii", {"CT", "MR"}),  # the first time point, or a T1 beside a CT
        ("oct_retina", {"OPT"}),
        *((name, set()) for name in ("october.png", "oct2021.png", "bus_1.png", "structure1", "doctor", "product1")),
    ],
)
def test_the_modality_is_read_from_words(name: str, found: set[str]) -> None:
    assert kind_of(_volume(name)).modality.values == found


def test_of_several_sequences_each_is_looked_at() -> None:
    pair = stack([_loaded("a_flair.nii"), _loaded("a_t1c.nii")])
    assert _reasons(FLAIR_BRAIN, pair) == "T1 with contrast (its name)"


def _loaded(name: str) -> LoadedVolume:
    return _volume(name, content_sha256="0", reader_warnings=[], is_rgb=False)


def test_a_dicom_series_tells_its_sequence_and_nothing_else_of_its_description(tmp_path: Path) -> None:
    CtSeries(modality="MR").write(tmp_path / "mr")
    for path in (tmp_path / "mr").iterdir():
        dataset = dcmread(path)
        dataset.SeriesDescription, dataset.ContrastBolusAgent = "SECRET AX T1", "Gadovist"
        dataset.save_as(path)
    volume = load_volume(tmp_path / "mr")
    assert volume.meta["sequence"] == "t1c"
    assert "SECRET" not in str({key: value for key, value in volume.meta.items() if key != "slice_files"})
    assert _reasons(FLAIR_BRAIN, volume) == "T1 with contrast (its header)"


def test_images_make_up_a_scope() -> None:
    kinds = [kind_of(volume) for volume in (_volume("a_T1w.nii"), _volume("b.nii", modality="MR"))]
    assert scope_of(kinds) == Scope(modalities=("MR",), colour=False, dimensions=3, sequences=("t1",))
    mixed = scope_of([kind_of(_picture()), kind_of(_volume()), kind_of(_picture(rgb=POLYP))])
    assert (mixed.colour, mixed.dimensions) == (None, None)


@pytest.fixture
def flair_pack(tmp_path: Path) -> Path:
    """The random pack, made for FLAIR of brains."""
    pack = write_tiny_pack(tmp_path / "pack")
    record = json.loads((pack / "pack.json").read_text())
    (pack / "pack.json").write_text(json.dumps({**record, "scope": FLAIR_BRAIN.model_dump(mode="json")}))
    return pack


def _polyp(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = _picture(rgb=POLYP).array[..., 0].transpose(2, 1, 0)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_what_is_out_of_scope_is_loud_on_the_console_and_in_every_file(tmp_path: Path, flair_pack: Path) -> None:
    source, out = _polyp(tmp_path / "in" / "polyp.png"), tmp_path / "out"
    ran = CliRunner().invoke(app, ["predict", str(source), "-m", str(flair_pack), "--device", "cpu", "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    said = "tiny-random is for grey MR volumes, FLAIR, without skull; this is a plain picture, in colour: do not trust"
    assert f"warning: polyp: {OUT_OF_SCOPE}{said}" in ran.stderr
    record = json.loads((out / "polyp" / "result.json").read_text())
    assert record["warnings"][0].startswith(OUT_OF_SCOPE + said)
    page = (out / "polyp" / "report.html").read_text()
    assert page.index(said) < page.index("Anomaly score")
    assert said in json.loads((out / "run.json").read_text())["cases"][0]["warnings"][0]


def test_the_preview_grows_by_the_lines_of_the_warning(tmp_path: Path, flair_pack: Path) -> None:
    result = load_engine(flair_pack, "cpu").predict(_polyp(tmp_path / "polyp.png"))
    assert result.warnings[0].startswith(OUT_OF_SCOPE)
    assert montage(result).height > montage(replace(result, warnings=())).height


def test_many_cases_out_of_scope_are_told_once_and_counted(tmp_path: Path, flair_pack: Path) -> None:
    for number in range(3):
        _polyp(tmp_path / "in" / f"{number}.png")
    words = ["predict", str(tmp_path / "in"), "-m", str(flair_pack), "--device", "cpu", "-o", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, [*words, "--format", "json"])
    assert ran.stderr.count(OUT_OF_SCOPE) == 2
    assert f"warning: 3 cases in all: {OUT_OF_SCOPE}" in ran.stderr
    loud = CliRunner().invoke(app, [*words, "--format", "json", "--verbose"])
    assert loud.stderr.count(f": {OUT_OF_SCOPE}") == 3


def test_a_pipeline_of_monai_is_warned(tmp_path: Path, flair_pack: Path) -> None:
    from headclip_med.bundle import HeadCLIPInferer, build_network
    from headclip_med.bundle.transforms import AnomalyMapd
    from headclip_med.reading import read_volume

    picture = read_volume(_polyp(tmp_path / "polyp.png"))
    with pytest.warns(UserWarning, match="out of scope: tiny-random is for grey MR volumes"):
        AnomalyMapd("image", model=flair_pack, device="cpu")({"image": picture})
    with pytest.warns(UserWarning, match="out of scope: tiny-random is for grey MR volumes"):
        HeadCLIPInferer()(picture[None], build_network(flair_pack, precision="float32"))


def test_another_domain_than_the_packs_is_asked_for_too(tiny_pack: Path) -> None:
    warnings = load_engine(tiny_pack, "cpu").predict(_volume("t1.nii"), domain="head-ct").warnings
    assert any(words.startswith(f"{OUT_OF_SCOPE}the domain head-ct is for grey CT images") for words in warnings)


@pytest.mark.parametrize(
    ("normal", "scan", "told"),
    [
        ("t1.nii.gz", "flair.nii.gz", "grey MR volumes, T1; this is FLAIR (its name)"),
        ("flair.nii.gz", "flair_2.nii.gz", ""),
        ("normal.nii.gz", "picture.png", "grey volumes; this is a plain picture, in colour"),
    ],
)
def test_normal_images_of_another_kind_are_told(
    normal: str, scan: str, told: str, tmp_path: Path, tiny_pack: Path
) -> None:
    write_volume(tmp_path / "normals" / f"a_{normal}")
    write_volume(tmp_path / "normals" / f"b_{normal}", value=950)
    source = _polyp(tmp_path / scan) if scan.endswith("png") else write_volume(tmp_path / scan, value=700)
    result = load_engine(tiny_pack, "cpu", normals=tmp_path / "normals").predict(source)
    about = [words for words in result.warnings if words.startswith(OUT_OF_SCOPE)]
    assert [f"the normal images of normals are {told}" in words for words in about] == [True] * bool(told)


def test_an_evaluation_says_once_how_many_cases_are_out_of_scope(tmp_path: Path, flair_pack: Path) -> None:
    for number in range(3):
        _polyp(tmp_path / "set" / "images" / f"{number}.png")
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[2:6, 3 : 6 + number] = 255
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{number}.png")
        shift = np.asarray(Image.open(tmp_path / "set" / "images" / f"{number}.png")) // (number + 1)
        Image.fromarray(shift).save(tmp_path / "set" / "images" / f"{number}.png")
    ran = CliRunner().invoke(
        app,
        ["evaluate", "--data", f"pairs:{tmp_path / 'set'}", "-m", str(flair_pack), "-o", str(tmp_path / "out"),
         "--device", "cpu", "--bootstrap", "0"],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert ran.stderr.count(OUT_OF_SCOPE) == 1
    assert "3 of 3 cases are out of scope" in ran.stderr
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sum("3 of 3 cases are out of scope" in words for words in record["warnings"]) == 1
    assert "3 of 3 cases are out of scope" in (tmp_path / "out" / "report.html").read_text()


def test_shipped_packs_say_what_they_are_for() -> None:
    scopes = {name: str(load_pack(folder).record.scope or "") for name, folder in builtin_packs().items()}
    assert scopes["headclip-tiny"] == scopes["dinov2-vits14-brain-mri"] == "grey MR volumes, FLAIR, without skull"
    assert str(DOMAIN_SCOPES["colonoscopy"]) == "ES/XC/GM pictures in colour"


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("ms_flair/patient07/flair.nii.gz", ""),
        ("ms_flair/patient26/t1.nii.gz", "T1 (its name)"),
        ("brats/TCGA-DU-7294/TCGA-DU-7294-t2f.nii.gz", ""),
        ("brats/BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz", "T1 with contrast (its name)"),
        ("nrrd/brain2_image.nrrd", "a head with skull and scalp"),
        ("dicom/ct_philips", "CT (its header)"),
        ("polyps_2d/images/test_53.jpg", "a plain picture, in colour"),
        ("breast_us_busbra_2d/images/malignant_0329-r.jpg", "a plain picture"),
    ],
)
def test_real_images_are_told_apart(file: str, told: str, shared: Path) -> None:
    assert _reasons(FLAIR_BRAIN, load_volume(shared / "data" / file)).startswith(told or "\0") is bool(told)


def test_a_nifti_slice_is_no_plain_picture(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(500, 50, (12, 14, 1)).astype(np.float32)
    nib.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "slice.nii")
    assert _reasons(FLAIR_BRAIN, load_volume(tmp_path / "slice.nii")) == ""
