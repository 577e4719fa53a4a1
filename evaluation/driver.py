"""The workflow of both evaluations: generate or read rows, score them, report.

    class Gsm8k(Evaluation): ...              # a script defines what its data set needs
    run(lambda: evaluate(Gsm8k(args)))        # generate, --score_only or --check_references

Rows come from a checkpoint (generate: resumable, one process or many) or from files (score_only).
Nothing here imports torch before a model is loaded.
"""

import argparse
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.command_line import ArgumentParser, process_rank, refuse_without, require_positive
from common.errors import InputError
from common.files import content_hash, local_folder, require_writable, write_json
from common.gpu_memory import EVALUATION, out_of_memory_advice
from common.progress import add_quiet_flag, command, ending
from common.rows import Row, write_rows
from evaluation.generation_run import GenerationRun, Stop, make_tasks
from evaluation.given_rows import merge_rows, read_generations
from evaluation.model import EvaluatedModel, Given
from evaluation.results import describe, make_result
from sampling.flags import add_flexmdm_flags, add_llada_flags


class Scores(NamedTuple):
    """Result of scoring: metrics (the first goes into tables), a row of verdicts.jsonl for each
    generated row, and further entries of results.json.
    """

    metrics: dict[str, Any]
    verdicts: list[Row]
    details: dict[str, Any]


class Evaluation:
    """What is specific to one evaluation script. `everything` are the items of its data set,
    `items` the first --subsample of them; both are empty until load_items.
    """

    default_steps: int  # tau-leaping's, if --diffusion_steps is not given
    name_field: str  # what names an item in a file of generations
    needs_items = True  # whether rows of --score_only cannot be scored without the data set

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.everything: list[Row] = []
        self.items: list[Row] = []

    def load_items(self) -> list[Row]:
        """Read the data set; the items to evaluate. Raises InputError naming flag and row."""
        self.everything = self.read_items()
        wanted = self.args.subsample
        if wanted is not None and wanted > len(self.everything):
            raise InputError(
                f"--subsample {wanted}: the data set has only {len(self.everything)} items"
            )
        self.items = self.everything[:wanted]
        self.check_items(self.items)
        return self.items

    def read_items(self) -> list[Row]:
        """All items, from --data_path or the hub."""
        raise NotImplementedError

    def check_items(self, items: list[Row]) -> None:
        """Refuse items that cannot be evaluated with the given flags."""

    def benchmark(self) -> str:
        """The data set's name in results.json; called once items are loaded."""
        raise NotImplementedError

    def default_folder(self) -> Path:
        """Where results go without --output_dir."""
        raise NotImplementedError

    def checkpoint_name(self) -> str:
        """The name of a checkpoint's folder; of a run's `final` that of the run."""
        folder = Path(self.args.checkpoint_path).resolve()
        return folder.parent.name if folder.name == "final" else folder.name

    def item_name(self, number: int) -> str:
        """An item's name in messages."""
        raise NotImplementedError

    def encode(self, model: EvaluatedModel) -> Given:
        """The model's input for each item."""
        raise NotImplementedError

    def settings(self, model: EvaluatedModel) -> dict[str, Any]:
        """Settings that the generated text depends on, besides model and data."""
        return {}

    def row(self, number: int, text: str) -> Row:
        """The fields of a generated row: item `number` answered by `text`."""
        raise NotImplementedError

    def is_right(self, row: Row) -> bool:
        """A quick check of one row, for the progress bar."""
        raise NotImplementedError

    def check_given(self, row: Row, where: str) -> Row:
        """A row of --score_only, checked and in the form that scoring takes. Raises InputError
        beginning with `where`."""
        raise NotImplementedError

    def name_given(self, rows: list[Row]) -> tuple[list[Row], list[Hashable] | None]:
        """(rows with `name`, names of all items in order, or None if the items are unknown)."""
        raise NotImplementedError

    def score(self, rows: list[Row], folder: Path | None, stop: Stop | None) -> Scores:
        """Score rows in order of (item, sample). folder: where results will be written."""
        raise NotImplementedError

    def describe(self, result: dict[str, Any]) -> str:
        """A result as text to print."""
        return describe(result)

    def clean_up(self, folder: Path) -> None:
        """Remove temporary files of scoring once results.json is written."""

    def check_references(self) -> None:
        """Score the data set's own solutions. Raises InputError if some are not right."""
        raise NotImplementedError


