"""Event-driven sampling that begins with a part of the text: the number n of missing tokens is
taken first, a share of them is put in place as masks, and the rest is inserted by events.

A text whose tokens were each inserted by time s with probability alpha(s), none of them unmasked
yet, is a state of the joint interpolant at time s, if unmasking begins at s. Its law is known
without sampling up to s: n has the law p(n | given), and m ~ Binomial(n, alpha(s)) masks stand in
the only gap. From s on the event-driven sampler continues: insertions at the rate alpha' / (1 -
alpha) G; unmasking at beta' / (1 - beta) for each mask, because a mask that stands at s has waited
for nothing before s. The network's posteriors are those of this interpolant too, as they depend on
t only through alpha(t) (count_first.py). So with drawn n, an exact network and an exact p(n), the
samples have the exact law for every s, also if s depends on what is given: share 0 is the
event-driven sampler, share 1 is count first.

How much of the number is settled is told by the entropy of p(n | given), in nats: a row's share is
`placed_share ** entropy`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.clock import ORDER
from sampling.count_first import CountFirst
from sampling.flexmdm_sampler import FlexMDMSampler
from sampling.results import GenerationResult
from sampling.schedules import remaining_at, survival


def entropy(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats of each row's law, (B,), from log p(n) (B, N + 1)."""
    p = np.exp(log_probs)
    return -np.where(p > 0, p * np.where(p > 0, log_probs, 0.0), 0.0).sum(1)


def count_and_insert(
    counting: FlexMDMSampler,
    continued: Callable[[NDArray[np.int64], NDArray[np.float64]], FlexMDMSampler],
    placed_share: float,
) -> GenerationResult:
    """Count, place a share of the masks of each row, and insert the rest.

    counting: a count-first sampler of the rows, not yet run; continued(masks, remaining): an
    event-driven one of the same rows and seeds that begins with so many masks, at 1 - t =
    remaining, both (B,).
    """
    clock, batch = counting.clock, np.arange(len(counting.sequences))
    assert isinstance(clock, CountFirst)
    laws = counting.log_counts()  # (B, N + 1)
    number = clock.count(batch, laws, counting.sequences.max_length - counting.sequences.lengths)
    # the clock cannot begin after the last time at which the network may be queried
    last = 1 - survival(clock.insertion, np.array([clock.end]), starts_at_zero=True)
    share = np.minimum(placed_share ** entropy(laws), last)  # (B,)
    if clock.drawn:
        u = clock.random.table(batch, ORDER, max(1, int(number.max(initial=0))))
        there = np.arange(u.shape[1]) < number[:, None]
        masks = (there & (u < share[:, None])).sum(1)
    else:
        masks = np.rint(number * share).astype(np.int64)
    remaining = np.clip(remaining_at(clock.insertion, 1 - share), clock.end, 1)
    result = continued(masks, remaining).run()
    assert result.positions is not None
    result.positions += torch.from_numpy(counting.network.positions)
    return result
