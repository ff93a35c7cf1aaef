"""DICOM files → the headers that a series is assembled from."""

from __future__ import annotations

from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.reading.dicom.frames import frame_headers
from headclip_med.reading.dicom.header import TAGS, ImageHeader, check_deflated, file_stamp, header_of, read_dataset
from headclip_med.reading.dicom.mosaic import is_mosaic, tile_headers


def read_headers(path: Path) -> list[ImageHeader] | None:
    """Read the images of one DICOM file, one a frame where frames have places, one a tile of a mosaic.

    Args:
        path: The file.

    Returns:
        Their headers, None when it cannot be parsed.

    Raises:
        InputError: a decompression bomb.
    """
    try:
        stamp = file_stamp(path)
        check_deflated(path)
        dataset = read_dataset(path, specific_tags=list(TAGS))
        header = header_of(path, dataset, stamp)
        has_frames = "PerFrameFunctionalGroupsSequence" in dataset
        if header.kind == "image" and not has_frames and is_mosaic(dataset):
            return tile_headers(header, read_dataset(path))
        return frame_headers(header, dataset)
    except InputError:
        raise
    except Exception:  # pydicom raises whatever the damaged bytes provoke
        return None
