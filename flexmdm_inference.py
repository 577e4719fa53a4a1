r"""Sample from a FlexMDM, as a library (generate_text and infill_text, also as methods of the
network; generate_flexmdm, generate_flexmdm_infilling for ids) or on the command line for your own
prompt or infill.

Laptop, a prompt:
    python flexmdm_inference.py --checkpoint_path C --prompt "Once upon a time"
A GSM8K question:
    python flexmdm_inference.py --checkpoint_path C --task math --prompt "Tom has 3 apples ..."
An infill:
    python flexmdm_inference.py --checkpoint_path C \
        --prefix $'def add(a, b):\n    return ' --suffix $'\n'
Exact sampling (no discretisation error; about four evaluations per token):
    ... --sampler event_driven --unmasking random --temperature 1
The paper's sampler for code:
    ... --diffusion_steps 4096 --use_sliding_window --alpha 15
Unconditional generation:
    ... --prompt ""
Watch it in the terminal, as a page that replays the generation, or as curves:
    ... --watch, or --trace page.html, or --trace curves.png
One GPU: the same command (--device auto uses it, in bfloat16). Slurm:
    srun --gpus 1 python flexmdm_inference.py ...

Without --sampler: count_first where the checkpoint has a length distribution (an infill is the best
of four lengths), else event_driven; tau_leaping with --diffusion_steps. The most confident token
comes first. The answer goes to stdout, its length and cost to stderr. The sampling loop is in
sampling/flexmdm_sampler.py.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import require_writable_file
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from common.progress import add_quiet_flag
from sampling.flags import add_flexmdm_flags, add_model_flags, options_from
from sampling.given import refuse_mask_tokens, refuse_padding
from sampling.option_fields import OptionError
from sampling.options import SEED, SamplerOptions, unnamed_sampler
from sampling.text_flags import add_text_flags, check_text_flags
from sampling.unused_flags import refuse_unused_flags

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


# The order of unmasking here; the library calls on ids have the paper's
ORDER = {"unmasking": "confidence", "confidence_method": "top_prob"}
INFILL_LENGTHS = 4  # RESULTS.md


def generate_text(
    model: LLaDADiT,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    task: str = "text",
    seed: int = SEED,
    **options: Any,
) -> str:
    """What a FlexMDM writes after a prompt, the text that this script prints for it. task: "math"
    if the prompt is a question, which is then formatted as in fine-tuning. options: fields of
    SamplerOptions, such as sampler="event_driven"; defaults are the command's. Raises InputError
    for a prompt that cannot be continued, ValueError for options out of range.
    """
    given = given_prompt(tokenizer, prompt, task)
    return write_texts(model, tokenizer, given, text_options(model, given, options), seed)[0][0]


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
    return write_texts(model, tokenizer, given, text_options(model, given, options), seed)[0][0]


class Given(NamedTuple):
    """What is given of a text: the ids before and after what is to be written; the ids of the text
    before it, without marks, that it is shown after; the flags that gave it; whether it is an
    infill.
    """

    before: list[int]
    after: list[int]
    shown_after: list[int]
    flags: str
    infill: bool = False


def given_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, task: str = "text") -> Given:
    """A prompt, to be continued; task: as in generate_text. Raises ValueError for another task."""
    from data.math_prompts import task_prompt
    from data.tokenizer import text_ids

    ids = text_ids(tokenizer, task_prompt(tokenizer, prompt, task))
    return Given(ids, [], ids, "--prompt")


def given_infill(tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str) -> Given:
    """Prefix and suffix in the format of fine-tuning."""
    from data.infills import flexmdm_infill_ids
    from data.tokenizer import text_ids

    before, after = flexmdm_infill_ids(tokenizer, prefix, suffix)
    return Given(before, after, text_ids(tokenizer, prefix), "--prefix and --suffix", infill=True)


def text_options(model: LLaDADiT, given: Given, options: dict[str, Any]) -> SamplerOptions:
    """The options of generate_text and infill_text, with the command's defaults."""
    sampler = unnamed_sampler(options.get("steps"))
    chosen = SamplerOptions(**{"sampler": sampler, **ORDER, **options})
    return chosen if "sampler" in options else with_own_sampler(model, given, chosen)


def with_own_sampler(model: LLaDADiT, given: Given, options: SamplerOptions) -> SamplerOptions:
    """Options in which no sampler was named: count_first instead of event_driven, if the network
    has a length distribution and the other options allow it.
    """
    counts = getattr(model.config, "length_distribution", 0)
    if not counts or options.sampler != "event_driven":
        return options
    lengths = INFILL_LENGTHS if given.infill and options.length_choice == "likeliest" else 1
    try:
        return replace(options, sampler="count_first", length_candidates=lengths)
    except OptionError:  # one of event_driven's own
        return options


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

    before, after, shown_after, flags, _ = given
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
    add_text_flags(parser)
    add_quiet_flag(parser)
    add_model_flags(parser)
    add_flexmdm_flags(parser)
    parser.set_defaults(sampler=None, **ORDER)
    return parser


@out_of_memory_advice(ONE_PROMPT)
def main() -> None:
    """Sample as the flags say and print the results. Raises InputError."""
    args = make_parser().parse_args()
    check_text_flags(args)
    named = args.sampler is not None
    args.sampler = args.sampler or unnamed_sampler(args.diffusion_steps)
    options = options_from(args, SamplerOptions)
    if args.trace:
        require_writable_file(args.trace, "--trace")

    from common.files import resolve_folder
    from data.tokenizer import load_tokenizer
    from llada_utils import load_flexmdm
    from network.checkpoint_folder import checkpoint_kind
    from network.devices import pick_device, pick_dtype
    from sampling.network_graphs import speed_up_sampling
    from sampling.progress import shown_progress

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
        given = given_prompt(tokenizer, args.prompt, args.task)
    if not named:
        options = with_own_sampler(model, given, options)
    refuse_unused_flags(args, options)
    with shown_progress(tokenizer, mask_id, args.watch, options.steps) as on_frame:
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
