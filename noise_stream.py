"""Data order and noise as functions of (seed, step, sample): not of processes, workers or accumulation.

Training reads positions p = step * global_batch + i of an endless stream, in order. Position p fixes which row is read
(a fresh permutation every epoch), its time (low-discrepancy: one draw in each of the step's global_batch strata, shuffled so
that time does not follow the row) and every later uniform. However a step's positions are dealt to processes and
micro-batches, and wherever a resumed run starts, the same step sees the same noised rows.
"""
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

ORDER, STRATA, ROW = 0, 1, 2        # purposes: independent random streams under one seed


def random_stream(seed, purpose, number):
    """numpy Generator of (seed, purpose, number), each a non-negative integer."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, number))))


class NoiseStream(Dataset):
    """rows: datasets.Dataset or list with `input_ids` (and `prompt_length`); every item also carries its `time_uniform` in [0, 1)
    and its own generator `random`, from which a collator draws in a fixed order.

    steps x global_batch positions; shuffle=False reads the rows as they are (evaluation: one step over all of them).
    """

    def __init__(self, rows, global_batch, steps, seed, low_discrepancy=True, shuffle=True):
        if not len(rows):
            raise ValueError("no rows to read")
        self.rows, self.global_batch, self.steps, self.seed = rows, global_batch, steps, seed
        self.low_discrepancy, self.shuffle = low_discrepancy, shuffle
        self._order = lru_cache(2)(lambda epoch: random_stream(seed, ORDER, epoch).permutation(len(rows)))
        self._strata = lru_cache(2)(lambda step: random_stream(seed, STRATA, step).permutation(global_batch))

    def __len__(self):
        return self.steps * self.global_batch

    def __getitem__(self, position):
        if not 0 <= position < len(self):
            raise IndexError(position)
        epoch, index = divmod(position, len(self.rows))
        row = self.rows[int(self._order(epoch)[index]) if self.shuffle else index]
        random = random_stream(self.seed, ROW, position)
        time_uniform = random.random()
        if self.low_discrepancy:
            step, place = divmod(position, self.global_batch)
            time_uniform = (self._strata(step)[place] + time_uniform) / self.global_batch
        return {"input_ids": np.asarray(row["input_ids"], dtype=np.int64), "prompt_length": int(row.get("prompt_length", 0)),
                "time_uniform": time_uniform, "random": random}

    def __getstate__(self):         # worker processes: caches are closures, and cheap to make anew
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state):
        self.__init__(**state)


def pad_rows(rows, value, width=None):
    """Right-pad a list of 1-D arrays to (B, width), width the longest by default. Raises ValueError when a row is longer."""
    width = max(map(len, rows)) if width is None else width
    if max(map(len, rows)) > width:
        raise ValueError(f"a row of {max(map(len, rows))} does not fit into {width}")
    padded = np.full((len(rows), width), value, dtype=rows[0].dtype)
    for number, row in enumerate(rows):
        padded[number, :len(row)] = row
    return padded
