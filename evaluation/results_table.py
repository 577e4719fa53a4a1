"""Results of evaluations: what one results.json holds, and many of them as the paper's table and
plot (accuracy against evaluations a row).

The evaluation scripts import the functions that make a results.json from here; nothing heavy is
imported before it is needed. Intervals are Wilson's, 95 %, over items. The paper's curves are read
off the authors' plots (+-0.1 points).
"""

import importlib.metadata
import math
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import InputError
from common.rows import Row, read_file, read_rows
from sampling.options import sampler_words

# the content of a results.json
Result: TypeAlias = dict[str, Any]
# a question, or a question and its number where several items share one
Item: TypeAlias = str | tuple[str, str]
Z = 1.959963984540054  # 97.5 % quantile of the normal law
VERSIONED = ("torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")
PAPER_STEPS = (128, 256, 512, 1024, 4096)
PAPER = {  # pass@1 in %, at PAPER_STEPS
    "gsm8k": {"FlexMDM": (58.2, 61.6, 61.8, 63.7, 67.1), "LLaDA": (59.6, 59.1, 59.6, 58.5, 59.4)},
    "humaneval-infill single-line": {
        "FlexMDM": (54.8, 56.5, 60.8, 59.9, 65.0),
        "LLaDA": (52.8, 52.9, 51.2, 53.3, 52.8),
    },
}


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
    """Unbiased estimate of the chance that one of k samples is right, from `right` of `samples`
    (Chen et al. 2021, arXiv 2107.03374).

    1 - C(samples - right, k) / C(samples, k). Raises ValueError for k > samples.
    """
    if not 0 < k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of each item, not {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


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
    """Versions of the interpreter, the platform and what is installed of VERSIONED."""
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

    metrics: name -> share_of(...) or a number, the first being the one to table; rows: generated
    rows (evaluations, length, seconds are read where they are there); settings: everything the
    generations depend on; details: what belongs to scoring and run.
    """
    total = lambda field: round(sum(row.get(field) or 0 for row in rows), 3)
    return {
        "benchmark": benchmark,
        "label": label,
        "metrics": metrics,
        "rows": len(rows),
        "evaluations": spread([row.get("evaluations") for row in rows]),
        "tokens": total("length"),
        "seconds": total("seconds"),
        "truncated_rows": sum(bool(row.get("truncated")) for row in rows),
        "settings": settings,
        **details,
        "versions": versions(),
    }


def describe(result: Result) -> str:
    """A result in a few lines, for the screen."""
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
            f"  {'evaluations a row':<24} {e['mean']:7.1f}   quartiles {e['q1']:g},"
            f" {e['median']:g}, {e['q3']:g}"
        )
    if result["seconds"]:
        lines.append(f"  {'tokens, seconds':<24} {result['tokens']:g}, {result['seconds']:.1f}")
    return "\n".join(lines)


# ---- two results over the same items -------------------------------------------------------------


def item_scores(folder: str | Path) -> dict[Item, float]:
    """{item: share of its samples that are right} from a run's verdicts.jsonl. Raises InputError
    for a file that is not there or holds something else.
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
                f"--pair: row {number} of {Path(folder) / 'verdicts.jsonl'} is no verdict (name:"
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

    a, b: item_scores of two runs. Raises InputError where their items differ. The items' difficulty
    cancels: the interval is narrower than what two separate intervals suggest.
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


# ---- many results --------------------------------------------------------------------------------


def read_results(paths: Iterable[str | Path]) -> list[tuple[str, Result]]:
    """[(path, result)] of results.json files, or of all below some folders. Raises InputError
    for what is no result, and where there is none.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(path.rglob("results.json"))
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"RESULTS: {path} does not exist")
    if not files:
        raise InputError(f"RESULTS: no results.json in {', '.join(map(str, paths))}")
    results = []
    for file in dict.fromkeys(files):
        content = read_file(file, "RESULTS")[0]
        if not isinstance(content, dict) or not {"benchmark", "label", "metrics"} <= set(content):
            raise InputError(
                f"RESULTS: {file} is no result of these evaluations (it needs benchmark, label and"
                " metrics)"
            )
        for name, kind, shown in (
            ("benchmark", str, "text"),
            ("label", str, "text"),
            ("metrics", dict, "an object"),
            ("settings", dict, "an object"),
            ("evaluations", dict, "an object"),
        ):
            if not isinstance(content.get(name), kind) and (
                name in ("benchmark", "label", "metrics") or content.get(name) is not None
            ):
                raise InputError(f"RESULTS: {name!r} of {file} is not {shown}")
        results.append((str(file), content))
    return results


def sampler_name(result: Result, with_steps: bool = True) -> str:
    """How the text was made, in a few words: what a fair comparison has to name (steps, order,
    window or blocks, remasking).
    """
    settings = result.get("settings") or {}
    words = sampler_words(settings, with_steps)
    if settings.get("llada_infill"):
        words.append(f"{settings['llada_infill']} layout")
    return ", ".join(words)


def measured(result: Result, metric: str) -> str:
    """What a score is a share of, with the rule it was read by: two scores under other names or
    rules are not comparable.
    """
    rule = result.get("answer_rule")
    return f"{metric}, {rule} rule" if isinstance(rule, str) else metric


def table_rows(results: Iterable[tuple[str, Result]], metric: str | None = None) -> list[Row]:
    """One dict for each result: benchmark, label, sampler, curve, metric, measured, value, low,
    high, n, evaluations (mean) and path; sorted.

    curve: the sampler without its steps; rows of one label, curve and measure are one line of the
    plot. metric: which to table (default: each result's first). Raises InputError where a result
    lacks it.
    """
    rows = []
    for path, result in results:
        name: Any = metric or next(iter(result["metrics"]), None)
        found = result["metrics"].get(name)
        if not isinstance(found, dict) or "low" not in found:
            raise InputError(
                f"--metric {name}: {path} has "
                + ", ".join(
                    key
                    for key, value in result["metrics"].items()
                    if isinstance(value, dict) and "low" in value
                )
            )
        evaluations = (result.get("evaluations") or {}).get("mean")
        rows.append(
            {
                "benchmark": result["benchmark"],
                "label": result["label"],
                "sampler": sampler_name(result),
                "curve": sampler_name(result, with_steps=False),
                "metric": name,
                "measured": measured(result, name),
                "value": found["value"],
                "low": found["low"],
                "high": found["high"],
                "n": found["n"],
                "evaluations": evaluations,
                "path": path,
            }
        )
    return sorted(
        rows,
        key=lambda row: (
            row["benchmark"],
            row["label"],
            row["measured"],
            row["curve"],
            row["evaluations"] or 0,
            row["path"],
        ),
    )


def _cell(text):
    """A text as a cell of a Markdown table: one line, no bar that would end it."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _plot_text(text):
    """A text as matplotlib shows it: one line, no mathematics, and no leading underscore, which
    would hide it from a legend.
    """
    text = " ".join(text.split()).replace("$", r"\$")
    return " " + text if text.startswith("_") else text


def markdown(rows: Sequence[Row]) -> str:
    """The table of some rows; the paper's rows stand under each benchmark that the paper has."""
    lines = [
        (
            "| benchmark | model | sampler | measured | score | 95 % interval | n | evaluations a"
            " row |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        for row in rows:
            if row["benchmark"] == benchmark:
                evaluations = "" if row["evaluations"] is None else f"{row['evaluations']:.1f}"
                lines.append(
                    f"| {_cell(benchmark)} | {_cell(row['label'])} | {_cell(row['sampler'])} |"
                    f" {_cell(row['measured'])} | {100 * row['value']:.1f} % |"
                    f" {100 * row['low']:.1f} to {100 * row['high']:.1f} | {row['n']} |"
                    f" {evaluations} |"
                )
        for model, scores in PAPER.get(benchmark, {}).items():
            for steps, score in zip(PAPER_STEPS, scores):
                measure = "pass@1, paper rule" if benchmark == "gsm8k" else "pass@1"
                lines.append(
                    f"| {benchmark} | {model} 8B, paper | {steps} steps | {measure} | {score:.1f} %"
                    f" | | | {steps} |"
                )
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Accuracy against evaluations a row, a panel for each benchmark; rows without evaluations are
    horizontal lines. Writes path.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    lines = max(
        len(
            {
                (row["label"], row["curve"], row["measured"])
                for row in rows
                if row["benchmark"] == benchmark
            }
        )
        + 2
        for benchmark in benchmarks
    )
    figure, panels = pyplot.subplots(
        1,
        len(benchmarks),
        figsize=(6.4 * len(benchmarks), 4.4 + 0.2 * lines),
        squeeze=False,
        layout="constrained",
    )
    for panel, benchmark in zip(panels[0], benchmarks):
        for model, scores in PAPER.get(benchmark, {}).items():
            panel.plot(
                PAPER_STEPS,
                scores,
                "--",
                color={"FlexMDM": "C0", "LLaDA": "C1"}[model],
                alpha=0.5,
                label=f"{model} 8B, paper",
            )
        here = [row for row in rows if row["benchmark"] == benchmark]
        colors = {"FlexMDM": "C0", "LLaDA": "C1"}
        # C2 ... C9, then light ones
        wheel = [
            matplotlib.colormaps["tab20"](number) for number in (*range(4, 20, 2), *range(1, 20, 2))
        ]
        others = iter(wheel * 100)
        measures = sorted({row["measured"] for row in here})
        for label, family, measure in dict.fromkeys(
            (row["label"], row["curve"], row["measured"]) for row in here
        ):
            color = colors.pop(label, None) or next(others)
            line = [
                row
                for row in here
                if (row["label"], row["curve"], row["measured"]) == (label, family, measure)
            ]
            curve = [row for row in line if row["evaluations"]]
            sizes = sorted({row["n"] for row in line})
            words = [word for word in (label, family, measure if len(measures) > 1 else "") if word]
            name = _plot_text(f"{', '.join(words)} (n = {', '.join(map(str, sizes))})")
            if curve:
                x, y = [row["evaluations"] for row in curve], [100 * row["value"] for row in curve]
                error = [
                    [100 * (row["value"] - row["low"]) for row in curve],
                    [100 * (row["high"] - row["value"]) for row in curve],
                ]
                panel.errorbar(
                    x,
                    y,
                    [[max(0.0, bar) for bar in side] for side in error],
                    fmt="o-",
                    capsize=3,
                    color=color,
                    label=name,
                )
            for row in line:
                if not row["evaluations"]:
                    panel.axhline(100 * row["value"], linestyle=":", color=color, label=name)
                    name = None
        if any(row["evaluations"] for row in here) or benchmark in PAPER:
            panel.set_xscale("log", base=2)
            low, high = panel.get_xlim()
            panel.set_xlim(low / 1.5, high * 1.5)  # a single point has its ticks too
            panel.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        panel.set_xlabel("network evaluations a row (mean)")
        panel.set_ylabel(
            f"{_plot_text(measures[0]) if len(measures) == 1 else 'score'} (%), 95 % interval"
        )
        panel.set_title(_plot_text(benchmark))
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
