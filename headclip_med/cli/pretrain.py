"""Pretraining from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from headclip_med.base.errors import HeadclipError
from headclip_med.training.pretraining.run import load_pretrain_config, pretrain


def main() -> None:
    """Run the pretraining that the command line asks for."""
    from headclip_med.cli.screen.train import TrainBar

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    changes = {name: getattr(options, name) for name in ("out", "seed") if getattr(options, name) is not None}
    with TrainBar() as watcher:
        try:
            pretrain(load_pretrain_config(options.config, **changes), resume=options.resume, watcher=watcher)
        except HeadclipError as error:
            raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
