"""Make the pictures of the README and the docs from the code itself: python docs/make_pictures.py [OUT_FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

from headclip_med import load_engine
from headclip_med.demo import demo_phantom
from headclip_med.writing.overlay import montage, save_picture


def main() -> None:
    """The montage of the embedded demonstration, whose lesion the model never saw."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    phantom = demo_phantom()
    result = load_engine().predict(phantom.array, affine=phantom.affine)
    save_picture(montage(result, columns=4, n=8), out / "demo_overlay.png")


if __name__ == "__main__":
    main()
