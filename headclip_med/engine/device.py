"""Which device and number type to use, by what the hardware has."""

from __future__ import annotations

from typing import Literal

import torch

from headclip_med.base.errors import ModelError

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose_device(name: str = "auto") -> torch.device:
    """Choose ``auto`` (CUDA, then Apple's MPS, then the CPU), or a PyTorch device that exists here.

    Args:
        name: ``auto``, or a name of PyTorch's such as ``cpu`` or ``cuda:1``.

    Returns:
        A device that takes a tensor.

    Raises:
        ModelError: No such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        of_exports = "Export the model first with `headclip-med bundle export --kind onnx`"
        hint = of_exports if name.startswith("openvino") else "Run `headclip-med doctor`"
        raise ModelError("The device must be auto, cpu, or one that PyTorch finds here", name, hint) from error
    return device


def choose_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """Choose the type of the matrix products.

    Args:
        device: Where they are computed.
        precision: A type by name, or ``auto``.

    Returns:
        With ``auto`` bfloat16 where the hardware multiplies it, else float16 on CUDA and float32 elsewhere.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether the CPU has bfloat16 matrix instructions (AVX512-BF16 or AMX).

    Returns:
        True where PyTorch says so.
    """
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
