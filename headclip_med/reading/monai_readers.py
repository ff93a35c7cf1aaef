"""The readers as MONAI ``ImageReader`` classes, for ``LoadImage`` and ``LoadImaged`` in anyone's pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.volume import LoadedVolume, monai_meta
from headclip_med.reading.checks import stack
from headclip_med.reading.content import Format, existing_path, identify
from headclip_med.reading.volumes import load, load_volume

Paths = Sequence[str | Path] | str | Path


class _Reader(ImageReader):
    """One or more files of certain formats; several are stacked as channels.

    ``LoadImage`` swallows what :meth:`read` raises and tries MONAI's own readers, which would read what
    we refuse (an irregular series, say) with silently wrong geometry. So :meth:`read` only declines other
    formats, and the file is read in :meth:`get_data`, whose errors reach the user.
    ``LoadImage`` itself sets ``meta["filename_or_obj"]`` to the path it was given.
    """

    formats: tuple[Format, ...] = ()

    def verify_suffix(self, filename: Paths) -> bool:
        """Whether every file is of this reader's formats, by content."""
        return all(self._is_mine(Path(path)) for path in _listed(filename))

    def read(self, data: Paths, **kwargs: Any) -> list[Path]:
        """Remember what to read; a file that is clearly of another format is left to other readers."""
        paths = [Path(path).expanduser() for path in _listed(data)]
        for path in paths:
            if self._is_foreign(path):
                raise InputError(f"{path.name} must be a file for {type(self).__name__}", "another format")
        return paths

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Float32 array ``(I, J, K)``, or ``(C, I, J, K)`` with several channels, and the metadata of
        :func:`headclip_med.reading.read_volume`; ``EnsureChannelFirstd`` makes both ``(C, I, J, K)``.
        """
        volume = self._load(list(img))
        array = volume.array[0] if len(volume.array) == 1 else volume.array
        return array, monai_meta(volume)

    @abstractmethod
    def _load(self, paths: list[Path]) -> LoadedVolume:
        """One volume from all paths."""

    def _is_mine(self, path: Path) -> bool:
        return path.is_file() and not self._is_foreign(path)

    def _is_foreign(self, path: Path) -> bool:
        try:
            return path.is_file() and identify(path) not in self.formats
        except InputError:
            return False


class _FileReader(_Reader):
    """Args: ``time``: which volume of a 4-D file (page of a TIFF), 0-based."""

    def __init__(self, time: int | None = None) -> None:
        super().__init__()
        self.time = time

    def _load(self, paths: list[Path]) -> LoadedVolume:
        return stack([load(path, time=self.time) for path in paths])


class NiftiReader(_FileReader):
    """NIfTI-1 and NIfTI-2: .nii, .nii.gz, .hdr + .img."""

    formats = ("nifti",)


class SitkReader(_FileReader):
    """NRRD and MetaImage, through SimpleITK."""

    formats = ("nrrd", "mha")


class RasterReader(_FileReader):
    """PNG, JPEG, TIFF and BMP."""

    formats = ("png", "jpeg", "tiff", "bmp")


class DicomSeriesReader(_Reader):
    """A DICOM series: a folder, a list of its files, or one file.

    Args:
        series: Which series of a folder, as in :func:`headclip_med.reading.read_volume`.
        on_irregular: What to do with irregular ones, as there.
    """

    formats = ("dicom", "zip")

    def __init__(self, series: str | int | None = None, on_irregular: str = "error") -> None:
        super().__init__()
        self.series, self.on_irregular = series, on_irregular

    def _load(self, paths: list[Path]) -> LoadedVolume:
        from headclip_med.reading.dicom.reader import read_dicom

        if len(paths) == 1:
            return load(paths[0], series=self.series, on_irregular=self.on_irregular)
        files = [existing_path(path) for path in paths]
        return read_dicom(files, series=self.series, on_irregular=self.on_irregular)

    def _is_mine(self, path: Path) -> bool:
        return path.is_dir() or super()._is_mine(path)


class VolumeReader(_Reader):
    """Any format of the others, told by content: one reader for a folder of mixed cases.

    Args:
        series: Which series of a DICOM folder.
        time: Which volume of a 4-D file, 0-based.
        on_irregular: What to do with irregular DICOM series.
    """

    formats = ("nifti", "nrrd", "mha", "dicom", "png", "jpeg", "tiff", "bmp", "zip")

    def __init__(self, series: str | int | None = None, time: int | None = None, on_irregular: str = "error") -> None:
        super().__init__()
        self.series, self.time, self.on_irregular = series, time, on_irregular

    def _load(self, paths: list[Path]) -> LoadedVolume:
        return load_volume(paths, series=self.series, time=self.time, on_irregular=self.on_irregular)

    def _is_mine(self, path: Path) -> bool:
        return path.is_dir() or super()._is_mine(path)


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)
