"""The token ids of a sampler's rows: what is given, and how a FlexMDM's rows grow: masks are
inserted into gaps, and every position keeps its identity.
"""

from collections.abc import Sequence
from operator import index
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from flexmdm_interpolant import length_without_trailing
from sampling.results import TraceFrame

# given rows of tokens: long (B, P), right-padded with pad_id, or a list of ids of each row
GivenRows: TypeAlias = torch.Tensor | Sequence[Sequence[int]]


def id_lists(given: GivenRows, pad_id: int) -> list[list[int]]:
    """The ids of each row: a tensor's without their trailing padding, lists as they are. Raises
    ValueError for anything else.
    """
    if not isinstance(given, torch.Tensor):
        try:
            return [[index(token) for token in row] for row in given]
        except TypeError:
            shape = "a list of this"
    elif given.dim() == 2:
        given = given.cpu().long()
        lengths = length_without_trailing(given, pad_id).tolist()
        return [row[:length] for row, length in zip(given.tolist(), lengths)]
    else:
        shape = f"of shape {tuple(given.shape)}"
    raise ValueError(f"prompts, prefixes and suffixes are long [B, P] or lists of ids, not {shape}")


def device_of(model: Any, *given: GivenRows) -> torch.device | str:
    """Where results belong: on the device of the given tensors that are not empty, else on the
    model's.
    """
    for rows in given:
        if isinstance(rows, torch.Tensor) and rows.numel():
            return rows.device
    return getattr(model, "device", "cpu")


