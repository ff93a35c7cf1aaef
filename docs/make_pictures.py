"""Make the pictures of the README and the docs from the code itself: python docs/make_pictures.py [OUT_FOLDER]."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from headclip_med.demo import run_demo


def main() -> None:
    """The preview of the embedded demonstration, whose lesion the model never saw."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_demo(Path(folder))
        shutil.copy(outcome.files["preview"], out / "demo_overlay.png")


if __name__ == "__main__":
    main()
