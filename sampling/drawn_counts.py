"""Leaps by drawn counts: instead of a Poisson number of masks with the right mean, a leap draws for
each gap the number n of tokens missing there from p(n | xt, t), and inserts each of these tokens
with the leap's probability q: a Binomial(n, q) number.

Given that n tokens are missing in a gap, each is inserted within the leap with probability q,
independently. So with an exact p(n) the number that a gap receives has the right law, however large
the leap; of a Poisson number only the mean is right. Several gaps are drawn as if they were
independent of each other, which in the posterior they need not be: there the leap stays an
approximation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.clock import GAP, INSERTIONS, Clock, Floats, Rows
from sampling.insertion import Insertion
from sampling.row_random import RowUniforms
from sampling.sequences import Sequences
from sampling.token_choice import draw_tokens


def refuses_drawn_counts(model: Any) -> str | None:
    """Why a network cannot say how many tokens are missing in a gap at any time, or None."""
    config = getattr(model, "config", None)
    if not getattr(config, "length_distribution", 0):
        return "has no length distribution"
    if getattr(config, "length_distribution_at_start", False):
        return "has a length distribution that was fitted at t = 0 only"
    return None


def leap(
    sequences: Sequences,
    random: RowUniforms,
    rows: Rows,
    gaps: tuple[Rows, Rows],
    missing: Rows,
    share: Floats,
) -> tuple[Rows, Rows]:
    """Insert some of the missing tokens as masks, each with its row's probability `share` (R,).

    rows: (R,); gaps: (index into rows, ascending; gap), (m,) each; missing: (m,), the numbers that
    were drawn for them. Where more tokens are chosen than there is room for, a uniformly random
    subset is kept. Returns how many masks each row received and how many did not fit, (R,) each.
    Raises ValueError for a number of -1.
    """
    if (missing < 0).any():
        raise ValueError("the network's length distribution is not made of finite numbers")
    # (n,) one entry for each missing token
    row, gap = gaps[0].repeat(missing), gaps[1].repeat(missing)
    place = np.arange(len(row)) - np.searchsorted(row, row)  # counted within its row
    u = random.at(rows[row], GAP, place)
    chosen = u < share[row]
    row, gap, u = row[chosen], gap[chosen], u[chosen]
    # below the share u is uniform, so the smallest ones are a random subset; row ascends already
    gap = gap[np.lexsort((u, row))]
    room = sequences.max_length - sequences.lengths[rows]
    fits = np.arange(len(row)) - np.searchsorted(row, row) < room[row]
    count = np.zeros((len(rows), sequences.width(rows) + 1), dtype=np.int64)  # (R, W+1)
    np.add.at(count, (row[fits], gap[fits]), 1)
    received = count.sum(1)
    some = np.flatnonzero(received)
    if len(some):
        sequences.insert_counts(rows[some], count[some])
    return received, np.bincount(row, minlength=len(rows)) - received


class DrawnInsertion(Insertion):
    """Leaps insert by drawn counts, everything else by rate. Raises ValueError for a network that
    cannot be asked for them.
    """

    def __init__(self, sequences: Sequences, clock: Clock, model: Any):
        reason = refuses_drawn_counts(model)
        if reason:
            raise ValueError(f"leap_counts drawn: the network {reason}")
        super().__init__(sequences, clock)

    def counted_gaps(self, live: Rows) -> tuple[Rows, Rows]:
        """All open gaps of the rows that leap: (index into live, ascending; gap), (m,) each."""
        leaping = self.clock.leap_share(live) > 0
        open_gaps = self.sequences.open_gaps(live, self.sequences.width(live) + 1)
        rows, gaps = np.nonzero(open_gaps & leaping[:, None])
        return rows, gaps

    def read(self, law: torch.Tensor, live: Rows, counted: tuple[Rows, Rows]) -> torch.Tensor:
        """Numbers of missing tokens drawn from log p(n) (m, N + 1), long (m,); -1 where it is not
        made of numbers.
        """
        u = torch.from_numpy(self.random.at(live[counted[0]], INSERTIONS, counted[1]))
        return draw_tokens(law, torch.zeros_like(law[0], dtype=torch.bool), 1.0, u)

    def insert(
        self,
        live: Rows,
        gaps: Floats,
        total: Floats,
        counted: tuple[Rows, Rows],
        law: NDArray[np.generic] | None,
    ) -> Rows:
        """A binomial part of the drawn numbers in rows that leap. Returns how many masks each row
        received, (R,).
        """
        share, wanted = self.clock.leap_share(live), self.clock.to_insert(live, total)
        leapt: Rows | int = 0
        if law is not None:
            missing = law.astype(np.int64)
            leapt, dropped = leap(self.sequences, self.random, live, counted, missing, share)
            self.dropped[live] += dropped
        return leapt + self.put(live, gaps, np.where(share > 0, 0, wanted))
