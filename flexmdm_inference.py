r"""Sample from a FlexMDM, as a library (generate_text and infill_text, also as methods of the
network; generate_flexmdm, generate_flexmdm_infilling for ids) or on the command line for your own
prompt or infill.

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

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import local_folder, require_writable
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from common.progress import add_quiet_flag
from sampling.flags import add_flexmdm_flags, add_model_flags, options_from
from sampling.given import refuse_mask_tokens, refuse_padding
from sampling.options import SEED, SamplerOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llada_dit import LLaDADiT
    from sampling.results import GenerationResult


def __getattr__(name):
    """generate_flexmdm and generate_flexmdm_infilling, imported on first access: importing torch
    takes seconds, and --help does not need it.
    """
    if name in ("generate_flexmdm", "generate_flexmdm_infilling"):
        from sampling import flexmdm

        return getattr(flexmdm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---- text in, text out ---------------------------------------------------------------------------


def generate_text(
    model: LLaDADiT,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    seed: int = SEED,
    **options: Any,
) -> str:
    """What a FlexMDM writes after a prompt, the text that this script prints for it. options:
    fields of SamplerOptions, such as sampler="event_driven". Raises InputError for a prompt that
    cannot be continued, ValueError for options out of range.
    """
    given = given_prompt(tokenizer, prompt)
    texts, _ = write_texts(model, tokenizer, given, SamplerOptions(**options), seed)
    return texts[0]


def infill_text(
    model: LLaDADiT,
    tokenizer: PreTrainedTokenizerFast,
    prefix: str,
    suffix: str,
    *,
    seed: int = SEED,
    **options: Any,
) -> str:
    """What a FlexMDM writes between prefix and suffix; the rest as generate_text."""
    given = given_infill(tokenizer, prefix, suffix)
    texts, _ = write_texts(model, tokenizer, given, SamplerOptions(**options), seed)
    return texts[0]


class Given(NamedTuple):
    """What is given of a text: the ids before and after what is to be written; the ids of the text
    before it, without marks, that it is shown after; the flags that gave it.
    """

    before: list[int]
    after: list[int]
    shown_after: list[int]
    flags: str


def given_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> Given:
    """A prompt, to be continued."""
    from data.tokenizer import text_ids

    ids = text_ids(tokenizer, prompt)
    return Given(ids, [], ids, "--prompt")


def given_infill(tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str) -> Given:
    """Prefix and suffix in the format of fine-tuning."""
    from data.infills import flexmdm_infill_ids
    from data.tokenizer import text_ids

    before, after = flexmdm_infill_ids(tokenizer, prefix, suffix)
    return Given(before, after, text_ids(tokenizer, prefix), "--prefix and --suffix")


def write_texts(
    model: LLaDADiT,
    tokenizer: PreTrainedTokenizerFast,
    given: Given,
    options: SamplerOptions,
    seed: int,
    samples: int = 1,
    **watching: Any,
) -> tuple[list[str], GenerationResult]:
    """(what is written in each sample, the sampler's result). watching: generate_flexmdm's on_frame
    and return_trace. Raises InputError for given text that leaves nothing to write.
    """
    import torch

    from data.tokenizer import decode_after
    from sampling.flexmdm import generate_flexmdm_infilling
    from sampling.length_law import check_network_serves
    from sampling.row_random import item_seed

    before, after, shown_after, flags = given
    config = model.config
    check_network_serves(model, options, str(model.name_or_path))
    refuse_padding((before, after), config.pad_token_id, flags, tokenizer.bos_token_id)
    refuse_mask_tokens((before, after), config.mask_token_id, flags)
    limit, tokens = options.max_length or config.max_length, len(before) + len(after)
    if tokens >= limit:
        raise InputError(f"{flags}: {tokens} tokens leave no room within --max_length {limit}")
    seeds = [item_seed(seed, 0, sample) for sample in range(samples)]
    result = generate_flexmdm_infilling(
        model,
        [before] * samples,
        [after] * samples,
        num_tokens=len(tokenizer),
        options=options,
        seeds=torch.tensor(seeds, device="cpu"),
        **watching,
    )
    ends = (result.lengths - len(after)).tolist()
    rows = [row[len(before) : end] for row, end in zip(result.sequences.tolist(), ends)]
    return [decode_after(tokenizer, shown_after, row) for row in rows], result


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
    options = options_from(args, SamplerOptions)
    if args.trace:
        require_writable(Path(args.trace).parent, "--trace")

    from common.files import resolve_folder
    from data.tokenizer import load_tokenizer
    from llada_utils import checkpoint_kind, load_flexmdm, pick_device, pick_dtype
    from sampling.network_graphs import speed_up_sampling
    from sampling.progress import evaluations_bar

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
    mask_id = model.config.mask_token_id
    if args.prompt is None:
        given = given_infill(tokenizer, args.prefix or "", args.suffix or "")
    else:
        if args.task == "math":
            from data.math_prompts import math_prompt

            args.prompt = math_prompt(tokenizer, args.prompt)
        given = given_prompt(tokenizer, args.prompt)
    with evaluations_bar(options.steps) as on_frame:
        if args.watch:
            from sampling.trace_page import terminal_watcher

            on_frame = terminal_watcher(tokenizer, mask_id)
        texts, result = write_texts(
            model,
            tokenizer,
            given,
            options,
            args.seed,
            args.num_samples,
            on_frame=on_frame,
            return_trace=bool(args.trace),
        )
    assert result.dropped_insertions is not None  # FlexMDM's results have both
    assert result.rate_bound_violations is not None
    for row, text in enumerate(texts):
        dropped = int(result.dropped_insertions[row])
        violations = int(result.rate_bound_violations[row])
        length = int(result.lengths[row]) - len(given.before) - len(given.after)
        print(text)
        print(
            f"sample {row + 1}: {length or 'an empty answer, 0'} tokens,"
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
