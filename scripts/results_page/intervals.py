"""The 95 % intervals of RESULTS.md and how its tables write them: Wilson's for a share, Student's
over seeds, normal over items.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from evaluation.results import Item, Z, paired_difference

Interval: TypeAlias = tuple[float, float | None, float | None]  # mean, low, high
Right: TypeAlias = Sequence[str | float]  # items that were right: "0110", or shares

# 97.5 % quantile of Student's distribution by degrees of freedom, from one; for more: student()
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution; beyond the table by its expansion in 1 /
    freedom (Abramowitz and Stegun 26.7.5), right to three digits after the point.
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    return Z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def over_seeds(values: Sequence[float]) -> Interval:
    """(mean, low, high) by Student's t; the ends are None with a single seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def over_items(pairs: Iterable[tuple[Right, Right]]) -> Interval:
    """(mean, low, high) of right_a - right_b, items being the sample: each is averaged over the
    models first. Raises InputError if the two sides have different numbers of items.
    """
    sides: list[dict[Item, float]] = [
        {
            str(item): statistics.fmean(values)
            for item, values in enumerate(zip(*(map(float, run) for run in side)))
        }
        for side in zip(*pairs)
    ]
    found = paired_difference(*sides)
    return found["difference"], found["low"], found["high"]


def width(values: Interval) -> float:
    """Of an interval; 0 without ends."""
    _, low, high = values
    return 0.0 if low is None or high is None else high - low


# ---- in words


def percent(share: dict[str, float]) -> str:
    """ "61.5 [60.0, 62.5]", in percent."""
    return f"{100 * share['value']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def signed(values: Interval, factor: float = 100, digits: int = 1) -> str:
    """ "+1.5 [-0.3, +3.2]", each times factor."""
    mean, low, high = values
    ends = (
        ""
        if low is None or high is None
        else f" [{factor * low:+.{digits}f}, {factor * high:+.{digits}f}]"
    )
    return f"{factor * mean:+.{digits}f}{ends}"


def mean_and_seeds(values: Sequence[float], factor: float = 100, digits: int = 1) -> str:
    """ "61.5 (60.0, 62.5, 62.0)": the mean, and each seed's value."""
    return (
        f"{factor * statistics.fmean(values):.{digits}f}"
        f" ({', '.join(f'{factor * value:.{digits}f}' for value in values)})"
    )


def mean_error(values: Sequence[float], digits: int = 1) -> str:
    """The mean and half its 95 % interval."""
    half = Z * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.{digits}f} +- {half:.{digits}f}"
