"""GPU memory: how much there is, whether the weights can fit, and a one-line error when it runs
out.

    require_room("cuda:0", {"weights": 16e9}, "...")     before weights are read
    @out_of_memory_advice("...")                         torch's OutOfMemoryError -> InputError

A run's memory is estimated as in --dry_run (training/estimate.py); refused beforehand is only what
cannot fit with any batch size. Importing this module does not import torch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from common.errors import InputError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")
# name: bytes
Parts: TypeAlias = Mapping[str, float]

GIB = 2**30
ONE_PROMPT = (
    "what helps: --dtype bfloat16, a smaller --rows_at_once or --num_samples, "
    "a shorter --max_length"
)
MANY_PROMPTS = (
    "what helps: --dtype bfloat16, a smaller --batch_size or --rows_at_once, a shorter --max_length"
)
EVALUATION = (
    MANY_PROMPTS
    + ". Finished rows are on disk; the same command with a smaller --batch_size resumes from there"
)
# torch's allocator raises OutOfMemoryError; libraries that allocate past it, only these words.
WORDS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory")


def device_memory(device: str | torch.device) -> int | None:
    """All the memory of a CUDA device in bytes; None for any other device."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def gib(parts: Mapping[str, float]) -> str:
    """{"weights": bytes, ...} as "weights 15.7 + optimizer 3.0 = 18.7 GiB"."""
    shown = " + ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    return shown + (f" = {sum(parts.values()) / GIB:.1f}" if len(parts) > 1 else "") + " GiB"


def require_room(
    device: str | torch.device, parts: Parts | Callable[[], Parts], advice: str | Callable[[], str]
) -> None:
    """Raise InputError if what a device must hold at all times exceeds its total memory.

    parts: {name: bytes}, or a function that returns it and is called for a GPU only;
    advice: what would help, or a function that returns it.
    """
    total = device_memory(device)
    if total is None:
        return
    parts = parts() if callable(parts) else parts
    if sum(parts.values()) > total:
        advice = advice() if callable(advice) else advice
        raise InputError(
            f"GPU memory: {device} has {total / GIB:.1f} GiB, too little for {gib(parts)}; {advice}"
        )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether torch ran out of GPU memory: the error itself, or one that caused it."""
    torch = sys.modules.get("torch")
    while torch and error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def out_of_memory_advice(
    advice: str | Callable[..., str],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: a function that runs out of GPU memory raises an InputError that says what helps.

    advice: text, or a function of the same arguments that returns it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = ". ".join(str(error).split(". ")[:3]).rstrip(". ")
            # Not above: there the error still holds every tensor of the step that failed.
            text = advice(*args, **kwargs) if callable(advice) else advice
            raise InputError(f"GPU memory: {said}; {text}")

        return wrapped

    return decorate


# ---- training
