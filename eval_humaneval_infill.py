r"""HumanEval infilling: generate, run, report. Benchmarks: single-line, multi-line, random-span,
random-span-light, or any data set with the same fields or those of SantaCoder-FIM.

Laptop, local data, one process:
    python eval_humaneval_infill.py --checkpoint_path runs/code/flexmdm --data_path humaneval
One GPU, the paper's settings:
    python eval_humaneval_infill.py --checkpoint_path CHECKPOINT --preset paper \
        --allow_code_execution
Several GPUs (the same rows as one process):
    torchrun --nproc_per_node 4 eval_humaneval_infill.py ...
Slurm:
    sbatch scripts/inference_code.sh --checkpoint_path CHECKPOINT
The baseline in the paper's layout, with as many masks in place as the reference has tokens, or with
a fixed number:
    ... --llada_infill paper
    ... --llada_infill oracle
    ... --llada_infill fixed --gen_length 64
SantaCoder-FIM, a local copy of bigcode/santacoder-fim-task; its Python rows:
    python eval_humaneval_infill.py --checkpoint_path CHECKPOINT --data_path santacoder-fim.parquet
Score existing generations, of whatever program: rows with `task_id` and `completion`:
    python eval_humaneval_infill.py --score_only samples.jsonl --data_path humaneval \
        --allow_code_execution
Check data and sandbox:
    python eval_humaneval_infill.py --check_references --data_path humaneval --allow_code_execution

Writes to --output_dir: generations-NNN.jsonl (one file per process), settings.json, results.json,
verdicts.jsonl. An interrupted run resumes when the same command is given again. Model-written
programs run only with --allow_code_execution, in the sandbox of evaluation/sandbox/runner.py, never
in this process; without it, generations are written and scored as text only.

A completion is the middle alone. A program is prompt + completion + suffix + newline + test +
newline + check(entry_point), as in the official scorer, with a timeout of 3 s. A set without tests
is scored by exact match and by whether prompt + completion + suffix parses; one in which only some
items have a test is refused with --allow_code_execution, because its score would mix two measures.
SantaCoder-FIM is scored by its published measure: exact match but for white space at both ends.
--llada_infill: paper = the paper's instruction layout, the middle after the prompt; oracle = masks
in place, as many as the reference has tokens; fixed = --gen_length masks in place.

Defaults: FlexMDM samples event-driven, some four evaluations per token; with --diffusion_steps N,
or --preset paper (4096 steps), by tau-leaping. Everything else is the paper's: top_prob, window
(alpha 15, at most 32); LLaDA: one block, one step per token, random remasking.
"""

import argparse
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from common.command_line import ArgumentParser, finite_number, refuse_without, require_positive
from common.errors import SAME_COMMAND_RESUMES, InputError, run
from common.rows import Row
from evaluation.benchmarks import INFILL_BENCHMARKS, infill_file, infill_items, infill_name
from evaluation.driver import (
    Evaluation,
    Scores,
    add_run_flags,
    check_run_flags,
    evaluate,
    report,
)
from evaluation.generation_run import Stop
from evaluation.infill_scores import REACHED, describe_programs, score_programs, text_metrics
from evaluation.model import EvaluatedModel, Given
from evaluation.results import describe, share_of
from evaluation.santacoder_fim import is_santacoder, same_text
from sampling.flags import add_flexmdm_flags, add_llada_flags, add_model_flags
from sampling.options import unnamed_sampler

# characters: longer texts are refused, so that scoring takes seconds (benchmarks.py)
LONGEST_COMPLETION = 200_000


