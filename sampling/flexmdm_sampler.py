"""FlexMDM's samplers (arXiv 2509.01025; the event-driven one is ours): the loop around the network.

One step for every active row: the row's clock says how many masks to unmask, the network is
evaluated once, tokens are written, masks are inserted, the clock advances. The samplers differ only
in the clock (tau_leaping.py, event_driven.py, count_first.py); unconditional generation, prompts
and infills differ in where masks may be inserted (sequences.py).

How many masks a row unmasks never depends on the evaluation; in random order, neither does which
ones. This is why vocabulary logits are needed at only a few positions.

All bookkeeping is on the CPU, in numpy, vectorised over rows; only the network and its logits are
on a device, with one synchronisation per step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.packed_rows import Places
from flexmdm_interpolant import LinearSchedule, schedule_from_config
from sampling.clock import COUNTING, DONE, GAP, ORDER, TOKEN, remaining_at, survival
from sampling.corrector import Corrector
from sampling.count_first import CountFirst
from sampling.drawn_counts import draw_counts, leap, refuses_drawn_counts
from sampling.event_driven import EventDriven
from sampling.options import SamplerOptions
from sampling.prefix_cache import PrefixCache
from sampling.results import GenerationResult, TraceFrame
from sampling.row_random import RowUniforms
from sampling.sequences import Sequences
from sampling.tau_leaping import TauLeaping
from sampling.token_choice import (
    check_tokens,
    confidence,
    draw_tokens,
    excluded_tokens,
    log_probability,
    to_cpu,
)

WIDTH_STEP = 16  # on a GPU rows are padded to a multiple of it: few shapes, so graphs are reused


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
        on_frame: Callable[[int, TraceFrame], None] | None = None,
        counts: NDArray[np.int64] | None = None,
        starts: NDArray[np.float64] | None = None,
    ):
        config = getattr(model, "config", None)
        self.model, self.device = model, torch.device(getattr(model, "device", "cpu"))
        self.sequences, self.num_tokens = sequences, num_tokens
        self.options, self.on_frame = options, on_frame
        self.excluded: torch.Tensor | None = None
        confident = options.unmasking == "confidence"
        self.order = options.confidence_method if confident else "random"
        # a network that attends to padding gets rows as wide as in training, whatever is asked for
        attended = bool(getattr(config, "attend_to_padding", False))
        trained_width = int(getattr(config, "max_length", 0) or 0)
        self.canvas = max(sequences.max_length, trained_width) if attended else None
        self.cache = None
        if options.cache_refresh is not None:
            self.cache = PrefixCache(model, options.cache_refresh)

        # schedules; a network trained with another insertion schedule is queried at the matched
        # time
        own_insertion, own_unmasking = (
            schedule_from_config(schedule) if schedule else LinearSchedule()
            for schedule in (
                getattr(config, "insertion_schedule", None),
                getattr(config, "unmask_schedule", None),
            )
        )
        self.insertion = options.insertion_schedule or own_insertion
        differs = config is not None and own_insertion.to_config() != self.insertion.to_config()
        self.trained = own_insertion if differs else None
        self.time_epsilon = float(getattr(config, "time_epsilon", 0.0))

        batch = len(sequences)
        self.evaluations, self.positions = np.zeros((2, batch), dtype=np.int64)
        self.random = RowUniforms(seeds, self.evaluations)
        unmasking = options.unmask_schedule or own_unmasking
        schedules = self.insertion, unmasking, self._last_query(), self.random
        self.clock: EventDriven | CountFirst | TauLeaping
        if options.sampler == "event_driven":
            self.clock = EventDriven(
                *schedules,
                events=options.events_per_evaluation,
                inflation=options.bound_inflation,
                cap=options.steps,
            )
        elif options.sampler == "count_first":
            if counts is None and not getattr(config, "length_distribution", 0):
                raise ValueError("count_first needs a network with a length distribution")
            self.clock = CountFirst(
                *schedules,
                number=options.events_per_evaluation,
                drawn=options.length_choice == "drawn",
                query_time=options.query_time,
            )
        else:
            assert options.steps is not None  # generate_flexmdm_infilling refuses it
            self.clock = TauLeaping(
                *schedules,
                steps=options.steps,
                inflation=options.bound_inflation,
                threshold=options.confidence_threshold is not None,
            )
        self.drawn = options.leap_counts == "drawn"
        reason = self.drawn and refuses_drawn_counts(model)
        if reason:
            raise ValueError(f"leap_counts drawn: the network {reason}")
        self.clock.stage[sequences.full(np.arange(batch))] = DONE  # no room: nothing to do
        guided = options.corrector_choice == "least_confident"
        self.corrector = None
        if options.corrector_time is not None:
            self.corrector = Corrector(
                self.clock,
                time=options.corrector_time,
                rounds=options.corrector_rounds,
                spread=options.corrector_spread,
                guided=guided,
            )
        self.dropped = np.zeros(batch, dtype=np.int64)
        self.truncated = np.zeros(batch, dtype=bool)
        self.trace: list[list[TraceFrame]] | None = (
            [[] for _ in range(batch)] if return_trace else None
        )
        self.counts, self.starts = counts, starts
        # of the tokens written: it is worth a pass over the logits only where they are compared
        self.scored = (counts is not None and starts is None) or guided

    def _last_query(self) -> float:
        """1 - t of the last time at which the network may be queried."""
        if self.trained is None:
            return self.time_epsilon
        missing = survival(self.trained, np.array([self.time_epsilon]))
        return float(np.maximum(remaining_at(self.insertion, missing), 0)[0])

    def _query_time(self, remaining: NDArray[np.float64]) -> torch.Tensor:
        """The t at which the network is queried: the time at which its own schedule has inserted as
        much as the sampling schedule (the matched time tau(t)).
        """
        if self.trained is None:
            return torch.from_numpy(1 - remaining).float()
        missing = survival(self.insertion, remaining, starts_at_zero=True)
        at = self.trained.inv(1 - torch.from_numpy(missing))
        return at.clamp(0, 1 - self.time_epsilon).float()

    @torch.no_grad()
    def run(self) -> GenerationResult:
        """Step until every row is done. Returns the result, on the CPU. Raises ValueError if the
        network's output is not finite.
        """
        sequences, clock, batch = self.sequences, self.clock, len(self.sequences)
        self._record(np.arange(batch), np.zeros(batch))
        if self.counts is not None:
            self._place(self.counts)
        # neighbours in the queue are of like length
        waiting = np.argsort(sequences.lengths, kind="stable")
        waiting = waiting[clock.stage[waiting] != DONE]
        live = waiting[:0]
        while True:
            at_once = self.options.rows_at_once
            free = len(waiting) if at_once is None else at_once - len(live)
            live, waiting = np.concatenate([live, waiting[:free]]), waiting[free:]
            if isinstance(clock, EventDriven) and clock.cap is not None:
                live = self._stop_at_cap(live)
            if len(live):
                self._step(live)
                ended = clock.stage[live] == DONE
                if self.cache is not None:
                    self.cache.drop(live[ended].tolist())
                live = live[~ended]
            elif not len(waiting):
                break
        ids = sequences.ids[:, : sequences.width(np.arange(batch))]
        violations = clock.rate_bound_violations
        lengths_compete = self.counts is not None and self.starts is None
        return GenerationResult(
            torch.from_numpy(ids),
            torch.from_numpy(sequences.lengths),
            torch.from_numpy(self.evaluations),
            torch.from_numpy(self.truncated),
            self.trace,
            torch.from_numpy(self.dropped),
            torch.from_numpy(violations),
            torch.from_numpy(self.positions),
            torch.from_numpy(sequences.log_probs.sum(1)) if lengths_compete else None,
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
            log_count = self._ask(some, some[:0], some[:0], self._counted_gaps(some))[2]
            parts.append(log_count.cpu().double().numpy())
        laws = np.full((len(self.sequences), parts[0].shape[1] if parts else 1), -np.inf)
        laws[:, 0] = 0.0
        if parts:
            laws[asked] = np.concatenate(parts)
        return laws

    def _stop_at_cap(self, live):
        """The rows of live that continue; rows with one evaluation left unmask all their masks with
        it and are marked truncated.
        """
        self.truncated[live[self.clock.stop_at_cap(live, self.sequences.masks(live).sum(1))]] = True
        ended = self.clock.stage[live] == DONE
        self._record(live[ended], 1 - self.clock.time_remaining[live[ended]])
        return live[~ended]

    def _step(self, live):
        """One evaluation for each row of live (R,), and what follows from it."""
        sequences, clock = self.sequences, self.clock
        time = 1 - clock.time_remaining[live]
        masks = sequences.masks(live)  # (R, W)
        number, competing = self._competing(live, masks)
        rows, places = np.nonzero(competing)  # (n,) each, row-major
        if self.order in ("random", "position"):  # known before the network is asked
            first = self.random.at(live[rows], ORDER, places) if self.order == "random" else -places
            chosen = self._largest(rows, first, number)
            rows, places = rows[chosen], places[chosen]
        counted = self._counted_gaps(live)
        # (R, W+1), (n, V), (gaps that are counted, N+1), on the device
        length, logits, count = self._ask(live, rows, places, counted)
        if self.drawn and count is not None:
            count = draw_counts(count, self.random, live[counted[0]], counted[1])
        confidences = tokens = log_p = None
        if len(rows):
            excluded = self._excluded(logits)
            if self.order not in ("random", "position"):
                confidences = confidence(logits, excluded, self.order)  # (n,)
            u = torch.from_numpy(self.random.at(live[rows], TOKEN, places))
            tokens = draw_tokens(logits, excluded, self.options.temperature, u)
            if self.scored:
                log_p = log_probability(logits, tokens, excluded)
        # the one place where the device is waited for
        length, confidences, tokens, count, log_p = to_cpu(
            length, confidences, tokens, count, log_p
        )
        gaps = self._gaps(live, length.double().numpy())
        if tokens is not None:
            check_tokens(tokens)
            tokens = tokens.numpy()
            if confidences is not None:
                confidences = confidences.numpy()
                threshold = self.options.confidence_threshold
                if threshold is not None:
                    above = np.bincount(rows[confidences >= threshold], minlength=len(live))
                    number = np.maximum(number, above)
                chosen = self._largest(rows, confidences, number)
                rows, places, tokens = rows[chosen], places[chosen], tokens[chosen]
                log_p = None if log_p is None else log_p[chosen]
            if log_p is not None:
                sequences.log_probs[live[rows], places] = log_p.numpy()
            sequences.ids[live[rows], places] = tokens
        # term by term: `sum` would round differently in a wider batch
        total = gaps.cumsum(1)[:, -1]
        wanted = clock.to_insert(live, total)
        if count is not None and not self.drawn:
            wanted = self._count(live, gaps, count.double().numpy())
        leapt = 0
        if count is not None and self.drawn:
            share = clock.leap_share(live)
            leapt, dropped = leap(sequences, self.random, live, counted, count.numpy(), share)
            self.dropped[live] += dropped
            wanted = np.where(share > 0, 0, wanted)
        inserted = leapt + self._insert(live, gaps, wanted)  # (R,)
        changed = (number > 0) | (inserted > 0)
        left = masks.sum(1) - number + inserted
        clock.advance(live, total, left, changed, sequences.full(live))
        self.evaluations[live] += 1
        shown = changed | (clock.stage[live] == DONE)
        self._record(live[shown], time[shown])
        if self.corrector is not None:
            self._correct(live[self.corrector.due(live)])

    def _correct(self, rows):
        """Noise rows whose next corrector round starts."""
        if not len(rows):
            return
        self.corrector.noise(rows, self.sequences)
        if self.cache is not None:
            self.cache.drop(rows.tolist())
        self._record(rows, 1 - self.clock.time_remaining[rows])

    def _competing(self, live, masks):
        """How many masks each row unmasks with this evaluation, (R,), and which compete for it,
        bool (R, W): all of them, or with a sliding window the first few.
        """
        number, considered, everything = self.clock.to_unmask(live, masks)
        available = masks.sum(1)
        competing = np.where(considered > 0, available, 0)
        if self.options.use_sliding_window:
            window = considered * np.float32(self.options.alpha)
            window = np.clip(window.astype(np.int64), 1, self.options.max_window)
            competing = np.where(everything, competing, np.minimum(competing, window))
            number = np.minimum(number, competing)
        return number, masks & (masks.cumsum(1) <= competing[:, None])

    @staticmethod
    def _largest(rows, value, number):
        """Bool (n,): in each row the number[row] entries of largest value; of equals the first.
        rows: (n,), ascending.
        """
        order = np.argsort(-value, kind="stable")
        order = order[np.argsort(rows[order], kind="stable")]  # by row, within it by value
        sorted_rows = rows[order]
        row_start = np.searchsorted(sorted_rows, sorted_rows)  # index of the row's first entry
        chosen = np.zeros(len(rows), dtype=bool)
        chosen[order] = np.arange(len(rows)) - row_start < number[sorted_rows]
        return chosen

    def _counted_gaps(self, live):
        """The gaps whose p(n) is needed, (row among live, gap), (m,) each: the only one of a row
        that counts its missing tokens, or all open ones of a row that leaps by drawn counts.
        """
        if self.drawn:
            leaping = self.clock.leap_share(live) > 0
            open_gaps = self.sequences.open_gaps(live, self.sequences.width(live) + 1)
            return np.nonzero(open_gaps & leaping[:, None])
        counting = np.flatnonzero(self.clock.stage[live] == COUNTING)
        return counting, self.sequences.prefix_lengths[live[counting]]

    def _ask(self, live, rows, places, counted):
        """Ask the network: expected missing tokens (R, W+1), logits (n, V) at the places, and log
        p(n) (m, N+1) of the counted gaps or None, all on its device.
        """
        sequences, on_cpu = self.sequences, self.device.type == "cpu"
        longest = sequences.width(live)
        width = self.canvas or max(1, longest)
        if not on_cpu and self.canvas is None:
            width = min(-(-width // WIDTH_STEP) * WIDTH_STEP, sequences.max_length)
        canvas = np.full((len(live), width), sequences.pad_id)
        canvas[:, :longest] = sequences.ids[live, :longest]
        position, lengths = np.arange(width + 1), sequences.lengths[live]

        def there(part):
            part = torch.from_numpy(part) if isinstance(part, np.ndarray) else part
            return part.to(self.device, non_blocking=True)

        options = {"attention_mask": there(position[:width] < lengths[:, None])}
        if getattr(self.model, "supports_logits_mask", False):
            wanted = np.zeros(canvas.shape, dtype=bool)
            wanted[rows, places] = True
            options["logits_mask"] = there(wanted)
        if self.cache is not None:
            options["places"] = self.cache.places(
                live.tolist(),
                torch.from_numpy(lengths + 1),
                sequences.prefix_lengths[live].tolist(),
                width + 1,
                torch.from_numpy(rows * width + places),
            )
        elif getattr(self.model, "supports_places", False) and not on_cpu and self.canvas is None:
            # the text and one end slot a row
            tokens = np.flatnonzero(position <= lengths[:, None])
            options["places"] = Places(there(tokens), there(rows * width + places))
        if self.cache is not None:
            self.positions[live] += self.cache.computed.numpy()
        else:
            self.positions[live] += lengths + 1 if self.canvas is None else width + 1
        time = self._query_time(self.clock.time_remaining[live])
        if len(counted[0]):
            options["missing_at"] = there(counted[0] * (width + 1) + counted[1])
        output = self.model(there(canvas), there(time), **options)
        logits = output["logits"]  # (n, V)
        if "logits_mask" not in options:
            logits = logits[there(rows), there(places)]
        return output["length"][:, : longest + 1], logits, output.get("missing_log_probs")

    def _count(self, live, gaps, log_count):
        """How many masks count-first puts into each row, (R,): into the one gap there is, whatever
        rate `gaps` (R, W+1) gives it. log_count: log p(n), of the rows that count.
        """
        counting = self.clock.stage[live] == COUNTING
        rows, number = live[counting], np.zeros(len(live), dtype=np.int64)
        gaps[counting] = self._only_gap(rows, gaps.shape[1])
        room = self.sequences.max_length - self.sequences.lengths[rows]
        number[counting] = self.clock.count(rows, log_count, room)
        return number

    def _only_gap(self, rows, gaps):
        """Rates (R, gaps) that put every mask after the prefix, the only gap so far."""
        return (np.arange(gaps) == self.sequences.prefix_lengths[rows, None]).astype(np.float64)

    def _place(self, counts):
        """Put a given number of masks (B,) into each row that has room, as after its counting."""
        rows = np.flatnonzero(self.clock.stage != DONE)
        gaps = self._only_gap(rows, self.sequences.width(rows) + 1)
        inserted = self._insert(rows, gaps, counts[rows])
        nothing = np.zeros(len(rows))
        if self.starts is None:
            self.clock.advance(rows, nothing, inserted, inserted > 0, self.sequences.full(rows))
        else:
            self.clock.time_remaining[rows] = self.starts[rows]
        self.evaluations[rows] = 1
        self._record(rows, nothing)

    def _excluded(self, logits):
        """Tokens that are never written, bool (V,), on the logits' device."""
        if self.excluded is None:
            ids = self.sequences.mask_id, self.sequences.pad_id
            self.excluded = excluded_tokens(logits.shape[-1], *ids, self.num_tokens, logits.device)
        return self.excluded

    def _gaps(self, live, length):
        """Expected missing tokens g, float64 (R, W+1), 0 in gaps that receive no masks. Raises
        ValueError when they are not numbers.
        """
        open_gaps = self.sequences.open_gaps(live, length.shape[1])
        gaps = np.where(open_gaps, np.maximum(length, 0), 0.0)
        if not np.isfinite(gaps).all():
            raise ValueError("the network's `length` is not a finite number")
        return gaps

    def _insert(self, live, gaps, number):
        """Insert number (R,) masks, as far as there is room. Returns how many, (R,).

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

    def _record(self, rows, time):
        """A frame of each row for the trace and for whoever watches."""
        if self.trace is None and self.on_frame is None:
            return
        for row, t in zip(rows.tolist(), time.tolist()):
            frame = self.sequences.frame(row, t, int(self.evaluations[row]))
            if self.trace is not None:
                self.trace[row].append(frame)
            if self.on_frame is not None:
                self.on_frame(row, frame)