def evaluate(evaluation: Evaluation) -> None:
    """Do what the flags ask: --check_references, --score_only, else generate and score."""
    args = evaluation.args
    if args.check_references or args.score_only:
        if args.output_dir:
            require_writable(args.output_dir, "--output_dir")
        evaluation.check_references() if args.check_references else score_only(evaluation)
    else:
        generate(evaluation)


@out_of_memory_advice(EVALUATION)
def generate(evaluation: Evaluation) -> None:
    """Generate this process's missing rows; process 0 scores and reports once all are there."""
    args, stop = evaluation.args, Stop()
    items = evaluation.load_items()
    folder = Path(args.output_dir or evaluation.default_folder())
    require_writable(folder, "--output_dir")
    model = EvaluatedModel(args, evaluation.default_steps)
    note_unused_flags(model.kind, sys.argv[1:])
    given = evaluation.encode(model)
    model.check_fits(
        [evaluation.item_name(number) for number in range(len(items))], given, "--data_path"
    )
    settings = {
        "benchmark": evaluation.benchmark(),
        "data_hash": content_hash(evaluation.everything),
        **model.settings,
        "prompts_hash": content_hash(given.prefixes[:1]),
        **evaluation.settings(model),
    }
    tasks = make_tasks([sum(map(len, parts)) for parts in given.parts()], args.num_samples)
    generation = GenerationRun(folder, settings, tasks, stop)
    generation.generate(
        model.rows_per_call,
        lambda batch: [
            {**evaluation.row(task["item"], text), **fields}
            for task, (text, fields) in zip(batch, model.respond(given, batch))
        ],
        evaluation.is_right,
    )
    rows = generation.collect()
    if rows is not None:
        details = {
            "configuration": generation.configuration,
            "batch_size": args.batch_size,
            "device": str(model.model.device),
            "processes": process_rank()[1],
            "num_samples": args.num_samples,
            "checkpoint_path": args.checkpoint_path,
            "base_model": args.base_model,
        }
        report(evaluation, rows, settings=settings, details=details, folder=folder, stop=stop)
        print_ending(len(rows), folder)


def score_only(evaluation: Evaluation) -> None:
    """Score the rows of --score_only, from files of ours or of other programs."""
    args = evaluation.args
    if args.data_path or evaluation.needs_items:
        evaluation.load_items()
    rows, settings = read_generations(args.score_only, evaluation.name_field)
    rows = [
        evaluation.check_given(row, f"--score_only: row {number}")
        for number, row in enumerate(rows, 1)
    ]
    rows, expected = evaluation.name_given(rows)
    rows, counts = merge_rows(
        rows, expected, args.num_samples, args.allow_duplicates, args.allow_missing
    )
    details = {"score_only": args.score_only, **counts}
    report(evaluation, rows, settings=settings, details=details, folder=args.output_dir)
    print_ending(len(rows), args.output_dir)


def print_ending(rows: int, folder: str | Path | None) -> None:
    """The last three lines of an evaluation of so many rows. folder: --output_dir, if any."""
    where = Path(folder) / "results.json" if folder else "printed above; --output_dir keeps it"
    table = command("scripts/results_table.py", folder or "RESULTS.json")
    ending(f"scores of {rows:,} rows", where, table)


