"""The FlexMDM sampler's state and its one step (arXiv 2509.01025; the event-driven sampler is
ours).

Each row has its own clock. In one step every live row gets one evaluation of the network, and does
with it what its stage says:

    LEAP            tau-leaping: reveal Binomial(masks, p) of them, insert Poisson(g * q) masks, predictions frozen over the step
    MEASURE         G = sum of g at the present state, the bound from which what comes next is proposed
    EVENT           event-driven: a proposed reveal, or a proposed insertion, accepted with probability G(now) / G(bound)
    FINAL_LEAP      the network's time is used up (1 - time_epsilon): one tau-leap over what is left
    FINAL_REVEAL    ... and the remaining masks one at a time
    LAST            event-driven, one evaluation before the cap: reveal everything

So tau-leaping and the event-driven sampler, free generation, prompts and infills are the same step:
choose masks, evaluate, write tokens, insert masks, move the clock. How many masks a row reveals
never depends on the evaluation, and in random order which
ones does not either: that is why vocabulary logits are needed at few positions only.

Approximations, off by default: several proposed events to an evaluation (`events_per_evaluation`),
a bound carried over an event instead of measured anew (`bound_inflation`), and reveals of all masks
above a `confidence_threshold`. With a bound, tau-leaping too asks the network only in steps in
which something is proposed: a grid of 4,096 steps then costs what its events cost. A fourth,
`cache_refresh`, keeps the keys and values of the prompt or prefix for a few evaluations
(sampling/prefix_cache.py).

All bookkeeping is on the CPU in integers and float64, vectorised over rows; only the network and
its logits live on a device. The clock is `left` = 1 - t (sampling/clock.py).
"""

import numpy as np
import torch

from common.packed_rows import Places
from flexmdm_interpolant import LinearSchedule, schedule_from_config
from sampling.clock import Grid, left_at, poisson_quantile, share_of_waiting, survival
from sampling.prefix_cache import PrefixCache
from sampling.results import GenerationResult
from sampling.row_random import row_uniforms
from sampling.token_choice import check_tokens, confidence, draw_tokens, excluded_tokens, to_cpu

LEAP, MEASURE, EVENT, FINAL_LEAP, FINAL_REVEAL, LAST, DONE = range(7)
COUNT, ORDER, TOKEN, INSERTIONS, GAP, CLOCK = range(6)  # what a random number is for
INDEX_BITS = 20  # positions, draws: fewer than 2^20 a row and event
# events_per_evaluation: at most this share of the expected rest (masks and missing tokens) at once
PARALLEL_SHARE = 0.25
TOLERANCE = 1e-6  # event-driven: a row without masks that misses fewer tokens than this is finished


