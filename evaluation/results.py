"""The result of one evaluation: the content of a results.json, and the difference of two over the
same items. Intervals are Wilson's, 95 %, over items. Nothing here is slow to import.
"""

import importlib.metadata
import math
import platform
import statistics
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import InputError
from common.rows import Row, read_rows

# the content of a results.json
Result: TypeAlias = dict[str, Any]
# a question, or a question and its number where several items share one
Item: TypeAlias = str | tuple[str, str]
Z = 1.959963984540054  # 97.5 % quantile of the normal law
VERSIONED = ("torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")

# ---- one result ----------------------------------------------------------------------------------


def wilson(right: float, n: int) -> tuple[float, float]:
    """(low, high) of Wilson's 95 % interval for right of n; right may be fractional (a mean over
    samples of n items).
    """
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / n / 4) / (1 + spread)
    return (max(0.0, middle - half) if right > 0 else 0.0), (
        min(1.0, middle + half) if right < n else 1.0
    )


def share_of(right: float, n: int) -> dict[str, float]:
    """A metric that is a share of n items: {"value", "right", "n", "low", "high"}."""
    low, high = wilson(right, n)
    return {"value": right / n if n else 0.0, "right": right, "n": n, "low": low, "high": high}


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples is right, given `right` of
    `samples` (Chen et al. 2021, arXiv 2107.03374).

    1 - C(samples - right, k) / C(samples, k). Raises ValueError for k > samples.
    """
    if not 0 < k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of each item, not {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_rates(keys: Iterable[Hashable], right: Iterable[bool]) -> dict[str, Any]:
    """pass@k over items for k = 1, 5, 10, 100 and the number of samples, if every item has that
    many. keys: the item of each sample; right: whether the sample is right.
    """
    by_item: dict[Hashable, list[bool]] = {}
    for key, value in zip(keys, right):
        by_item.setdefault(key, []).append(value)
    samples = min(map(len, by_item.values()))
    return {
        f"pass@{k}": share_of(
            sum(pass_at_k(len(each), sum(each), k) for each in by_item.values()), len(by_item)
        )
        for k in sorted({1, *(k for k in (5, 10, 100) if k <= samples), samples})
    }


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """{"mean", "q1", "median", "q3"} of some numbers, None without any."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    q1, median, q3 = (
        statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    )
    return {"mean": statistics.fmean(found), "q1": q1, "median": median, "q3": q3}


def versions() -> dict[str, str]:
    """Versions of the interpreter, the platform and the installed packages of VERSIONED."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def make_result(
    *,
    benchmark: str,
    label: str,
    metrics: dict[str, Any],
    rows: Sequence[Row],
    settings: dict[str, Any],
    details: dict[str, Any],
) -> Result:
    """The content of a results.json.

    metrics: name -> share_of(...) or a number, the first goes into tables; rows: generated rows
    (evaluations, length, seconds are read if present); settings: everything the generations depend
    on; details: of scoring and of the run.
    """
    total = lambda field: round(sum(row.get(field) or 0 for row in rows), 3)
    return {
        "benchmark": benchmark,
        "label": label,
        "metrics": metrics,
        "rows": len(rows),
        "evaluations": spread([row.get("evaluations") for row in rows]),
        "positions": spread([row.get("positions") for row in rows]),
        "tokens": total("length"),
        "seconds": total("seconds"),
        "truncated_rows": sum(bool(row.get("truncated")) for row in rows),
        "settings": settings,
        **details,
        "versions": versions(),
    }


def describe(result: Result) -> str:
    """A result in a few lines, to print."""
    lines = [f"{result['benchmark']}, {result['label']}:"]
    for name, metric in result["metrics"].items():
        if isinstance(metric, dict) and "low" in metric:
            right = (
                f"{metric['right']:g} of {metric['n']}"
                if float(metric["right"]).is_integer()
                else f"n = {metric['n']}"
            )
            lines.append(
                f"  {name:<24} {metric['value']:7.2%}   [{metric['low']:.2%}, {metric['high']:.2%}]"
                f"   {right}"
            )
        elif metric is not None:
            lines.append(f"  {name:<24} {metric:7.3f}")
    if result["evaluations"]:
        e = result["evaluations"]
        lines.append(
            f"  {'NFE per sample':<24} {e['mean']:7.1f}   quartiles {e['q1']:g},"
            f" {e['median']:g}, {e['q3']:g}"
        )
    if result.get("positions"):
        lines.append(f"  {'positions per sample':<24} {result['positions']['mean']:7.1f}")
    if result["seconds"]:
        lines.append(f"  {'tokens, seconds':<24} {result['tokens']:g}, {result['seconds']:.1f}")
    return "\n".join(lines)


# ---- two results over the same items -------------------------------------------------------------


def item_scores(folder: str | Path) -> dict[Item, float]:
    """{item: share of its samples that are right} from a run's verdicts.jsonl. Raises InputError
    if the file is missing or holds something else.
    """
    right: dict[Item, list[bool]] = {}
    rows = read_rows(
        Path(folder) / "verdicts.jsonl", fields=("name", "sample", "right"), flag="--pair"
    )
    for number, row in enumerate(rows, 1):
        if (
            not isinstance(row["name"], str)
            or not isinstance(row["sample"], int)
            or not isinstance(row["right"], bool)
        ):
            raise InputError(
                f"--pair: row {number} of {Path(folder) / 'verdicts.jsonl'} is not a verdict (name:"
                " text, sample: whole number, right: true or false)"
            )
    one_each = len({(row["name"], row["sample"]) for row in rows}) == len(rows)
    for row in rows:  # items that share a question are told apart by their number
        right.setdefault(
            row["name"] if one_each else (row["name"], str(row.get("item"))), []
        ).append(row["right"])
    return {name: statistics.fmean(values) for name, values in right.items()}


def paired_difference(a: dict[Item, float], b: dict[Item, float]) -> dict[str, float]:
    """Mean of a - b over items, {"difference", "low", "high" (95 %, normal), "n", "only_a",
    "only_b" (items better in one)}.

    a, b: item_scores of two runs. Raises InputError if their items differ. The items' difficulty
    cancels, so the interval is narrower than two separate intervals suggest.
    """
    if set(a) != set(b):
        raise InputError(
            f"--pair: the runs have different items ({len(set(a) - set(b))} only in the first,"
            f" {len(set(b) - set(a))} only in the second)"
        )
    differences = [a[name] - b[name] for name in a]
    mean = statistics.fmean(differences)
    half = (
        Z * statistics.stdev(differences) / math.sqrt(len(differences))
        if len(differences) > 1
        else math.inf
    )
    return {
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
        "n": len(differences),
        "only_a": sum(value > 0 for value in differences),
        "only_b": sum(value < 0 for value in differences),
    }
