"""Collect evaluation results into one table and one plot, or compare two item by item.

    python scripts/results_table.py runs --output_dir runs/tables
    python scripts/results_table.py --pair runs/event_driven runs/steps_4096

The first reads every results.json below runs/ and writes table.md, table.json and accuracy.png; the
second prints the paired difference over the same items. One core, a second; under Slurm:
sbatch scripts/results_table.sh
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import write_json, write_text
from common.progress import command, ending
from evaluation.results import item_scores, paired_difference
from evaluation.results_table import AXES, markdown, plot, read_results, table_rows


def make_parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="results.json files, or folders to search for them",
    )
    parser.add_argument(
        "--pair",
        nargs=2,
        metavar=("A", "B"),
        help="folders of two runs over the same items: prints A - B, paired",
    )
    parser.add_argument(
        "--output_dir",
        default="runs/tables",
        help="where table.md, table.json and accuracy.png go (default: runs/tables)",
    )
    parser.add_argument("--metric", help="which metric to table (default: each result's first)")
    parser.add_argument(
        "--against",
        choices=tuple(AXES),
        default="evaluations",
        help="x axis of the plot: network evaluations, or token positions computed (default:"
        " evaluations)",
    )
    parser.add_argument(
        "--format", choices=("png", "svg", "pdf"), default="png", help="of the plot (default: png)"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of a command line, this process's by default. Raises InputError for results with
    --pair, and for neither.
    """
    args = make_parser().parse_args(argv)
    if bool(args.results) == bool(args.pair):
        raise InputError("RESULTS: give results.json files or folders, or --pair A B")
    unused = sorted(args.typed - {"pair"})
    if args.pair and unused:
        raise InputError(f"--{unused[0]}: no effect with --pair, which only prints")
    return args


def main() -> None:
    """Print a paired difference, or write and print the table and the plot."""
    args = parse_args()
    if args.pair:
        pair = paired_difference(*map(item_scores, args.pair))
        print(
            f"{args.pair[0]} - {args.pair[1]}: {100 * pair['difference']:+.2f} points, 95 %"
            f" interval {100 * pair['low']:+.2f} to {100 * pair['high']:+.2f} (paired, n ="
            f" {pair['n']}; better only in the first {pair['only_a']}, only in the second"
            f" {pair['only_b']})"
        )
        return
    rows = table_rows(read_results(args.results), args.metric)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(rows)
    write_text(folder / "table.md", text + "\n")
    write_json(folder / "table.json", rows)
    plot(rows, folder / f"accuracy.{args.format}", args.against)
    print(text)
    print()
    ending(
        f"a table of {len(rows)} results, and a plot",
        f"{folder}/table.md, table.json, accuracy.{args.format}",
        command("scripts/results_table.py", "--pair", "A", "B") + "  compares two, item by item",
    )


if __name__ == "__main__":
    run(main)
