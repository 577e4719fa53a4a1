"""Inserting masks: how many each row receives, and in which gaps.

`Insertion` follows the network's expected numbers of missing tokens, g. Two others ask for length
distributions, p(n) of some gaps: count_first.py once at the start, drawn_counts.py in every leap.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.clock import GAP, Clock, Floats, Rows
from sampling.sequences import Sequences


def expected_missing(sequences: Sequences, live: Rows, length: Floats) -> Floats:
    """g, (R, W+1), from the network's `length` (R, W+1): 0 in gaps that receive no masks. Raises
    ValueError where it is not a number.
    """
    gaps = np.where(sequences.open_gaps(live, length.shape[1]), np.maximum(length, 0), 0.0)
    if not np.isfinite(gaps).all():
        raise ValueError("the network's `length` is not a finite number")
    return gaps


class Insertion:
    """By rate: over a leap a Poisson number of masks, and the proposals that thinning accepts
    (`Clock.to_insert`), each into a gap drawn in proportion to g.

    dropped: int64 (B,), masks for which a row had no room.
    """

    def __init__(self, sequences: Sequences, clock: Clock):
        self.sequences, self.clock, self.random = sequences, clock, clock.random
        self.dropped = np.zeros(len(sequences), dtype=np.int64)

    def counted_gaps(self, live: Rows) -> tuple[Rows, Rows]:
        """The gaps whose p(n) is asked for, (index into live, ascending; gap), (m,) each."""
        return live[:0], live[:0]

    def read(self, law: torch.Tensor, live: Rows, counted: tuple[Rows, Rows]) -> torch.Tensor:
        """What is needed on the CPU of log p(n) (m, N + 1) of the counted gaps, on its device."""
        return law

    def insert(
        self,
        live: Rows,
        gaps: Floats,
        total: Floats,
        counted: tuple[Rows, Rows],
        law: NDArray[np.generic] | None,
    ) -> Rows:
        """Insert what this evaluation calls for. gaps: g, (R, W+1); total: its sum, (R,); law: what
        `read` returned, None where nothing was counted. Returns how many masks each row received,
        (R,).
        """
        return self.put(live, gaps, self.clock.to_insert(live, total))

    def put(self, live: Rows, gaps: Floats, number: Rows) -> Rows:
        """Insert number (R,) masks, as far as there is room, each into a gap drawn in proportion to
        gaps (R, W+1). Returns how many fitted, (R,).

        Poisson counts of the gaps are one Poisson total whose members choose gaps independently:
        any subset of them is as good as any other, so keeping as many as there is room for favours
        no gap.
        """
        room = self.sequences.max_length - self.sequences.lengths[live]
        fits = np.minimum(number, room)
        self.dropped[live] += number - fits
        some = np.flatnonzero(fits)
        if len(some):
            u = self.random.table(live[some], GAP, int(fits.max()))
            self.sequences.insert(live[some], gaps[some], fits[some], u)
        return fits

    def place(self, rows: Rows, number: Rows) -> Rows:
        """Insert number (R,) masks behind the prefix of each row, its only gap while nothing is
        written. Returns how many fitted, (R,).
        """
        gap = np.arange(self.sequences.width(rows) + 1)
        behind = gap == self.sequences.prefix_lengths[rows, None]  # (R, W+1)
        return self.put(rows, behind.astype(np.float64), number)