def report(
    evaluation: Evaluation,
    rows: list[Row],
    *,
    settings: dict[str, Any],
    details: dict[str, Any],
    label: str | None = None,
    folder: str | Path | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Score, write verdicts.jsonl and results.json if there is a folder, print, and return the
    result. label: the result's name (default: --label, or the model's kind).
    """
    folder = Path(folder) if folder else None
    if folder:
        # the verdicts of an hour of programs must have a place
        require_writable(folder, "--output_dir")
    scores = evaluation.score(rows, folder, stop)
    result = make_result(
        benchmark=evaluation.benchmark() if evaluation.items else settings["benchmark"],
        label=label or evaluation.args.label or kind_label(settings),
        metrics=scores.metrics,
        rows=rows,
        settings=settings,
        details={"data_path": evaluation.args.data_path, **scores.details, **details},
    )
    if folder:
        write_rows(folder / "verdicts.jsonl", scores.verdicts)
        write_json(folder / "results.json", result)
        evaluation.clean_up(folder)
    print(evaluation.describe(result))
    return result


def kind_label(settings: dict[str, Any]) -> str:
    """FlexMDM or LLaDA; for rows of other programs their model's name, or "given"."""
    kinds = {"flexmdm": "FlexMDM", "llada": "LLaDA"}
    return kinds.get(str(settings.get("kind")), Path(str(settings.get("model_path", "given"))).name)


# ---- flags ---------------------------------------------------------------------------------------


def add_run_flags(parser: argparse.ArgumentParser, name_of_output: str) -> None:
    """Flags that both evaluations share, besides the samplers'."""
    add_quiet_flag(parser)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--data_path", help="local copy of the data set, file or folder (default: from the hub)"
    )
    group.add_argument(
        "--subsample", type=int, metavar="N", help="only the first N items (default: all)"
    )
    group.add_argument(
        "--num_samples", type=int, default=1, metavar="K", help="samples per item (default: 1)"
    )
    group.add_argument(
        "--batch_size", type=int, default=16, help="rows in the network's batch (default: 16)"
    )
    group.add_argument(
        "--output_dir",
        help=f"folder for rows and results.json (default: runs/{name_of_output}/<checkpoint>)",
    )
    group.add_argument(
        "--label",
        help="name in the table of scripts/results_table.py (default: FlexMDM or LLaDA)",
    )
    group.add_argument(
        "--variable_length",
        action="store_true",
        help="assert that the checkpoint is a FlexMDM; refused if it is not",
    )
    group.add_argument(
        "--score_only",
        nargs="+",
        metavar="FILE",
        help="score existing generations: our files, the older layout, or a folder",
    )
    group.add_argument(
        "--allow_duplicates",
        action="store_true",
        help="--score_only: do not refuse an item that occurs twice",
    )
    group.add_argument(
        "--allow_missing",
        action="store_true",
        help="--score_only: do not refuse when items are missing",
    )
    group.add_argument(
        "--check_references",
        action="store_true",
        help="score the data set's own solutions instead of a model's, and stop",
    )


def check_run_flags(args: argparse.Namespace) -> None:
    """Refuse counts below 1, a command with nothing to do, and flags without an effect."""
    require_positive(args, "subsample", "num_samples", "batch_size")
    refuse_without("--score_only", args.score_only, args, "allow_duplicates", "allow_missing")
    if args.score_only and args.check_references:
        raise InputError("give only one of --score_only and --check_references")
    if not (args.score_only or args.check_references or args.checkpoint_path):
        raise InputError(
            "--checkpoint_path: a checkpoint is needed (or --score_only, or --check_references)"
        )
    for name in ("checkpoint_path", "base_model"):
        # a job script names a checkpoint also where none is loaded
        if getattr(args, name) and not (args.score_only or args.check_references):
            local_folder(getattr(args, name), f"--{name}")


def note_unused_flags(kind: str, argv: Sequence[str]) -> None:
    """Print which of the given flags have no effect because they belong to the other kind."""
    add_flags, name = (
        (add_llada_flags, "LLaDA") if kind == "flexmdm" else (add_flexmdm_flags, "FlexMDM")
    )
    parser = ArgumentParser()
    add_flags(parser)
    names = set(vars(parser.parse_args([])))
    names |= {"llada_infill"} if kind == "flexmdm" else {"preset"}  # of one evaluation alone
    flags = [word.split("=")[0] for word in argv if word.startswith("--")]
    unused = sorted(
        {flag for flag in flags if flag[2:].removeprefix("no-").removeprefix("no_") in names}
    )
    if unused and process_rank()[0] == 0:
        print(
            f"note: {', '.join(unused)}: only for {name}, no effect on this checkpoint",
            file=sys.stderr,
        )
