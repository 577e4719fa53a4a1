"""LoRA (peft) on a LLaDA, alone or inside of a FlexMDM: added, merged, and the names of the base's
tensors under it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from network.config import FlexMDMConfig

# the head, never the MLPs' ff_out (paper's code)
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "transformer.ff_out"]


def add_lora(backbone: nn.Module, lora: Any) -> nn.Module:
    """Freeze a LLaDA and give it LoRA (peft) on q, k, v and the head. lora: {"r", "lora_alpha",
    "lora_dropout"}, or a LoraConfig. Adapters are fp32. In place; returns the model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = (
        lora
        if isinstance(lora, LoraConfig)
        else LoraConfig(target_modules=list(LORA_TARGETS), bias="none", **lora)
    )
    backbone.requires_grad_(False)
    on_meta = next(backbone.parameters()).device.type == "meta"
    inject_adapter_in_model(config, backbone, low_cpu_mem_usage=on_meta)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            # bf16 adapters under plain AdamW lose small updates
            parameter.data = parameter.data.float()
    return backbone


def merge_lora(model: Any) -> Any:
    """Replace every adapted layer with W + alpha/r B A, so that no peft layer is left; what is
    saved is then the whole model. In place; returns the model.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            container = model.get_submodule(parent)
            if isinstance(container, torch.nn.ModuleDict):
                container[leaf] = module.get_base_layer()
            else:
                setattr(container, leaf, module.get_base_layer())
    for adapted in (model, getattr(model, "backbone", model)):
        vars(adapted).pop("peft_config", None)
    if isinstance(model.config, FlexMDMConfig):
        model.config.lora, model.config.saved_weights = None, "full"
    return model


def with_base_layer(names: Iterable[str]) -> Callable[[str], str]:
    """Map a base checkpoint's tensor name to its name under LoRA: ....q_proj.weight ->
    ....q_proj.base_layer.weight.
    """
    known = set(names)

    def place(name: str) -> str:
        wrapped = f"{name.removesuffix('.weight')}.base_layer.weight"
        return wrapped if wrapped in known else name

    return place
