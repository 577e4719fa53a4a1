"""FlexMDM's samplers (arXiv 2509.01025; the event-driven one is ours): the loop around the network.

One step for every active row: the row's clock says how many masks to unmask, the network is
evaluated once, tokens are written, masks are inserted, the clock advances. The samplers differ only
in the clock (tau_leaping.py, event_driven.py, count_first.py) and in how many masks it inserts
(insertion.py); unconditional generation, prompts and infills differ in where masks may be inserted
(sequences.py).

All bookkeeping is on the CPU, in numpy, vectorised over rows; only the network and its logits are
on a device, with one synchronisation per step.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.clock import DONE
from sampling.corrector import Corrector
from sampling.count_first import CountedInsertion, CountFirst
from sampling.drawn_counts import DrawnInsertion
from sampling.event_driven import EventDriven
from sampling.flexmdm_network import FlexMDMNetwork
from sampling.frames import Frames
from sampling.insertion import Insertion, expected_missing
from sampling.options import SamplerOptions
from sampling.results import GenerationResult, OnFrame
from sampling.row_random import RowUniforms
from sampling.schedules import schedules_of
from sampling.sequences import Sequences
from sampling.tau_leaping import TauLeaping
from sampling.token_choice import to_cpu
from sampling.unmasking import Unmasking

CLOCKS = {"tau_leaping": TauLeaping, "event_driven": EventDriven, "count_first": CountFirst}


class FlexMDMSampler:
    """B rows and their clock. `run` steps until all are done.

    sequences: the rows' prefixes and suffixes; seeds: int64 (B,); counts: (B,), the numbers of
    masks that a row starts from, if the evaluation of p(n) has already been made (None: count-first
    makes it, the others start from none); starts: (B,), the 1 - t at which event-driven starts from
    them; the other arguments are generate_flexmdm's.
    """

    def __init__(
        self,
        model: Any,
        sequences: Sequences,
        seeds: NDArray[np.int64],
        options: SamplerOptions,
        *,
        num_tokens: int | None = None,
        return_trace: bool = False,
        on_frame: OnFrame | None = None,
        counts: NDArray[np.int64] | None = None,
        starts: NDArray[np.float64] | None = None,
    ):
        batch, schedules = len(sequences), schedules_of(model, options)
        self.sequences, self.options, self.counts, self.starts = sequences, options, counts, starts
        self.network = FlexMDMNetwork(model, sequences, schedules, options)
        self.evaluations = np.zeros(batch, dtype=np.int64)
        random = RowUniforms(seeds, self.evaluations)
        self.clock = CLOCKS[options.sampler](schedules, random, options)
        self.clock.stage[sequences.full(np.arange(batch))] = DONE  # no room: nothing to do
        if isinstance(self.clock, CountFirst):
            if counts is None and not getattr(
                getattr(model, "config", None), "length_distribution", 0
            ):
                raise ValueError("count_first needs a network with a length distribution")
            self.insertion: Insertion = CountedInsertion(sequences, self.clock)
        elif options.leap_counts == "drawn":
            self.insertion = DrawnInsertion(sequences, self.clock, model)
        else:
            self.insertion = Insertion(sequences, self.clock)
        corrects = options.corrector_time is not None
        self.corrector = Corrector(self.clock, options) if corrects else None
        # log probabilities of what is written are compared, or told in the result
        self.lengths_compete = counts is not None and starts is None
        scored = self.lengths_compete or options.corrector_choice == "least_confident"
        self.unmasking = Unmasking(sequences, self.clock, options, num_tokens, scored)
        self.truncated = np.zeros(batch, dtype=bool)
        self.frames = Frames(batch, return_trace, on_frame)

    @torch.no_grad()
    def run(self) -> GenerationResult:
        """Step until every row is done. Returns the result, on the CPU. Raises ValueError if the
        network's output is not finite.
        """
        sequences, stage = self.sequences, self.clock.stage
        self._record(np.arange(len(sequences)), np.zeros(len(sequences)))
        if self.counts is not None:
            self._place(self.counts)
        # neighbours in the queue are of like length
        waiting = np.argsort(sequences.lengths, kind="stable")
        waiting = waiting[stage[waiting] != DONE]
        live = waiting[:0]
        while len(live) or len(waiting):
            at_once = self.options.rows_at_once
            free = len(waiting) if at_once is None else at_once - len(live)
            live, waiting = np.concatenate([live, waiting[:free]]), waiting[free:]
            if self.clock.cap is not None:
                live = self._stop_at_cap(live)
            if len(live):
                self._step(live)
                ended = stage[live] == DONE
                self.network.forget(live[ended])
                live = live[~ended]
        return self._result()

    def _step(self, live):
        """One evaluation for each row of live (R,), and what follows from it."""
        sequences, clock = self.sequences, self.clock
        remaining = clock.time_remaining[live]
        masks = sequences.masks(live)  # (R, W)
        number, rows, places = self.unmasking.candidates(live, masks)  # (R,), (n,), (n,)
        counted = self.insertion.counted_gaps(live)  # (m,), (m,)
        # (R, W+1), (n, V), (m, N+1), on the device
        length, logits, law = self.network.ask(live, remaining, (rows, places), counted)
        law = None if law is None else self.insertion.read(law, live, counted)
        drawn = self.unmasking.draw(live, rows, places, logits)
        # the one place where the device is waited for
        length, law, *drawn = to_cpu(length, law, *drawn)
        gaps = expected_missing(sequences, live, length.double().numpy())
        number = self.unmasking.write(live, number, rows, places, drawn)
        # term by term: `sum` would round differently in a wider batch
        total = gaps.cumsum(1)[:, -1]
        law = None if law is None else law.numpy()
        inserted = self.insertion.insert(live, gaps, total, counted, law)  # (R,)
        changed = (number > 0) | (inserted > 0)
        clock.advance(live, total, masks.sum(1) - number + inserted, changed, sequences.full(live))
        self.evaluations[live] += 1
        shown = changed | (clock.stage[live] == DONE)
        self._record(live[shown], 1 - remaining[shown])
        if self.corrector is not None:
            self._correct(live[self.corrector.due(live)])

    def _correct(self, rows):
        """Noise rows whose next corrector round starts."""
        if len(rows):
            self.corrector.noise(rows, self.sequences)
            self.network.forget(rows)
            self._record(rows, 1 - self.clock.time_remaining[rows])

    def _stop_at_cap(self, live):
        """The rows of live that continue; rows with one evaluation left unmask all their masks with
        it and are marked truncated.
        """
        self.truncated[live[self.clock.stop_at_cap(live, self.sequences.masks(live).sum(1))]] = True
        ended = self.clock.stage[live] == DONE
        self._record(live[ended], 1 - self.clock.time_remaining[live[ended]])
        return live[~ended]

    def _place(self, counts):
        """Put a given number of masks (B,) into each row that has room, as after its counting."""
        rows = np.flatnonzero(self.clock.stage != DONE)
        placed, nothing = self.insertion.place(rows, counts[rows]), np.zeros(len(rows))
        if self.starts is None:
            self.clock.advance(rows, nothing, placed, placed > 0, self.sequences.full(rows))
        else:
            self.clock.time_remaining[rows] = self.starts[rows]
        self.evaluations[rows] = 1
        self._record(rows, nothing)

    def _record(self, rows, time):
        """A frame of each row for the trace and for whoever watches."""
        if self.frames.wanted:
            for row, t in zip(rows.tolist(), time.tolist()):
                frame = self.sequences.frame(row, t, int(self.evaluations[row]))
                self.frames.add(row, frame)

    def _result(self):
        sequences = self.sequences
        ids = sequences.ids[:, : sequences.width(np.arange(len(sequences)))]
        return GenerationResult(
            torch.from_numpy(ids),
            torch.from_numpy(sequences.lengths),
            torch.from_numpy(self.evaluations),
            torch.from_numpy(self.truncated),
            self.frames.trace,
            torch.from_numpy(self.insertion.dropped),
            torch.from_numpy(self.clock.rate_bound_violations),
            torch.from_numpy(self.network.positions),
            torch.from_numpy(sequences.log_probs.sum(1)) if self.lengths_compete else None,
        )

    @torch.no_grad()
    def log_counts(self) -> NDArray[np.float64]:
        """log p(n | given) of each row, (B, N + 1): one evaluation for each that has room. A full
        row misses nothing.
        """
        asked = np.flatnonzero(self.clock.stage != DONE)
        parts, at_once = [], self.options.rows_at_once or max(1, len(asked))
        for start in range(0, len(asked), at_once):
            some = asked[start : start + at_once]
            nowhere, gaps = (some[:0], some[:0]), self.insertion.counted_gaps(some)
            law = self.network.ask(some, self.clock.time_remaining[some], nowhere, gaps)[2]
            assert law is not None  # each of them counts
            parts.append(law.cpu().double().numpy())
        laws = np.full((len(self.sequences), parts[0].shape[1] if parts else 1), -np.inf)
        laws[:, 0] = 0.0
        if parts:
            laws[asked] = np.concatenate(parts)
        return laws
