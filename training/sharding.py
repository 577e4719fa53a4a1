"""Sharded weights, one shard per process, by FSDP2 (torch's fully_shard, any device) or DeepSpeed
ZeRO-3; and gathering full tensors from them.

Loading: safetensors files are memory-mapped, not read, so a base in the dtype of its file costs
page cache that all processes of a node share. Both functions below then take one block or parameter
at a time, keep this process's shard and drop the rest: no process ever holds a full copy of the
base.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llada_dit import LLaDABlock


def shard_by_fsdp2(model: nn.Module, device: torch.device) -> nn.Module:
    """fully_shard every transformer block, then the other modules, over all processes. In place;
    returns the model.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for module in model.modules():
        if isinstance(module, LLaDABlock):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def reshard(model: nn.Module) -> None:
    """Drop the full parameters that FSDP2 may keep after a forward pass: they would hide what is
    then written into the shards. Without FSDP2 it does nothing.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def shard_by_zero3(model: nn.Module, deepspeed_config: dict[str, Any]) -> nn.Module:
    """Do parameter by parameter what deepspeed.initialize would do after moving the whole model to
    the GPU. In place; returns the model.
    """
    import deepspeed

    deepspeed.init_distributed()
    deepspeed.zero.Init(module=model, config_dict_or_path=deepspeed_config)
    return model


def whole_tensor(parameter: Tensor) -> Tensor:
    """The full value of a parameter, detached, however it is sharded; ZeRO's fp32 master if there
    is one. Every process must call it.
    """
    if isinstance(parameter, DTensor):
        whole: Any = parameter.detach()  # a DTensor still
        return whole.full_tensor()
    if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter).detach()
    return parameter.detach()


def copy_into(parameter: Tensor, tensor: Tensor) -> None:
    """Copy a full tensor into a parameter: only this process's shard if the parameter is sharded by
    FSDP2.
    """
    if not isinstance(parameter, DTensor):
        parameter.copy_(tensor)
        return
    local, mesh = parameter.to_local(), parameter.device_mesh
    shard: Any = parameter.placements[0]  # fully_shard's are Shard
    parts = torch.chunk(tensor, mesh.size(), dim=shard.dim)
    if mesh.get_local_rank() < len(parts):  # fewer rows than processes: the last ones hold nothing
        local.copy_(parts[mesh.get_local_rank()])


def save_sharded_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path
) -> None:
    """Write the optimizer's state, each process its shard; a run with another number of processes
    can read it.
    """
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    checkpoint.save(get_optimizer_state_dict(model, optimizer), checkpoint_id=folder)


def load_sharded_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path
) -> None:
    """Load the state written by save_sharded_optimizer into the optimizer."""
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    state = get_optimizer_state_dict(model, optimizer)
    checkpoint.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(model, optimizer, state)
