"""Entry points of LLaDA's sampler: answer prompts, fill middles.

    result = generate_mdm(model, prompts, gen_length=64)
    result = generate_mdm_infilling(model, prefixes, suffixes, middle_lengths=12)

The sampling loop is in llada_sampler.py, the options in options.py, the result in results.py.
"""

import operator
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sampling.canvas_search import add_cost, chosen_lengths
from sampling.llada_blocks import unmasking_plan
from sampling.llada_sampler import LLaDASampler
from sampling.options import LLaDAOptions
from sampling.results import GenerationResult, OnFrame
from sampling.row_random import draw_seeds
from sampling.sequences import GivenRows, device_of, id_lists
from sampling.token_choice import own_ids


def canvas_of(model: Any, max_length: int | None) -> int:
    """The most tokens of a row: max_length, or the model's own, but 1024 (the paper's canvas) at
    most. Raises ValueError where there is neither.
    """
    if max_length is not None:
        return max_length
    own = getattr(getattr(model, "config", None), "max_sequence_length", None)
    if own is None:
        raise ValueError("give gen_length or max_length: the model has no config with one")
    return min(own, 1024)


def generate_mdm(
    model: Any,
    prompts: GivenRows,
    *,
    gen_length: int | Tensor | None = None,
    mask_id: int | None = None,
    pad_id: int | None = None,
    num_tokens: int | None = None,
    options: LLaDAOptions | None = None,
    seeds: ArrayLike | None = None,
    generator: torch.Generator | None = None,
    return_trace: bool = False,
    on_frame: OnFrame | None = None,
    **keywords: Any,
) -> GenerationResult:
    """Answer each prompt with gen_length tokens. Returns a GenerationResult on the device of
    the prompts, where they are a tensor, or the model's.

    model: `model(ids, attention_mask=None).logits` [B, L, V] with a `device`; if it has
    `supports_logits_mask`, logits are computed only at the masks that need them.
    prompts: a list of ids of each row, or long [B, P], right-padded with pad_id; rows of any
    length; each is followed directly by its masks, then padding.
    gen_length: int, or long [B]; None: as llada_length says: what max_length leaves (default: the
    model's own, 1024 at most), or found with the network (canvas_search.py).
    options: an LLaDAOptions, or its fields as keyword arguments (defaults: options.py):
    steps: over all blocks, divisible by their number (None: one per token); block_length: tokens
    per block (None: one block; the last block of a row may be shorter).
    temperature: 0 takes the most probable token; remasking: which of a step's tokens are kept: the
    most probable ("low_confidence") or random ones; cfg_scale w: logits u + (w + 1)(c - u), u with
    the prompt masked, at two evaluations per step.
    mask_id, pad_id, num_tokens: None: of the model's config, and of the tokenizer beside its
    weights. Never drawn: mask_id and ids from num_tokens on. pad_id can be drawn: in LLaDA it is
    the end-of-text token, which fills the remainder of the answer.
    seeds: long [B]; every random number of a row is a function of (its seed, its step, purpose).
    generator draws seeds that are not given.
    rows_at_once: rows in the network's batch (None: all); on_frame(row, frame): called with every
    frame of the trace as it is made.
    cache_refresh: None, or r: keys and values of everything to the left of a row's block are reused
    for r evaluations (sampling/prefix_cache.py); an approximation for r > 1, and every evaluation
    still counts as one.
    Raises ValueError for bad arguments, or if the network leaves no token to choose.
    """
    return generate_mdm_infilling(
        model,
        prompts,
        [[]] * len(prompts),
        middle_lengths=gen_length,
        mask_id=mask_id,
        pad_id=pad_id,
        num_tokens=num_tokens,
        options=options,
        seeds=seeds,
        generator=generator,
        return_trace=return_trace,
        on_frame=on_frame,
        **keywords,
    )


def generate_mdm_infilling(
    model: Any,
    prefixes: GivenRows,
    suffixes: GivenRows,
    *,
    middle_lengths: int | Tensor | None = None,
    mask_id: int | None = None,
    pad_id: int | None = None,
    num_tokens: int | None = None,
    options: LLaDAOptions | None = None,
    seeds: ArrayLike | None = None,
    generator: torch.Generator | None = None,
    return_trace: bool = False,
    on_frame: OnFrame | None = None,
    **keywords: Any,
) -> GenerationResult:
    """Fill middle_lengths (int, or long [B]; None: as gen_length) masks between each prefix and
    suffix (lists of ids; or long [B, P], [B, S], right-padded), in place.

    Everything else as in generate_mdm; guidance hides prefix and suffix. The middle of row b is
    `sequences[b, P_b : lengths[b] - S_b]`.
    """
    options = LLaDAOptions(**keywords) if options is None else replace(options, **keywords)
    mask_id, pad_id, num_tokens = own_ids(model, mask_id, pad_id, num_tokens)
    befores, afters = id_lists(prefixes, pad_id), id_lists(suffixes, pad_id)
    if len(befores) != len(afters):
        raise ValueError(f"{len(befores)} prefixes, but {len(afters)} suffixes")
    asked: list[list[int]] = [[] for _ in befores]
    if middle_lengths is None:
        lengths, asked = chosen_lengths(
            model,
            befores,
            afters,
            options,
            # gen_length needs no canvas, which a network without a config does not have
            max_length=options.gen_length or canvas_of(model, options.max_length),
            num_tokens=num_tokens,
            rows_at_once=options.rows_at_once,
        )
        middle_lengths = torch.tensor(lengths, dtype=torch.long, device="cpu")
    masks = torch.as_tensor(middle_lengths, device="cpu").expand(len(befores)).tolist()
    if any(count < 0 for count in masks):
        raise ValueError("the number of tokens to generate must not be negative")
    result = LLaDASampler(
        model,
        list(zip(befores, masks, afters)),
        [unmasking_plan(count, options.steps, options.block_length) for count in masks],
        draw_seeds(len(befores), seeds, generator),
        options,
        mask_id=mask_id,
        pad_id=pad_id,
        num_tokens=num_tokens,
        return_trace=return_trace,
        on_frame=on_frame,
    ).run()
    add_cost(result, [len(row) for row in map(operator.add, befores, afters)], asked)
    return result.to(device_of(model, prefixes, suffixes))
