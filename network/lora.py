"""LoRA (peft) on a LLaDA, alone or inside of a FlexMDM: added, merged, and read from and written to
PEFT's adapter folders.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config_values import check_lora
from common.errors import InputError
from common.files import read_json
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


def in_adapter(name: str) -> str:
    """The name that a LoRA tensor has in an adapter folder."""
    return f"base_model.model.{name.replace('.default.', '.')}"


def read_adapter_config(folder: Path) -> Any:
    """peft's LoraConfig of an adapter folder, to be trained or merged. Raises InputError."""
    from peft import LoraConfig

    source = folder / "adapter_config.json"
    content = read_json(source)
    check_lora(content, source)
    if content.get("peft_type") != "LORA":
        raise InputError(f"{source}: peft_type is {content.get('peft_type')!r}, not 'LORA'")
    try:
        adapter = LoraConfig.from_pretrained(str(folder))
    except Exception as error:
        raise InputError(f"{source} is no LoRA configuration: {error}") from None
    adapter.inference_mode = False  # else peft freezes the adapter as well
    return adapter


def write_adapter(adapter: Any, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write an adapter folder: a LoraConfig that names its base, and tensors with the names that
    they have in the model.
    """
    from safetensors.torch import save_file

    adapter.save_pretrained(str(folder))
    save_file(
        {in_adapter(name): tensor.detach().contiguous() for name, tensor in state.items()},
        folder / "adapter_model.safetensors",
    )
