"""The checkpoint format of the paper's code: pytorch_model.bin, the authors' whole wrapper as saved
by torch.save, with PEFT's names inside and temb_mod repeated in every block of a group of 8.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from common.errors import InputError
from common.files import resolve_folder
from network.checkpoint_folder import lasting_name, llada_config
from network.config import FlexMDMConfig

PREFIX = "backbone.base_model.model.model.transformer."


def read_paper_checkpoint(
    folder: Path, base: str | Path | None, lora_alpha: float | None
) -> tuple[FlexMDMConfig, list[tuple[str, Tensor]]]:
    """(config, (name, tensor) pairs with LLaDADiT's names) of a folder with pytorch_model.bin.

    base: a LLaDA's folder or hub id whose config.json fits it; lora_alpha: None means r. Raises
    InputError for any other content.
    """
    if base is None:
        raise InputError(
            f"--base_model: {folder} has no config of its own; name the LLaDA folder (or hub id)"
            " whose config.json fits it"
        )
    backbone = llada_config(resolve_folder(base, "--base_model"))
    file = folder / "pytorch_model.bin"
    try:
        state = torch.load(file, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:
        raise InputError(f"cannot read {file}: {str(error).splitlines()[0]}") from None
    ranks = (
        tensor.shape[0] for name, tensor in state.items() if name.endswith("lora_A.default.weight")
    )
    rank = next(ranks, None)
    if rank is None:
        raise InputError(f"{file} holds no LoRA tensors: not a FlexMDM of the paper's code")
    config = FlexMDMConfig(
        backbone=backbone.to_json(),
        base_model_name_or_path=lasting_name(str(base)),
        time_scale=1.0,
        length_head="softplus",
        attend_to_padding=True,
        mask_token_id=backbone.mask_token_id,
        pad_token_id=backbone.pad_token_id,
        lora={"r": rank, "lora_alpha": lora_alpha or rank, "lora_dropout": 0.1},
    )
    group = config.adaln_group_size
    owner = re.compile(re.escape(PREFIX) + r"blocks\.(\d+)\.temb_mod\.(weight|bias)")
    tensors, copies = [], []
    for name, tensor in state.items():
        match = owner.fullmatch(name)
        if match and int(match[1]) < backbone.n_layers:
            first = f"{PREFIX}blocks.{int(match[1]) // group * group}.temb_mod.{match[2]}"
            if name == first:
                tensors.append((f"temb_mods.{int(match[1]) // group}.{match[2]}", tensor))
            elif first in state and not torch.equal(tensor, state[first]):
                copies.append(name)
        else:
            tensors.append((name.replace(PREFIX, "backbone.model.transformer.", 1), tensor))
    repeated = {
        f"{PREFIX}blocks.{block}.temb_mod.{leaf}"
        for block in range(backbone.n_layers)
        for leaf in ("weight", "bias")
    }
    if copies or repeated - set(state):
        raise InputError(
            f"{file}: temb_mod of a group of {group} blocks is missing or differs within it:"
            f" {', '.join(sorted(copies + list(repeated - set(state)))[:8])}"
        )
    return config, tensors
