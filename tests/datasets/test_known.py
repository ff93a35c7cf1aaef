"""Public sets, each as a made-up tree of their real names: what is recognised, counted, labelled, passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import put_array, put_image, put_json, put_label, put_mask, put_text, put_volume

from headclip_med.base.errors import InputError
from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.datasets.check import check_dataset


@dataclass(frozen=True)
class Known:
    """What a set must be read as.

    Attributes:
        first: name, image and masks of one case. notes: parts of what must be said.
    """

    make: Callable[[Path], object]
    layout: str
    cases: int
    masks: int
    normal: int = 0
    abnormal: int = 0
    patients: int = 0  # 0: not known
    splits: dict[str, int] = field(default_factory=dict)
    categories: set[str] = field(default_factory=set)
    pair: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()


# --- dermoscopy --------------------------------------------------------------------------------------------------


def _isic_2018(root: Path) -> None:
    for split, count in (("Training", 3), ("Validation", 1), ("Test", 2)):
        for number in range(count):
            name = f"ISIC_{len(split):03}{number:04}"
            put_image(root / f"ISIC2018_Task1-2_{split}_Input" / f"{name}.jpg", seed=len(split) * 10 + number)
            put_mask(root / f"ISIC2018_Task1_{split}_GroundTruth" / f"{name}_segmentation.png")
    put_text(root / "ISIC2018_Task1-2_Training_Input" / "LICENSE.txt", "CC0")
    put_mask(root / "ISIC2018_Task2_Training_GroundTruth_v3" / "ISIC_0080000_attribute_globules.png")


def _isic_2017(root: Path) -> None:
    for images, masks in (
        ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
    ):
        for number in range(2):
            name = f"ISIC_{len(images):03}{number:04}"
            put_image(root / images / f"{name}.jpg", seed=10 * len(images) + number)
            put_image(root / images / f"{name}_superpixels.png", seed=90)
            put_mask(root / masks / f"{name}_segmentation.png")
    put_text(root / "ISIC-2017_Training_Part3_GroundTruth.csv", "image_id,melanoma,seborrheic_keratosis\nx,0.0,1.0\n")


def _isic_2016(root: Path) -> None:
    for split in ("Training", "Test"):
        for number in range(2):
            name = f"ISIC_{len(split):03}{number:04}"
            put_image(root / f"ISBI2016_ISIC_Part1_{split}_Data" / f"{name}.jpg", seed=len(split) + number)
            put_mask(root / f"ISBI2016_ISIC_Part1_{split}_GroundTruth" / f"{name}_Segmentation.png")


def _isic_flat(root: Path) -> None:
    for number in range(3):
        put_image(root / f"ISIC_{number:07}.jpg", seed=number)
        put_mask(root / f"ISIC_{number:07}_segmentation.png")
        put_image(root / f"ISIC_{number:07}_superpixels.png", seed=50 + number)


# --- colonoscopy -------------------------------------------------------------------------------------------------


def _clinic(root: Path) -> None:
    for number in (1, 2, 612):
        put_image(root / "Original" / f"{number}.tif", seed=number)
        put_mask(root / "Ground Truth" / f"{number}.tif")


def _clinic_kaggle(root: Path) -> None:
    for number in (1, 2, 3):
        for folder, ending in (("PNG", "png"), ("TIF", "tif")):
            put_image(root / folder / "Original" / f"{number}.{ending}", seed=number)
            put_mask(root / folder / "Ground Truth" / f"{number}.{ending}")
    put_text(root / "class_dict.csv", "name,r,g,b\nbackground,0,0,0\npolyp,255,255,255\n")


def _clinic_kaggle_table(root: Path) -> None:
    _clinic_kaggle(root)
    rows = [
        f"{n},{n // 2},TIF/Original/{n}.tif,TIF/Ground Truth/{n}.tif,PNG/Original/{n}.png,PNG/Ground Truth/{n}.png"
        for n in (1, 2, 3)
    ]
    header = "frame_id,sequence_id,tif_image_path,tif_mask_path,png_image_path,png_mask_path"
    put_text(root / "metadata.csv", "\n".join([header, *rows]) + "\n")


def _colon(root: Path) -> None:
    for number in (1, 2, 300):
        put_image(root / "CVC-ColonDB" / f"{number}.bmp", seed=number)
        for kind in "psc":  # polyp, non-informative region, contour
            put_mask(root / "CVC-ColonDB" / f"{kind}{number}.bmp")


def _endo_scene(root: Path) -> None:
    for folder, ending in (("CVC-300", "bmp"), ("CVC-612", "tif")):
        for number in (1, 2):
            put_image(root / folder / "bbdd" / f"{number}.bmp", seed=len(ending) + number)
            put_mask(root / folder / "gtpolyp" / f"{number}.{ending}")
            for other in ("gtlumen", "gtspecular", "gtvoid"):
                put_mask(root / folder / other / f"{number}.bmp")


def _etis(root: Path) -> None:
    for number in (1, 2, 196):
        put_image(root / "ETIS-LaribPolypDB" / f"{number}.tif", seed=number)
        put_mask(root / "Ground Truth" / f"p{number}.tif")


def _etis_kaggle(root: Path) -> None:
    for number in (1, 2):
        put_image(root / "images" / f"{number}.tif", seed=number)
        put_mask(root / "masks" / f"p{number}.tif")


def _polyp_gen(root: Path) -> None:
    for centre, name in ((1, "100H0050"), (1, "100H0051"), (3, "C3_EndoCV2021_00489_"), (6, "EndoCV_6_1")):
        folder, boxes = root / f"data_C{centre}", "bbox_images_C6" if centre == 6 else f"bbox_image_C{centre}"
        put_image(folder / f"images_C{centre}" / f"{name}.jpg", seed=centre + len(name))
        put_mask(folder / f"masks_C{centre}" / f"{name.rstrip('_')}_mask.jpg")
        put_image(folder / boxes / f"{name}_mask_bbox.jpg", seed=70)
        put_text(folder / f"bbox_C{centre}" / f"{name}.txt", "polyp 1 2 3 4")
        put_image(root / "imagesAll_positive" / f"{name}.jpg", seed=centre + len(name))
    for number in (1, 2):
        positive = root / "sequenceData" / "positive" / f"seq{number}"
        put_image(positive / f"images_seq{number}" / f"{number}_endocv_1.jpg", seed=30 + number)
        put_mask(positive / f"masks_seq{number}" / f"{number}_endocv_1_mask.jpg")
        put_image(
            root / "sequenceData" / "negativeOnly" / f"seq{number}_neg" / f"seq{number}_neg_1.jpg", seed=40 + number
        )


def _pranet(root: Path) -> None:
    for seed, name in enumerate(("CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir")):
        for number in (1, 2):
            put_image(root / "TestDataset" / name / "images" / f"{number}.png", seed=10 * seed + number)
            put_mask(root / "TestDataset" / name / "masks" / f"{number}.png")
    put_image(root / "TrainDataset" / "image" / "1.png", seed=99)
    put_mask(root / "TrainDataset" / "mask" / "1.png")


# --- brain pictures, breast, chest -------------------------------------------------------------------------------


def _head_ct(root: Path) -> None:
    for number in range(4):
        put_image(root / "head_ct" / "head_ct" / f"{number:03}.png", seed=number)
    put_text(root / "labels.csv", "id, hemorrhage\n0,1\n1,1\n2,0\n3,0\n")


def _br35h(root: Path) -> None:
    for number in range(3):
        put_image(root / "yes" / f"y{number}.jpg", seed=number)
        put_image(root / "no" / f"no{number}.jpg", seed=10 + number)
        put_image(root / "pred" / f"pred{number}.jpg", seed=20 + number)
        for split in ("TRAIN", "VAL", "TEST"):
            put_image(root / "Br35H-Mask-RCNN" / split / f"y{number}.jpg", seed=number)
    put_text(root / "Br35H-Mask-RCNN" / "annotations_all.json", "{}")


def _kaggle_tumours(root: Path) -> None:
    for s, split in enumerate(("Training", "Testing")):
        for k, kind in enumerate(("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")):
            for number in (1, 2):
                put_image(root / split / kind / f"image({number}).jpg", seed=100 * s + 10 * k + number)


def _lgg(root: Path) -> None:
    for p, patient in enumerate(("TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405")):
        for number in (1, 2, 10):
            put_image(root / "kaggle_3m" / patient / f"{patient}_{number}.tif", seed=20 * p + number)
            put_mask(root / "kaggle_3m" / patient / f"{patient}_{number}_mask.tif", [] if number == 1 else [(1, 1)])
    put_text(root / "kaggle_3m" / "data.csv", "Patient,RNASeqCluster\nTCGA_CS_4941,2\n")


def _busi(root: Path) -> None:
    for k, (kind, count) in enumerate((("benign", 3), ("malignant", 2), ("normal", 2))):
        for number in range(1, count + 1):
            folder = root / "Dataset_BUSI_with_GT" / kind
            put_image(folder / f"{kind} ({number}).png", seed=10 * k + number)
            put_mask(folder / f"{kind} ({number})_mask.png", [] if kind == "normal" else [(1, 1)])
    put_mask(root / "Dataset_BUSI_with_GT" / "benign" / "benign (3)_mask_1.png", [(4, 4)])


def _mosmed(root: Path) -> None:
    for kind, number in ((0, 1), (0, 2), (1, 255), (1, 256), (4, 1109)):
        put_volume(root / "studies" / f"CT-{kind}" / f"study_{number:04}.nii.gz", seed=number)
    put_label(root / "masks" / "study_0255_mask.nii.gz")
    put_text(root / "dataset_registry.xlsx", "")


# --- volumes -----------------------------------------------------------------------------------------------------


def _wmh(root: Path) -> None:
    for seed, subject in enumerate(("training/Utrecht/0", "training/Amsterdam/GE3T/100", "test/Singapore/50")):
        for stage in ("orig", "pre"):
            for name in ("FLAIR", "T1"):
                put_volume(root / subject / stage / f"{name}.nii.gz", seed=10 * seed + len(name) + len(stage))
        put_volume(root / subject / "orig" / "3DT1.nii.gz")
        array = np.zeros((4, 5, 3), dtype=np.uint8)
        array[1, 1, 1], array[2, 2, 2] = 1, 2
        put_array(root / subject / "wmh.nii.gz", array)
    put_label(root / "additional_annotations" / "observer_o3" / "training" / "Utrecht" / "0" / "result.nii.gz")


def _isbi(root: Path) -> None:
    for p, patient in enumerate(("training01", "training02")):
        for t, time in enumerate(("01", "02")):
            for s, name in enumerate(("flair", "mprage", "pd", "t2")):
                seed = 100 * p + 10 * t + s
                put_volume(root / "training" / patient / "preprocessed" / f"{patient}_{time}_{name}_pp.nii", seed=seed)
                put_volume(root / "training" / patient / "orig" / f"{patient}_{time}_{name}.nii.gz", seed=seed + 50)
            for reader in (1, 2):
                put_label(root / "training" / patient / "masks" / f"{patient}_{time}_mask{reader}.nii")
    put_volume(root / "testdata_website" / "test01" / "preprocessed" / "test01_01_flair_pp.nii", seed=999)


def _isbi_flat(root: Path) -> None:
    for t, time in enumerate(("01", "02")):
        folder = root / f"ISBI_Training_{time}"
        for s, name in enumerate(("flair", "mprage")):
            put_volume(folder / f"training05_{time}_{name}_pp.nii.gz", seed=10 * t + s)
        put_label(folder / f"training05_{time}_mask1.nii.gz")


def _mslesseg(root: Path) -> None:
    for t, time in enumerate(("T1", "T2")):
        for s, name in enumerate(("FLAIR", "T1", "T2")):
            put_volume(root / "train" / "P1" / time / f"P1_{time}_{name}.nii.gz", seed=10 * t + s)
        put_label(root / "train" / "P1" / time / f"P1_{time}_MASK.nii.gz")
    for s, name in enumerate(("FLAIR", "T1", "T2")):
        put_volume(root / "test" / "P54" / f"P54_{name}.nii.gz", seed=30 + s)
    put_label(root / "test" / "P54" / "P54_MASK.nii.gz")


def _men_rt(root: Path) -> None:
    for seed, case in enumerate(("BraTS-MEN-RT-0000-1", "BraTS-MEN-RT-0402-1", "BraTS-MEN-RT-0402-2")):
        put_volume(root / case / f"{case}_t1c.nii.gz", seed=seed)
        put_label(root / case / f"{case}_gtv.nii.gz")


def _brats_2013(root: Path) -> None:
    for seed, case in enumerate(("brats_2013_pat0001_1", "brats_2013_pat0002_1")):
        for name, number in (("Flair", 684), ("T1c", 686)):
            stem = f"VSD.Brain.XX.O.MR_{name}.{number + seed}"
            put_volume(root / "HGG" / case / stem / f"{stem}.nii", seed=10 * seed + number)
        stem = f"VSD.Brain_3more.XX.O.OT.{690 + seed}"
        put_label(root / "HGG" / case / stem / f"{stem}.nii")


def _flat_brats(root: Path) -> None:
    for seed, case in enumerate(("BraTS20_001", "BraTS20_002")):
        put_volume(root / f"{case}_flair.nii.gz", seed=seed)
        put_volume(root / f"{case}_t1ce.nii.gz", seed=10 + seed)
        put_label(root / f"{case}_seg.nii.gz")


def _nnunet(root: Path) -> None:
    for number in (1, 2):
        for channel in (0, 1):
            put_volume(root / "imagesTr" / f"MS_{number:03}_{channel:04}.nii.gz", seed=10 * number + channel)
        put_label(root / "labelsTr" / f"MS_{number:03}.nii.gz")
    for channel in (0, 1):
        put_volume(root / "imagesTs" / f"MS_009_{channel:04}.nii.gz", seed=90 + channel)


def _decathlon(root: Path) -> None:
    for number in (1, 2):
        put_volume(root / "imagesTr" / f"colon_{number:03}.nii.gz", seed=number)
        put_label(root / "labelsTr" / f"colon_{number:03}.nii.gz")


def _lits(root: Path) -> None:
    for number in (0, 1):
        put_volume(root / f"volume-{number}.nii", seed=number)
        put_label(root / f"segmentation-{number}.nii")


def _kits(root: Path) -> None:
    for number in (0, 1):
        put_volume(root / f"case_{number:05}" / "imaging.nii.gz", seed=number)
        put_label(root / f"case_{number:05}" / "segmentation.nii.gz")


def _image_and_mask(root: Path) -> None:
    for seed, patient in enumerate(("p1", "p2", "p3")):
        put_image(root / patient / "image.png", seed=seed)
        put_mask(root / patient / "mask.png")


def _atlas(root: Path) -> None:
    for seed, subject in enumerate(("sub-r001s001", "sub-r001s002")):
        folder = root / "Training" / "R001" / subject / "ses-1" / "anat"
        start = f"{subject}_ses-1_space-MNI152NLin2009aSym"
        put_volume(folder / f"{start}_T1w.nii.gz", seed=seed)
        put_label(folder / f"{start}_label-L_desc-T1lesion_mask.nii.gz")
    put_volume(
        root / "Testing" / "R052" / "sub-r052s001" / "ses-1" / "anat" / "sub-r052s001_ses-1_space-X_T1w.nii.gz", 9
    )


def _isles(root: Path) -> None:
    wide = np.random.default_rng(7).normal(size=(6, 5, 3)).astype(np.float32)
    for seed, subject in enumerate(("sub-strokecase0001", "sub-strokecase0002")):
        start = f"{subject}_ses-0001"
        put_array(root / subject / "ses-0001" / "anat" / f"{start}_FLAIR.nii.gz", wide + seed)  # on another grid
        put_volume(root / subject / "ses-0001" / "dwi" / f"{start}_dwi.nii.gz", seed=seed)
        put_volume(root / subject / "ses-0001" / "dwi" / f"{start}_adc.nii.gz", seed=10 + seed)
        put_label(root / "derivatives" / subject / "ses-0001" / f"{start}_msk.nii.gz")


# --- industry ----------------------------------------------------------------------------------------------------


def _visa(root: Path) -> None:
    rows = ["object,split,label,image,mask"]
    for o, name in enumerate(("candle", "pcb1")):
        data = root / name / "Data"
        for number in range(2):
            put_image(data / "Images" / "Normal" / f"{number:04}.JPG", seed=100 * o + number)
            put_image(data / "Images" / "Anomaly" / f"{number:03}.JPG", seed=100 * o + 50 + number)
            put_mask(data / "Masks" / "Anomaly" / f"{number:03}.png")
            split, start = ("train", "test")[number], f"{name}/Data"
            rows.append(f"{name},{split},normal,{start}/Images/Normal/{number:04}.JPG,")
            bad = f"{start}/Images/Anomaly/{number:03}.JPG,{start}/Masks/Anomaly/{number:03}.png"
            rows.append(f"{name},test,anomaly,{bad}")
        put_text(root / name / "image_anno.csv", f"image,label,mask\n{name}/Data/Images/Anomaly/000.JPG,bent,\n")
    put_text(root / "split_csv" / "1cls.csv", "\n".join(rows) + "\n")
    put_text(root / "split_csv" / "2cls_highshot.csv", "object,split,label,image,mask\n")


def _visa_object(root: Path) -> None:
    _visa(root.parent / "whole")
    (root.parent / "whole" / "candle").rename(root)


def _mvtec_without_good(root: Path) -> None:
    for seed, kind in enumerate(("crack", "hole")):
        put_image(root / "bottle" / "test" / kind / "000.png", seed=seed)
        put_mask(root / "bottle" / "ground_truth" / kind / "000_mask.png")
    put_image(root / "bottle" / "train" / "good" / "000.png", seed=9)


def _loco(root: Path) -> None:
    put_image(root / "juice" / "test" / "good" / "000.png", seed=1)
    put_image(root / "juice" / "test" / "logical_anomalies" / "000.png", seed=2)
    for number in (0, 1):
        folder = root / "juice" / "ground_truth" / "logical_anomalies" / "000"
        put_mask(folder / f"{number:03}.png", [(number, 1)])
    put_image(root / "juice" / "validation" / "good" / "000.png", seed=3)


def _btad(root: Path) -> None:
    put_image(root / "01" / "train" / "ok" / "0000.bmp", seed=1)
    put_image(root / "01" / "test" / "ok" / "0000.bmp", seed=2)
    put_image(root / "01" / "test" / "ko" / "0000.bmp", seed=3)
    put_mask(root / "01" / "ground_truth" / "ko" / "0000.png")


# --- plain trees -------------------------------------------------------------------------------------------------


def _split_then_images(root: Path) -> None:
    for s, split in enumerate(("train", "test")):
        for number in (1, 2):
            put_image(root / split / "images" / f"{number}.png", seed=10 * s + number)
            put_mask(root / split / "masks" / f"{number}.png")


def _images_then_split(root: Path) -> None:
    for s, split in enumerate(("train", "val")):
        for number in (1, 2):
            put_image(root / "images" / split / f"{number}.png", seed=10 * s + number)
            put_mask(root / "masks" / split / f"{number}.png")


def _mask_beginning(root: Path) -> None:
    for number in (1, 2):
        put_image(root / "Images" / f"bus_000{number}-l.png", seed=number)
        put_mask(root / "Masks" / f"mask_000{number}-l.png")


def _child_masks(root: Path) -> None:
    for number in (1, 2):
        put_image(root / f"{number}.png", seed=number)
        put_mask(root / "masks" / f"{number}.png")


SKIPPED = "passed over, neither image nor mask of a case, such as "
KNOWN: dict[str, Known] = {
    "ISIC 2018": Known(
        _isic_2018,
        "pairs",
        6,
        6,
        splits={"train": 3, "val": 1, "test": 2},
        notes=(f"1 file {SKIPPED}ISIC2018_Task2_Training_GroundTruth_v3/ISIC_0080000_attribute_globules.png",),
    ),
    "ISIC 2017": Known(
        _isic_2017,
        "pairs",
        4,
        4,
        splits={"train": 2, "test": 2},
        notes=(f"2 files {SKIPPED}ISIC-2017_Test_v2_Data/ISIC_0220000_superpixels.png",),
    ),
    "ISIC 2016": Known(_isic_2016, "pairs", 4, 4, splits={"train": 2, "test": 2}),
    "ISIC flat": Known(_isic_flat, "pairs", 3, 3, notes=(f"3 files {SKIPPED}ISIC_0000000_superpixels.png",)),
    "CVC-ClinicDB": Known(_clinic, "pairs", 3, 3, pair=("1", "1.tif", "1.tif")),
    "CVC-ClinicDB of Kaggle": Known(
        _clinic_kaggle,
        "pairs",
        3,
        3,
        pair=("1", "1.png", "1.png"),
        notes=("6 files passed over: the same names in another format, such as TIF/Original/1.tif",),
    ),
    "CVC-ClinicDB of Kaggle with its table": Known(
        _clinic_kaggle_table, "csv", 3, 3, patients=2, pair=("1", "1.png", "1.png")
    ),
    "CVC-ColonDB": Known(
        _colon, "pairs", 3, 3, pair=("300", "300.bmp", "p300.bmp"), notes=(f"6 files {SKIPPED}CVC-ColonDB/c1.bmp",)
    ),
    "CVC-EndoSceneStill": Known(
        _endo_scene,
        "pairs",
        4,
        4,
        categories={"CVC-300", "CVC-612"},
        notes=(f"4 files {SKIPPED}CVC-300/gtlumen/1.bmp",),
    ),
    "ETIS": Known(_etis, "pairs", 3, 3, pair=("196", "196.tif", "p196.tif")),
    "ETIS of Kaggle": Known(_etis_kaggle, "pairs", 2, 2, pair=("1", "1.tif", "p1.tif")),
    "PolypGen": Known(
        _polyp_gen,
        "pairs",
        8,
        6,
        normal=2,
        patients=8,
        categories={"data_C1", "data_C3", "data_C6", "sequenceData/positive", "sequenceData/negativeOnly"},
        notes=(
            f"4 files {SKIPPED}imagesAll_positive/100H0050.jpg",
            "2 images without a mask count as normal, as their folders or the pattern say",
        ),
    ),
    "PraNet": Known(
        _pranet,
        "pairs",
        11,
        11,
        splits={"test": 10, "train": 1},
        categories={"CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir", ""},
    ),
    "HeadCT": Known(_head_ct, "csv", 4, 0, normal=2, abnormal=2),
    "Br35H": Known(
        _br35h,
        "folders",
        6,
        0,
        normal=3,
        abnormal=3,
        notes=("9 files in Br35H-Mask-RCNN passed over: it is no class", "3 files in pred passed over: it is no class"),
    ),
    "tumours of Kaggle": Known(
        _kaggle_tumours, "folders", 16, 0, normal=4, abnormal=12, splits={"train": 8, "test": 8}
    ),
    "LGG of Kaggle": Known(_lgg, "pairs", 6, 6, patients=2),
    "BUSI": Known(_busi, "folders", 7, 7, normal=2, abnormal=5),
    "MosMed": Known(
        _mosmed,
        "mosmed",
        5,
        1,
        normal=2,
        abnormal=3,
        patients=5,
        notes=("2 images without a mask: abnormal, and nothing says where",),
    ),
    "WMH": Known(
        _wmh,
        "wmh",
        3,
        3,
        patients=3,
        splits={"train": 2, "test": 1},
        notes=(
            "sequence t2f is used, of t2f, t1n, 3dt1",
            f"1 file {SKIPPED}additional_annotations/observer_o3/training/Utrecht/0/result.nii.gz",
            "values of the masks: lesion: 1 WMH; ignored: 2 other pathology",
        ),
    ),
    "ISBI 2015": Known(
        _isbi,
        "isbi",
        5,
        4,
        patients=3,
        splits={"train": 4, "test": 1},
        notes=("4 masks of further readers not used", "1 case without a mask, and so without truth, such as test01_01"),
    ),
    "ISBI 2015, one folder a scan": Known(_isbi_flat, "isbi", 2, 2, patients=1, splits={"train": 2}),
    "MSLesSeg": Known(_mslesseg, "mslesseg", 3, 3, patients=2, splits={"train": 2, "test": 1}),
    "BraTS-MEN-RT": Known(_men_rt, "brats", 3, 3, patients=2),
    "BraTS 2013": Known(_brats_2013, "brats", 2, 2, patients=2),
    "BraTS in one folder": Known(_flat_brats, "brats", 2, 2, patients=2),
    "nnU-Net without JSON": Known(
        _nnunet, "nnunet", 3, 2, patients=3, splits={"train": 2, "test": 1}, notes=("sequence 0000 is used",)
    ),
    "Decathlon without JSON": Known(_decathlon, "pairs", 2, 2, splits={"train": 2}),
    "LiTS": Known(_lits, "pairs", 2, 2, pair=("volume-0", "volume-0.nii", "segmentation-0.nii")),
    "KiTS": Known(_kits, "pairs", 2, 2, patients=2),
    "a folder a case": Known(_image_and_mask, "pairs", 3, 3, patients=3, pair=("p1", "image.png", "mask.png")),
    "ATLAS": Known(_atlas, "bids", 3, 2, patients=3, splits={"train": 2, "test": 1}),
    "ISLES": Known(_isles, "bids", 2, 2, patients=2, notes=("sequence dwi is used, of dwi, adc, FLAIR",)),
    "VisA": Known(
        _visa,
        "visa",
        8,
        4,
        normal=4,
        abnormal=4,
        splits={"train": 2, "test": 6},
        categories={"candle", "pcb1"},
    ),
    "an object of VisA": Known(_visa_object, "visa", 4, 2, normal=2, abnormal=2, categories={"set"}),
    "MVTec without test/good": Known(
        _mvtec_without_good,
        "mvtec",
        3,
        2,
        normal=1,
        abnormal=2,
        splits={"train": 1, "test": 2},
        categories={"bottle"},
    ),
    "MVTec LOCO": Known(_loco, "mvtec", 3, 1, normal=2, abnormal=1, splits={"val": 1, "test": 2}, categories={"juice"}),
    "BTAD": Known(_btad, "mvtec", 3, 1, normal=2, abnormal=1, splits={"train": 1, "test": 2}, categories={"01"}),
    "split, then images": Known(_split_then_images, "pairs", 4, 4, splits={"train": 2, "test": 2}),
    "images, then split": Known(_images_then_split, "pairs", 4, 4, splits={"train": 2, "val": 2}),
    "masks that begin with mask": Known(_mask_beginning, "pairs", 2, 2),
    "masks in a folder beside the images": Known(_child_masks, "pairs", 2, 2),
}


def _counts(dataset: CaseDataset) -> dict[str, object]:
    labels = Counter(case.label for case in dataset)
    return {
        "layout": dataset.layout,
        "cases": len(dataset),
        "masks": sum(case.has_mask for case in dataset),
        "normal": labels[False],
        "abnormal": labels[True],
        "splits": {name: count for name, count in Counter(case.split for case in dataset).items() if name},
        "categories": {case.category for case in dataset}
        - ({""} if len({c.category for c in dataset}) == 1 else set()),
    }


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_set_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    known = KNOWN[name]
    root = tmp_path / "set"
    known.make(root)
    dataset = open_dataset(root)
    assert _counts(dataset) == {
        "layout": known.layout,
        "cases": known.cases,
        "masks": known.masks,
        "normal": known.normal,
        "abnormal": known.abnormal,
        "splits": known.splits,
        "categories": known.categories,
    }
    patients = {case.patient or case.name for case in dataset}
    unknown = "patients are not known: every image counts as its own patient" in dataset.notes
    assert (len(patients), unknown) == (known.patients or known.cases, known.patients == 0)
    for part in known.notes:
        assert any(part in note for note in dataset.notes), dataset.notes
    assert dataset.strays == known.strays
    assert dataset.why
    if known.pair:
        (case,) = (case for case in dataset if case.name == known.pair[0])
        assert (case.images[0].name, *(mask.name for mask in case.masks if mask)) == known.pair[1:]
    report = check_dataset(dataset)
    assert [problem for problem in report.problems if problem.severity == "error"] == []
    assert report.counts["readable"] == known.cases
    found = {"normal": known.normal, "abnormal": known.abnormal}
    assert all(report.counts[key] >= count for key, count in found.items())


PICTURES = [name for name, known in KNOWN.items() if known.layout in ("pairs", "folders", "mvtec", "visa")]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_of_a_known_set_is_accounted_for(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    KNOWN[name].make(root)
    dataset = open_dataset(root)
    used = {path for case in dataset for path in (*case.images, *case.masks)}
    endings = (".png", ".jpg", ".bmp", ".tif")
    left = [path for path in root.rglob("*") if path.suffix.lower() in endings and path not in used]
    said = [int(note.split()[0]) for note in dataset.notes if "passed over" in note or "not used" in note]
    assert sum(said) + len(dataset.strays) == len(left)


def test_all_masks_of_a_picture_count(tmp_path: Path) -> None:
    _busi(tmp_path)
    dataset = open_dataset(tmp_path)
    (case,) = (case for case in dataset if case.name == "benign (3)")
    truth = dataset.load(case).gt_mask
    assert truth is not None
    assert [tuple(map(int, place)) for place in np.argwhere(truth[..., 0])] == [(1, 1), (4, 4)]


def test_sequences_of_the_new_layouts_are_chosen(tmp_path: Path) -> None:
    _mslesseg(tmp_path)
    both = open_dataset(tmp_path, sequences=["T1", "flair"])
    assert [path.name for path in both[0].images] == ["P1_T1_T1.nii.gz", "P1_T1_FLAIR.nii.gz"]


def test_names_that_repeat_make_no_patients_in_a_list(tmp_path: Path) -> None:
    rows = []
    for seed, patient in enumerate(("p1", "p2")):
        for scan in ("a", "b"):
            put_volume(tmp_path / "img" / patient / f"{scan}.nii.gz", seed=seed)
            rows.append({"image": f"./img/{patient}/{scan}.nii.gz"})
    put_json(tmp_path / "dataset.json", {"training": rows})
    dataset = open_dataset(tmp_path)
    assert {case.name: case.patient for case in dataset} == {
        "p1_a": "p1",
        "p1_b": "p1",
        "p2_a": "p2",
        "p2_b": "p2",
    }
    put_text(tmp_path / "list.csv", "image\n" + "\n".join(row["image"] for row in rows))
    assert [case.patient for case in open_dataset(tmp_path / "list.csv")] == ["p1", "p1", "p2", "p2"]


def test_patients_are_found_above_a_study_that_says_its_class(tmp_path: Path) -> None:
    for patient in ("patient00001", "patient00002"):
        for study in ("study1_negative", "study2_positive"):
            put_image(tmp_path / "train" / "XR_ELBOW" / patient / study / "image1.png", seed=len(study + patient[-1:]))
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert Counter((case.patient, case.label) for case in dataset) == Counter(
        {(patient, label): 1 for patient in ("patient00001", "patient00002") for label in (True, False)}
    )


def test_masks_in_two_folders_are_asked_for(tmp_path: Path) -> None:
    for number in (1, 2):
        put_image(tmp_path / "images" / f"{number}.png", seed=number)
        put_mask(tmp_path / "mask" / f"{number}.png", [(0, 0)])  # the field of view
        put_mask(tmp_path / "label" / f"{number}.png", [(4, 4)])
    with pytest.raises(InputError, match="which folder of masks shows the lesions; given: label/ and mask/") as caught:
        open_dataset(tmp_path)
    assert "'pairs:ROOT?image=images/*.png&mask=lesions/*.png'" in caught.value.do
    chosen = open_dataset(f"pairs:{tmp_path}?image=images/*.png&mask=label/*.png")
    assert [mask.parent.name for case in chosen for mask in case.masks if mask] == ["label", "label"]


# --- patterns of a user ------------------------------------------------------------------------------------------


def _odd(root: Path) -> Path:
    for number in range(3):
        put_image(root / "scope" / f"case{number}.jpg", seed=number)
        for part in (1, 2):
            put_mask(root / "drawn" / f"case{number}_mask_{part}.png", [(part, part)])
    put_image(root / "scope" / "alone.jpg", seed=7)
    put_image(root / "fine" / "healthy1.jpg", seed=8)
    put_mask(root / "drawn" / "gone_mask_1.png")
    return root


def test_a_pattern_of_a_user(tmp_path: Path) -> None:
    _odd(tmp_path)
    dataset = open_dataset(f"pairs:{tmp_path}?image=scope/*.jpg&mask=drawn/*_mask_*.png&normal=fine/*.jpg")
    assert {case.name: (len(case.masks), case.label) for case in dataset} == {
        "case0": (2, None),
        "case1": (2, None),
        "case2": (2, None),
        "alone": (0, None),
        "healthy1": (0, False),
    }
    assert dataset.strays == ("gone_mask_1.png",)
    assert [int(dataset.load(case).gt_mask.sum()) for case in dataset if case.has_mask] == [2, 2, 2]


@pytest.mark.parametrize(
    "pattern",
    [
        "image=*.jpg&mask=*_mask*.png",  # in any folder, side by side
        "image=*/*.jpg&mask=*/*_mask*.png",
        "image=**/*.jpg&mask=**/*_mask*.png",
        "image=*/pic?_*.jpg&mask=*/pic?_*_mask*.png",
        "image=[ab]/*.jpg&mask=[ab]/*_mask.png",
        "image=*.jp*g&mask=*_m*k.png",
    ],
)
def test_stars_of_image_and_mask_say_the_same(tmp_path: Path, pattern: str) -> None:
    for folder in "ab":
        for number in (1, 2):
            put_image(tmp_path / folder / f"pic1_{number}.jpg", seed=ord(folder) + number)
            put_mask(tmp_path / folder / f"pic1_{number}_mask.png")
    found = open_dataset(f"pairs:{tmp_path}?{pattern}")
    masks = {(case.images[0].parent.name, case.images[0].stem): case.masks[0] for case in found}
    assert len(masks) == 4
    assert all(mask == tmp_path / folder / f"{stem}_mask.png" for (folder, stem), mask in masks.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "image=*.gif&mask=*.png",
            "The pattern image=*.gif must fit a file; given: 12 files, such as drawn/case0_mask_1",
        ),
        ("image=scope/*.jpg&mask=drawn/x*.png", "The pattern mask=drawn/x*.png must fit a file"),
        ("image=*.jpg&mask=*_mask_*.png", "must agree in what * stands for; given: fine/healthy1.jpg and drawn/case0"),
        ("image=scope/*.jpg", "Patterns must be given for image and mask; given: image=scope/*.jpg"),
        ("mask=drawn/*.png", "Patterns must be given for image and mask"),
        ("images=scope/*.jpg", "must be one of image, mask, normal in the layout pairs; given: images"),
        ("image=&mask=x", "image must be given a value"),
    ],
)
def test_patterns_that_fit_nothing_are_told(tmp_path: Path, options: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset(f"pairs:{_odd(tmp_path)}?{options}")
    assert said in str(caught.value)


def test_a_folder_may_have_a_question_mark_in_its_name(tmp_path: Path) -> None:
    for number in (1, 2):
        put_image(tmp_path / "what?" / "images" / f"{number}.png", seed=number)
        put_mask(tmp_path / "what?" / "masks" / f"{number}.png")
    assert len(open_dataset(f"pairs:{tmp_path / 'what?'}")) == 2
