"""When events happen in a FlexMDM sampler: the clock that decides what each network evaluation is
for, and Poisson counts.

Nothing here depends on a network. tau_leaping.py, event_driven.py and count_first.py are the
clocks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.row_random import RowUniforms
from sampling.schedules import Floats, Schedules, share_of_waiting

# What a row's next evaluation is for
LEAP = 0  # tau-leaping: unmask Binomial(masks, p) tokens and insert Poisson(G q) masks
MEASURE = 1  # G = sum of g in the current state: the bound from which the next event is proposed
EVENT = 2  # event-driven: a proposed unmasking, or a proposed insertion, accepted by G(now) / bound
FINAL_LEAP = 3  # the network's time ends (1 - time_epsilon): one leap over the remaining time
FINAL_UNMASK = 4  # ... and the remaining masks one at a time
LAST = 5  # event-driven, one evaluation before the cap: unmask everything
COUNTING = 6  # count-first: how many tokens are missing
HALTED = 7  # none: the row waits for its next corrector round (corrector.py)
DONE = 8
# What a random number is for
COUNT, ORDER, TOKEN, INSERTIONS, GAP, CLOCK, NOISE, MEASURED_COUNT = range(8)

Rows = NDArray[np.int64]  # (R,) numbers of rows, or one integer for each of them
Flags = NDArray[np.bool_]


def poisson_quantile(u: Floats, rate: Floats) -> NDArray[np.int64]:
    """Smallest k with P(Poisson(rate) <= k) >= u: the exact inverse CDF, at any rate, (R,)."""
    count = np.zeros(rate.shape, dtype=np.int64)
    some = u > np.exp(-rate)
    if some.any():
        u, rate = u[some], rate[some]
        # P(k <= low) < u <= P(k <= high)
        low, high = np.zeros_like(rate), np.ceil(rate + 40 * np.sqrt(rate) + 40)
        at = torch.from_numpy(rate)
        while (high - low > 1).any():
            middle = np.floor((low + high) / 2)
            enough = torch.special.gammaincc(torch.from_numpy(middle + 1), at).numpy() >= u
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        count[some] = high.astype(np.int64)
    return count


class Clock:
    """The time of B rows, and what their next evaluations are for. For the R rows of an evaluation
    the sampler calls it before the network (how many masks to unmask) and after it (how many to
    insert, then advance).

    random: the rows' random numbers; first_stage: of every row; cap: None, or the maximum
    evaluations per row.
    """

    cap: int | None = None

    def __init__(self, schedules: Schedules, random: RowUniforms, first_stage: int):
        batch = len(random.seeds)
        self.insertion, self.unmasking = schedules.insertion, schedules.unmasking
        # 1 - t of the last time at which the network may be queried
        self.end, self.random = schedules.end, random
        self.time_remaining = np.ones(batch)
        self.first_stage = first_stage
        self.stage = np.full(batch, first_stage)
        # 1 - t at which each row halts for a corrector round; 0: only when it is done
        self.halt = np.zeros(batch)
        self.rate_bound = np.zeros(batch)
        # proposed for the evaluation to come, and what the thinning counted
        self.unmaskings, self.proposals = np.zeros((2, batch), dtype=np.int64)
        self.rate_bound_violations = np.zeros(batch, dtype=np.int64)

    def to_unmask(self, rows: Rows, masks: Flags) -> tuple[Rows, Rows, Flags]:
        """How many masks each row unmasks with this evaluation, how many may be unmasked if the
        network is confident (both (R,), at most the number of masks), and whether it is all of
        them.
        """
        everything = self._unmasks_everything(rows)
        available = masks.sum(1)
        number = np.where(everything, available, np.minimum(self._number(rows, masks), available))
        return number, self._considered(rows, number), everything

    def to_insert(self, rows: Rows, total: Floats) -> Rows:
        """How many masks each row inserts, (R,), with G = total (R,): a Poisson number over a leap,
        plus the proposals accepted by thinning, each with probability G / bound.
        """
        number = np.zeros(len(rows), dtype=np.int64)
        share = self.leap_share(rows)
        if share.any():
            u = self.random.at(rows, INSERTIONS, 0)
            number = poisson_quantile(u, total * share)
        proposals, proposing = self._proposals(rows)
        if proposing.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = total / self.rate_bound[rows]
            self.rate_bound_violations[rows] += proposing & (ratio > 1 + 1e-6)
            most = int(proposals.max())
            if most:
                u = self.random.table(rows, INSERTIONS, most)  # (R, K)
                number += ((np.arange(most) < proposals[:, None]) & (u < ratio[:, None])).sum(1)
        return number

    def advance(self, rows: Rows, total: Floats, masks: Rows, changed: Flags, full: Flags) -> None:
        """Move every row to its next stage.

        total: (R,), G of this evaluation; masks: (R,), number of masks after it; changed: whether
        anything was written or inserted; full: whether a row has no room left, so that its G is 0
        from now on.
        """
        stage = self.stage[rows]
        over = (stage == LAST) | (stage == FINAL_LEAP) | (stage == FINAL_UNMASK)
        following = np.where(stage == LAST, DONE, np.where(masks > 0, FINAL_UNMASK, DONE))
        self.stage[rows] = np.where(over, following, stage)
        self._move(rows, stage, total, masks, changed, full)

    def rewind(self, rows: Rows, remaining: Floats) -> None:
        """Set rows back to an earlier time, 1 - t = remaining (R,), as reached by a new start."""
        self.stage[rows], self.time_remaining[rows] = self.first_stage, remaining

    # ---- what the clocks answer differently

    def stop_at_cap(self, rows: Rows, masks: Rows) -> Flags:
        """Whether each row is ended now, (R,), because it has one evaluation left; it then unmasks
        all its masks. masks: (R,), how many it has.
        """
        return np.zeros(len(rows), dtype=bool)

    def halt_and_resume(self, halt: Floats, resume: Floats) -> tuple[Floats, Floats]:
        """The times, as 1 - t, at which rows can halt and from which they can resume, nearest to
        those wanted, (K,) each: a halt after the network's time is one at t = 1, and the network's
        time is not resumed after its end.
        """
        return np.where(halt > self.end, halt, 0.0), np.maximum(resume, self.end)

    def _unmasks_everything(self, rows: Rows) -> Flags:
        return self.stage[rows] == LAST

    def _number(self, rows: Rows, masks: Flags) -> Rows:
        """Masks to unmask, (R,), where it is not all of them."""
        return (self.stage[rows] == FINAL_UNMASK).astype(np.int64)

    def _considered(self, rows: Rows, number: Rows) -> Rows:
        return number

    def leap_share(self, rows: Rows) -> Floats:
        """The share of the missing tokens that this evaluation's leap inserts, 0 without a leap,
        (R,).
        """
        leaping = self.stage[rows] == FINAL_LEAP
        if not leaping.any():
            return np.zeros(len(rows))
        remaining = self.time_remaining[rows]
        over = share_of_waiting(self.insertion, remaining, np.zeros_like(remaining), True)
        return np.where(leaping, over, 0.0)

    def _proposals(self, rows: Rows) -> tuple[Rows, Flags]:
        """Proposed insertions, (R,), and in which rows a rate above the bound is to be counted."""
        raise NotImplementedError

    def _move(
        self, rows: Rows, stage: Rows, total: Floats, masks: Rows, changed: Flags, full: Flags
    ) -> None:
        raise NotImplementedError
