"""The count-first sampler: draw the number n of missing tokens from p(n | given), insert n masks at
once, then unmask them, optionally several per evaluation.

With one mask per evaluation in random order, the distribution is exact if the network is: p(n) is
the length distribution at t = 0, and the network's prediction for a mask, at a time at which
nothing is missing any more, is its posterior given the other tokens. This corresponds to an
interpolant whose insertions all end before the first mask is unmasked. Any order of insertions and
unmaskings has the posteriors of the joint interpolant, because these depend on t only through the
share of missing tokens. The network is queried at `query_time`, by default the time at which that
share is NOTHING_MISSING or, if later, the time at which training has as many masks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampling.clock import COUNTING, DONE, FINAL_UNMASK, INSERTIONS, Clock, Flags, Floats, Rows
from sampling.insertion import Insertion
from sampling.options import SamplerOptions
from sampling.row_random import RowUniforms
from sampling.schedules import Schedules, remaining_at
from sampling.sequences import Sequences

NOTHING_MISSING = 1e-3  # share of a text's tokens


class CountFirst(Clock):
    """The clock of the count-first sampler: one evaluation that counts, then as many as there are
    masks to unmask.
    """

    def __init__(self, schedules: Schedules, random: RowUniforms, options: SamplerOptions):
        super().__init__(schedules, random, COUNTING)
        self.number, self.drawn = options.events_per_evaluation, options.length_choice == "drawn"
        self.fixed = options.query_time is not None
        if options.query_time is None:
            late = float(remaining_at(self.insertion, np.array([NOTHING_MISSING]))[0])
        else:
            late = 1 - options.query_time
        self.late = max(late, self.end)
        self.placed = np.ones(len(random.seeds), dtype=np.int64)

    def count(self, rows: Rows, log_probs: Floats, room: Rows) -> Rows:
        """The number of tokens of each row, (R,), from log p(n) (R, N + 1), given that it is at
        most room (R,).
        """
        n = np.arange(log_probs.shape[1])
        probability = np.where(n <= room[:, None], np.exp(log_probs), 0.0)
        if not self.drawn:
            return probability.argmax(1)
        cumulative = probability.cumsum(1)
        u = self.random.at(rows, INSERTIONS, 0)[:, None] * cumulative[:, -1:]
        return np.minimum((cumulative <= u).sum(1), np.minimum(room, n[-1]))

    def _number(self, rows: Rows, masks: Flags) -> Rows:
        return super()._number(rows, masks) * self.number

    def _proposals(self, rows: Rows) -> tuple[Rows, Flags]:
        return np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=bool)

    def _move(
        self, rows: Rows, stage: Rows, total: Floats, masks: Rows, changed: Flags, full: Flags
    ) -> None:
        counted = stage == COUNTING
        self.placed[rows[counted]] = np.maximum(masks[counted], 1)
        self.stage[rows[counted]] = np.where(masks[counted] > 0, FINAL_UNMASK, DONE)
        if self.fixed:
            self.time_remaining[rows] = self.late
            return
        # the time at which in training this share of the masks stood, but not before nothing is
        # missing
        matched = remaining_at(self.unmasking, masks / self.placed[rows])
        self.time_remaining[rows] = np.clip(matched, self.end, self.late)


class CountedInsertion(Insertion):
    """Every row receives its masks at once, in the evaluation that counts its missing tokens."""

    def __init__(self, sequences: Sequences, clock: CountFirst):
        super().__init__(sequences, clock)
        self.count = clock.count

    def counted_gaps(self, live: Rows) -> tuple[Rows, Rows]:
        """The only gap of each row that counts: (index into live, gap), (m,) each."""
        counting = np.flatnonzero(self.clock.stage[live] == COUNTING)
        return counting, self.sequences.prefix_lengths[live[counting]]

    def insert(
        self,
        live: Rows,
        gaps: Floats,
        total: Floats,
        counted: tuple[Rows, Rows],
        law: NDArray[np.generic] | None,
    ) -> Rows:
        """In the rows that were counted, whatever g says. Returns how many masks each row received,
        (R,).
        """
        number = np.zeros(len(live), dtype=np.int64)
        if law is not None:
            rows = live[counted[0]]
            room = self.sequences.max_length - self.sequences.lengths[rows]
            number[counted[0]] = self.place(rows, self.count(rows, law.astype(np.float64), room))
        return number
