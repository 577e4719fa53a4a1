"""Entry points of FlexMDM's samplers: continue prompts, generate unconditionally, fill middles.

    result = generate_flexmdm(model, prompts, steps=256)
    result = generate_flexmdm_infilling(model, prefixes, suffixes, sampler="event_driven")

The sampling loop is in flexmdm_sampler.py, the options in options.py, the result in results.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.flexmdm_sampler import FlexMDMSampler
from sampling.length_search import search_lengths
from sampling.options import TAU_LEAPING_STEPS, SamplerOptions
from sampling.partial_count import count_and_insert
from sampling.results import GenerationResult, OnFrame
from sampling.row_random import draw_seeds
from sampling.sequences import GivenRows, Sequences, device_of, id_lists
from sampling.token_choice import own_ids


def generate_flexmdm(
    model: Any,
    prompts: GivenRows | None = None,
    *,
    mask_id: int | None = None,
    pad_id: int | None = None,
    num_tokens: int | None = None,
    batch_size: int | None = None,
    options: SamplerOptions | None = None,
    seeds: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    return_trace: bool = False,
    on_frame: OnFrame | None = None,
    **keywords: Any,
) -> GenerationResult:
    """Continue prompts, or generate unconditionally, with a FlexMDM. Time t runs from 0 (only the
    prompt) to 1 (clean).

    Args:
        model: `model(input_ids, timesteps, attention_mask)` -> {"logits": (B, L, V), "length":
            (B, L+1)} with a `device`. Used if present: `supports_logits_mask`, and `config` with
            its schedules, time_epsilon, max_length and attend_to_padding.
        prompts: a list of ids of each row; or long (B, P), right-padded with pad_id (only trailing
            padding counts); or None with batch_size=B.
        mask_id, pad_id, num_tokens: None: of the model's config, and of the tokenizer beside its
            weights (token_choice.own_ids).
        options: a SamplerOptions, or its fields as keyword arguments (defaults: options.py):
        steps: tau_leaping: its grid, uniform in t (None: 256). event_driven: None, or a cap on a
            row's evaluations; a row that reaches it inserts no more, unmasks everything at once and
            is marked `truncated`.
        max_length: maximum tokens of a row, prompt included; None: the model's own. Masks that do
            not fit are dropped, favouring no gap. A network that attends to padding gets rows
            padded to its own max_length, as in training, whatever this limit.
        sampler: "tau_leaping" (first order in 1/steps), "event_driven" (no discretisation error) or
            "count_first" (the number of tokens first; needs a network with a length distribution).
            The last time_epsilon of the clock is one leap for the first two: its number of tokens
            is Poisson, correct on average.
        unmasking: "random" order, or "confidence": the most confident first by confidence_method
            "position" (leftmost), "top_prob", "prob_diff" or "entropy".
        use_sliding_window: only the first K = min(int(alpha * number to unmask), max_window, number
            of masks) compete.
        temperature: 0 writes the most probable token, 1 draws from the posterior. Never written:
            mask_id, pad_id, ids >= num_tokens.
        insertion_schedule, unmask_schedule: None: the model's own, or linear if it has no config. A
            model with a config whose insertion schedule differs is queried at the matched time
            tau(t) = alpha_own^-1(alpha(t)); without a config it is queried at t.
        seeds: long (B,); every random number of a row is a function of (its seed, its evaluation,
            purpose), so results do not depend on the rest of the batch. Seeds that are not given
            are drawn from `generator` (None: torch's global one).
        rows_at_once: maximum rows in the network's batch; waiting rows enter as others finish.
        return_trace: `trace[b]` is a list of frames (results.TraceFrame): the initial state, the
            state after each evaluation that changed it, and the result. Prompt (or prefix and
            suffix) have slots 0 ... P-1, every new mask the next number. A corrector's noise is
            one more frame: slots are missing in it, and a token's mask has a new one.
        on_frame: on_frame(row, frame) is called with each frame as it is made.
        length_choice: count_first: "likeliest" or "drawn" number of tokens; query_time: the t at
            which the network is queried for tokens (sampling/count_first.py); length_candidates:
            how many lengths are tried (sampling/length_search.py).
        placed_share: event_driven: how much of a number of tokens that is taken first is put in
            place at once (sampling/partial_count.py).
        leap_counts: tau_leaping, and the last leap of event_driven: "poisson", or "drawn" from the
            network's length distribution (sampling/drawn_counts.py).
        events_per_evaluation: approximation: count_first unmasks this many; event_driven proposes
            this many events at once, unmasks that many of the most confident masks and inserts what
            is accepted; never more than a quarter of the remaining events, so that rows missing
            only a few tokens are sampled exactly.
        bound_inflation: approximation, c >= 1: event_driven does not measure G again after an
            event, but proposes from c times its last value. tau_leaping proposes events from c
            times the last G and skips the evaluations of steps without a proposal: the distribution
            of its grid is unchanged wherever G stays below that bound, and the cost is that of its
            events instead of its steps.
        confidence_threshold: approximation: whenever masks may be unmasked, all that are at least
            this confident are (in the units of confidence_method: a probability, a difference of
            two, or negative nats). Needs unmasking="confidence" by anything but position. It saves
            evaluations with event_driven; tau_leaping still evaluates its whole grid, so there it
            changes only the order.
        corrector_time, corrector_rounds, corrector_spread, corrector_choice: event_driven and
            tau_leaping: noise the text back to an earlier time and sample on, so many times, all at
            the end or spread over the run (sampling/corrector.py). Exact, except spread with
            another order than random, and with "least_confident".
        cache_refresh: approximation: keys and values of the prompt (or prefix) are reused for this
            many evaluations; everything after it is computed every time.

    The error of each approximation is measured in tests/sampling/test_sampler_approximations.py.

    Returns:
        A GenerationResult on the device of the prompts, where they are a tensor, or the model's.

    Raises:
        ValueError: bad arguments, or a network that returns no numbers.
    """
    if prompts is None:
        if batch_size is None:
            raise ValueError("without prompts, give batch_size, the number of rows to generate")
        prompts = [[]] * batch_size
    elif batch_size is not None and batch_size != len(prompts):
        raise ValueError(f"batch_size is {batch_size}, but there are {len(prompts)} prompts")
    return generate_flexmdm_infilling(
        model,
        prompts,
        [[]] * len(prompts),
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


def generate_flexmdm_infilling(
    model: Any,
    prefixes: GivenRows,
    suffixes: GivenRows,
    *,
    mask_id: int | None = None,
    pad_id: int | None = None,
    num_tokens: int | None = None,
    options: SamplerOptions | None = None,
    seeds: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    return_trace: bool = False,
    on_frame: OnFrame | None = None,
    middle_lengths: Sequence[int] | None = None,
    **keywords: Any,
) -> GenerationResult:
    """Fill the middle between prefixes and suffixes (lists of ids; or long (B, P) and (B, S), both
    right-padded with pad_id); the rest is as in generate_flexmdm. Boundary tokens belong to prefix
    and suffix. Row b's middle is `sequences[b, P_b : lengths[b] - S_b]`.

    middle_lengths: for the sampler count_first, the number of tokens of each middle where it is
    known; no length distribution is needed then.
    """
    if len(prefixes) != len(suffixes):
        raise ValueError(f"{len(prefixes)} prefixes, but {len(suffixes)} suffixes")
    options = SamplerOptions(**keywords) if options is None else replace(options, **keywords)
    if options.steps is None and options.sampler == "tau_leaping":
        options = replace(options, steps=TAU_LEAPING_STEPS)
    if middle_lengths is not None and (
        options.sampler != "count_first" or len(middle_lengths) != len(prefixes)
    ):
        raise ValueError("middle_lengths: one for each row, and only with the sampler count_first")
    mask_id, pad_id, num_tokens = own_ids(model, mask_id, pad_id, num_tokens)
    max_length = options.max_length
    if max_length is None:
        max_length = getattr(getattr(model, "config", None), "max_length", None)
        if max_length is None:
            raise ValueError("give max_length: the model has no config with one")
    before, after = id_lists(prefixes, pad_id), id_lists(suffixes, pad_id)
    middles = middle_lengths if middle_lengths is not None else [0] * len(before)
    longest = max(map(sum, zip(map(len, before), map(len, after), middles)), default=0)
    if longest > max_length:
        raise ValueError(f"a row of {longest} tokens is longer than max_length {max_length}")
    if any(mask_id in row for row in before + after):
        raise ValueError(f"the given tokens contain the mask token {mask_id}")
    row_seeds = draw_seeds(len(before), seeds, generator).numpy()

    def sampler(
        rows: Sequence[int] | NDArray[np.int64],
        row_seeds: NDArray[np.int64],
        use: SamplerOptions = options,
        **more: Any,
    ) -> FlexMDMSampler:
        """Of some of the rows, which may be repeated."""
        given = [before[row] for row in rows], [after[row] for row in rows]
        sequences = Sequences(*given, max_length, mask_id, pad_id)
        return FlexMDMSampler(model, sequences, row_seeds, use, num_tokens=num_tokens, **more)

    everything = range(len(before))
    watching: dict[str, Any] = {"return_trace": return_trace, "on_frame": on_frame}
    if middle_lengths is not None:
        counts = np.array(middle_lengths, dtype=np.int64)
        result = sampler(everything, row_seeds, counts=counts, **watching).run()
        result.evaluations = (result.evaluations - 1).clamp(min=0)  # nothing had to be counted
    elif options.length_candidates > 1:
        result = search_lengths(sampler, row_seeds, options.length_candidates, **watching)
    elif options.placed_share is not None:
        result = count_and_insert(
            sampler(everything, row_seeds, options.to_count_first()),
            lambda masks, starts: sampler(
                everything, row_seeds, counts=masks, starts=starts, **watching
            ),
            options.placed_share,
        )
    else:
        result = sampler(everything, row_seeds, **watching).run()
    return result.to(device_of(model, prefixes, suffixes))
