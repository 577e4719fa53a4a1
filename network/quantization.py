"""The frozen base in 4 bits (bitsandbytes), for training LoRA beside it. 8 bits, for sampling:
network/float8.py.
"""

from typing import Any

import torch


def quantize_base(
    model: Any,
    quant_type: str = "nf4",
    double_quant: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> Any:
    """Quantise the frozen matrices of all blocks to 4 bits (bitsandbytes), in place; they are
    packed when the model moves to its device. Returns the model.

    quant_type: nf4 or fp4; double_quant: the scales as well; compute_dtype: of the products (None:
    the weights'). LoRA, norms, embedding, head and the FlexMDM's newly initialised modules are
    unchanged. The base then takes a quarter of the memory.
    """
    import bitsandbytes

    for parent in list(getattr(model, "backbone", model).model.transformer.blocks.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and not child.weight.requires_grad:
                packed = bitsandbytes.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=False,
                    compute_dtype=compute_dtype or child.weight.dtype,
                    compress_statistics=double_quant,
                    quant_type=quant_type,
                    device="meta",
                )
                packed.weight = bitsandbytes.nn.Params4bit(
                    child.weight.data,
                    requires_grad=False,
                    compress_statistics=double_quant,
                    quant_type=quant_type,
                )
                setattr(parent, name, packed)
    return model
