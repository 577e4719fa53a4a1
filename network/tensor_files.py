"""Tensors on disk: safetensors files and shards to a network, checked name by name, and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.files import read_json
from common.gpu_memory import require_room


def read_tensors(folder: Path, name: str = "model.safetensors") -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of one safetensors file or of the shards that NAME.index.json lists, one
    tensor at a time. Raises InputError.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / f"{name}.index.json"
    if index.exists():
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{index} has no weight_map of tensor names to files")
        shards: dict[str, list[str]] = {}
        for tensor_name, file in weight_map.items():
            # a bare name: files elsewhere do not belong to this checkpoint
            if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
                raise InputError(f"{index}: {file!r} is no file name within {folder}")
            shards.setdefault(file, []).append(tensor_name)
        files: Mapping[str, list[str] | None] = shards  # None: all that a file holds
    elif (folder / name).exists():
        files = {name: None}
    else:
        raise InputError(f"{folder} holds neither {name} nor {name}.index.json")
    for file, names in files.items():
        if not (folder / file).is_file():
            raise InputError(f"{folder / file} is not there, or no regular file")
        try:
            with safe_open(folder / file, framework="pt") as content:
                for tensor_name in names or content.keys():
                    yield tensor_name, content.get_tensor(tensor_name)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"cannot read {folder / file} (damaged or truncated?): {error}"
            ) from None


def backbone_tensors(
    tensors: Iterable[tuple[str, Tensor]], prefix: str = ""
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a LLaDA that a FlexMDM's backbone has: without a length distribution.
    prefix: of the LLaDA's names.
    """
    return (pair for pair in tensors if not pair[0].startswith(f"{prefix}length_distribution."))


def load_into(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    dtype_of: Callable[[str], torch.dtype | None],
    device: torch.device | str,
    source: str | Path,
    expected: Iterable[str] | None = None,
) -> None:
    """Load (name, tensor) pairs into a model built on the meta device, each cast to dtype_of(name)
    (None: as it is stored), none copied twice.

    expected: names that must be present (default: all of the model's). Raises InputError listing
    tensors that are missing, unexpected, misshapen, not floating-point, or not finite.
    """
    have = dict(model.named_parameters())
    wanted = set(have if expected is None else expected)
    stored: dict[str, torch.dtype] = {}
    if None in map(dtype_of, wanted):
        tensors = list(tensors)  # of mapped files: their content is not read yet
        stored = {name: tensor.dtype for name, tensor in tensors}
    size = sum(
        have[name].numel() * (dtype_of(name) or stored.get(name, torch.float32)).itemsize
        for name in wanted & have.keys()
    )
    require_room(
        device,
        {"weights": size},
        "what helps: --dtype bfloat16 (or float8, to sample), or --device cpu",
    )
    unexpected: list[str] = []
    misshapen: list[str] = []
    not_real: list[str] = []
    not_finite: list[str] = []
    seen: set[str] = set()
    for name, tensor in tensors:
        if name not in wanted or name in seen:
            unexpected.append(name)
        elif tensor.shape != have[name].shape:
            misshapen.append(f"{name} {tuple(tensor.shape)} instead of {tuple(have[name].shape)}")
            seen.add(name)
        elif not tensor.is_floating_point():
            not_real.append(f"{name} ({str(tensor.dtype).removeprefix('torch.')})")
            seen.add(name)
        else:
            parent, _, leaf = name.rpartition(".")
            new = torch.nn.Parameter(
                tensor.to(device, dtype_of(name) or tensor.dtype),
                requires_grad=have[name].requires_grad,
            )
            if not torch.isfinite(new).all():
                not_finite.append(name)
            setattr(model.get_submodule(parent), leaf, new)
            seen.add(name)
    problems = [
        f"{what} {', '.join(sorted(names)[:8])}{' ...' if len(names) > 8 else ''}"
        for what, names in [
            ("missing", wanted - seen),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
            ("no floating-point numbers", not_real),
            ("not finite", not_finite),
        ]
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the network: {'; '.join(problems)}")


def write_tensors(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a state dict as model.safetensors, or as shards and their index."""
    from huggingface_hub import save_torch_state_dict

    whole = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    for name, tensor in whole.items():
        if tensor.untyped_storage().nbytes() > tensor.nbytes:  # a view of fuse_projections'
            whole[name] = tensor.clone()
    save_torch_state_dict(whole, folder)
