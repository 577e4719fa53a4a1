r"""Sample from a FlexMDM, as a library (generate_flexmdm, generate_flexmdm_infilling) or on the
command line for your own prompt or infill.

Laptop, a prompt:
    python flexmdm_inference.py --checkpoint_path C --prompt "Once upon a time"
A GSM8K question:
    python flexmdm_inference.py --checkpoint_path C --task math \
        --prompt "Tom has 3 apples ..." --unmasking confidence
An infill:
    python flexmdm_inference.py --checkpoint_path C \
        --prefix $'def add(a, b):\n    return ' --suffix $'\n' --unmasking confidence \
        --confidence_method top_prob --use_sliding_window --alpha 15
Exact sampling (no discretisation error; about four evaluations per token):
    ... --sampler event_driven --temperature 1
Unconditional generation:
    ... --prompt ""
Watch it in the terminal, as a page that replays the generation, or as curves:
    ... --watch, or --trace page.html, or --trace curves.png
One GPU: the same command (--device auto uses it, in bfloat16). Slurm:
    srun --gpus 1 python flexmdm_inference.py ...

The answer goes to stdout, its length and cost to stderr. The sampling loop is in
sampling/flexmdm.py.
"""

import argparse
import sys
from pathlib import Path

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import local_folder, require_writable
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from common.progress import add_quiet_flag
from sampling.options import (
    SamplerOptions,
    add_flexmdm_flags,
    add_model_flags,
    options_from,
    refuse_mask_tokens,
    refuse_padding,
)


def __getattr__(name):
    """generate_flexmdm and generate_flexmdm_infilling, imported on first access: importing torch
    takes seconds, and --help does not need it.
    """
    if name in ("generate_flexmdm", "generate_flexmdm_infilling"):
        from sampling import flexmdm

        return getattr(flexmdm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    text.add_argument("--num_samples", type=int, default=1, help="samples to draw (default: 1)")
    text.add_argument(
        "--trace",
        metavar="FILE",
        help="FILE.html: a page that replays the generation; FILE.png: its curves",
    )
    text.add_argument(
        "--watch", action="store_true", help="show the first sample's text as it grows"
    )
    add_quiet_flag(parser)
    add_model_flags(parser)
    add_flexmdm_flags(parser)
    return parser


def parse_arguments() -> argparse.Namespace:
    """The flags. Raises InputError for flags that do not go together."""
    args = make_parser().parse_args()
    if (args.prompt is None) == (args.prefix is None and args.suffix is None):
        raise InputError("give either --prompt, or --prefix and --suffix")
    if args.num_samples < 1:
        raise InputError(f"--num_samples {args.num_samples}: must be at least 1")
    if args.task == "math" and args.prompt is None:
        raise InputError("--task math: needs --prompt")
    for name in ("checkpoint_path", "base_model"):
        if getattr(args, name):
            local_folder(getattr(args, name), f"--{name}")
    if args.trace and not args.trace.endswith((".html", ".png")):
        raise InputError(f"--trace {args.trace}: must end in .html or .png")
    return args


@out_of_memory_advice(ONE_PROMPT)
def main() -> None:
    """Sample as the flags say and print the results. Raises InputError."""
    args = parse_arguments()
    settings = options_from(args, SamplerOptions, default_steps=256).arguments()
    if args.trace:
        require_writable(Path(args.trace).parent, "--trace")

    import torch

    from common.files import resolve_folder
    from data.tokenizer import decode_after, load_tokenizer, text_ids
    from llada_utils import checkpoint_kind, load_flexmdm, pick_device, pick_dtype
    from sampling.flexmdm import generate_flexmdm_infilling
    from sampling.network_graphs import speed_up_sampling
    from sampling.progress import evaluations_bar
    from sampling.row_random import item_seed

    if checkpoint_kind(args.checkpoint_path) != "flexmdm":
        raise InputError(
            f"--checkpoint_path: {args.checkpoint_path} is a LLaDA; use llada_inference.py"
        )
    device = pick_device(args.device)
    # the paper code's folders hold none
    beside = (resolve_folder(args.checkpoint_path) / "tokenizer.json").exists()
    tokenizer = load_tokenizer(
        args.checkpoint_path if beside or not args.base_model else args.base_model
    )
    model = load_flexmdm(
        args.checkpoint_path,
        args.base_model,
        args.lora_alpha,
        pick_dtype(args.dtype, device),
        device,
    )
    speed_up_sampling(model, args.torch_compile)
    mask_id, pad_id = model.config.mask_token_id, model.config.pad_token_id
    if args.prompt is None:
        from data.infills import flexmdm_infill_ids

        before, after = flexmdm_infill_ids(tokenizer, args.prefix or "", args.suffix or "")
    else:
        if args.task == "math":
            from data.math_prompts import math_prompt

            args.prompt = math_prompt(tokenizer, args.prompt)
        before, after = text_ids(tokenizer, args.prompt), []
    context = before if args.prompt is not None else text_ids(tokenizer, args.prefix or "")
    flags = "--prompt" if args.prompt is not None else "--prefix and --suffix"
    refuse_padding((before, after), pad_id, flags, tokenizer.bos_token_id)
    refuse_mask_tokens((before, after), mask_id, flags)
    limit = settings["max_length"] or model.config.max_length
    if len(before) + len(after) >= limit:
        raise InputError(
            f"{flags}: {len(before) + len(after)} tokens leave no room within --max_length {limit}"
        )
    with evaluations_bar(settings["steps"]) as on_frame:
        if args.watch:
            from sampling.trace_page import terminal_watcher

            on_frame = terminal_watcher(tokenizer, mask_id)
        result = generate_flexmdm_infilling(
            model,
            [before] * args.num_samples,
            [after] * args.num_samples,
            mask_id=mask_id,
            pad_id=pad_id,
            num_tokens=len(tokenizer),
            seeds=torch.tensor(
                [item_seed(args.seed, 0, sample) for sample in range(args.num_samples)],
                device="cpu",
            ),
            on_frame=on_frame,
            return_trace=bool(args.trace),
            **settings,
        )
    assert result.dropped_insertions is not None  # FlexMDM's results have both
    assert result.rate_bound_violations is not None
    for row in range(args.num_samples):
        dropped = int(result.dropped_insertions[row])
        violations = int(result.rate_bound_violations[row])
        answer = result.sequences[row, len(before) : int(result.lengths[row]) - len(after)].tolist()
        print(decode_after(tokenizer, context, answer))
        print(
            f"sample {row + 1}: {len(answer) or 'an empty answer, 0'} tokens,"
            f" {int(result.evaluations[row])} evaluations"
            f"{', stopped at --diffusion_steps' if result.truncated[row] else ''}"
            f"{f', {dropped} insertions dropped' if dropped else ''}"
            f"{f', {violations} rate bound violations' if violations else ''}",
            file=sys.stderr,
        )
    if args.trace:
        from sampling.trace_page import write_trace

        assert result.trace is not None  # it was asked for
        write_trace(args.trace, result.trace, tokenizer, mask_id)
        print(f"the generation is in {args.trace}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
