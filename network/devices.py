"""Where a network runs and in which dtype, as --device and --dtype say."""

import os
import re

import torch

from common.errors import InputError
from network.float8 import require_float8


def pick_device(name: str = "auto") -> torch.device:
    """auto: cuda (this process's GPU), else mps, else cpu, whichever torch has.

    Raises InputError for a device that does not exist, and for an invalid name."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    numbered = kind == "cuda" and re.fullmatch("[0-9]+", number)
    if name not in ("cpu", "cuda", "mps") and not numbered:
        raise InputError(f"--device: {name} is not one of auto, cpu, cuda, cuda:N and mps")
    if kind == "cuda" and int(number or 0) >= count:
        there = f"there are cuda:0 to cuda:{count - 1}" if count else "torch sees no CUDA GPU"
        raise InputError(f"--device: {name} is not available here: {there}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device: mps is not available here")
    if kind == "cuda":
        torch.cuda.set_device(int(number or os.environ.get("LOCAL_RANK", "0")) % count)
    return torch.device(name)


def pick_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """The dtype of a name (float32, bfloat16, float8); auto: bfloat16 on cuda, float32 elsewhere.
    Raises InputError for float8 where it is not possible.
    """
    if name == "auto":
        name = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    if name == "float8":
        require_float8(device)
        return torch.float8_e4m3fn
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
