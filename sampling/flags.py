"""The samplers' options as flags of a command. Nothing here imports torch.

    parser = ArgumentParser(description=...)
    add_model_flags(parser)          # which checkpoint, where it runs, and what both samplers take
    add_flexmdm_flags(parser)        # FlexMDM's own
    add_llada_flags(parser)          # LLaDA's own; a script may add both, no flag is defined twice
    options = options_from(parser.parse_args(), SamplerOptions)

A script with other defaults calls parser.set_defaults(...) before it parses.
"""

import argparse
from dataclasses import fields
from typing import Any, TypeVar

from common.command_line import Switch
from common.errors import InputError
from sampling.option_fields import OptionError, flag_of
from sampling.options import (
    SEED,
    TAU_LEAPING_STEPS,
    LLaDAOptions,
    SamplerOptions,
    SharedOptions,
    shared_names,
)


def add_model_flags(parser: argparse.ArgumentParser, checkpoint_required: bool = True) -> None:
    """Which model, on which device, and the options that every sampler takes. checkpoint_required:
    False for a script that can also work without a model.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint_path",
        required=checkpoint_required,
        help="folder of the checkpoint to sample from; FlexMDM or LLaDA is detected",
    )
    group.add_argument(
        "--base_model",
        help=(
            "base weights, folder or hub id, if the checkpoint does not name them or they have"
            " moved"
        ),
    )
    group.add_argument(
        "--lora_alpha",
        type=float,
        help="LoRA alpha, for a checkpoint that does not store it (default: its rank)",
    )
    add_device_flags(group)
    group.add_argument(
        "--seed", type=int, default=SEED, help=f"seed of every random number (default: {SEED})"
    )
    _add_options(group, SharedOptions, set())


def add_device_flags(group: Any) -> None:
    """Where a network runs and in which precision. group: a parser or one of its groups."""
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float8"),
        default="auto",
        help=(
            "auto: bfloat16 on a GPU, else float32; float8: bfloat16 with the blocks' matrices in 8"
            " bits, to save memory (needs torchao)"
        ),
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )
    group.add_argument(
        "--torch_compile",
        action="store_true",
        help="compile the network: takes a minute at the start, then faster on a GPU",
    )


def add_flexmdm_flags(parser: argparse.ArgumentParser) -> None:
    """FlexMDM's own options."""
    _add_options(parser.add_argument_group("FlexMDM sampler"), SamplerOptions, shared_names())


def add_llada_flags(parser: argparse.ArgumentParser) -> None:
    """LLaDA's own options."""
    _add_options(parser.add_argument_group("LLaDA sampler"), LLaDAOptions, shared_names())


def _add_options(group: Any, kind: type[SharedOptions], without: set[str]) -> None:
    for each in fields(kind):
        rule = each.metadata
        if each.name in without or rule["help"] is None:
            continue
        how: dict[str, Any] = {"default": each.default}
        if rule.get("type") is bool:
            how["action"] = Switch
        else:
            how |= {name: rule[name] for name in ("type", "choices", "metavar") if name in rule}
        group.add_argument(flag_of(each), help=rule["help"].replace("%", "%%"), **how)


Options = TypeVar("Options", bound=SharedOptions)


def options_from(
    args: argparse.Namespace, kind: type[Options], default_steps: int | None = TAU_LEAPING_STEPS
) -> Options:
    """A sampler's options from parsed flags. default_steps: tau-leaping's, if --diffusion_steps is
    not given. Raises InputError naming the flag.
    """
    if not 0 <= args.seed < 2**31:
        raise InputError(f"--seed {args.seed}: must be in 0 ... 2147483647")
    values, flags = {}, {}
    for each in fields(kind):
        if each.metadata["help"] is None:
            continue
        flags[each.name] = flag = flag_of(each)
        value = getattr(args, flag.removeprefix("--"))
        if value is not None and "parse" in each.metadata:
            try:
                value = each.metadata["parse"](value)
            except (ValueError, ArithmeticError) as error:
                raise InputError(f"{flag} {value}: {error}") from None
        values[each.name] = value
    if values["steps"] is None and values.get("sampler") == "tau_leaping":
        values["steps"] = default_steps
    try:
        return kind(**values)
    except OptionError as error:
        raise InputError(f"{flags[error.name]} {error.value}: must be {error.wanted}") from None
