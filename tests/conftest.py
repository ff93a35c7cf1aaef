"""Shared fixtures: real data, a tiny random pack, a small volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_cases import write_tiny_pack, write_volume


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data")
    return folder


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack folder with a random ViT of 32 px, two layers and two heads; a case takes milliseconds."""
    return write_tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """One good volume, ``good.nii.gz``."""
    return write_volume(tmp_path / "in" / "good.nii.gz")
