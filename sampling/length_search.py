"""Count first with several candidate lengths: the K likeliest numbers of missing tokens are filled
in, and the answer with the largest log p(n) + sum of log p(token) is kept.

The sum follows the order in which the tokens were written, each given those before it: by the chain
rule it is the joint log-probability of number and tokens, if the network's posteriors are exact.
The text decides where p(n) alone is undecided: a number that is off by one leads to tokens that the
network finds improbable. Every candidate's evaluations count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.flexmdm_sampler import FlexMDMSampler
from sampling.results import GenerationResult, OnFrame
from sampling.row_random import item_seed


def likeliest_counts(
    log_counts: NDArray[np.float64], room: NDArray[np.int64], candidates: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The K likeliest numbers of each row, at most room (B,), and their log p, both (B, K); log p
    is -inf where there are fewer. log_counts: (B, N + 1).
    """
    n = np.arange(log_counts.shape[1])
    possible = np.where(n <= room[:, None], log_counts, -np.inf)
    counts = np.argsort(-possible, axis=1, kind="stable")[:, :candidates]
    return counts, np.take_along_axis(possible, counts, 1)


def search_lengths(
    sampler: Callable[..., FlexMDMSampler],
    seeds: NDArray[np.int64],
    candidates: int,
    *,
    return_trace: bool = False,
    on_frame: OnFrame | None = None,
) -> GenerationResult:
    """The best of K lengths for each of B rows. sampler(rows, seeds, ...): samples rows, which may
    be repeated. The trace, and the frames passed to on_frame at the end, are those of the answer
    that is kept.
    """
    batch = np.arange(len(seeds))
    counting = sampler(batch, seeds)
    room = counting.sequences.max_length - counting.sequences.lengths
    counts, log_counts = likeliest_counts(counting.log_counts(), room, candidates)
    positions = counting.network.positions.copy()
    rows, rank = np.nonzero(np.isfinite(log_counts))
    # further candidates draw numbers of their own
    own = [
        item_seed(int(seeds[row]), "length", int(r)) if r else seeds[row]
        for row, r in zip(rows, rank)
    ]
    tracing = return_trace or on_frame is not None
    result = sampler(
        rows, np.array(own, dtype=np.int64), counts=counts[rows, rank], return_trace=tracing
    ).run()
    assert result.log_probs is not None  # as counts are given
    score = torch.from_numpy(log_counts[rows, rank]) + result.log_probs
    best = torch.full((len(batch),), -1, device="cpu")
    for candidate in score.argsort(stable=True).tolist():  # the last one of a row is its best
        best[rows[candidate]] = candidate
    # the evaluation that told the law is in each candidate's number
    evaluations = torch.from_numpy(room > 0).long()
    evaluations.index_add_(0, torch.from_numpy(rows), (result.evaluations - 1).clamp(min=0))
    trace = None
    if result.trace is not None:
        trace = [result.trace[candidate] for candidate in best.tolist()]
    if on_frame is not None and trace is not None:
        for row, frames in enumerate(trace):
            for frame in frames:
                on_frame(row, frame)
    kept: dict[str, Any] = {
        name: value[best] for name, value in vars(result).items() if isinstance(value, torch.Tensor)
    }
    width = int(kept["lengths"].max()) if len(batch) else 0
    assert result.positions is not None
    np.add.at(positions, rows, result.positions.numpy())
    kept |= {"sequences": kept["sequences"][:, :width], "evaluations": evaluations}
    kept["positions"] = torch.from_numpy(positions)
    return GenerationResult(
        **{**kept, "trace": trace if return_trace else None, "log_probs": score[best]}
    )
