"""Random numbers of a row as functions of (seed of the row, event number, purpose, index).

A row's draws do not depend on what else is in the batch, on when the row entered it, or on how many
numbers other purposes used. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

INDEX_BITS = 20  # positions, draws: fewer than 2^20 a row and event
# the increment of splitmix64 (Steele, Lea, Flood 2014), its shifts and multipliers
_ONE, _GOLDEN = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)
_MIX = tuple(
    (np.uint64(shift), np.uint64(factor))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
)


def item_seed(seed: int, item: object, sample: int) -> int:
    """Seed of one row, 0 ... 2^62 - 1: a function only of --seed, the item's index in the data set
    and the sample's number.
    """
    digest = hashlib.blake2b(f"{seed}/{item}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def draw_seeds(
    batch_size: int, seeds: ArrayLike | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One seed per row, long (B,) on the CPU: `seeds` if given, else drawn from `generator` (None:
    torch's global one). Raises ValueError if `seeds` has another shape.
    """
    import torch

    if seeds is None:
        device = "cpu" if generator is None else generator.device
        return torch.randint(2**62, (batch_size,), generator=generator, device=device).cpu()
    seeds = torch.as_tensor(seeds, dtype=torch.long, device="cpu")
    if seeds.shape != (batch_size,):
        raise ValueError(
            f"seeds must be one number per row, shape ({batch_size},), not {tuple(seeds.shape)}"
        )
    return seeds


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser, in place on uint64, whose products wrap."""
    for shift, factor in _MIX:
        x ^= x >> shift
        x *= factor
    return x


def row_uniforms(seeds: ArrayLike, event: ArrayLike, purpose: int, n: int) -> NDArray[np.float64]:
    """Uniform numbers strictly between 0 and 1, float64 (B, n).

    seeds: int64 (B,); event: int or int64 (B,), the row's own event (or step) number; purpose: one
    for each use within an event. Column i depends on (seeds[b], event[b], purpose, i) alone.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seeds).astype(np.uint64) + _GOLDEN)  # (B,)
        state = _mix(state + (np.asarray(event).astype(np.uint64) + _ONE) * _GOLDEN)  # (B,)
        state = _mix(state + (np.asarray(purpose).astype(np.uint64) + _ONE) * _GOLDEN)  # (B,)
        index = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN  # (n,)
        bits = _mix(state[:, None] + index) >> np.uint64(12)  # (B, n)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


class RowUniforms:
    """The random numbers of a sampler's B rows. seeds: int64 (B,); evaluations: int64 (B,), the
    network evaluations that each row has had, counted on by the sampler: the row's event number.
    """

    def __init__(self, seeds: NDArray[np.int64], evaluations: NDArray[np.int64]):
        self.seeds, self.evaluations = seeds, evaluations

    def at(
        self, rows: NDArray[np.int64], purpose: int, index: NDArray[np.int64] | int
    ) -> NDArray[np.float64]:
        """One number for each (row, index) pair, (n,)."""
        event = (self.evaluations[rows] << INDEX_BITS) + index
        return row_uniforms(self.seeds[rows], event, purpose, 1)[:, 0]

    def table(self, rows: NDArray[np.int64], purpose: int, n: int) -> NDArray[np.float64]:
        """The first n numbers of each row, (R, n)."""
        index = np.tile(np.arange(n), len(rows))
        return self.at(rows.repeat(n), purpose, index).reshape(len(rows), n)
