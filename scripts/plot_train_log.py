"""Plot training runs: loss, its terms, error of the gap lengths, tokens per second.

    python scripts/plot_train_log.py runs/transfer --output runs/transfer.png
    python scripts/plot_train_log.py runs/seed1 runs/seed2 --output runs/seeds.svg

A RUN is the folder of a training run, which may still be running, or its train_log.jsonl. Each
point is the mean over all rows since the log line before it. A laptop is enough, and nothing here
needs a GPU or Slurm.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import read_json, require_writable_file
from common.progress import ending
from common.rows import Row, read_finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# label of the y axis: {name in train_log.jsonl: (words in the legend, line style)}
PANELS = {
    "loss": {"loss": ("", "-")},
    "terms of the loss (nats per row, weighted)": {
        "unmask_loss": ("unmasking", "-"),
        "insertion_loss": ("insertion", "--"),
        "missing_loss": ("number of missing tokens", ":"),
    },
    "error of expected gap lengths (tokens per row)": {"gap_error": ("", "-")},
    "tokens of x1 per second": {"tokens_per_second": ("", "-")},
}


class TrainLog(NamedTuple):
    """What one run logged: its name in the legend, and the lines that have a loss."""

    name: str
    lines: list[Row]


def read_log(path: str) -> TrainLog:
    """The log of a run. Raises InputError where there is none, or none with a loss yet."""
    file = Path(path) / "train_log.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"RUN: {path} holds no train_log.jsonl; name the folder of a training run")
    lines = [
        line
        for line in read_finished(file)
        if isinstance(line, dict) and isinstance(line.get("step"), int) and "loss" in line
    ]
    if not lines:
        raise InputError(f"RUN: {file} has no line with a step and its loss (yet)")
    settings = file.parent / "settings.json"
    batch = read_json(settings).get("global_batch") if settings.is_file() else None
    rows = f" of {batch} rows" if batch else ""
    return TrainLog(f"{path} ({lines[-1]['step']:,} steps{rows})", lines)


def figure_of(logs: list[TrainLog]) -> "Figure":
    """One panel for each quantity that some run has logged, one colour for each run."""
    from matplotlib.figure import Figure

    shown = [
        (label, quantities)
        for label, quantities in PANELS.items()
        if any(key in line for log in logs for line in log.lines for key in quantities)
    ]
    rows = (len(shown) + 1) // 2
    figure = Figure(figsize=(11, 3.6 * rows + 0.25 * len(logs)), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flat
    for panel, (label, quantities) in zip(panels, shown):
        for number, log in enumerate(logs):
            for key, (words, style) in quantities.items():
                # null: it was not finite
                points = [(line["step"], line[key]) for line in log.lines if line.get(key)]
                legend = f"{words}, {log.name}" if words else log.name
                if points:
                    panel.plot(*zip(*points), style, color=f"C{number % 10}", label=legend)
        panel.set(xlabel="step", ylabel=label)
        if quantities.keys() & {"loss", "unmask_loss", "gap_error"}:
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        if any(words for words, _ in quantities.values()) or panel is figure.axes[0]:
            panel.legend(fontsize="small")
    for panel in figure.axes[len(shown) :]:
        panel.remove()
    return figure


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    help = "folders of training runs, or their train_log.jsonl"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=help)
    parser.add_argument("--output", required=True, help=f"FILE{', FILE'.join(SUFFIXES)}")
    return parser


def main() -> None:
    """Read the logs, write the plot. Raises InputError."""
    args = make_parser().parse_args()
    path = Path(args.output)
    if path.suffix not in SUFFIXES:
        raise InputError(f"--output {path}: must end in {', '.join(SUFFIXES)}")
    logs = [read_log(each) for each in args.runs]
    require_writable_file(path, "--output")
    figure_of(logs).savefig(path, dpi=150)
    ending(f"a plot of {len(logs)} training runs", path, "look at it")


if __name__ == "__main__":
    run(main)
