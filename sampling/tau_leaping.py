"""Tau-leaping (arXiv 2509.01025): a grid of steps, uniform in t, over each of which the network's
predictions are frozen.

In step k each mask is unmasked with probability p_k, so Binomial(masks, p_k) of them are, and a
Poisson(G q_k) number of masks is inserted, G = sum of g: p_k and q_k are the shares of the pending
unmaskings and insertions that fall within the step. First order in 1 / steps.

With a rate bound, no-op steps are skipped: the counts of all steps are proposed from c times the
last G, and only a step with a proposal evaluates the network and thins. A grid of 4,096 steps then
costs only as much as its events, and its distribution is unchanged wherever G stays below the
bound.
"""

from __future__ import annotations

import numpy as np

from flexmdm_interpolant import Schedule
from sampling.clock import (
    CLOCK,
    COUNT,
    DONE,
    FINAL_LEAP,
    HALTED,
    LEAP,
    MEASURE,
    MEASURED_COUNT,
    Clock,
    Flags,
    Floats,
    Rows,
    poisson_quantile,
)
from sampling.options import SamplerOptions
from sampling.row_random import RowUniforms
from sampling.schedules import Schedules, share_of_waiting


class Grid:
    """The steps: `start`, `end` (1 - t at both ends), `last` (everything is unmasked, nothing
    inserted), each (K,).

    Where the grid is finer than the network's time reaches (`time_end`), it is cut there: `cut`,
    and a final leap follows. `unmask`, `insert`: p_k and q_k, (K,).
    """

    def __init__(self, steps: int, time_end: float, insertion: Schedule, unmasking: Schedule):
        start = 1 - np.arange(steps, dtype=np.float64) / steps
        self.cut = not start[-1] >= time_end * (1 - 1e-9)
        self.start = start[start > time_end * (1 + 1e-9)] if self.cut else start
        self.end = np.append(self.start[1:], time_end if self.cut else 0.0)
        self.last = np.zeros(len(self.start), dtype=bool)
        self.last[-1] = not self.cut
        self.unmask = np.where(self.last, 1.0, share_of_waiting(unmasking, self.start, self.end))
        inserted = share_of_waiting(insertion, self.start, self.end, insertions=True)
        self.insert = np.where(self.last, 0.0, inserted)
        # (K+1,): -log P(a mask stands until step k); insertions until k for each missing token
        with np.errstate(divide="ignore"):
            self.unmask_hazard = np.append(0.0, -np.log1p(-self.unmask).cumsum())
        self.insert_hazard = np.append(0.0, self.insert.cumsum())

    def __len__(self) -> int:
        return len(self.start)

    def step_from(self, remaining: Floats) -> Rows:
        """The first step that starts at a time 1 - t = remaining or later, K where none does."""
        # the steps' starts fall
        return np.searchsorted(-self.start, -remaining * (1 + 1e-9))

    def next_step(
        self, step: Rows, masks: Rows, bound: Floats, u: Floats, u_masks: Floats
    ) -> tuple[Rows, Rows, Rows]:
        """The first step from `step` on in which something is proposed, when G is at most `bound`,
        and what: (step, unmaskings, proposals), (R,). The step is K where nothing is.

        step, masks: int64 (R,); bound: (R,); u: (R, 4); u_masks: (R, most masks). Counts have the
        law that drawing Binomial(masks, p_k) and Poisson(bound * q_k) in every step would give: the
        first step by inverting the chance that nothing was drawn before, then both counts, given
        that they are not both zero.
        """
        # the first step at whose end the hazard reaches this has something; by bisection
        wanted = -np.log(u[:, 0])
        before, reached = step, np.full_like(step, len(self) + 1)  # hazard(before) < wanted
        insert_before = self.insert_hazard[step]
        unmask_before = self.unmask_hazard[step]
        some_masks = masks > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            while (reached - before > 1).any():
                middle = (before + reached) // 2
                at = np.minimum(middle, len(self))
                hazard = bound * (self.insert_hazard[at] - insert_before)
                unmask = masks * (self.unmask_hazard[at] - unmask_before)
                hazard = hazard + np.where(some_masks, unmask, 0.0)
                enough = (hazard >= wanted) | (middle > len(self))
                before = np.where(enough, before, middle)
                reached = np.where(enough, middle, reached)
            found = reached - 1
            nothing = found >= len(self)
            at = np.minimum(found, len(self) - 1)
            share, rate = self.unmask[at], bound * self.insert[at]
            log_none = np.where(some_masks, masks * np.log1p(-share), 0.0)  # of the masks' staying
            some = -np.expm1(log_none)  # P(an unmasking)
            unmasks_some = u[:, 1] * -np.expm1(log_none - rate) < some
            # the first mask that is unmasked, given that one is; each later one on its own
            first = np.where(share < 1, np.floor(np.log1p(-u[:, 2] * some) / np.log1p(-share)), 0.0)
        first = np.nan_to_num(first, nan=0.0, posinf=2.0**62).astype(np.int64)
        first = np.minimum(first, np.maximum(masks - 1, 0))
        index = np.arange(u_masks.shape[1])
        later = (index > first[:, None]) & (index < masks[:, None]) & (u_masks < share[:, None])
        unmaskings = np.where(unmasks_some, 1 + later.sum(1), 0)
        given_some = poisson_quantile(np.exp(-rate) + u[:, 3] * -np.expm1(-rate), rate)
        given_some = np.maximum(given_some, 1)
        proposals = np.where(unmasks_some, poisson_quantile(u[:, 3], rate), given_some)
        return found, np.where(nothing, 0, unmaskings), np.where(nothing, 0, proposals)


