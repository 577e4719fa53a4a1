"""Results as a table and plot like the paper's (accuracy against network evaluations). The paper's
curves are read off the authors' plots (+-0.1 points).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.plot_text import plot_text
from common.rows import Row, read_file
from evaluation.results import Result
from sampling.options import sampler_words

PAPER_STEPS = (128, 256, 512, 1024, 4096)
PAPER = {  # pass@1 in %, at PAPER_STEPS
    "gsm8k": {"FlexMDM": (58.2, 61.6, 61.8, 63.7, 67.1), "LLaDA": (59.6, 59.1, 59.6, 58.5, 59.4)},
    "humaneval-infill single-line": {
        "FlexMDM": (54.8, 56.5, 60.8, 59.9, 65.0),
        "LLaDA": (52.8, 52.9, 51.2, 53.3, 52.8),
    },
}


AXES = {
    "evaluations": "NFE per sample (mean)",
    "positions": "positions computed per sample (mean)",
}


def read_results(paths: Iterable[str | Path]) -> list[tuple[str, Result]]:
    """[(path, result)] of results.json files, or of all such files below some folders. Raises
    InputError for a file that is not a result, and if there is none.
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
            ("positions", dict, "an object"),
        ):
            if not isinstance(content.get(name), kind) and (
                name in ("benchmark", "label", "metrics") or content.get(name) is not None
            ):
                raise InputError(f"RESULTS: {name!r} of {file} is not {shown}")
        results.append((str(file), content))
    return results


def sampler_name(result: Result, with_steps: bool = True) -> str:
    """How the text was sampled, in a few words: what a fair comparison must state (steps, order,
    window or blocks, remasking).
    """
    settings = result.get("settings") or {}
    words = sampler_words(settings, with_steps)
    if settings.get("llada_infill"):
        words.append(f"{settings['llada_infill']} layout")
    return ", ".join(words)


def measured(result: Result, metric: str) -> str:
    """The metric's name with its answer rule: scores with different names or rules are not
    comparable.
    """
    rule = result.get("answer_rule")
    return f"{metric}, {rule} rule" if isinstance(rule, str) else metric


def table_rows(results: Iterable[tuple[str, Result]], metric: str | None = None) -> list[Row]:
    """One dict for each result: benchmark, label, sampler, curve, metric, measured, value, low,
    high, n, evaluations and positions (means) and path; sorted.

    curve: the sampler without its steps; rows of one label, curve and measure are one line of the
    plot. metric: which to show (default: each result's first). Raises InputError if a result lacks
    it.
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
                "positions": (result.get("positions") or {}).get("mean"),
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
    """A text as a cell of a Markdown table: one line, without a bar that would end the cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def markdown(rows: Sequence[Row]) -> str:
    """The table of some rows, with the paper's rows below each benchmark that the paper has."""
    lines = [
        "| benchmark | model | sampler | measured | score | 95 % interval | n | NFE per sample |"
        " positions per sample |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        for row in rows:
            if row["benchmark"] == benchmark:
                evaluations, positions = (
                    "" if row[name] is None else f"{row[name]:.{digits}f}"
                    for name, digits in (("evaluations", 1), ("positions", 0))
                )
                lines.append(
                    f"| {_cell(benchmark)} | {_cell(row['label'])} | {_cell(row['sampler'])} |"
                    f" {_cell(row['measured'])} | {100 * row['value']:.1f} % |"
                    f" {100 * row['low']:.1f} to {100 * row['high']:.1f} | {row['n']} |"
                    f" {evaluations} | {positions} |"
                )
        for model, scores in PAPER.get(benchmark, {}).items():
            for steps, score in zip(PAPER_STEPS, scores):
                measure = "pass@1, paper rule" if benchmark == "gsm8k" else "pass@1"
                lines.append(
                    f"| {benchmark} | {model} 8B, paper | {steps} steps | {measure} | {score:.1f} %"
                    f" | | | {steps} | |"
                )
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: str | Path, against: str = "evaluations") -> None:
    """Accuracy against NFE or positions per sample, one panel per benchmark; rows without that are
    horizontal lines. The paper's curves are against NFE. Writes path.
    """
    paper = PAPER if against == "evaluations" else {}
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
        for model, scores in paper.get(benchmark, {}).items():
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
            curve = [row for row in line if row[against]]
            sizes = sorted({row["n"] for row in line})
            words = [word for word in (label, family, measure if len(measures) > 1 else "") if word]
            name: str | None = plot_text(f"{', '.join(words)} (n = {', '.join(map(str, sizes))})")
            if curve:
                x, y = [row[against] for row in curve], [100 * row["value"] for row in curve]
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
                if not row[against]:
                    panel.axhline(100 * row["value"], linestyle=":", color=color, label=name)
                    name = None
        if any(row[against] for row in here) or benchmark in paper:
            panel.set_xscale("log", base=2)
            low, high = panel.get_xlim()
            panel.set_xlim(low / 1.5, high * 1.5)  # a single point has its ticks too
            panel.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        panel.set_xlabel(AXES[against])
        panel.set_ylabel(
            f"{plot_text(measures[0]) if len(measures) == 1 else 'score'} (%), 95 % interval"
        )
        panel.set_title(plot_text(benchmark))
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
