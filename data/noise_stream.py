"""Data order and noise as functions of (seed, step, sample), independent of processes, workers and
accumulation.

Training reads positions p = step * global_batch + i of an endless stream. Position p fixes which
row is read (a new permutation every epoch), its time (low-discrepancy: one draw in each of the
step's global_batch strata, shuffled so that time does not follow the row) and every later uniform.
Within a step the rows are balanced over micro-batches and processes by cost
(`balance_micro_batches`), or over processes only, and each process's rows are split by a token
budget (`split_by_tokens`). However they are balanced, and wherever a resumed run starts, the same
step sees the same noised rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from common.rows import Row
from data.token_rows import row_lengths

if TYPE_CHECKING:
    import datasets

ORDER, STEP, ROW = 0, 1, 2  # purposes: independent random streams under one seed


def random_stream(seed: int, purpose: int, number: int) -> np.random.Generator:
    """numpy Generator of (seed, purpose, number), each a non-negative integer."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, number))))


def balance_micro_batches(
    tokens: np.ndarray, micro_batch: int | None, processes: int
) -> np.ndarray:
    """Order of a step's rows: rows k * micro_batch ... of it are micro-batch k, which the Trainer
    gives to process k % processes. tokens: (global batch,), the cost of each row. Returns (global
    batch,); micro_batch may be None for one process.

    One process: sorted by length, so that rows padded together have similar lengths. Several: all
    micro-batches cost as nearly the same as possible (longest rows first, each to the cheapest
    micro-batch that has room), because every process waits for the slowest at every step, and with
    sharded weights in every layer.
    """
    if processes == 1:
        return np.argsort(tokens, kind="stable")
    assert micro_batch is not None  # several processes take turns at them
    open_batches = [(0.0, number) for number in range(len(tokens) // micro_batch)]
    dealt: dict[int, list[Any]] = {number: [] for _, number in open_batches}
    for row in np.argsort(-np.asarray(tokens, dtype=np.float64), kind="stable"):
        cost, number = heapq.heappop(open_batches)
        dealt[number].append(row)
        if len(dealt[number]) < micro_batch:
            heapq.heappush(open_batches, (cost + float(tokens[row]), number))
    by_cost = sorted(dealt, key=lambda number: sum(float(tokens[row]) for row in dealt[number]))
    turns = [by_cost[start : start + processes] for start in range(0, len(by_cost), processes)]
    serpentine = [
        number
        for index, turn in enumerate(turns)
        for number in (turn if index % 2 == 0 else reversed(turn))
    ]
    return np.array([row for number in serpentine for row in dealt[number]])


def split_by_tokens(tokens: np.ndarray, budget: int, at_least: int = 1) -> np.ndarray:
    """Micro-batch of each of consecutive rows: a number from 0 that never falls, (rows,). tokens:
    (rows,), of each row.

    A micro-batch takes as many rows as fit into `budget` tokens, but always one: a longer row is a
    micro-batch of its own. Where that makes fewer than at_least micro-batches (at most one per
    row), the last ones hold one row each.
    """
    numbers, number, filled = [], 0, 0
    for index, count in enumerate(tokens):
        rows_left, still_missing = len(tokens) - index, at_least - number - 1
        if index and (filled + count > budget or rows_left <= still_missing):
            number, filled = number + 1, 0
        numbers.append(number)
        filled += count
    return np.array(numbers)


class NoiseStream(Dataset):
    """rows: datasets.Dataset or list with `input_ids` (and `prompt_length`); every item also
    carries its `time_uniform` in [0, 1), its `row` number and its own generator `random`, from
    which a collator draws in a fixed order.

    steps x global_batch positions; shuffle=False reads the rows in order, over and over
    (evaluation: one step over all draws). expected_cost(lengths, time_uniform) -> array: cost by
    which a step's rows are balanced; default their lengths. processes > 1: balanced by
    tokens(item), the exact number of tokens a row has after noising, into micro-batches of
    micro_batch rows. tokens_per_batch: a step's rows of one process are split by this budget, in
    the same number of micro-batches for every process (sharded weights are gathered by all of them
    together); every item then carries the number of its `micro_batch`. micro_batch is then the rows
    that a process has in a step.
    fixed_time: every row's time_uniform. start_share: this share of the rows is read at
    time_uniform 0 with weight 0, the others have weight 1 / (1 - start_share): the expected loss is
    unchanged, and t = 0 is trained too.
    """

    def __init__(
        self,
        rows: datasets.Dataset | list[Row],
        global_batch: int,
        steps: int,
        seed: int,
        low_discrepancy: bool = True,
        shuffle: bool = True,
        expected_cost: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        tokens: Callable[[Row], float] | None = None,
        micro_batch: int | None = None,
        tokens_per_batch: int | None = None,
        processes: int = 1,
        fixed_time: float | None = None,
        start_share: float = 0.0,
    ) -> None:
        if not len(rows):
            raise ValueError("no rows to read")
        self.rows, self.global_batch, self.steps, self.seed = rows, global_batch, steps, seed
        self.low_discrepancy = low_discrepancy
        self.shuffle = shuffle
        self.expected_cost = expected_cost
        self.tokens = tokens
        self.micro_batch = micro_batch
        self.tokens_per_batch = tokens_per_batch
        self.processes = processes
        self.fixed_time = fixed_time
        self.start_share = start_share
        self._lengths = row_lengths(rows)
        self._order = lru_cache(2)(
            lambda epoch: random_stream(seed, ORDER, epoch).permutation(len(rows))
        )
        self._step = lru_cache(2)(self._balance)

    def _balance(self, step):
        """(positions in balanced order, row of each, time of each, micro-batch of each or None) of
        one step, arrays of global_batch.
        """
        size = self.global_batch
        positions = step * size + np.arange(size)
        epochs, places = np.divmod(positions, len(self.rows))
        rows = (
            np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places)])
            if self.shuffle
            else places
        )
        random = random_stream(self.seed, STEP, step)
        strata, times = random.permutation(size), random.random(size)
        if self.low_discrepancy:
            times = (strata + times) / size
        times = (times - self.start_share) / (1 - self.start_share)  # below 0: at the start
        if self.fixed_time is not None:
            times = np.full(size, self.fixed_time)
        if self.processes > 1 or self.tokens_per_batch is not None:
            costs = np.array(
                [self.tokens(self._item(*drawn)) for drawn in zip(positions, rows, times)]
            )
        else:
            lengths = self._lengths[rows]
            ahead = np.maximum(times, 0)
            costs = lengths if self.expected_cost is None else self.expected_cost(lengths, ahead)
        dealt = balance_micro_batches(costs, self.micro_batch, self.processes)
        return positions[dealt], rows[dealt], times[dealt], self._split(costs[dealt])

    def _split(self, tokens):
        if self.tokens_per_batch is None:
            return None
        shares = tokens.reshape(self.processes, -1)
        most = max(split_by_tokens(share, self.tokens_per_batch)[-1] + 1 for share in shares)
        return np.concatenate(
            [split_by_tokens(share, self.tokens_per_batch, most) for share in shares]
        )

    def _item(self, position, number, time_uniform):
        row = self.rows[int(number)]
        return {
            "input_ids": np.asarray(row["input_ids"], dtype=np.int64),
            "prompt_length": int(row.get("prompt_length", 0)),
            "time_uniform": max(float(time_uniform), 0.0),
            "weight": 0.0 if time_uniform < 0 else 1 / (1 - self.start_share),
            "row": int(number),
            "random": random_stream(self.seed, ROW, int(position)),
        }

    def __len__(self) -> int:
        """Rows of all steps, repeats included."""
        return self.steps * self.global_batch

    def __getitem__(self, index: int) -> Row:
        """The row at an index of the balanced order (see the class). Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, place = divmod(index, self.global_batch)
        *drawn, micro_batches = self._step(step)
        item = self._item(*(array[place] for array in drawn))
        return item if micro_batches is None else item | {"micro_batch": int(micro_batches[place])}

    def __getstate__(self):  # worker processes: caches are closures, and cheap to make anew
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state):
        self.__init__(**state)
