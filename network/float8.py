"""Weights in 8 bits (float8 e4m3, torchao) for sampling: what they need, and the conversion.

Every row of a matrix has its own scale, its largest absolute value / 448. A product converts the
matrix back to bf16 first: this saves memory, not time.
"""

from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.gpu_memory import require_room

ADA = (8, 9)  # compute capability of the first GPUs with float8


def torchao() -> Any:
    """The module torchao.quantization. Raises InputError where it is not installed."""
    try:
        import torchao.quantization
    except ImportError:
        raise InputError(
            "--dtype float8: needs the package torchao (pip install 'torchao>=0.18')"
        ) from None
    return torchao.quantization


def require_float8(device: torch.device | str, merged: bool = True) -> None:
    """Refuse, before weights are read, float8 on a device that cannot have it, without torchao, and
    beside LoRA that is not merged. Raises InputError.
    """
    device = torch.device(device)
    if not merged:
        raise InputError("--dtype float8: only for sampling, with LoRA merged into the weights")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < ADA:
        name = torch.cuda.get_device_name(device)
        raise InputError(f"--dtype float8: needs an Ada, Hopper or later GPU, not {name}")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--dtype float8: not on --device {device.type}; cpu or cuda")
    torchao()


def is_float8(weight: Tensor) -> bool:
    """Whether a weight is one that `to_float8` has converted."""
    return hasattr(weight, "qdata")


def to_float8(model: Any, device: torch.device | str) -> Any:
    """Convert the matrices of all blocks, in place and one by one, and move the model to a device,
    which never holds more than the result and one matrix. Returns the model.

    model: frozen, bf16, without LoRA, on a CPU. Embedding, norms, vocabulary head and a FlexMDM's
    newly initialised modules stay as they are. Raises InputError.
    """
    ao = torchao()
    # torchao divides by a row's largest value: a matrix with a row of zeros stays bf16
    saved = {  # bytes, by module
        name: module.weight.nbytes - module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".blocks." in name and module.weight.any(1).all()
    }
    size = sum(parameter.nbytes for parameter in model.parameters()) - sum(saved.values())
    require_room(device, {"weights": size}, "what helps: --device cpu")
    config = ao.Float8WeightOnlyConfig(set_inductor_config=False)  # which changes global settings
    ao.quantize_(model, config, lambda _, name: name in saved, device=device)
    return model
