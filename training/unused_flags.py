"""Flags that would have no effect on a run are refused: what was typed is done, or nothing is. A
flag that is left alone is never refused, nor is one that says what holds anyway.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import InputError
from common.files import read_json, resolve_folder

Arguments: TypeAlias = Any  # RunArguments, whose module imports this one

# fields of FlexMDMConfig that --init_from keeps
KEPT = (
    "insertion_schedule",
    "unmask_schedule",
    "length_head",
    "length_distribution",
    "time_scale",
    "time_epsilon",
    "adaln_group_size",
    "attend_to_padding",
)
EVALUATIONS = "--eval_strategy steps evaluates while training, --evaluate_only without"
LORA = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}


def evaluates(args: Arguments) -> bool:
    """Whether held-out rows are evaluated while training."""
    return bool(args.eval_on_start) or evaluates_again(args)


def evaluates_again(args: Arguments) -> bool:
    """Whether they are evaluated every so often, and not before the first step alone."""
    return str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"


# (when, flags that then have no effect, why)
RULES: tuple[tuple[Callable[[Any], Any], tuple[str, ...], str], ...] = (
    (
        lambda args: not args.evaluate_only,
        ("eval_data", "eval_draws"),
        "they are for --evaluate_only; training evaluates the validation split of --train_data",
    ),
    (
        lambda args: not args.dry_run,
        ("dry_run_gpus", "dry_run_tokens", "mfu", "gpu_tflops"),
        "they are for --dry_run",
    ),
    (
        lambda args: not args.variable_length,
        (*KEPT, "start_share"),
        "only a FlexMDM has such a setting (--variable_length)",
    ),
    (
        lambda args: args.variable_length,
        ("mask_ratio_epsilon",),
        "it is LLaDA's; a FlexMDM (--variable_length) has --time_epsilon",
    ),
    (
        lambda args: args.all_parameters,
        (*LORA, "lora_lr", "lora_weight_decay"),
        "with --all_parameters there is no LoRA",
    ),
    (
        lambda args: not (args.all_parameters or args.variable_length),
        ("weight_decay",),
        "LoRA alone is trained, with --lora_weight_decay",
    ),
    (
        lambda args: not evaluates_again(args),
        ("eval_steps", "eval_delay"),
        "a run evaluates with --eval_strategy steps",
    ),
    (lambda args: args.init_from, ("from_scratch",), "--init_from has its weights"),
    (
        lambda args: not (args.init_from or args.length_distribution),
        ("start_share",),
        "there is no length distribution (--length_distribution)",
    ),
    (
        lambda args: True,
        ("train_sampling_strategy", "length_column_name", "data_seed"),
        "--seed alone decides which rows a step has",
    ),
    (
        lambda args: True,
        ("torch_compile_backend", "torch_compile_mode"),
        "--torch_compile compiles block by block, as torch does by default",
    ),
    (
        lambda args: not (evaluates(args) or args.evaluate_only),
        ("do_eval",),
        EVALUATIONS,
    ),
    (lambda args: True, ("do_predict",), EVALUATIONS),
)


def refuse_unused_flags(args: Arguments) -> None:
    """Refuse typed flags that the others leave without an effect, and flags that contradict each
    other. Raises InputError naming them.
    """
    for applies, flags, why in RULES:
        unused = [f"--{flag}" for flag in flags if flag in args.typed and getattr(args, flag)]
        if unused and applies(args):
            raise InputError(f"{', '.join(unused)}: no effect here, {why}")
    both = "give only one of"
    if args.dry_run and args.evaluate_only:
        raise InputError(f"{both} --dry_run and --evaluate_only")
    if args.resume_from_checkpoint not in (None, "", "auto") and args.evaluate_only:
        raise InputError(
            "--resume_from_checkpoint: --evaluate_only resumes nothing; --init_from names the"
            " checkpoint to evaluate"
        )
    if args.resume_from_checkpoint and args.overwrite:
        raise InputError(
            f"{both} --overwrite and --resume_from_checkpoint: one deletes the run that the other"
            " resumes"
        )
    if args.cache_path and args.cache_path != args.train_data:
        raise InputError(f"{both} --train_data and --cache_path, which are one flag")


def without_effect(args: Arguments) -> set[str]:
    """The flags that have no effect on a run, typed or not. Raises InputError."""
    flags = {flag for applies, unused, _ in RULES if applies(args) for flag in unused}
    if args.init_from:
        kept, lora = kept_settings(resolve_folder(args.init_from, "--init_from"))
        if kept or lora:
            flags |= {"all_parameters", *LORA}
        if kept and not lora:
            flags |= {"lora_lr", "lora_weight_decay"}
    return flags


def refuse_other_settings(args: Arguments) -> None:
    """Refuse typed flags that contradict the checkpoint of --init_from, which keeps its settings.
    Raises InputError naming both.
    """
    if not args.init_from:
        return
    folder = resolve_folder(args.init_from, "--init_from")
    kept, lora = kept_settings(folder)
    if kept:
        wanted, counts = args.flexmdm_settings(), kept["length_distribution"]
        for flag in KEPT:
            added = (
                flag == "length_distribution" and not counts
            )  # a checkpoint without is given one
            if flag in args.typed and wanted[flag] != kept[flag] and not added:
                _refuse(args, flag, f"{flag} {kept[flag]}")
        unread = args.start_share and not (counts or args.length_distribution)
        if unread and "start_share" in args.typed:
            _refuse(args, "start_share", "no length distribution")
    if lora:
        if args.all_parameters:
            _refuse(args, "all_parameters", "LoRA; `python llada_utils.py export` merges it")
        for flag, name in LORA.items():
            if flag in args.typed and getattr(args, flag) != lora.get(name):
                _refuse(args, flag, f"{flag} {lora.get(name)}")
    elif kept:  # a LLaDA without LoRA gets one; only a frozen base can be in 4 bits
        for flag in ("all_parameters", *LORA, "lora_lr", "lora_weight_decay", "load_in_4bit"):
            if flag in args.typed and bool(getattr(args, flag)) != (flag == "all_parameters"):
                _refuse(args, flag, "no LoRA: all its parameters are trained")


def _refuse(args, flag, what):
    raise InputError(
        f"--{flag} {getattr(args, flag)}: --init_from keeps its settings, and {args.init_from} has"
        f" {what}"
    )


def kept_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of FlexMDMConfig, or none for a LLaDA; the settings of its LoRA, or none) of a
    checkpoint's folder. Raises InputError.
    """
    from network.checkpoint_folder import flexmdm_config, has_flexmdm_config

    if has_flexmdm_config(folder):
        config = flexmdm_config(folder)
        return config.own_fields(), config.lora or {}
    adapter = folder / "adapter_config.json"
    content = read_json(adapter) if adapter.exists() else {}
    # what is no JSON object is refused when it is loaded
    return {}, content if isinstance(content, dict) else {}
