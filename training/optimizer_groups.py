"""Which parameters share a learning rate and a weight decay."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from training.arguments import RunArguments


def parameter_groups(model: nn.Module, args: "RunArguments") -> dict[str, dict[str, Any]]:
    """The optimizer's groups of the model's trained parameters, by name: LoRA, matrices and
    vectors; without those that are empty.
    """
    settings = {
        "lora": {"lr": args.lora_lr or args.learning_rate, "weight_decay": args.lora_weight_decay},
        "matrix": {"lr": args.learning_rate, "weight_decay": args.weight_decay},
        "vector": {"lr": args.learning_rate, "weight_decay": 0.0},
    }
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "lora" if ".lora_" in name else "matrix" if parameter.ndim > 1 else "vector"
            groups[kind].append(parameter)
    return {kind: {"params": groups[kind], **settings[kind]} for kind in settings if groups[kind]}
