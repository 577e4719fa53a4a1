"""LLaDA's rivals to a length distribution, without training. Every evaluation counts.

searched: try canvases of several lengths and take the one that the network fills with most
confidence. Every length is asked once: n masks in place, and the mean over them of the log of the
largest probability. That confidence also changes with the length alone, whatever the text; this
drift is measured on other texts (scripts/length_drift.py) and subtracted.

grown: start with a short canvas behind a prompt, and lengthen it until the network, asked with
everything still masked, expects the text to end before the last masks. (The idea of DAEDAL's first
stage, arXiv 2508.00819; its second, lengthening between the steps, is not here.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling.length_law import Ids, likeliest_lengths
from sampling.options import LLaDAOptions
from sampling.results import GenerationResult
from sampling.token_choice import confidence, evaluate, excluded_tokens, log_probability

GROWN_BY = 8  # masks, at the start and each time
ENDS = 0.9  # mean probability of the end of text at the last GROWN_BY masks of a long enough canvas


def masked_rows(
    model: Any, prefixes: Ids, suffixes: Ids, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids long, real bool, masks bool), (B, L) each: `number` masks between each prefix and
    suffix, then padding.
    """
    config = model.config
    rows = [[*a, *[config.mask_token_id] * number, *b] for a, b in zip(prefixes, suffixes)]
    width = max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows], device="cpu")[:, None]
    first = torch.tensor([len(before) for before in prefixes], device="cpu")[:, None]
    place = torch.arange(width, device="cpu")
    padded = [row + [config.pad_token_id] * (width - len(row)) for row in rows]
    masks = (place >= first) & (place < first + number)
    return torch.tensor(padded, device="cpu"), place < lengths, masks


@torch.no_grad()
def first_confidence(
    model: Any,
    prefixes: Ids,
    suffixes: Ids,
    number: int,
    num_tokens: int | None = None,
    rows_at_once: int | None = None,
) -> NDArray[np.float64]:
    """The mean over `number` masks between each prefix and suffix of the log of the largest
    probability, (B,).
    """
    scores = [np.zeros(0)]
    at_once = rows_at_once or max(1, len(prefixes))
    for start in range(0, len(prefixes), at_once):
        part = slice(start, start + at_once)
        logits = evaluate(model, *masked_rows(model, prefixes[part], suffixes[part], number))
        excluded = excluded_tokens(
            logits.shape[-1], model.config.mask_token_id, None, num_tokens, logits.device
        )
        sure = confidence(logits, excluded, "top_prob").double().log()  # (R * number,)
        scores.append(sure.view(-1, number).mean(1).cpu().numpy())
    return np.concatenate(scores)


@torch.no_grad()
def grown_lengths(
    model: Any,
    prompts: Ids,
    max_length: int,
    num_tokens: int | None = None,
    rows_at_once: int | None = None,
) -> tuple[list[int], list[list[int]]]:
    """The length of the canvas behind each prompt, and the lengths that the network was asked
    about, one evaluation each.

    A canvas has GROWN_BY masks, then twice, three times as many, and so on, until the probability
    of the end of text (pad_token_id, which fills what is left behind an answer), averaged over its
    last GROWN_BY masks, is ENDS or more, everything still being masked. A canvas that reaches
    max_length is taken as it is, without an evaluation; a prompt of max_length tokens or more
    leaves 0.
    """
    found = [max(0, max_length - len(prompt)) for prompt in prompts]  # until less is enough
    asked: list[list[int]] = [[] for _ in prompts]
    growing, number = list(range(len(prompts))), GROWN_BY
    while growing := [row for row in growing if number < found[row]]:
        at_once, short = rows_at_once or len(growing), []
        for start in range(0, len(growing), at_once):
            rows = growing[start : start + at_once]
            ids, real, masks = masked_rows(
                model, [prompts[row] for row in rows], [[]] * len(rows), number
            )
            last = masks & (masks.cumsum(1) > number - GROWN_BY)  # (R, L)
            logits = evaluate(model, ids, real, last)  # (R * GROWN_BY, V)
            excluded = excluded_tokens(
                logits.shape[-1], model.config.mask_token_id, None, num_tokens, logits.device
            )
            end = torch.full((len(logits),), model.config.pad_token_id, device=logits.device)
            ends = log_probability(logits, end, excluded).exp().view(-1, GROWN_BY).mean(1)
            for row, probability in zip(rows, ends.tolist()):
                asked[row].append(number)
                if probability >= ENDS:
                    found[row] = number
                else:
                    short.append(row)
        growing, number = short, number + GROWN_BY
    return found, asked


def chosen_lengths(
    model: Any,
    prefixes: Ids,
    suffixes: Ids,
    options: LLaDAOptions,
    *,
    max_length: int,
    num_tokens: int | None = None,
    rows_at_once: int | None = None,
) -> tuple[list[int], list[list[int]]]:
    """LLaDA's number of masks for each row, as llada_length says, and the numbers that the network
    was asked about to find it, one evaluation each.
    """
    if options.llada_length == "searched":
        assert options.length_drift is not None  # LLaDAOptions.check
        return searched_lengths(
            model, prefixes, suffixes, max_length, options.length_drift, num_tokens, rows_at_once
        )
    if options.llada_length == "grown":
        if any(map(len, suffixes)):
            raise ValueError("llada_length grown is for prompts: a text in place has no end")
        return grown_lengths(model, prefixes, max_length, num_tokens, rows_at_once)
    if options.llada_length == "counted":  # asked at a single mask
        found = likeliest_lengths(model, prefixes, suffixes, max_length, rows_at_once)
        return found, [[1] for _ in found]
    room = [max_length - len(before) - len(after) for before, after in zip(prefixes, suffixes)]
    return [options.gen_length or most for most in room], [[] for _ in room]


def add_cost(result: GenerationResult, given: Sequence[int], asked: list[list[int]]) -> None:
    """Add to a result the evaluations and positions of chosen_lengths. given: tokens of each
    row's prompt, or prefix and suffix.
    """
    device = result.evaluations.device  # where the network is, once a result is handed over
    result.evaluations += torch.tensor(list(map(len, asked)), device=device)
    if result.positions is not None:
        result.positions += torch.tensor(
            [sum(length + number for number in numbers) for length, numbers in zip(given, asked)],
            device=device,
        )


def searched_lengths(
    model: Any,
    prefixes: Ids,
    suffixes: Ids,
    max_length: int,
    drift: Mapping[str, float],
    num_tokens: int | None = None,
    rows_at_once: int | None = None,
) -> tuple[list[int], list[list[int]]]:
    """The length of the most confident canvas for each row, and the lengths that were tried: those
    of drift that fit into max_length together with what is given. No length fits: 0.
    """
    tried: list[list[int]] = [[] for _ in prefixes]
    best = [(-np.inf, 0)] * len(prefixes)
    for number in sorted(map(int, drift)):
        fits = [
            row
            for row, (before, after) in enumerate(zip(prefixes, suffixes))
            if len(before) + number + len(after) <= max_length
        ]
        pair = [prefixes[row] for row in fits], [suffixes[row] for row in fits]
        scores = first_confidence(model, *pair, number, num_tokens, rows_at_once)
        for row, score in zip(fits, scores - drift[str(number)]):
            tried[row].append(number)
            best[row] = max(best[row], (score, number), key=lambda found: found[0])
    return [number for _, number in best], tried