class TauLeaping(Clock):
    """The clock of tau-leaping. With a bound_inflation no-op steps are skipped; with a
    confidence_threshold more masks may be unmasked than the binomial number.
    """

    def __init__(self, schedules: Schedules, random: RowUniforms, options: SamplerOptions):
        assert options.steps is not None  # generate_flexmdm_infilling sets it
        self.skips = options.bound_inflation is not None
        self.inflation = options.bound_inflation or 1.0
        self.threshold = options.confidence_threshold is not None
        super().__init__(schedules, random, MEASURE if self.skips else LEAP)
        self.grid = Grid(options.steps, self.end, self.insertion, self.unmasking)
        self.step = np.zeros(len(random.seeds), dtype=np.int64)

    def rewind(self, rows: Rows, remaining: Floats) -> None:
        """Set rows back to an earlier time at which a step starts."""
        super().rewind(rows, remaining)
        self.step[rows] = self.grid.step_from(remaining)

    def halt_and_resume(self, halt: Floats, resume: Floats) -> tuple[Floats, Floats]:
        """Rows halt at the first start of a step from the time wanted on, and resume at the last
        one before it.
        """
        starts = np.append(self.grid.start, 0.0)
        before = np.searchsorted(-self.grid.start, -resume * (1 - 1e-9), side="right") - 1
        return starts[self.grid.step_from(halt)], starts[before]

    def _unmasks_everything(self, rows: Rows) -> Flags:
        leaping = (self.stage[rows] == LEAP) | (self.stage[rows] == MEASURE)
        return leaping & self.grid.last[self.step[rows]]

    def _number(self, rows: Rows, masks: Flags) -> Rows:
        number = super()._number(rows, masks)
        if self.skips:
            number = np.where(self.stage[rows] == LEAP, self.unmaskings[rows], number)
        row, place = np.nonzero(masks & self._on_grid(rows)[:, None])
        # where steps are skipped, this evaluation draws COUNT for the step that it proposes
        u = self.random.at(rows[row], MEASURED_COUNT if self.skips else COUNT, place)
        happens = u < self.grid.unmask[self.step[rows]][row]
        return number + np.bincount(row[happens], minlength=len(rows))  # Binomial(masks, p_k)

    def _on_grid(self, rows: Rows) -> Flags:
        """Which rows draw their step's numbers from the evaluation itself, (R,): where steps are
        skipped, only the first after a start; the others are proposed.
        """
        return self.stage[rows] == (MEASURE if self.skips else LEAP)

    def _considered(self, rows: Rows, number: Rows) -> Rows:
        if not self.threshold:
            return number
        return np.where(self.stage[rows] == LEAP, np.maximum(number, 1), number)

    def leap_share(self, rows: Rows) -> Floats:
        leap = self.grid.insert[self.step[rows]]
        return np.where(self._on_grid(rows), leap, super().leap_share(rows))

    def _proposals(self, rows: Rows) -> tuple[Rows, Flags]:
        proposing = (self.stage[rows] == LEAP) & self.skips
        return np.where(proposing, self.proposals[rows], 0), proposing

    def _move(
        self, rows: Rows, stage: Rows, total: Floats, masks: Rows, changed: Flags, full: Flags
    ) -> None:
        leaping = (stage == LEAP) | (stage == MEASURE)
        step = self.step[rows] + 1  # the one that comes next
        if self.skips:
            bound = np.where(leaping, np.where(full, 0.0, total * self.inflation), 0.0)
            self.rate_bound[rows] = np.where(leaping, bound, self.rate_bound[rows])
            step = self._next_step(rows, step, masks, self.rate_bound[rows])
        halt = self.grid.step_from(self.halt[rows])
        halts = leaping & (step >= halt) & (halt < len(self.grid))
        over = leaping & (step >= len(self.grid))
        step = np.minimum(step, len(self.grid) - 1)
        following = np.where(over, FINAL_LEAP if self.grid.cut else DONE, LEAP)
        following = np.where(halts, HALTED, following)
        following = np.where((total == 0) & (masks == 0), DONE, following)  # nor ever will be
        remaining = np.where(over, self.grid.end[-1], self.grid.start[step])
        self.stage[rows] = np.where(leaping, following, self.stage[rows])
        self.time_remaining[rows] = np.where(leaping, remaining, self.time_remaining[rows])
        self.step[rows] = np.where(leaping, step, self.step[rows])

    def _next_step(self, rows: Rows, step: Rows, masks: Rows, bound: Floats) -> Rows:
        """The next step in which something is proposed, (R,), K where there is none; what is
        proposed is kept.
        """
        u = self.random.table(rows, CLOCK, 4)  # (R, 4)
        u_masks = self.random.table(rows, COUNT, int(masks.max()))  # (R, most masks)
        ahead = step < len(self.grid)
        at = np.minimum(step, len(self.grid) - 1)
        found, self.unmaskings[rows], self.proposals[rows] = self.grid.next_step(
            at, masks, bound, u, u_masks
        )
        return np.where(ahead, found, step)
