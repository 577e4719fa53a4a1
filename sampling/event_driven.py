"""The event-driven sampler, without discretisation error: first-hitting times and thinning.

Masks are unmasked at rate beta'/(1-beta) each, and masks are inserted at rate alpha'/(1-alpha) G.
Both have an inverse in closed form as long as G does not change, so the next event is drawn from a
dominating rate (the measured G, or a bound c times as large) at its own time; an insertion is then
accepted with probability G(now) / bound. An event costs one evaluation of the network; measuring G
after it, unless a stale rate bound is kept, costs another: about four evaluations per token.

Approximations, off by default: several events per evaluation, and a stale rate bound.
"""

from __future__ import annotations

import numpy as np

from sampling.clock import (
    CLOCK,
    DONE,
    EVENT,
    FINAL_LEAP,
    FINAL_UNMASK,
    HALTED,
    LAST,
    MEASURE,
    Clock,
    Flags,
    Floats,
    Rows,
)
from sampling.options import SamplerOptions
from sampling.row_random import RowUniforms
from sampling.schedules import Schedules, remaining_at, survival

# several events per evaluation: at most this share of the expected remaining masks and tokens
PARALLEL_SHARE = 0.25
TOLERANCE = 1e-6  # a row without masks that misses fewer tokens than this is finished


class EventDriven(Clock):
    """The clock of the event-driven sampler. Raises ValueError if the unmasking schedule does not
    reach 1, because masks would remain.
    """

    def __init__(self, schedules: Schedules, random: RowUniforms, options: SamplerOptions):
        if survival(schedules.unmasking, np.zeros(1))[0] > 1e-9:
            raise ValueError("the event-driven sampler needs an unmasking schedule that reaches 1")
        super().__init__(schedules, random, MEASURE)
        self.events, self.cap = options.events_per_evaluation, options.steps
        # None to measure G after every event, or c >= 1 for a bound of c times the G before it
        self.inflation = options.bound_inflation
        self.resume = self.time_remaining.copy()  # the time after the events under way

    def stop_at_cap(self, rows: Rows, masks: Rows) -> Flags:
        """Rows with one evaluation left, but for those that are about to finish."""
        if self.cap is None:
            return super().stop_at_cap(rows, masks)
        finishes = (self.stage[rows] == FINAL_UNMASK) & (masks <= 1)
        stop = (self.random.evaluations[rows] == self.cap - 1) & ~finishes
        following = np.where(masks > 0, LAST, DONE)
        self.stage[rows] = np.where(stop, following, self.stage[rows])
        return stop

    def _number(self, rows: Rows, masks: Flags) -> Rows:
        number = super()._number(rows, masks)
        return np.where(self.stage[rows] == EVENT, self.unmaskings[rows], number)

    def _proposals(self, rows: Rows) -> tuple[Rows, Flags]:
        proposals = np.where(self.stage[rows] == EVENT, self.proposals[rows], 0)
        return proposals, proposals > 0

    def _move(
        self, rows: Rows, stage: Rows, total: Floats, masks: Rows, changed: Flags, full: Flags
    ) -> None:
        running = (stage == MEASURE) | (stage == EVENT)
        if not running.any():
            return
        measure = running & changed & ~full  # where the row is full, G is 0 without asking
        if self.inflation is not None:
            # trust the bound from before the event, but not one of 0 to say that this was all
            total = np.where(measure, total * self.inflation, total)
            measure = measure & (masks == 0) & (total <= TOLERANCE)
        propose = running & ~measure
        remaining = np.where(stage == EVENT, self.resume[rows], self.time_remaining[rows])
        bound = np.where(propose, np.where(full, 0.0, total), self.rate_bound[rows])
        stop = np.maximum(self.halt[rows], self.end)
        first = self._propose(rows, remaining, bound, masks, stop)
        beyond, halts = first <= stop, stop > self.end
        leap = (bound > 0) & (self.end > 0)
        over = beyond & ~halts & ((self.end == 0) | ~leap)
        ended = (masks == 0) & ((bound <= TOLERANCE) | over)
        at_stop = np.where(halts, HALTED, np.where(leap, FINAL_LEAP, FINAL_UNMASK))
        following = np.where(beyond, at_stop, EVENT)
        following = np.where(ended, DONE, following)
        following = np.where(measure, MEASURE, following)
        self.stage[rows] = np.where(running, following, self.stage[rows])
        self.time_remaining[rows] = np.where(propose, np.maximum(first, stop), remaining)
        self.rate_bound[rows] = bound

    def _propose(
        self, rows: Rows, remaining: Floats, bound: Floats, masks: Rows, stop: Floats
    ) -> Floats:
        """Draw the next events, and keep how many are unmaskings, how many insertions, and the time
        after the last. Returns the time of the first, as 1 - t, (R,).

        Two clocks, each with its own inverse; the first to ring is the event, and rings after the
        stop (R,), the row's next halt or the end of the network's time, are discarded. With one
        event this is exact. Several events are drawn as if nothing changed between them, and at
        most a PARALLEL_SHARE of the remaining work, so that the last tokens get an evaluation each.
        """
        unmaskings, proposals = np.zeros((2, len(rows)), dtype=np.int64)
        first, rings = remaining, np.ones(len(rows), dtype=bool)
        allowed = np.clip(PARALLEL_SHARE * (bound + masks), 1, self.events).astype(np.int64)  # (R,)
        numbers = np.log(self.random.table(rows, CLOCK, 2 * int(allowed.max())).T)  # (2 K, R)
        with np.errstate(divide="ignore", invalid="ignore"):
            for event in range(len(numbers) // 2):
                log_insert, log_unmask = numbers[2 * event : 2 * event + 2]
                missing = survival(self.insertion, remaining, starts_at_zero=True)
                masked = survival(self.unmasking, remaining)
                insertion = remaining_at(self.insertion, missing * np.exp(log_insert / bound))
                insertion = np.where(bound > 0, insertion, -1.0)
                standing = masks - unmaskings
                unmasking = remaining_at(self.unmasking, masked * np.exp(log_unmask / standing))
                unmasking = np.where(standing > 0, unmasking, -1.0)
                following = np.minimum(np.maximum(insertion, unmasking), remaining)
                rings = rings & (following > stop) & (event < allowed)
                first = following if event == 0 else first
                unmaskings += rings & (unmasking >= insertion)
                proposals += rings & (insertion > unmasking)
                remaining = np.where(rings, following, remaining)
        self.resume[rows], self.unmaskings[rows] = remaining, unmaskings
        self.proposals[rows] = proposals
        return first
