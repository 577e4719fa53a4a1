"""Random numbers of a row as functions of (seed of the row, event number, purpose, index).

A row's draws do not depend on what else is in the batch, on when it entered it, or on how many
numbers other purposes used. Nothing here imports torch.
"""

import hashlib

import numpy as np

# the increment of splitmix64 (Steele, Lea, Flood 2014)
_ONE, _GOLDEN = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)
# its shifts and multipliers
_MIX = tuple(
    (np.uint64(shift), np.uint64(factor))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
)


def draw_seeds(batch_size, seeds=None, generator=None):
    """One seed a row, long [B] on CPU: `seeds` as given, else drawn from `generator` (None: torch's
    global one).
    """
    import torch

    if seeds is None:
        return torch.randint(
            2**62,
            (batch_size,),
            generator=generator,
            device="cpu" if generator is None else generator.device,
        ).cpu()
    seeds = torch.as_tensor(seeds, dtype=torch.long, device="cpu")
    if seeds.shape != (batch_size,):
        raise ValueError(
            f"seeds must be one number a row, shape ({batch_size},), not {tuple(seeds.shape)}"
        )
    return seeds


def _mix(x):
    """splitmix64's finaliser, in place on uint64, whose products wrap."""
    for shift, factor in _MIX:
        x ^= x >> shift
        x *= factor
    return x


def row_uniforms(seeds, event, purpose, n):
    """Uniform numbers strictly between 0 and 1, float64 [B, n], on the CPU.

    seeds: long [B]; event: int or long [B], the row's own event (or step) number; purpose: int, one
    for each use within an event. Column i depends on (seeds[b], event[b], purpose, i) alone. In
    numpy: for a few numbers it costs a fifth of what torch's calls do.
    """
    import torch

    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seeds).astype(np.uint64) + _GOLDEN)  # (B,)
        state = _mix(state + (np.asarray(event).astype(np.uint64) + _ONE) * _GOLDEN)  # (B,)
        state = _mix(state + (np.asarray(purpose).astype(np.uint64) + _ONE) * _GOLDEN)  # (B,)
        index = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN  # (n,)
        bits = _mix(state[:, None] + index) >> np.uint64(12)  # (B, n)
    return torch.from_numpy((bits + 0.5) * 2.0**-52)


def item_seed(seed, item, sample):
    """Seed of one row, 0 ... 2^62 - 1: a function of --seed, the item's index in the data set and
    the sample's number alone.
    """
    digest = hashlib.blake2b(f"{seed}/{item}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
