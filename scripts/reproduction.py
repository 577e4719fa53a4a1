"""Write results/*.json from the runs of scripts/reproduce_small.sh, and from them the tables and
plots of RESULTS.md.

    reproduce_small.sh does this itself:
        python scripts/reproduction.py collect comparison_1 --work runs/reproduce
    Fill RESULTS.md, draw results/*.png:
        python scripts/reproduction.py report
Seconds on one CPU core; nothing is trained or sampled. A table in RESULTS.md is between <!--
NAME --> and <!-- /NAME -->. Intervals are 95 %: Wilson's for a share; Student's over seeds; normal
over items, for the given models.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from results_page import (
    comparison,
    cost,
    counting,
    held_out_losses,
    lengths,
    plots,
    single_chains,
)
from results_page.collecting import collected
from results_page.tables import Chains, read_chains

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import write_text

# name in RESULTS.md: (kind of chain that it needs, None: any; what writes it)
TABLES: dict[str, tuple[str | None, Callable[[Chains], str]]] = {
    "headline": ("comparison", comparison.headline),
    "settings": ("comparison", comparison.settings),
    "transfer": ("comparison", held_out_losses.transfer),
    "ablations": ("ablations", held_out_losses.ablations),
    "real_code": ("real_code", single_chains.real_code),
    "gsm8k": ("gsm8k", single_chains.gsm8k),
    "lengths": ("lengths", lengths.lengths),
    "exact_by_length": ("lengths", lengths.exact_by_length),
    "samplers": ("samplers", single_chains.samplers),
    "counting": ("counting", counting.counting),
    "training": ("training", counting.training),
    "budget": ("budget", counting.budget),
    "early_budget": ("early_budget", comparison.early_budget),
    "cost": (None, cost.cost),
}
PLOTS: dict[str, tuple[str, Callable[[Chains, Path], None]]] = {
    "loss_curves.png": ("comparison", plots.loss_curves),
    "exact_by_length.png": ("lengths", plots.exact_by_length),
}


def collect(args: argparse.Namespace) -> None:
    """RESULTS/CHAIN.json from the work folder. Raises InputError where the chain has not run."""
    content = collected(args.chain, Path(args.work), args.scale)
    target = Path(args.results) / f"{args.chain}.json"
    write_text(target, json.dumps(content, separators=(",", ":")) + "\n")
    print(
        f"wrote {target}: {len(content['training'])} trainings,"
        f" {len(content['evaluations'])} evaluations"
    )


def report(args: argparse.Namespace) -> None:
    """Fill the tables of RESULTS.md for which there are results; draw the plots. Raises InputError
    where there are no results, or no place for a table.
    """
    chains = read_chains(Path(args.results))
    target = ROOT / "RESULTS.md" if args.output is None else Path(args.output)
    try:
        text = target.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--output: cannot read {target}: {error}") from None
    for name, (needed, table) in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise InputError(
                f"--output: {target} has no place for the table {name} ({begin} ... {end})"
            )
        if needed is None or needed in chains:
            text = f"{text[: text.index(begin)]}{begin}\n{table(chains)}\n{text[text.index(end) :]}"
    write_text(target, text)
    drawn = [name for name, (needed, _) in PLOTS.items() if needed in chains]
    for name in drawn:
        PLOTS[name][1](chains, Path(args.results) / name)
    print(f"wrote {target}" + (f" and {', '.join(drawn)}" if drawn else ""))


def make_parser() -> ArgumentParser:
    """The commands and their flags."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help="collect or report"
    )
    first, second = commands.add_parser("collect"), commands.add_parser("report")
    first.add_argument("chain", help="a chain of scripts/reproduce_small.sh")
    first.add_argument(
        "--work", default="runs/reproduce", help="its work folder (default: runs/reproduce)"
    )
    first.add_argument(
        "--scale", type=float, default=1.0, help="the --scale it ran with, for the record"
    )
    for command in (first, second):
        command.add_argument(
            "--results", default="results", help="folder of the JSON files (default: results)"
        )
    second.add_argument("--output", help="file whose tables are filled (default: RESULTS.md)")
    return parser


def main() -> None:
    """Run the command."""
    args = make_parser().parse_args()
    {"collect": collect, "report": report}[args.command](args)


if __name__ == "__main__":
    run(main)
