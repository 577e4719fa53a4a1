"""LLaDA's rival to a length distribution, without training: try canvases of several lengths and
take the one that the network fills with most confidence.

Every length is asked once: n masks in place, and the mean over them of the log of the largest
probability. That confidence also changes with the length alone, whatever the text; this drift is
measured on other texts (scripts/length_drift.py) and subtracted. Every evaluation counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.length_law import Ids, likeliest_lengths
from sampling.options import LLaDAOptions
from sampling.results import GenerationResult
from sampling.token_choice import confidence, evaluate, excluded_tokens


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
    config, scores = model.config, [np.zeros(0)]
    at_once = rows_at_once or max(1, len(prefixes))
    for start in range(0, len(prefixes), at_once):
        pairs = list(zip(prefixes[start : start + at_once], suffixes[start : start + at_once]))
        rows = [[*before, *[config.mask_token_id] * number, *after] for before, after in pairs]
        width = max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows], device="cpu")[:, None]
        first = torch.tensor([len(before) for before, _ in pairs], device="cpu")[:, None]
        place = torch.arange(width, device="cpu")
        padded = [row + [config.pad_token_id] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, device="cpu")  # (R, L)
        masks = (place >= first) & (place < first + number)
        logits = evaluate(model, ids, place < lengths, masks)  # (R * number, V)
        excluded = excluded_tokens(
            logits.shape[-1], config.mask_token_id, None, num_tokens, logits.device
        )
        sure = confidence(logits, excluded, "top_prob").double().log()
        scores.append(sure.view(len(rows), number).mean(1).cpu().numpy())
    return np.concatenate(scores)


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
    if options.llada_length == "counted":  # asked at a single mask
        found = likeliest_lengths(model, prefixes, suffixes, max_length, rows_at_once)
        return found, [[1] for _ in found]
    room = [max_length - len(before) - len(after) for before, after in zip(prefixes, suffixes)]
    return [options.gen_length or most for most in room], [[] for _ in room]


def add_cost(result: GenerationResult, given: Sequence[int], asked: list[list[int]]) -> None:
    """Add to a result the evaluations and positions of chosen_lengths. given: tokens of each
    row's prompt, or prefix and suffix.
    """
    result.evaluations += torch.tensor(list(map(len, asked)))
    if result.positions is not None:
        result.positions += torch.tensor(
            [sum(length + number for number in numbers) for length, numbers in zip(given, asked)]
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
