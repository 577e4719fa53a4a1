"""Faster blocks with the same results up to rounding: compiled, or with fused projections."""

import os
import shutil
from types import MethodType
from typing import Any

import torch
from torch import nn

from common.errors import InputError


def compile_network(model: Any) -> None:
    """torch.compile the blocks in place, for any batch size and length: they are equal, so one
    compilation serves them all. Gradient checkpointing and sharding hooks stay outside.

    Raises InputError if a CPU network would need a compiler that is not installed."""
    if next(model.parameters()).device.type == "cpu" and not any(
        map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))
    ):
        raise InputError(
            "--torch_compile: on a CPU it needs a C++ compiler, and there is no g++ or clang++"
        )
    blocks = getattr(model, "backbone", model).model.transformer.blocks
    compiled = torch.compile(type(blocks[0]).body, dynamic=True)
    for block in blocks:
        block.body = MethodType(compiled, block)


def fuse_projections(block: Any) -> None:
    """Concatenate a LLaDABlock's q, k, v and the two inner MLP matrices, with the parameters as
    views: two products instead of five.

    For inference after LoRA is merged; weights moved or replaced afterwards have no effect.
    """
    block.fused = []
    for names in (("q_proj", "k_proj", "v_proj"), ("ff_proj", "up_proj")):
        layers = [getattr(block, name) for name in names]
        whole = torch.cat([layer.weight.detach() for layer in layers])
        for layer, part in zip(layers, whole.split([layer.out_features for layer in layers])):
            layer.weight = nn.Parameter(part, requires_grad=False)
        block.fused.append(whole)