class Sequences:
    """B rows of ids, each a prefix (or prompt), the text being written, and a suffix.

    ids: (B, max_length), right-padded with pad_id; lengths: (B,); slots: (B, max_length), the
    identity of each position, -1 after a row's end: prefix and suffix have 0 ... P-1, every
    new mask the next number; born: (B,), identities given so far. All int64. log_probs: float
    (B, max_length), for the sampler to fill in: of each token when it was written.
    """

    def __init__(
        self,
        prefixes: list[list[int]],
        suffixes: list[list[int]],
        max_length: int,
        mask_id: int,
        pad_id: int,
    ):
        self.max_length, self.mask_id, self.pad_id = max_length, mask_id, pad_id
        self.prefix_lengths = np.array([len(row) for row in prefixes], dtype=np.int64)
        self.suffix_lengths = np.array([len(row) for row in suffixes], dtype=np.int64)
        self.lengths = self.prefix_lengths + self.suffix_lengths
        self.ids = np.full((len(prefixes), max_length), pad_id, dtype=np.int64)
        for number, (prefix, suffix) in enumerate(zip(prefixes, suffixes)):
            self.ids[number, : len(prefix) + len(suffix)] = [*prefix, *suffix]
        position = np.arange(max_length)
        self.slots = np.where(position < self.lengths[:, None], position, -1)
        self.born = self.lengths.copy()
        self.log_probs = np.zeros(self.ids.shape)

    def __len__(self) -> int:
        return len(self.lengths)

    def width(self, rows: NDArray[np.int64]) -> int:
        """The longest of some rows."""
        return int(self.lengths[rows].max(initial=0))

    def full(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of some rows has no room left, (R,)."""
        return self.lengths[rows] == self.max_length

    def inside(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where the text being written is in some rows: after the prefix and before the suffix.
        (R, W)
        """
        position = np.arange(self.width(rows))
        end = (self.lengths - self.suffix_lengths)[rows, None]
        return (position >= self.prefix_lengths[rows, None]) & (position < end)

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where some rows have masks to unmask, (R, W)."""
        inside = self.inside(rows)
        return (self.ids[rows, : inside.shape[1]] == self.mask_id) & inside

    def open_gaps(self, rows: NDArray[np.int64], gaps: int) -> NDArray[np.bool_]:
        """Which of the first `gaps` gaps may receive masks, (R, gaps): from the prefix's end to the
        suffix's beginning, and none in a row that is full.
        """
        gap = np.arange(gaps)
        last = (self.lengths - self.suffix_lengths)[rows, None]
        inside = (gap >= self.prefix_lengths[rows, None]) & (gap <= last)
        return inside & ~self.full(rows)[:, None]

    def insert(
        self,
        rows: NDArray[np.int64],
        gaps: NDArray[np.float64],
        number: NDArray[np.int64],
        u: NDArray[np.float64],
    ) -> None:
        """Insert number[i] masks into row rows[i], each into a gap drawn in proportion to gaps[i].

        gaps: (R, W+1); number: (R,); u: (R, K), uniform numbers, K at least the largest number.
        """
        cumulative = gaps.cumsum(1)
        total = cumulative[:, -1:]
        last = (cumulative < total).sum(1, keepdims=True)  # u * total may round up to total
        drawn = [np.searchsorted(*pair, side="right") for pair in zip(cumulative, u * total)]
        gap = np.minimum(drawn, last)  # (R, K)
        count = np.zeros(gaps.shape, dtype=np.int64)  # (R, W+1)
        row, draw = np.nonzero(np.arange(u.shape[1]) < number[:, None])
        np.add.at(count, (row, gap[row, draw]), 1)
        self.insert_counts(rows, count)

    def insert_counts(self, rows: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        """Insert count[i, j] masks into gap j of row rows[i]. count: (R, W+1)."""
        width, number = count.shape[1] - 1, count.sum(1)
        lengths = self.lengths[rows, None]
        position = np.arange(self.max_length)
        new_lengths = lengths + number[:, None]
        row, old = np.nonzero(np.arange(width) < lengths)
        moved = old + count.cumsum(1)[row, old]  # the new place of each old token
        ids = np.where(position < new_lengths, self.mask_id, self.pad_id)  # (R, max_length)
        ids[row, moved] = self.ids[rows[row], old]
        slots = np.full(ids.shape, -1)
        slots[row, moved] = self.slots[rows[row], old]
        new = (position < new_lengths) & (slots < 0)
        # numbered in order of birth
        slots = np.where(new, self.born[rows, None] + new.cumsum(1) - 1, slots)
        log_probs = np.zeros(ids.shape)
        log_probs[row, moved] = self.log_probs[rows[row], old]
        self.ids[rows], self.slots[rows], self.lengths[rows] = ids, slots, new_lengths[:, 0]
        self.log_probs[rows] = log_probs
        self.born[rows] += number

    def noise(
        self, rows: NDArray[np.int64], masked: NDArray[np.bool_], deleted: NDArray[np.bool_]
    ) -> None:
        """Replace the tokens of some rows by masks, new ones, where masked (R, W) is set, and
        remove those where deleted (R, W) is.
        """
        width = masked.shape[1]
        there = np.arange(width) < self.lengths[rows, None]
        kept = there & ~deleted
        order = np.argsort(~kept, axis=1, kind="stable")  # what is kept first, in order
        new = self.born[rows, None] + masked.cumsum(1) - 1
        self.born[rows] += masked.sum(1)
        self.lengths[rows] = kept.sum(1)
        there = np.arange(width) < self.lengths[rows, None]
        for values, at_mask, after_end in (
            (self.ids, self.mask_id, self.pad_id),
            (self.slots, new, -1),
            (self.log_probs, 0.0, 0.0),
        ):
            noised = np.where(masked, at_mask, values[rows, :width])
            packed = np.take_along_axis(noised, order, 1)
            values[rows, :width] = np.where(there, packed, after_end)

    def frame(self, row: int, t: float, evaluations: int) -> TraceFrame:
        """The state of one row, for a trace."""
        length = int(self.lengths[row])
        return {
            "t": t,
            "evaluations": evaluations,
            "ids": self.ids[row, :length].tolist(),
            "slots": self.slots[row, :length].tolist(),
        }
