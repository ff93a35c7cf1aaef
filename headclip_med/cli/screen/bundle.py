"""What ``headclip-med bundle`` shows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from headclip_med.cli.screen.console import out, say_note, show, status_text, table

if TYPE_CHECKING:
    from headclip_med.bundle.run import BundleOutcome
    from headclip_med.bundle.verify import Verification


@contextmanager
def stdout_for_json(wanted: bool) -> Iterator[None]:
    """Keep stdout for the one JSON object: what a bundle prints and logs goes to stderr."""
    if not wanted:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def show_bundles(bundles: Sequence[dict[str, Any]]) -> None:
    """Name, version, title and workflows of every bundle."""
    rows = table("bundle", "version", "what", "workflows")
    for bundle in bundles:
        cells = (bundle["name"], bundle["version"] or "–", bundle["title"] or "–", ", ".join(bundle["configs"]))
        rows.add_row(*map(str, cells))
    show(rows)


def show_outcome(outcome: BundleOutcome, dry_run: bool) -> None:
    """Show one line, on stderr, for stdout is the bundle's. Of several processes only the first one speaks."""
    if not is_first_process():
        return
    run = outcome.run
    where = f" → {run.output_dir}" if run.output_dir is not None and outcome.files else ""
    what = "checked and built, nothing was run" if dry_run else f"done in {outcome.seconds:.0f} s{where}"
    say_note(f"{run.bundle.name} {run.name}: {what}")


def is_first_process() -> bool:
    """Tell whether this is the one that tells the user, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def outcome_json(outcome: BundleOutcome, dry_run: bool) -> dict[str, Any]:
    """Give the object that ``bundle run --json`` prints."""
    run = outcome.run
    return {
        "bundle": str(run.bundle.root),
        "workflow": run.name,
        "config_files": [str(file) for file in run.config_files],
        "overrides": json.loads(json.dumps(run.overrides, default=str)),
        "dry_run": dry_run,
        "seconds": round(outcome.seconds, 3),
        "output_dir": None if run.output_dir is None else str(run.output_dir),
        "files": outcome.files,
    }


def show_checks(checks: Sequence[Verification]) -> None:
    """Show one row per check, and how many failed."""
    rows = table("", "check", "found")
    for check in checks:
        rows.add_row(status_text(check.status), check.name, check.words)
    show(rows)
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "skipped", "fail")}
    out.print(", ".join(f"{number} {status}" for status, number in counts.items() if number))