class Infilling(Evaluation):
    """Functions with a missing middle, and tests of the completed program."""

    default_steps = 4096
    name_field = "task_id"
    run_programs = False  # whether the items have tests and the flags allow running them
    santacoder = False  # whether exact match is that set's

    def read_items(self) -> list[Row]:
        which = self.args.data_path, self.args.benchmark
        file = infill_file(*which)
        self.santacoder = file is not None and is_santacoder(file, "--data_path")
        return infill_items(*which)

    def check_items(self, items: list[Row]) -> None:
        """Refuse a set in which only some items have a test; print what is measured."""
        without = [item["task_id"] for item in items if not item["test"].strip()]
        allowed = self.args.allow_code_execution
        self.run_programs = allowed and not without
        if allowed and 0 < len(without) < len(items):
            raise InputError(
                f"--allow_code_execution: {len(without)} of {len(items)} items have no test (the"
                f" first: {without[0]!r}); remove these items, or omit the flag to score text only"
            )
        if allowed and without:
            note = "no item has a test, so no program is run; the score is exact match"
            print(f"note: {note}", file=sys.stderr)

    def benchmark(self) -> str:
        if self.santacoder:
            return "santacoder-fim python"
        return infill_name(self.args.data_path, self.args.benchmark)

    def default_folder(self) -> Path:
        name = f"{self.checkpoint_name()}-{self.args.benchmark}"
        return Path("runs/eval_humaneval_infill") / name

    def item_name(self, number: int) -> str:
        return self.items[number]["task_id"]

    def encode(self, model: EvaluatedModel) -> Given:
        """Ids of each item in the model's layout; in the paper's layout for LLaDA everything is in
        the prompt.
        """
        from data.infills import flexmdm_infill_ids, llada_infill_prompt
        from data.tokenizer import inner_ids

        tokenizer, layout = model.tokenizer, self.args.llada_infill
        texts = [(item["prompt"], item["suffix"]) for item in self.items]
        self.reference_lengths = [
            len(inner_ids(tokenizer, item["canonical_solution"])) for item in self.items
        ]
        prefixes = [model.encode(prefix) for prefix, _ in texts]
        if model.kind == "flexmdm":
            pairs = [flexmdm_infill_ids(tokenizer, *pair) for pair in texts]
            return Given([start for start, _ in pairs], [end for _, end in pairs], texts=prefixes)
        if layout == "paper":
            prompts = [llada_infill_prompt(tokenizer, *pair) for pair in texts]
            return Given(prompts, texts=prefixes)
        if model.arguments["llada_length"] == "grown":
            raise InputError(
                f"--llada_length grown: needs --llada_infill paper, not {layout}: a text in place"
                " has no end"
            )
        if layout == "fixed" and not self.args.gen_length and not model.finds_lengths:
            raise InputError(
                "--llada_infill fixed: needs --gen_length, the number of masks in place, or"
                " --llada_length counted or searched"
            )
        lengths: list[int] | None = self.reference_lengths
        if layout == "fixed":
            lengths = None if model.finds_lengths else [self.args.gen_length] * len(self.items)
        return Given(prefixes, [inner_ids(tokenizer, suffix) for _, suffix in texts], lengths)

    def settings(self, model: EvaluatedModel) -> Row:
        return {"llada_infill": self.args.llada_infill} if model.kind == "llada" else {}

    def row(self, number: int, text: str) -> Row:
        item = self.items[number]
        return {
            "task_id": item["task_id"],
            "completion": text,
            "prompt": item["prompt"],
            "suffix": item["suffix"],
            "ground_truth": item["canonical_solution"],
            "reference_length": self.reference_lengths[number],
        }

    def is_right(self, row: Row) -> bool:
        return self.is_exact(row["completion"], row["ground_truth"])

    def is_exact(self, completion: str, reference: str) -> bool:
        """Exact match by the data set's own measure."""
        return same_text(completion, reference) if self.santacoder else completion == reference

    def check_given(self, row: Row, where: str) -> Row:
        if not isinstance(row.get("completion"), str):
            raise InputError(f"{where} has no text under 'completion'")
        if len(row["completion"]) > LONGEST_COMPLETION:
            number = where.rpartition(" ")[2]
            raise InputError(
                f"--score_only: 'completion' of row {number} has more than {LONGEST_COMPLETION:,}"
                " characters"
            )
        return row

    def name_given(self, rows: list[Row]) -> tuple[list[Row], list[Hashable] | None]:
        return rows, [item["task_id"] for item in self.items]

    def score(self, rows: list[Row], folder: Path | None, stop: Stop | None) -> Scores:
        """Score the text and, if the programs are run, pass@k; otherwise a verdict is an exact
        match.
        """
        present = {row["task_id"] for row in rows}
        items = [item for item in self.items if item["task_id"] in present]
        metrics: dict[str, Any] = {}
        details: dict[str, Any] = {}
        if self.run_programs:
            metrics, verdicts, details = score_programs(rows, items, self.args, stop, folder)
        else:
            if not self.args.allow_code_execution and all(item["test"].strip() for item in items):
                print(
                    "note: programs were not run; --allow_code_execution runs them in a sandbox to"
                    " measure pass@k",
                    file=sys.stderr,
                )
            references = {item["task_id"]: item["canonical_solution"] for item in items}
            verdicts = [
                {"right": self.is_exact(row["completion"], references[row["task_id"]])}
                for row in rows
            ]
            if self.santacoder:
                right = sum(verdict["right"] for verdict in verdicts)
                metrics = {"exact_match_stripped": share_of(right, len(rows))}
        named = [
            {"name": row["task_id"], "sample": row.get("sample", 0), **verdict}
            for row, verdict in zip(rows, verdicts)
        ]
        return Scores({**metrics, **text_metrics(rows, items)}, named, details)

    def describe(self, result: dict[str, Any]) -> str:
        return describe(result) + describe_programs(result)

    def clean_up(self, folder: Path) -> None:
        (folder / REACHED).unlink(missing_ok=True)

    def check_references(self) -> None:
        """Score canonical solutions (all must pass) and, as the trivial baseline, empty
        completions.
        """
        if not self.args.allow_code_execution:
            raise InputError(
                "--check_references: needs --allow_code_execution, because it runs the data set's"
                " programs"
            )
        items, results = self.load_items(), {}
        for name, label in (("reference", "canonical solutions"), ("empty", "empty completions")):
            rows = [
                {
                    "task_id": item["task_id"],
                    "sample": 0,
                    "completion": item["canonical_solution"] if name == "reference" else "",
                    "evaluations": 0,
                }
                for item in items
            ]
            folder = self.args.output_dir and Path(self.args.output_dir) / name
            results[name] = report(self, rows, settings={}, details={}, label=label, folder=folder)[
                "metrics"
            ]
        metric = results["reference"].get("pass@1") or results["reference"]["parses"]
        failed = metric["n"] - round(metric["right"])
        if failed:
            raise InputError(f"--check_references: {failed} canonical solutions fail")


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    add_run_flags(parser, "eval_humaneval_infill")
    group = parser.add_argument_group("infilling")
    group.add_argument(
        "--benchmark",
        choices=tuple(INFILL_BENCHMARKS),
        default="single-line",
        help="which data set (default: single-line)",
    )
    group.add_argument(
        "--llada_infill",
        choices=("paper", "oracle", "fixed"),
        default="paper",
        help="LLaDA's prompt layout (default: paper)",
    )
    group.add_argument(
        "--allow_code_execution", action="store_true", help="run the model's programs in a sandbox"
    )
    group.add_argument(
        "--code_workers",
        type=int,
        metavar="N",
        help="programs run in parallel (default: one per core)",
    )
    group.add_argument(
        "--timeout",
        type=finite_number,
        default=3.0,
        metavar="S",
        help="time limit per program in seconds (default: 3, as in the official scorer)",
    )
    group.add_argument(
        "--unsafe_as_root",
        action="store_true",
        help="run programs as root if root cannot become another user",
    )
    group.add_argument(
        "--preset",
        choices=("paper",),
        help="paper: FlexMDM by tau-leaping, with 4096 steps if --diffusion_steps is not given"
        " (default: event-driven)",
    )
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(
        sampler=None,  # parse_args
        unmasking="confidence",
        confidence_method="top_prob",
        use_sliding_window=True,
        alpha=15.0,
        remasking="random",
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    args = make_parser().parse_args(argv)
    check_run_flags(args)
    require_positive(args, "code_workers")
    if args.sampler is None:
        paper = args.preset == "paper"
        args.sampler = "tau_leaping" if paper else unnamed_sampler(args.diffusion_steps)
    if args.timeout <= 0:
        raise InputError(f"--timeout: {args.timeout} is not above 0")
    needing = "code_workers", "timeout", "unsafe_as_root"
    refuse_without("--allow_code_execution", args.allow_code_execution, args, *needing)
    return args


def main() -> None:
    evaluate(Infilling(parse_args()))


if __name__ == "__main__":
    run(main, SAME_COMMAND_RESUMES)
