"""What must not change when a run is resumed: its settings, and the files that it starts from."""

from typing import Any

from common.files import resolve_folder
from data.token_rows import rows_hash
from llada_dit import LLaDADiT
from network.checkpoint_folder import checkpoint_hash, named_base
from training.arguments import RunArguments
from training.unused_flags import without_effect

SETTINGS = (
    "model_name_or_path",
    "init_from",
    "variable_length",
    "from_scratch",
    "all_parameters",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "train_data",
    "sft_max_length",
    "low_discrepancy",
    "loss_constant",
    "learning_rate",
    "lora_lr",
    "weight_decay",
    "lora_weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "mask_ratio_epsilon",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "ema_decay",
    "bf16",
    "fp16",
    "load_in_4bit",
    "seed",
    "max_steps",
    "task",
)


def run_settings(args: RunArguments, model: Any, rows: int) -> dict[str, Any]:
    """Settings that must not change when a run is resumed. rows: how many it trains on."""
    # those may: older versions took such flags, and their runs can be resumed without them
    idle = without_effect(args)
    settings = {
        key: getattr(args, key) for key in SETTINGS if hasattr(args, key) and key not in idle
    } | {"global_batch": args.global_batch}
    settings |= {"lr_scheduler_kwargs": args.lr_scheduler_kwargs or {}, "rows": rows}
    if isinstance(model, LLaDADiT):
        settings |= {
            key: getattr(model.config, key)
            for key in (
                "insertion_schedule",
                "unmask_schedule",
                "length_head",
                "time_scale",
                "time_epsilon",
                "adaln_group_size",
                "attend_to_padding",
            )
        }
        if model.config.length_distribution:
            settings["length_distribution"] = model.config.length_distribution
            settings["start_share"] = args.start_share
    return settings


def input_hashes(args: RunArguments) -> dict[str, str]:
    """Hashes of files that must not change either: training rows, and the weights and tokenizer
    that the run starts from (with their base).
    """
    start, flag = (
        (args.init_from, "--init_from")
        if args.init_from
        else (args.model_name_or_path, "--model_name_or_path")
    )
    base = named_base(resolve_folder(start, flag))
    assert args.train_data is not None  # check: a run that trains has it
    hashes = {
        "train_data_hash": rows_hash(args.train_data),
        "start_hash": checkpoint_hash(start, flag),
    }
    return hashes | ({"base_hash": checkpoint_hash(base)} if base else {})