class FlexMDMSampler:
    """B rows, their clocks and what has been counted. `run` steps until all are done.

    prefixes, suffixes: long (B, P), (B, S), right-padded; their lengths: long (B,). The other
    arguments are generate_flexmdm's.
    """

    def __init__(
        self,
        model,
        prefixes,
        prefix_lengths,
        suffixes,
        suffix_lengths,
        *,
        steps,
        max_length,
        mask_id,
        pad_id,
        sampler,
        unmasking,
        confidence_method,
        use_sliding_window,
        alpha,
        max_window,
        temperature,
        insertion_schedule,
        unmask_schedule,
        num_tokens,
        seeds,
        rows_at_once,
        return_trace,
        on_frame,
        events_per_evaluation,
        bound_inflation,
        confidence_threshold,
        cache_refresh=None,
    ):
        config = getattr(model, "config", None)
        self.model, self.device = model, torch.device(getattr(model, "device", "cpu"))
        self.mask_id, self.pad_id, self.num_tokens, self.seeds = mask_id, pad_id, num_tokens, seeds
        self.temperature = temperature
        self.window = (alpha, max_window) if use_sliding_window else None
        self.order = confidence_method if unmasking == "confidence" else "random"
        self.event_driven = sampler == "event_driven"
        self.cap = steps if sampler == "event_driven" else None
        self.rows_at_once, self.on_frame, self.excluded = rows_at_once, on_frame, None
        self.events = events_per_evaluation
        self.inflation = bound_inflation
        self.threshold = confidence_threshold
        self.max_length = max_length
        # then as wide as in training, whatever is asked for
        attended = bool(getattr(config, "attend_to_padding", False))
        self.canvas = (
            max(max_length, int(getattr(config, "max_length", 0) or 0)) if attended else None
        )

        self.cache = None if cache_refresh is None else PrefixCache(model, cache_refresh)
        if self.cache is not None and attended:
            raise ValueError("cache_refresh: not with a network that attends to padding")

        # schedules; a network that was trained with another insertion schedule is asked at the
        # matching time
        own = getattr(config, "insertion_schedule", None), getattr(config, "unmask_schedule", None)
        own = [schedule_from_config(schedule) if schedule else LinearSchedule() for schedule in own]
        self.insertion, self.unmasking = insertion_schedule or own[0], unmask_schedule or own[1]
        self.trained = (
            own[0]
            if config is not None and own[0].to_config() != self.insertion.to_config()
            else None
        )
        self.time_epsilon = float(getattr(config, "time_epsilon", 0.0))
        self.left_end = self._last_left()
        if (
            self.event_driven
            and survival(self.unmasking, torch.zeros(1, dtype=torch.float64, device="cpu")).item()
            > 1e-9
        ):
            raise ValueError("the event-driven sampler needs an unmasking schedule that reaches 1")

        batch = prefixes.shape[0]
        self.ids = torch.full((batch, max_length), pad_id, device="cpu")  # (B, W)
        self.lengths = prefix_lengths + suffix_lengths
        self.first_gap, self.suffix_lengths = prefix_lengths, suffix_lengths
        position = torch.arange(max_length, device="cpu")
        in_prefix = position < prefix_lengths[:, None]
        in_suffix = (position < self.lengths[:, None]) & ~in_prefix
        self.ids[in_prefix] = prefixes[
            torch.arange(prefixes.shape[1], device="cpu") < prefix_lengths[:, None]
        ]
        self.ids[in_suffix] = suffixes[
            torch.arange(suffixes.shape[1], device="cpu") < suffix_lengths[:, None]
        ]
        # (B, W) identity of each position
        self.slots = torch.where(position < self.lengths[:, None], position, -1)

        self.left = torch.ones(batch, dtype=torch.float64, device="cpu")
        self.grid = (
            None
            if self.event_driven
            else Grid(steps, self.left_end, self.insertion, self.unmasking)
        )
        self.grid_step = torch.zeros(batch, dtype=torch.long, device="cpu")
        # tau-leaping that leaves out idle steps
        self.skips = self.grid is not None and bound_inflation is not None
        self.stage = torch.full(
            (batch,), MEASURE if self.event_driven or self.skips else LEAP, device="cpu"
        )
        self.stage[self.lengths == max_length] = DONE  # no room: nothing to do
        self.bound = torch.zeros(batch, dtype=torch.float64, device="cpu")
        self.resume = self.left.clone()  # the clock behind the events under way
        # those events
        self.reveals, self.proposals = (
            torch.zeros(batch, dtype=torch.long, device="cpu") for _ in range(2)
        )
        self.evaluations, self.refused, self.clipped = (
            torch.zeros(batch, dtype=torch.long, device="cpu") for _ in range(3)
        )
        self.truncated = torch.zeros(batch, dtype=torch.bool, device="cpu")
        self.trace = [[] for _ in range(batch)] if return_trace else None

    # ---- clocks

    def _last_left(self):
        """1 - t of the last time at which the network may be asked."""
        end = torch.tensor(self.time_epsilon, dtype=torch.float64, device="cpu")
        if self.trained is not None:
            end = left_at(self.insertion, survival(self.trained, end)).clamp(min=0)
        return float(end)

    def _network_time(self, left):
        """The t that the network is asked at."""
        if self.trained is None:
            return 1 - left
        waiting = survival(self.insertion, left, starts_at_zero=True)
        return self.trained.inv(1 - waiting).clamp(0, 1 - self.time_epsilon)

    # ---- random numbers: functions of (seed of the row, its evaluation, purpose, index)

    def _uniforms(self, rows, purpose, index):
        """One number for each (row, index) pair, (n,)."""
        event = (self.evaluations[rows] << INDEX_BITS) + index
        return row_uniforms(self.seeds[rows], event, purpose, 1)[:, 0]

    def _table(self, rows, purpose, n):
        """The first n numbers of each row, (R, n)."""
        index = torch.arange(n, device="cpu").repeat(len(rows))
        return self._uniforms(rows.repeat_interleave(n), purpose, index).view(len(rows), n)

    # ---- the step

    @torch.no_grad()
    def run(self):
        batch = self.ids.shape[0]
        self._record(torch.arange(batch, device="cpu"))
        # neighbours in the queue are of like length
        waiting = torch.argsort(self.lengths, stable=True)
        waiting = waiting[self.stage[waiting] != DONE]
        live = waiting[:0]
        while True:
            free = len(waiting) if self.rows_at_once is None else self.rows_at_once - len(live)
            live, waiting = torch.cat([live, waiting[:free]]), waiting[free:]
            if self.cap is not None:
                self._stop_at_cap(live)
                live = live[self.stage[live] != DONE]
            if len(live):
                self._step(live)
                ended = self.stage[live] == DONE
                if self.cache is not None:
                    self.cache.drop(live[ended].tolist())
                live = live[~ended]
            elif not len(waiting):
                break
        width = int(self.lengths.max()) if batch else 0
        return GenerationResult(
            self.ids[:, :width],
            self.lengths,
            self.evaluations,
            self.truncated,
            self.trace,
            self.refused,
            self.clipped,
        )

    def _step(self, live):
        """One evaluation for each row of live (R,), and what follows from it."""
        width = int(self.lengths[live].max())
        ids, position = self.ids[live, :width], torch.arange(width, device="cpu")  # (R, W)
        masks = (ids == self.mask_id) & self._answer(live, position)  # (R, W)
        number, competing = self._how_many(live, masks)
        rows, places = competing.nonzero(as_tuple=True)  # (n,) each, row-major
        if self.order in ("random", "position"):  # known before the network is asked
            surest = (
                self._uniforms(live[rows], ORDER, places) if self.order == "random" else -places
            )
            rows, places = (index[self._surest(rows, surest, number)] for index in (rows, places))
        length, logits = self._ask(live, ids, rows, places)  # (R, W+1), (n, V), on the device
        sure = tokens = None
        if len(rows):
            excluded = self._excluded(logits)
            if self.order not in ("random", "position"):
                sure = confidence(logits, excluded, self.order)  # (n,)
            tokens = draw_tokens(
                logits, excluded, self.temperature, self._uniforms(live[rows], TOKEN, places)
            )
        # the one place where the device is waited for
        length, sure, tokens = to_cpu(length, sure, tokens)
        gaps = self._allowed_gaps(live, length)
        if tokens is not None:
            check_tokens(tokens)
            if sure is not None:
                if self.threshold is not None:
                    number = number.maximum(
                        torch.zeros_like(number).index_add_(
                            0, rows, (sure >= self.threshold).long()
                        )
                    )
                chosen = self._surest(rows, sure, number)
                rows, places, tokens = rows[chosen], places[chosen], tokens[chosen]
            self.ids[live[rows], places] = tokens
        # term by term: `sum` would round differently in a wider batch
        total = gaps.cumsum(1)[:, -1]
        inserted = self._insert(live, gaps, total)  # (R,)
        masks_left = masks.sum(1) - number + inserted
        self._advance(live, total, masks_left, (number > 0) | (inserted > 0))

    def _answer(self, live, position):
        """Where tokens may be written: behind the prompt or prefix, before the suffix. (R, W)"""
        return (position >= self.first_gap[live, None]) & (
            position < (self.lengths - self.suffix_lengths)[live, None]
        )

    def _how_many(self, live, masks):
        """How many masks each row reveals with this evaluation, (R,), and which compete for it,
        bool (R, W).
        """
        stage, available = self.stage[live], masks.sum(1)
        number = torch.where(
            stage == EVENT, self.reveals[live], torch.where(stage == FINAL_REVEAL, 1, 0)
        )
        everything = stage == LAST
        leaping = stage == LEAP
        if bool(leaping.any()):
            step = self.grid_step[live]
            everything = everything | (leaping & self.grid.last[step])
            if self.skips:
                number = torch.where(leaping, self.reveals[live], number)
            else:
                rows, places = (masks & leaping[:, None]).nonzero(as_tuple=True)
                happens = self._uniforms(live[rows], COUNT, places) < self.grid.reveal[step][rows]
                number.index_add_(0, rows, happens.long())  # Binomial(masks, share)
        number = torch.where(everything, available, number.minimum(available))
        # how many may be revealed
        asked = (
            number if self.threshold is None else torch.where(leaping, number.clamp(min=1), number)
        )
        competing = torch.where(asked > 0, available, 0)
        if self.window is not None:
            alpha, max_window = self.window
            window = (asked * alpha).long().clamp(max=max_window).clamp(min=1)
            competing = torch.where(everything, competing, competing.minimum(window))
            number = number.minimum(competing)
        return number, masks & (masks.cumsum(1) <= competing[:, None])

    def _surest(self, rows, value, number):
        """Bool (n,): in each row the number[row] entries of largest value; of equals the first.
        rows: (n,), ascending.
        """
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device="cpu")
        order = torch.argsort(value, descending=True, stable=True)
        order = order[torch.argsort(rows[order], stable=True)]  # by row, within it by value
        sorted_rows = rows[order]
        row_start = torch.searchsorted(sorted_rows, sorted_rows)  # index of the row's first entry
        chosen = torch.zeros(len(rows), dtype=torch.bool, device="cpu")
        chosen[order] = torch.arange(len(rows), device="cpu") - row_start < number[sorted_rows]
        return chosen

    def _ask(self, live, ids, rows, places):
        """Ask the network: expected missing tokens (R, W+1) and logits (n, V) at the places, both
        on its device.
        """
        width = self.canvas or max(1, ids.shape[1])
        # few shapes: kernels and graphs are reused
        if self.device.type != "cpu" and self.canvas is None:
            width = min(-(-width // 16) * 16, self.max_length)
        canvas = torch.full((len(live), width), self.pad_id, device="cpu")
        canvas[:, : ids.shape[1]] = ids
        position, lengths = torch.arange(width + 1, device="cpu"), self.lengths[live, None]
        text = position[:width] < lengths  # (R, width)
        time = self._network_time(self.left[live]).float()
        wanted = torch.zeros(canvas.shape, dtype=torch.bool, device="cpu")
        wanted[rows, places] = True
        arguments = [part.to(self.device, non_blocking=True) for part in (canvas, time)]
        options = {"attention_mask": text.to(self.device, non_blocking=True)}
        if getattr(self.model, "supports_logits_mask", False):
            options["logits_mask"] = wanted.to(self.device, non_blocking=True)
        if self.cache is not None:
            options["places"] = self.cache.places(
                live.tolist(),
                lengths[:, 0] + 1,
                self.first_gap[live].tolist(),
                width + 1,
                rows * width + places,
            )
        elif (
            getattr(self.model, "supports_places", False)
            and self.device.type != "cpu"
            and self.canvas is None
        ):
            # the text and one end slot a row
            tokens = (position <= lengths).flatten().nonzero()[:, 0]
            options["places"] = Places(
                *(
                    part.to(self.device, non_blocking=True)
                    for part in (tokens, rows * width + places)
                )
            )
        output = self.model(*arguments, **options)
        logits = output["logits"]  # (n, V)
        if "logits_mask" not in options:
            logits = logits[rows.to(self.device), places.to(self.device)]
        return output["length"][:, : ids.shape[1] + 1], logits

    def _excluded(self, logits):
        """Tokens that are never written, bool (V,), on the logits' device."""
        if self.excluded is None:
            self.excluded = excluded_tokens(
                logits.shape[-1], self.mask_id, self.pad_id, self.num_tokens, logits.device
            )
        return self.excluded

    def _allowed_gaps(self, live, length):
        """Expected missing tokens, float64 (R, W+1), 0 outside the allowed gaps. Raises ValueError
        when they are not numbers.
        """
        gap = torch.arange(length.shape[1], device="cpu")
        allowed = (gap >= self.first_gap[live, None]) & (
            gap <= (self.lengths - self.suffix_lengths)[live, None]
        )
        allowed &= (self.lengths[live] < self.max_length)[:, None]  # with no room, G counts as 0
        gaps = torch.where(allowed, length.double().clamp(min=0), 0.0)
        if not bool(torch.isfinite(gaps).all()):
            raise ValueError("the network's `length` is not a finite number")
        return gaps

    def _insert(self, live, gaps, total):
        """Insert masks as each row's stage says. gaps: (R, W+1); total: (R,), their sum. Returns
        how many, (R,).
        """
        stage, left = self.stage[live], self.left[live]
        number = torch.zeros(len(live), dtype=torch.long, device="cpu")
        # steps whose number is drawn here, from G itself
        on_grid = stage == (MEASURE if self.skips else LEAP)
        leaping = (stage == FINAL_LEAP) | (on_grid & (not self.event_driven))
        proposing = stage == (LEAP if self.skips else EVENT)
        if bool(leaping.any()):
            # FINAL_LEAP
            share = share_of_waiting(self.insertion, left, torch.zeros_like(left), insertions=True)
            if self.grid is not None:
                share = torch.where(on_grid, self.grid.insert[self.grid_step[live]], share)
            u = self._uniforms(live, INSERTIONS, torch.zeros_like(live))
            number = poisson_quantile(u, torch.where(leaping, total * share, 0.0))
        proposals = torch.where(proposing, self.proposals[live], 0)
        ratio = total / self.bound[live]
        self.clipped[live] += (
            ((proposals > 0) | (proposing & self.skips)) & (ratio > 1 + 1e-6)
        ).long()
        most = int(proposals.max())
        if most:
            u = self._table(live, INSERTIONS, most)  # (R, K)
            number += (
                (torch.arange(most, device="cpu") < proposals[:, None]) & (u < ratio[:, None])
            ).sum(1)
        # Poisson counts of the gaps are one Poisson total whose members choose gaps independently:
        # any subset of them is as good as any other, so keeping as many as there is room for
        # favours no gap
        fits = number.minimum(self.max_length - self.lengths[live])
        self.refused[live] += number - fits
        if bool((fits > 0).any()):
            changed = (fits > 0).nonzero()[:, 0]
            self._open_gaps(live[changed], gaps[changed], fits[changed])
        return fits

    def _open_gaps(self, rows, gaps, number):
        """Insert number[i] masks into row rows[i], each into a gap drawn in proportion to gaps[i]
        (W+1,).
        """
        width, draws = gaps.shape[1] - 1, torch.arange(int(number.max()), device="cpu")
        index, u = draws.expand(len(rows), -1), self._table(rows, GAP, len(draws))  # (R, K) each
        cumulative = gaps.cumsum(1)
        total = cumulative[:, -1:]
        last = (cumulative < total).sum(1, keepdim=True)  # u * total may round up to total
        gap = torch.searchsorted(cumulative, u * total, right=True).minimum(last)  # (R, K)
        # (R, W+1)
        count = torch.zeros(gaps.shape, dtype=torch.long, device="cpu").scatter_add_(
            1, gap, (index < number[:, None]).long()
        )

        lengths = self.lengths[rows]
        position = torch.arange(self.max_length, device="cpu")
        new_lengths = lengths + number
        old = torch.arange(width, device="cpu") < lengths[:, None]  # (R, W)
        # new place of each old token
        moved = (torch.arange(width, device="cpu") + count.cumsum(1)[:, :width])[old]
        row = old.nonzero()[:, 0]
        # (R, max_length)
        ids = torch.where(position < new_lengths[:, None], self.mask_id, self.pad_id)
        ids[row, moved] = self.ids[rows, :width][old]
        slots = torch.full(ids.shape, -1, device="cpu")
        slots[row, moved] = self.slots[rows, :width][old]
        new = (position < new_lengths[:, None]) & (slots < 0)
        # slots are numbered in order of birth
        slots = torch.where(new, lengths[:, None] + new.cumsum(1) - 1, slots)
        self.ids[rows], self.slots[rows], self.lengths[rows] = ids, slots, new_lengths

    def _advance(self, live, total, masks, changed):
        """Count the evaluation and move every row to its next stage. total: (R,) G of this
        evaluation; masks: (R,) after it.
        """
        stage = self.stage[live]
        next_stage = stage.clone()
        next_left = self.left[live].clone()
        bound = self.bound[live].clone()
        now = next_left.clone()

        if self.grid is not None:
            leaping = (stage == LEAP) | (stage == MEASURE)
            step = self.grid_step[live] + 1  # the one that comes next
            if self.skips:
                full = self.lengths[live] == self.max_length
                bound = torch.where(leaping, torch.where(full, 0.0, total * self.inflation), bound)
                step = self._next_leap(live, step, masks, bound)
            over = leaping & (step >= len(self.grid))
            step = step.clamp(max=len(self.grid) - 1)
            next_left = torch.where(
                leaping, torch.where(over, self.grid.end[-1], self.grid.start[step]), next_left
            )
            next_stage.masked_fill_(leaping, LEAP).masked_fill_(
                over, FINAL_LEAP if self.grid.cut else DONE
            )
            # nothing is missing, nor ever will be
            next_stage.masked_fill_(leaping & (total == 0) & (masks == 0), DONE)
            self.grid_step[live] = torch.where(leaping, step, self.grid_step[live])
        next_stage.masked_fill_((stage == LAST) | ((stage == FINAL_REVEAL) & (masks == 0)), DONE)
        next_stage = torch.where(
            stage == FINAL_LEAP, torch.where(masks > 0, FINAL_REVEAL, DONE), next_stage
        )

        running = (stage == MEASURE) | (stage == EVENT)
        if self.event_driven and bool(running.any()):
            full = self.lengths[live] == self.max_length  # then G is 0 without asking
            measure = running & changed & ~full
            if self.inflation is not None:  # trust the bound from before the event, but not
                # one of 0, to say that this was all
                total = torch.where(measure, total * self.inflation, total)
                measure = measure & (masks == 0) & (total <= TOLERANCE)
            propose = running & ~measure
            next_left = torch.where(stage == EVENT, self.resume[live], next_left)
            bound = torch.where(propose, torch.where(full, 0.0, total), bound)
            first, resume, reveals, proposals = self._next_events(live, next_left, bound, masks)
            beyond = first <= self.left_end
            ended = (masks == 0) & ((bound <= TOLERANCE) | (beyond & (self.left_end == 0)))
            next_left = torch.where(propose, first.clamp(min=self.left_end), next_left)
            next_stage.masked_fill_(measure, MEASURE).masked_fill_(propose, EVENT)
            leap = (bound > 0) & (self.left_end > 0)
            next_stage = torch.where(
                propose & beyond, torch.where(leap, FINAL_LEAP, FINAL_REVEAL), next_stage
            )
            next_stage.masked_fill_(propose & (ended | (beyond & (masks == 0) & ~leap)), DONE)
            self.resume[live], self.reveals[live], self.proposals[live] = resume, reveals, proposals

        self.evaluations[live] += 1
        self.stage[live], self.left[live], self.bound[live] = next_stage, next_left, bound
        done = next_stage == DONE
        self._record(live[changed | done], 1 - now[changed | done])

    def _next_leap(self, live, step, masks, bound):
        """The next step of the grid in which something is proposed, (R,), K where there is none;
        keeps what it is.
        """
        # (R, 4), (R, most masks)
        u, u_masks = self._table(live, CLOCK, 4), self._table(live, COUNT, int(masks.max()))
        ahead = step < len(self.grid)
        found, self.reveals[live], self.proposals[live] = self.grid.next_step(
            step.clamp(max=len(self.grid) - 1), masks, bound, u, u_masks
        )
        return torch.where(ahead, found, step)

    def _next_events(self, live, left, bound, masks):
        """The next events that are proposed: left (R,) at the first and the last, how many are
        reveals, and how many insertions.

        Two clocks, each with its own inverse; the first to ring is the event, and what rings after
        t = 1 never does. Exact is one event; more of them (events_per_evaluation) are drawn as if
        nothing had changed between, up to the end of the network's time,
        and at most a PARALLEL_SHARE of what is left to do: the last tokens are worth an evaluation
        each.
        """
        # a dozen operations an event: numpy's cost a quarter of torch's
        left, bound, masks = left.numpy(), bound.numpy(), masks.numpy()
        reveals, proposals = np.zeros_like(masks), np.zeros_like(masks)
        first, rings = left, np.ones(len(left), dtype=bool)
        allowed = np.clip(PARALLEL_SHARE * (bound + masks), 1, self.events).astype(np.int64)  # (R,)
        numbers = np.log(self._table(live, CLOCK, 2 * int(allowed.max())).numpy().T)  # (2 K, R)
        with np.errstate(divide="ignore", invalid="ignore"):
            for event in range(len(numbers) // 2):
                u = numbers[2 * event : 2 * event + 2]
                waiting = (
                    survival(self.insertion, left, starts_at_zero=True),
                    survival(self.unmasking, left),
                )
                insertion = np.where(
                    bound > 0, left_at(self.insertion, waiting[0] * np.exp(u[0] / bound)), -1.0
                )
                reveal = np.where(
                    masks > reveals,
                    left_at(self.unmasking, waiting[1] * np.exp(u[1] / (masks - reveals))),
                    -1.0,
                )
                following = np.minimum(np.maximum(insertion, reveal), left)
                rings = rings & (following > self.left_end) & (event < allowed)
                first = following if event == 0 else first
                reveals += rings & (reveal >= insertion)
                proposals += rings & (insertion > reveal)
                left = np.where(rings, following, left)
        return tuple(map(torch.from_numpy, (first, left, reveals, proposals)))

    def _stop_at_cap(self, live):
        """Event-driven: with one evaluation left, a row that is not about to finish reveals what it
        has and is marked truncated.
        """
        position = torch.arange(int(self.lengths[live].max()) if len(live) else 0, device="cpu")
        masks = (
            (self.ids[live, : len(position)] == self.mask_id) & self._answer(live, position)
        ).sum(1)
        at_cap = self.evaluations[live] == self.cap - 1
        stop = at_cap & ~((self.stage[live] == FINAL_REVEAL) & (masks <= 1))
        self.truncated[live[stop]] = True
        self.stage[live[stop]] = torch.where(masks[stop] > 0, LAST, DONE)
        ended = live[self.stage[live] == DONE]
        self._record(ended, 1 - self.left[ended])

    def _record(self, rows, t=None):
        """A frame of each row for the trace and for whoever watches."""
        if self.trace is None and self.on_frame is None:
            return
        for index, row in enumerate(rows.tolist()):
            length = int(self.lengths[row])
            frame = {
                "t": 0.0 if t is None else float(t[index]),
                "evaluations": int(self.evaluations[row]),
                "ids": self.ids[row, :length].tolist(),
                "slots": self.slots[row, :length].tolist(),
            }
            if self.trace is not None:
                self.trace[row].append(frame)
            if self.on_frame is not None:
                self.on_frame(row, frame)


def generate_flexmdm(
    model,
    prompts=None,
    *,
    steps=None,
    max_length=None,
    mask_id,
    pad_id,
    sampler="tau_leaping",
    unmasking="random",
    confidence_method="position",
    use_sliding_window=False,
    alpha=5.0,
    max_window=32,
    temperature=0.0,
    insertion_schedule=None,
    unmask_schedule=None,
    generator=None,
    return_trace=False,
    seeds=None,
    rows_at_once=None,
    num_tokens=None,
    batch_size=None,
    on_frame=None,
    events_per_evaluation=1,
    bound_inflation=None,
    confidence_threshold=None,
    cache_refresh=None,
):
    """Continue prompts, or generate freely, with a FlexMDM. t runs from 0 (nothing but the prompt)
    to 1 (clean).

    model: `model(input_ids, timesteps, attention_mask)` -> {"logits": (B, L, V), "length": (B,
    L+1)} with a `device`; used when there:
        `supports_logits_mask`, and `config` with its schedules, time_epsilon, max_length and
        attend_to_padding.
    prompts: long (B, P), right-padded with pad_id (only trailing padding counts), or None with
    batch_size=B.
    steps: tau_leaping: its grid, uniform in t. event_driven: None, or a cap on a row's evaluations;
    a row that reaches it stops
        inserting, reveals all its masks at once and is marked `truncated`.
    max_length: tokens of a row, prompt included; None: the model's own. Masks that do not fit are
    refused, favouring no gap.
        A network that attends to padding gets rows padded to its own max_length, as in training,
        whatever this limit.
    sampler: "tau_leaping" (first order in 1/steps) or "event_driven" (no discretisation error; what
    a config's time_epsilon leaves is
        one tau-leap for both: its tokens come in a Poisson number, right on average).
    unmasking: "random" order, or "confidence": the surest first by confidence_method "position"
    (leftmost), "top_prob", "prob_diff"
        or "entropy". use_sliding_window: only the first K = min(int(alpha * number to reveal),
        max_window, number of masks) compete.
    temperature: 0 writes the most probable token, 1 draws from the posterior. Never written:
    mask_id, pad_id, ids >= num_tokens.
    insertion_schedule, unmask_schedule: None: the model's own, or linear where it has no config. A
    model with a config whose insertion
        schedule is another is asked at the matching time tau(t) = alpha_own^-1(alpha(t)); without a
        config it is asked at t.
    seeds: long (B,); every random number of a row is a function of (its seed, its evaluation,
    purpose): results do not depend on what
        shares the batch. Seeds that are not given are drawn from `generator` (None: torch's global
        one).
    rows_at_once: most rows in the network's batch; waiting ones enter as others finish.
    return_trace: `trace[b]` is a list of frames {"t": float, "evaluations": int, "ids": list[int],
    "slots": list[int]}: the initial
        state, the state after each evaluation that changed it, and the result. `slots[i]` is the
        lasting identity of position i: the prompt (or prefix and suffix) has 0 ... P-1, every
        inserted mask the next number. on_frame(row, frame) gets them as they are made.
    Approximations, off by default (what each costs is measured in
    tests/test_sampler_approximations.py):
        events_per_evaluation: event_driven proposes this many events at once, reveals that many of
        the surest, inserts what is accepted;
            never more than a quarter of what is left to do, so that rows which miss few tokens are
            sampled as without it.
        bound_inflation c >= 1: event_driven does not measure G again after an event, but proposes
        from c times what it was before.
            tau_leaping draws what may happen from c times the G it last saw, and leaves out the
            evaluations of steps in which nothing
            may: the law of its grid is kept wherever G stays below that, at the cost of its events
            instead of its steps.
        confidence_threshold: whenever masks may be revealed, all that are at least this sure are
        (in the units of confidence_method: a probability, a difference of two, or negative nats).
        Needs unmasking="confidence" by anything but position. event_driven
            then takes fewer evaluations; tau_leaping takes its grid's all the same, so there it
            changes the order alone.
        cache_refresh r: keys and values of the prompt (or prefix) are kept for r evaluations; what
        comes behind it is computed every time.

    Returns a GenerationResult (sampling/results.py). Raises ValueError for bad arguments and when
    the network returns no numbers.
    """
    if prompts is None:
        if batch_size is None:
            raise ValueError("without prompts, batch_size says how many rows to generate")
        prompts = _no_tokens(batch_size)
    elif batch_size is not None and batch_size != len(prompts):
        raise ValueError(f"batch_size is {batch_size}, but there are {len(prompts)} prompts")
    return _generate(
        model,
        prompts,
        _no_tokens(len(prompts)),
        steps=steps,
        max_length=max_length,
        mask_id=mask_id,
        pad_id=pad_id,
        sampler=sampler,
        unmasking=unmasking,
        confidence_method=confidence_method,
        use_sliding_window=use_sliding_window,
        alpha=alpha,
        max_window=max_window,
        temperature=temperature,
        insertion_schedule=insertion_schedule,
        unmask_schedule=unmask_schedule,
        generator=generator,
        return_trace=return_trace,
        seeds=seeds,
        rows_at_once=rows_at_once,
        num_tokens=num_tokens,
        on_frame=on_frame,
        events_per_evaluation=events_per_evaluation,
        bound_inflation=bound_inflation,
        confidence_threshold=confidence_threshold,
        cache_refresh=cache_refresh,
    )


def generate_flexmdm_infilling(
    model,
    prefixes,
    suffixes,
    *,
    steps=None,
    max_length=None,
    mask_id,
    pad_id,
    sampler="tau_leaping",
    unmasking="random",
    confidence_method="position",
    use_sliding_window=False,
    alpha=5.0,
    max_window=32,
    temperature=0.0,
    insertion_schedule=None,
    unmask_schedule=None,
    generator=None,
    return_trace=False,
    seeds=None,
    rows_at_once=None,
    num_tokens=None,
    on_frame=None,
    events_per_evaluation=1,
    bound_inflation=None,
    confidence_threshold=None,
    cache_refresh=None,
):
    """Fill the middle between prefixes (long (B, P)) and suffixes (long (B, S)), both right-padded
    with pad_id; the rest is as in generate_flexmdm. Boundary tokens belong to prefix and suffix.
    Row b's middle is `sequences[b, P_b : lengths[b] - S_b]`.
    """
    if len(prefixes) != len(suffixes):
        raise ValueError(f"{len(prefixes)} prefixes, but {len(suffixes)} suffixes")
    return _generate(
        model,
        prefixes,
        suffixes,
        steps=steps,
        max_length=max_length,
        mask_id=mask_id,
        pad_id=pad_id,
        sampler=sampler,
        unmasking=unmasking,
        confidence_method=confidence_method,
        use_sliding_window=use_sliding_window,
        alpha=alpha,
        max_window=max_window,
        temperature=temperature,
        insertion_schedule=insertion_schedule,
        unmask_schedule=unmask_schedule,
        generator=generator,
        return_trace=return_trace,
        seeds=seeds,
        rows_at_once=rows_at_once,
        num_tokens=num_tokens,
        on_frame=on_frame,
        events_per_evaluation=events_per_evaluation,
        bound_inflation=bound_inflation,
        confidence_threshold=confidence_threshold,
        cache_refresh=cache_refresh,
    )


def _no_tokens(batch):
    import torch

    return torch.zeros((batch, 0), dtype=torch.long, device="cpu")


def _one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _generate(
    model, prefixes, suffixes, *, steps, max_length, mask_id, pad_id, generator, seeds, **settings
):
    """Check the arguments, then sample."""
    import torch  # here, so that --help and the flags need no torch

    from flexmdm_interpolant import length_without_trailing
    from sampling.row_random import draw_seeds

    _one_of("sampler", settings["sampler"], ("tau_leaping", "event_driven"))
    _one_of("unmasking", settings["unmasking"], ("random", "confidence"))
    _one_of(
        "confidence_method",
        settings["confidence_method"],
        ("position", "top_prob", "prob_diff", "entropy"),
    )
    if steps is None and settings["sampler"] == "tau_leaping":
        raise ValueError("tau_leaping needs steps")
    for name, value in (
        ("steps", steps),
        ("rows_at_once", settings["rows_at_once"]),
        ("max_window", settings["max_window"]),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if not settings["temperature"] >= 0 or not settings["alpha"] > 0:
        raise ValueError(
            f"temperature ({settings['temperature']}) must not be negative, alpha"
            f" ({settings['alpha']}) must be above 0"
        )
    events, inflation, threshold = (
        settings[name]
        for name in ("events_per_evaluation", "bound_inflation", "confidence_threshold")
    )
    if events < 1 or (inflation is not None and not inflation >= 1):
        raise ValueError(
            f"events_per_evaluation ({events}) and bound_inflation ({inflation}) must be at least 1"
        )
    if settings["sampler"] != "event_driven" and events > 1:
        raise ValueError("events_per_evaluation belongs to the event_driven sampler")
    if settings["sampler"] != "event_driven" and inflation is not None and threshold is not None:
        raise ValueError(
            "tau_leaping takes either bound_inflation or confidence_threshold: steps that are left"
            " out could reveal nothing"
        )
    if threshold is not None and (
        settings["unmasking"] != "confidence" or settings["confidence_method"] == "position"
    ):
        raise ValueError(
            'confidence_threshold needs unmasking="confidence" by top_prob, prob_diff or entropy'
        )
    if mask_id == pad_id:
        raise ValueError(f"mask_id and pad_id are both {mask_id}")
    if max_length is None:
        max_length = getattr(getattr(model, "config", None), "max_length", None)
        if max_length is None:
            raise ValueError("max_length is needed: the model has no config that says it")
    device = (
        prefixes.device
        if prefixes.numel()
        else suffixes.device
        if suffixes.numel()
        else getattr(model, "device", "cpu")
    )
    prefixes, suffixes = prefixes.cpu().long(), suffixes.cpu().long()
    prefix_lengths = length_without_trailing(prefixes, pad_id)
    suffix_lengths = length_without_trailing(suffixes, pad_id)
    longest = int((prefix_lengths + suffix_lengths).max()) if len(prefixes) else 0
    if longest > max_length:
        raise ValueError(f"a row of {longest} given tokens is longer than max_length {max_length}")
    if bool((prefixes == mask_id).any()) or bool((suffixes == mask_id).any()):
        raise ValueError(f"the given tokens contain the mask token {mask_id}")
    result = FlexMDMSampler(
        model,
        prefixes,
        prefix_lengths,
        suffixes,
        suffix_lengths,
        steps=steps,
        max_length=max_length,
        mask_id=mask_id,
        pad_id=pad_id,
        seeds=draw_seeds(len(prefixes), seeds, generator),
        **settings,
    ).run()
    for name, value in vars(result).items():
        if isinstance(value, torch.Tensor):
            setattr(result, name, value.to(device))
    return result
