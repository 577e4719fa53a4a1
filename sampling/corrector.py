"""Correctors: noise a row's text from time t back to an earlier time s, and sample on from there.

If the row has the law of X_t, noise drawn from P(X_s | X_t) gives it the law of X_s, and an exact
sampler that of X_t again: nothing changes. A learned network makes errors, and what is noised is
written anew, also with another length. This is the only way in which a FlexMDM deletes.

P(X_s | X_t) treats tokens independently of each other, and does not depend on which tokens they
are (docs/correctors.md). With H(t) = integral of alpha'(u) / (1 - beta(u)) over u < t:

    P(mask at t)  = M(t) = (1 - beta(t)) H(t)
    P(clean at t) = C(t) = alpha(t) - M(t)
    clean at t: clean at s with probability C(s) / C(t),
                a mask at s with probability H(s) (beta(t) - beta(s)) / C(t), else deleted
    mask at t:  a mask at s with probability H(s) / H(t), else deleted

At t = 1 the samplers leave no masks, so there beta counts as 1.
"""

from __future__ import annotations

import numpy as np

from flexmdm_interpolant import Schedule
from sampling.clock import DONE, HALTED, NOISE, Clock, Flags, Rows
from sampling.options import SamplerOptions
from sampling.schedules import survival
from sampling.sequences import Sequences

NODES = 20_000  # of the integral H


def mask_integral(insertion: Schedule, unmasking: Schedule, remaining: float) -> float:
    """H(t) at t = 1 - remaining < 1, to about eight digits."""
    nodes = np.geomspace(1.0, remaining, NODES)
    inserted = -np.diff(survival(insertion, nodes, starts_at_zero=True))
    weight = 1 / survival(unmasking, nodes)
    return float((inserted * (weight[1:] + weight[:-1]) / 2).sum())


def noise_probabilities(
    insertion: Schedule, unmasking: Schedule, later: float, earlier: float
) -> tuple[float, float, float]:
    """P(X_s | X_t) of one token, t = 1 - later, s = 1 - earlier: the probabilities that a clean
    token is deleted, that it becomes a mask, and that a mask is deleted.
    """
    masks_s = mask_integral(insertion, unmasking, earlier)
    masks_t = mask_integral(insertion, unmasking, later) if later > 0 else np.inf
    remaining = np.array([later, earlier])
    inserted_t, inserted_s = 1 - survival(insertion, remaining, starts_at_zero=True)
    masked_t, masked_s = survival(unmasking, remaining)
    if later == 0:  # no masks are left
        masked_t, clean_t = 0.0, inserted_t
    else:
        clean_t = inserted_t - masked_t * masks_t
    stays = (inserted_s - masked_s * masks_s) / clean_t
    masked = masks_s * (masked_s - masked_t) / clean_t
    return max(0.0, 1 - stays - masked), masked, 1 - masks_s / masks_t


class Corrector:
    """The corrector rounds of a sampler's B rows.

    clock: the sampler's, which halts rows where a round is due. Of the options, corrector_time is s
    as a share of the t at which a round starts; corrector_rounds start at t = 1/K, 2/K, ..., 1 if
    corrector_spread, else all at 1; by corrector_choice the tokens of lowest log probability are
    noised, as many of them as chance would noise, or random ones.
    """

    def __init__(self, clock: Clock, options: SamplerOptions):
        time, rounds = options.corrector_time, options.corrector_rounds
        assert time is not None  # the sampler has no corrector without it
        start = np.arange(1, rounds + 1) / rounds if options.corrector_spread else np.ones(rounds)
        self.clock, self.guided = clock, options.corrector_choice == "least_confident"
        later, self.resume = clock.halt_and_resume(1 - start, 1 - time * start)  # (K,) each
        pair = clock.insertion, clock.unmasking
        self.probabilities = np.array(
            [noise_probabilities(*pair, *times) for times in zip(later, self.resume)]
        )  # (K, 3)
        self.halts = np.append(later, 0.0)
        self.round = np.zeros(len(clock.stage), dtype=np.int64)
        clock.halt[:] = later[0]

    def due(self, rows: Rows) -> Flags:
        """Which rows start a round now, (R,): those that have halted for it, and those that are
        done early, whose state at every later time is the one they have.
        """
        stage = self.clock.stage[rows]
        waits = (stage == HALTED) | (stage == DONE)
        return waits & (self.round[rows] < len(self.resume))

    def noise(self, rows: Rows, sequences: Sequences) -> None:
        """Noise the text of some rows and set their clocks back."""
        inside = sequences.inside(rows)  # (R, W)
        row, place = np.nonzero(inside)  # (n,) each
        is_mask = sequences.masks(rows)[row, place]
        probabilities = self.probabilities[self.round[rows]][row]  # (n, 3)
        u = self.clock.random.at(rows[row], NOISE, place)
        clean_deleted, clean_masked, mask_deleted = probabilities.T
        deleted = u < np.where(is_mask, mask_deleted, clean_deleted)
        masked = ~deleted & ~is_mask & (u < clean_deleted + clean_masked)
        if self.guided:
            clean = np.flatnonzero(~is_mask)
            log_probs = sequences.log_probs[rows[row], place]
            stays = ~(deleted | masked)
            lowest = clean[np.lexsort((log_probs[clean], row[clean]))]
            noised = clean[np.lexsort((stays[clean], row[clean]))]
            deleted[lowest], masked[lowest] = deleted[noised], masked[noised]
        tables = np.zeros((2, *inside.shape), dtype=bool)
        tables[:, row, place] = masked, deleted
        sequences.noise(rows, *tables)
        self.clock.rewind(rows, self.resume[self.round[rows]])
        self.round[rows] += 1
        self.clock.halt[rows] = self.halts[self.round[rows]]
