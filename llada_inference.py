r"""Sample from a LLaDA, the baseline, as a library (generate_mdm, generate_mdm_infilling) or on the
command line for your own prompt or infill.

Laptop, a prompt (128 tokens in blocks of 32, unless flags say otherwise):
    python llada_inference.py --checkpoint_path C --prompt "Once upon a time"
A GSM8K question:
    python llada_inference.py --checkpoint_path C --task math \
        --prompt "Tom has 3 apples ..." --gen_length 256 --block_length 32 --diffusion_steps 128
An infill, formatted as in fine-tuning (the missing middle is written after prefix and suffix):
    python llada_inference.py --checkpoint_path C \
        --prefix $'def add(a, b):\n    return ' --suffix $'\n' --gen_length 32
In place, with exactly 12 tokens between prefix and suffix, instead of --gen_length:
    ... --middle_length 12
The paper's setting (one block of 1024):
    ... --gen_length 1024 --max_length 2048 --remasking random --diffusion_steps 256
Watch it in the terminal, as a page that replays the generation, or as curves:
    ... --watch, or --trace page.html, or --trace curves.png
One GPU: the same command (--device auto uses it, in bfloat16). Slurm:
    srun --gpus 1 python llada_inference.py ...

A fixed number of masks follows the prompt and is unmasked in a fixed number of steps, block by
block from the left; the sampling loop is in sampling/llada.py. The answer, up to the first end
token, goes to stdout, its length and cost to stderr.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import local_folder, require_writable
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from common.progress import add_quiet_flag
from sampling.options import (
    LLaDAOptions,
    add_llada_flags,
    add_model_flags,
    options_from,
    refuse_mask_tokens,
    refuse_padding,
)


def __getattr__(name):
    """generate_mdm and generate_mdm_infilling, imported on first access: importing torch takes
    seconds, and --help does not need it.
    """
    if name in ("generate_mdm", "generate_mdm_infilling"):
        from sampling import llada

        return getattr(llada, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# any of these given, the answer has its shape from the flags alone; else 128 tokens, blocks of 32
SHAPE = ("gen_length", "middle_length", "block_length", "max_length", "diffusion_steps")

# ---- the command ---------------------------------------------------------------------------------


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    text = parser.add_argument_group("what to write")
    text.add_argument("--prompt", help="text to continue; may be empty")
    text.add_argument(
        "--task",
        choices=("text", "math"),
        default="text",
        help="math: the prompt is a question, formatted as in fine-tuning",
    )
    text.add_argument("--prefix", help="infill: text before the gap")
    text.add_argument("--suffix", help="infill: text after the gap")
    text.add_argument(
        "--middle_length",
        type=int,
        metavar="N",
        help="infill in place with exactly N tokens between prefix and suffix",
    )
    text.add_argument("--num_samples", type=int, default=1, help="samples to draw (default: 1)")
    text.add_argument(
        "--trace",
        metavar="FILE",
        help="FILE.html: a page that replays the generation; FILE.png: its curves",
    )
    text.add_argument(
        "--watch", action="store_true", help="show the first sample's text as it is unmasked"
    )
    add_quiet_flag(parser)
    add_model_flags(parser)
    add_llada_flags(parser)
    return parser


def parse_arguments() -> argparse.Namespace:
    """The flags. Raises InputError for flags that do not go together."""
    args = make_parser().parse_args()
    if (args.prompt is None) == (args.prefix is None and args.suffix is None):
        raise InputError("give either --prompt, or --prefix and --suffix")
    for flag, value in (
        ("--num_samples", args.num_samples),
        ("--middle_length", args.middle_length),
    ):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value}: must be at least 1")
    if args.task == "math" and args.prompt is None:
        raise InputError("--task math: needs --prompt")
    if args.middle_length and args.prompt is not None:
        raise InputError("--middle_length: needs --prefix or --suffix")
    if args.middle_length and args.llada_length != "given":
        raise InputError(f"--middle_length and --llada_length {args.llada_length}: give only one")
    if args.middle_length and args.gen_length:
        raise InputError(
            "--gen_length and --middle_length: give only one; the middle's length is the generated"
            " length"
        )
    if args.lora_alpha is not None:
        raise InputError(
            "--lora_alpha: only for FlexMDM checkpoints of the paper's code; a LLaDA adapter stores"
            " its own"
        )
    for name in ("checkpoint_path", "base_model"):
        if getattr(args, name):
            local_folder(getattr(args, name), f"--{name}")
    if args.trace and not args.trace.endswith((".html", ".png")):
        raise InputError(f"--trace {args.trace}: must end in .html or .png")
    args.own_shape = args.llada_length == "given" and not any(getattr(args, name) for name in SHAPE)
    if args.own_shape:
        args.gen_length, args.block_length = 128, 32
    return args


def given_ids(args: argparse.Namespace, tokenizer: Any) -> tuple[list[int], list[int]]:
    """(ids before the masks, ids after them) as the flags say."""
    from data.tokenizer import inner_ids, text_ids

    if args.prompt is not None:
        from data.math_prompts import math_prompt

        prompt = math_prompt(tokenizer, args.prompt) if args.task == "math" else args.prompt
        return text_ids(tokenizer, prompt), []
    prefix, suffix = args.prefix or "", args.suffix or ""
    if args.middle_length:
        return text_ids(tokenizer, prefix), inner_ids(tokenizer, suffix)
    from data.infills import llada_infill_prompt

    return llada_infill_prompt(tokenizer, prefix, suffix), []


@out_of_memory_advice(ONE_PROMPT)
def main() -> None:
    """Sample as the flags say and print the results. Raises InputError."""
    args = parse_arguments()
    options = options_from(args, LLaDAOptions)
    settings = options.arguments()
    if args.trace:
        require_writable(Path(args.trace).parent, "--trace")
    gen_length = settings.pop("gen_length") or args.middle_length

    import torch

    from data.tokenizer import decode_after, load_tokenizer, text_ids
    from llada_utils import checkpoint_kind, load_llada, pick_device, pick_dtype
    from sampling.canvas_search import add_cost, chosen_lengths
    from sampling.length_law import require_length_distribution
    from sampling.llada import generate_mdm_infilling, unmasking_plan
    from sampling.network_graphs import speed_up_sampling
    from sampling.progress import evaluations_bar
    from sampling.row_random import item_seed

    if checkpoint_kind(args.checkpoint_path) != "llada":
        raise InputError(
            f"--checkpoint_path: {args.checkpoint_path} is a FlexMDM; use flexmdm_inference.py"
        )
    device = pick_device(args.device)
    tokenizer = load_tokenizer(args.checkpoint_path)
    before, after = given_ids(args, tokenizer)
    model = load_llada(
        args.checkpoint_path, args.base_model, pick_dtype(args.dtype, device), device
    )
    speed_up_sampling(model, args.torch_compile)
    config, given = model.config, len(before) + len(after)
    context = before if args.prompt is not None else text_ids(tokenizer, args.prefix or "")
    flags = "--prompt" if args.prompt is not None else "--prefix and --suffix"
    refuse_padding((before, after), config.pad_token_id, flags, tokenizer.bos_token_id)
    refuse_mask_tokens((before, after), config.mask_token_id, flags)
    limit = args.max_length or min(config.max_sequence_length, 1024)  # 1024: the paper's canvas
    asked: list[list[int]] = [[]]
    if args.llada_length == "given":
        gen_length = gen_length or limit - given
        if args.own_shape and given + gen_length > limit:  # a long prompt: what is left, one block
            gen_length, settings["block_length"] = limit - given, None
    else:
        if args.llada_length == "counted":
            require_length_distribution(model, args.checkpoint_path, "--llada_length counted")
        (gen_length,), asked = chosen_lengths(
            model, [before], [after], options, max_length=limit, num_tokens=len(tokenizer)
        )
    if (gen_length < 1 and args.llada_length != "counted") or given + gen_length > limit:
        raise InputError(
            f"{flags}: {given} tokens and {max(gen_length, 1)} to generate do not fit in"
            f" --max_length {limit}"
        )
    try:
        unmasking_plan(gen_length, settings["steps"], settings["block_length"])
    except ValueError as error:
        raise InputError(f"--diffusion_steps {args.diffusion_steps}: {error}") from None
    seeds = torch.tensor(
        [item_seed(args.seed, 0, sample) for sample in range(args.num_samples)], device="cpu"
    )
    with evaluations_bar(settings["steps"] or gen_length) as on_frame:
        if args.watch:
            from sampling.trace_page import terminal_watcher

            on_frame = terminal_watcher(tokenizer, config.mask_token_id)
        result = generate_mdm_infilling(
            model,
            [before] * args.num_samples,
            [after] * args.num_samples,
            middle_lengths=gen_length,
            mask_id=config.mask_token_id,
            pad_id=config.pad_token_id,
            num_tokens=len(tokenizer),
            seeds=seeds,
            return_trace=bool(args.trace),
            on_frame=on_frame,
            **settings,
        )
    add_cost(result, [given] * args.num_samples, asked * args.num_samples)
    ends = {config.pad_token_id, tokenizer.eos_token_id, tokenizer.get_vocab().get("<|eot_id|>")}
    for row in range(args.num_samples):
        answer = result.sequences[row, len(before) : int(result.lengths[row]) - len(after)].tolist()
        answer = answer[
            : next((place for place, token in enumerate(answer) if token in ends), len(answer))
        ]
        print(decode_after(tokenizer, context, answer))
        print(
            f"sample {row + 1}: {len(answer) or 'an empty answer, 0'} of {gen_length} tokens before"
            f" the end, {int(result.evaluations[row])} evaluations",
            file=sys.stderr,
        )
    if args.trace:
        from sampling.trace_page import write_trace

        assert result.trace is not None  # it was asked for
        write_trace(args.trace, result.trace, tokenizer, config.mask_token_id, title="LLaDA")
        print(f"the generation is in {args.trace}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
