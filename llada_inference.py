r"""Sample from a LLaDA, the baseline, as a library (generate_text and infill_text, also as methods
of the network; generate_mdm, generate_mdm_infilling for ids) or on the command line for your own
prompt or infill.

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
block from the left; the loop is in sampling/llada_sampler.py. The answer, up to the first end
token, goes to stdout, its length and cost to stderr.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import require_writable_file
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from common.progress import add_quiet_flag
from sampling.flags import add_llada_flags, add_model_flags, options_from
from sampling.given import refuse_mask_tokens, refuse_padding
from sampling.options import SEED, LLaDAOptions
from sampling.text_flags import add_text_flags, check_text_flags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llada_dit import LLaDAModelLM
    from sampling.results import GenerationResult


def __getattr__(name):
    """generate_mdm and generate_mdm_infilling, imported on first access: importing torch takes
    seconds, and --help does not need it.
    """
    if name in ("generate_mdm", "generate_mdm_infilling"):
        from sampling import llada

        return getattr(llada, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---- text in, text out ---------------------------------------------------------------------------


def generate_text(
    model: LLaDAModelLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    task: str = "text",
    seed: int = SEED,
    **options: Any,
) -> str:
    """What a LLaDA writes after a prompt up to its first end token, the text that this script
    prints for it. task: "math" if the prompt is a question, which is then formatted as in
    fine-tuning. options: fields of LLaDAOptions, such as gen_length=64. Raises InputError for a
    prompt or a number of steps that does not fit, ValueError for options out of range.
    """
    given = given_prompt(tokenizer, prompt, task)
    answers, _ = write_answers(model, tokenizer, given, LLaDAOptions(**options), seed)
    return answers[0].text


def infill_text(
    model: LLaDAModelLM,
    tokenizer: PreTrainedTokenizerFast,
    prefix: str,
    suffix: str,
    *,
    middle_length: int | None = None,
    seed: int = SEED,
    **options: Any,
) -> str:
    """What a LLaDA writes for the middle between prefix and suffix: asked as in fine-tuning, or in
    place with exactly middle_length tokens. The rest as generate_text.
    """
    given = given_infill(tokenizer, prefix, suffix, middle_length)
    answers, _ = write_answers(model, tokenizer, given, LLaDAOptions(**options), seed)
    return answers[0].text


class Given(NamedTuple):
    """What is given of a text: the ids before and after the masks; the ids of the text before them,
    without marks, that the answer is shown after; the flags that gave it; the number of masks where
    it is given, too.
    """

    before: list[int]
    after: list[int]
    shown_after: list[int]
    flags: str
    masks: int | None = None


class Answer(NamedTuple):
    """The text before the first end token, and its number of tokens."""

    text: str
    tokens: int


def given_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, task: str = "text") -> Given:
    """A prompt, to be answered; task: as in generate_text. Raises ValueError for another task."""
    from data.math_prompts import task_prompt
    from data.tokenizer import text_ids

    ids = text_ids(tokenizer, task_prompt(tokenizer, prompt, task))
    return Given(ids, [], ids, "--prompt")


def given_infill(
    tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str, middle_length: int | None
) -> Given:
    """Prefix and suffix in the format of fine-tuning, or (middle_length) as they are. Raises
    InputError for a middle_length below 1.
    """
    from data.infills import llada_infill_prompt
    from data.tokenizer import inner_ids, text_ids

    before, flags = text_ids(tokenizer, prefix), "--prefix and --suffix"
    if middle_length is not None:
        if middle_length < 1:
            raise InputError(f"--middle_length {middle_length}: must be at least 1")
        return Given(before, inner_ids(tokenizer, suffix), before, flags, middle_length)
    return Given(llada_infill_prompt(tokenizer, prefix, suffix), [], before, flags)


def with_shape(options: LLaDAOptions, masks: int | None, room: int = 128) -> LLaDAOptions:
    """The options; where nothing says how long the answer is or how it is cut, with 128 tokens in
    blocks of 32, or with what is left in one block. masks: their number where it is given; room:
    tokens that still fit.
    """
    shape = (options.gen_length, options.block_length, options.max_length, options.steps, masks)
    if options.llada_length != "given" or any(shape):
        return options
    if 0 < room < 128:
        return replace(options, gen_length=room)
    return replace(options, gen_length=128, block_length=32)


def write_answers(
    model: LLaDAModelLM,
    tokenizer: PreTrainedTokenizerFast,
    given: Given,
    options: LLaDAOptions,
    seed: int,
    samples: int = 1,
    **watching: Any,
) -> tuple[list[Answer], GenerationResult]:
    """(the answer of each sample, the sampler's result). watching: generate_mdm's on_frame and
    return_trace. Raises InputError for given text that leaves no room, and for steps that do not
    fit the blocks.
    """
    import torch

    from data.tokenizer import decode_after
    from sampling.canvas_search import add_cost, chosen_lengths
    from sampling.length_law import check_network_serves
    from sampling.llada import canvas_of, generate_mdm_infilling
    from sampling.llada_blocks import unmasking_plan
    from sampling.row_random import item_seed

    before, after, shown_after, flags, masks = given
    config, tokens = model.config, len(before) + len(after)
    refuse_padding((before, after), config.pad_token_id, flags, tokenizer.bos_token_id)
    refuse_mask_tokens((before, after), config.mask_token_id, flags)
    limit = canvas_of(model, options.max_length)
    options = with_shape(options, masks, limit - tokens)
    asked: list[list[int]] = [[]]
    if masks is None:
        check_network_serves(model, options, str(model.name_or_path))
        (masks,), asked = chosen_lengths(
            model, [before], [after], options, max_length=limit, num_tokens=len(tokenizer)
        )
    if (masks < 1 and options.llada_length != "counted") or tokens + masks > limit:
        raise InputError(
            f"{flags}: {tokens} tokens and {max(masks, 1)} to generate do not fit in"
            f" --max_length {limit}"
        )
    try:
        unmasking_plan(masks, options.steps, options.block_length)
    except ValueError as error:
        raise InputError(f"--diffusion_steps {options.steps}: {error}") from None
    seeds = [item_seed(seed, 0, sample) for sample in range(samples)]
    result = generate_mdm_infilling(
        model,
        [before] * samples,
        [after] * samples,
        middle_lengths=masks,
        num_tokens=len(tokenizer),
        options=options,
        seeds=torch.tensor(seeds, device="cpu"),
        **watching,
    )
    add_cost(result, [tokens] * samples, asked * samples)
    ends = {config.pad_token_id, tokenizer.eos_token_id, tokenizer.get_vocab().get("<|eot_id|>")}
    answers = []
    for row, length in zip(result.sequences.tolist(), result.lengths.tolist()):
        ids = row[len(before) : length - len(after)]
        end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        answers.append(Answer(decode_after(tokenizer, shown_after, ids[:end]), end))
    return answers, result


# ---- the command ---------------------------------------------------------------------------------


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    add_text_flags(parser).add_argument(
        "--middle_length",
        type=int,
        metavar="N",
        help="infill in place with exactly N tokens between prefix and suffix",
    )
    add_quiet_flag(parser)
    add_model_flags(parser)
    add_llada_flags(parser)
    return parser


def parse_arguments() -> argparse.Namespace:
    """The flags. Raises InputError for flags that do not go together."""
    args = make_parser().parse_args()
    check_text_flags(args)
    if args.middle_length is not None and args.middle_length < 1:
        raise InputError(f"--middle_length {args.middle_length}: must be at least 1")
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
    return args


@out_of_memory_advice(ONE_PROMPT)
def main() -> None:
    """Sample as the flags say and print the results. Raises InputError."""
    args = parse_arguments()
    options = options_from(args, LLaDAOptions)
    if args.trace:
        require_writable_file(args.trace, "--trace")

    from data.tokenizer import load_tokenizer
    from llada_utils import load_llada
    from network.checkpoint_folder import checkpoint_kind
    from network.devices import pick_device, pick_dtype
    from sampling.network_graphs import speed_up_sampling
    from sampling.progress import shown_progress

    if checkpoint_kind(args.checkpoint_path) != "llada":
        raise InputError(
            f"--checkpoint_path: {args.checkpoint_path} is a FlexMDM; use flexmdm_inference.py"
        )
    device = pick_device(args.device)
    tokenizer = load_tokenizer(args.checkpoint_path)
    if args.prompt is None:
        given = given_infill(tokenizer, args.prefix or "", args.suffix or "", args.middle_length)
    else:
        given = given_prompt(tokenizer, args.prompt, args.task)
    model = load_llada(
        args.checkpoint_path, args.base_model, pick_dtype(args.dtype, device), device
    )
    speed_up_sampling(model, args.torch_compile)
    mask_id = model.config.mask_token_id
    shaped = with_shape(options, given.masks)
    total = shaped.steps or shaped.gen_length or given.masks
    with shown_progress(tokenizer, mask_id, args.watch, total) as on_frame:
        answers, result = write_answers(
            model,
            tokenizer,
            given,
            options,
            args.seed,
            args.num_samples,
            on_frame=on_frame,
            return_trace=bool(args.trace),
        )
    for row, answer in enumerate(answers):
        length = int(result.lengths[row]) - len(given.before) - len(given.after)
        print(answer.text)
        print(
            f"sample {row + 1}: {answer.tokens or 'an empty answer, 0'} of {length} tokens before"
            f" the end, {int(result.evaluations[row])} evaluations",
            file=sys.stderr,
        )
    if args.trace:
        from sampling.trace_page import write_trace

        assert result.trace is not None  # it was asked for
        write_trace(args.trace, result.trace, tokenizer, mask_id, title="LLaDA")
        print(f"the generation is in {args.trace}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
