"""LLaDA's sampler: the loop that unmasks a fixed number of masks (arXiv 2502.09992).

One step for all rows: find the masks of each row's current block, evaluate the network, draw a
token for each, and keep the most confident (or random) ones. Prompts and infills differ only in
where the masks are. Every row follows its own plan, so rows of different lengths share a batch,
finished rows leave it and waiting rows take their places.
"""

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sampling.canvas_search import add_cost, chosen_lengths
from sampling.frames import Frames
from sampling.options import LLaDAOptions
from sampling.prefix_cache import PrefixCache
from sampling.results import GenerationResult, OnFrame
from sampling.row_random import draw_seeds, row_uniforms
from sampling.sequences import GivenRows, device_of, id_lists
from sampling.token_choice import (
    check_tokens,
    draw_tokens,
    evaluate,
    excluded_tokens,
    log_probability,
    own_ids,
    to_cpu,
)

TOKEN, CONFIDENCE = 0, 1  # purposes of a step's random numbers
# the evaluations of one row: (block start, block end, masks to unmask) each
Plan: TypeAlias = list[tuple[int, int, int]]


def most_confident(confidence: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Bool [B, L]: in each row the count[b] eligible places of highest confidence; of equals the
    leftmost.

    confidence: float64 [B, L]; eligible: bool [B, L] with at least count[b] places a row; count:
    long [B].
    """
    # (B, L)
    order = confidence.masked_fill(~eligible, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    first = torch.arange(eligible.shape[1], device="cpu") < count[:, None]  # (B, L)
    return torch.zeros_like(eligible).scatter(1, order, first) & eligible


@torch.no_grad()
def fill_masks(
    model: Any,
    rows: Sequence[tuple[list[int], int, list[int]]],
    plans: Sequence[Plan],
    options: LLaDAOptions,
    *,
    mask_id: int,
    pad_id: int,
    num_tokens: int | None,
    seeds: Tensor,
    return_trace: bool,
    on_frame: OnFrame | None,
) -> GenerationResult:
    """Unmask every row's masks by its plan (unmasking_plan). Returns a GenerationResult on CPU.

    rows: for each row (ids before the masks, number of masks, ids after them); the rest is
    generate_mdm's.
    All bookkeeping stays on CPU: it is cheap, and CPUs always have float64. Only the network's
    input and logits are on its device.
    """
    B, cfg_scale, rows_at_once = len(rows), options.cfg_scale, options.rows_at_once
    # (B,)
    lengths = torch.tensor(
        [len(before) + masks + len(after) for before, masks, after in rows],
        dtype=torch.long,
        device="cpu",
    )
    canvas = torch.full((B, int(lengths.max()) if B else 0), pad_id, device="cpu")  # (B, L)
    masked = torch.zeros_like(canvas, dtype=torch.bool)  # (B, L)
    for row, (before, masks, after) in enumerate(rows):
        canvas[row, : lengths[row]] = torch.tensor(
            [*before, *[mask_id] * masks, *after], dtype=torch.long, device="cpu"
        )
        masked[row, len(before) : len(before) + masks] = True
    place = torch.arange(canvas.shape[1], device="cpu")  # (L,)
    real = place < lengths[:, None]  # (B, L)
    given = real & ~masked  # (B, L)
    cost = 2 if cfg_scale else 1
    cache = excluded = None
    if options.cache_refresh is not None:
        cache = PrefixCache(model, options.cache_refresh)
    evaluations, positions = [0] * B, torch.zeros(B, dtype=torch.long, device="cpu")
    frames = Frames(B, return_trace, on_frame)

    def show(row: int) -> None:
        if frames.wanted:
            length = int(lengths[row])
            frames.add(
                row,
                {
                    "t": 1 - int(masked[row].sum()) / max(rows[row][1], 1),
                    "evaluations": evaluations[row],
                    "ids": canvas[row, :length].tolist(),
                    "slots": list(range(length)),
                },
            )

    for row in range(B):
        show(row)
    # neighbours of like length
    waiting = sorted((row for row in range(B) if plans[row]), key=lambda row: -int(lengths[row]))
    live: list[int] = []
    step = [0] * B
    while live or waiting:
        room = len(waiting) if rows_at_once is None else rows_at_once - len(live)
        live, waiting = live + waiting[:room], waiting[room:]
        L = int(lengths[live].max())
        # (R,) each
        start, end, count = torch.tensor([plans[row][step[row]] for row in live], device="cpu").T
        # (R, L), place counted from the first mask
        offset = (
            place[:L] - torch.tensor([len(rows[row][0]) for row in live], device="cpu")[:, None]
        )
        eligible = masked[live, :L] & (offset >= start[:, None]) & (offset < end[:, None])  # (R, L)
        event = torch.tensor([step[row] for row in live], device="cpu")  # (R,)
        # the choice does not look at the network, so only the chosen places need logits
        if options.remasking == "random":
            eligible = most_confident(
                torch.from_numpy(row_uniforms(seeds[live], event, CONFIDENCE, L)), eligible, count
            )
        ids, text, wanted, names = canvas[live, :L], real[live, :L], eligible, live
        if cfg_scale:  # both halves in one batch; in the second all that was given is hidden
            ids = torch.cat([ids, ids.masked_fill(given[live, :L], mask_id)])  # (2R, L)
            text = text.repeat(2, 1)
            wanted = wanted.repeat(2, 1)
            names = live + [row + B for row in live]
        if cache:
            block = [len(rows[row][0]) + plans[row][step[row]][0] for row in live] * cost
            logits = cache.logits(names, ids, text, wanted, block)  # (n, V), or twice that
            positions[live] += cache.computed.view(cost, len(live)).sum(0)
        else:
            logits = evaluate(model, ids, text, wanted)
            positions[live] += cost * lengths[live]
        if cfg_scale:
            conditional, unconditional = logits.chunk(2)  # (n, V) each
            logits = unconditional + (cfg_scale + 1) * (conditional - unconditional)
        if excluded is None:
            # (V,); end of text may be drawn
            excluded = excluded_tokens(logits.shape[1], mask_id, None, num_tokens, logits.device)
        # (n,)
        tokens = draw_tokens(
            logits,
            excluded,
            options.temperature,
            torch.from_numpy(row_uniforms(seeds[live], event, TOKEN, L))[eligible],
        )
        # (n,)
        confidences = (
            log_probability(logits, tokens, excluded)
            if options.remasking == "low_confidence"
            else None
        )
        # the one place where the device is waited for
        tokens, confidences = to_cpu(tokens, confidences)
        check_tokens(tokens)
        drawn = canvas[live, :L]  # (R, L)
        drawn[eligible] = tokens
        if options.remasking == "low_confidence":
            confidence = torch.zeros(eligible.shape, dtype=torch.float64, device="cpu")  # (R, L)
            confidence[eligible] = confidences
            eligible = most_confident(confidence, eligible, count)
        canvas[live, :L] = torch.where(eligible, drawn, canvas[live, :L])
        masked[live, :L] &= ~eligible
        for row in live:
            evaluations[row] += cost
            step[row] += 1
            show(row)
        if cache:
            cache.drop(
                [
                    row + half * B
                    for row in live
                    if step[row] == len(plans[row])
                    for half in range(cost)
                ]
            )
        live = [row for row in live if step[row] < len(plans[row])]
    return GenerationResult(
        canvas,
        lengths,
        torch.tensor(evaluations, dtype=torch.long, device="cpu"),
        torch.zeros(B, dtype=torch.bool, device="cpu"),
        frames.trace,
        positions=positions,
    )


def unmaskings_of_block(masks: int, steps: int) -> list[int]:
    """How many of a block's masks each of its steps unmasks: floor(masks / steps), the first masks
    mod steps one more.
    """
    return [masks // steps + (step < masks % steps) for step in range(steps)]


def unmasking_plan(length: int, steps: int | None, block_length: int | None) -> Plan:
    """The evaluations of one row: a list of (block start, block end, masks to unmask), places
    counted from the first mask.

    length: masks of the row; steps: over all blocks, None for one per mask; block_length: masks of
    a block (the last one may be shorter), None for a single block. A step that unmasks nothing
    (more steps than masks in a block) needs no evaluation and is skipped. Raises ValueError if
    steps is not divisible by the number of blocks.
    """
    block_length = max(length, 1) if block_length is None else block_length
    blocks = max(-(-length // block_length), 1)
    if steps is not None and steps % blocks:
        raise ValueError(
            f"steps ({steps}) must be divisible by the number of blocks ({blocks} of {block_length}"
            f" for {length} tokens)"
        )
    plan: Plan = []
    for start in range(0, length, block_length):
        end = min(start + block_length, length)
        block_steps = end - start if steps is None else steps // blocks
        plan += [
            (start, end, count) for count in unmaskings_of_block(end - start, block_steps) if count
        ]
    return plan


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
    result = fill_masks(
        model,
        list(zip(befores, masks, afters)),
        [unmasking_plan(count, options.steps, options.block_length) for count in masks],
        options,
        seeds=draw_seeds(len(befores), seeds, generator),
        mask_id=mask_id,
        pad_id=pad_id,
        num_tokens=num_tokens,
        return_trace=return_trace,
        on_frame=on_frame,
    )
    add_cost(result, [len(row) for row in map(operator.add, befores, afters)], asked)
    device = device_of(model, prefixes, suffixes)
    for name, value in vars(result).items():
        if isinstance(value, torch.Tensor):
            setattr(result, name, value.to(device))
    return result
