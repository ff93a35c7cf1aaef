"""The bundle's ``models/`` from the embedded pack: ``python -m headclip_med.bundle.build_model [BUNDLE_ROOT]``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from headclip_med_workflows import bundle_root
from safetensors.torch import save_file
from torch import Tensor

from headclip_med.base.files import atomic_path
from headclip_med.bundle.handlers import write_ledger
from headclip_med.bundle.network import HeadCLIPNetwork, build_network


def compact_state(network: HeadCLIPNetwork) -> dict[str, Tensor]:
    """The network's tensors, in 16 bits where that loses nothing: half the size on disk, the same network."""
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        half = value.half()
        state[name] = (half if torch.equal(half.float(), value.float()) else value).contiguous().clone()
    return state


def build(root: Path) -> list[Path]:
    """Write ``model.pt``, ``model.safetensors`` and the data ledger ``model.json`` into ``root/models``.

    Raises:
        OutputError: they cannot be written.
    """
    folder = root / "models"
    folder.mkdir(parents=True, exist_ok=True)
    network = build_network("headclip-tiny", precision="float32")
    state, pack = compact_state(network), network.model.pack
    assert pack is not None
    checkpoint, tensors = folder / "model.pt", folder / "model.safetensors"
    with atomic_path(checkpoint) as draft:
        torch.save(state, draft)
    with atomic_path(tensors) as draft:
        save_file(state, draft)
        draft.chmod(0o644)  # safetensors writes it for its owner alone
    return [checkpoint, tensors, write_ledger(checkpoint, pack.record.ledger)]


if __name__ == "__main__":
    written = build(Path(sys.argv[1]) if len(sys.argv) > 1 else bundle_root("headclip_zero_shot"))
    sys.stdout.write("".join(f"{path.name}\n" for path in written))
