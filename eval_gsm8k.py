r"""GSM8K (or any set with its fields question and answer): generate, score, report.

Laptop, local data, one process:
    python eval_gsm8k.py --checkpoint_path runs/math/flexmdm --data_path test.jsonl \
        --diffusion_steps 64
One GPU, the paper's settings:
    python eval_gsm8k.py --checkpoint_path CHECKPOINT --variable_length --batch_size 32
Several GPUs (the same rows as one process):
    torchrun --nproc_per_node 4 eval_gsm8k.py ...
Slurm:
    sbatch scripts/inference_math.sh --checkpoint_path CHECKPOINT
The baseline as in the paper; --block_length 32 gives it a left-to-right prior:
    ... --gen_length 1024 --block_length 1024 --remasking random
Score existing generations:
    python eval_gsm8k.py --score_only runs/eval_gsm8k/flexmdm other.json --answer_rule strict
Check data and answer rule:
    python eval_gsm8k.py --check_references --data_path gsm8k/test.jsonl --answer_rule strict

Writes to --output_dir: generations-NNN.jsonl (one file per process), settings.json, results.json,
verdicts.jsonl. An interrupted run resumes when the same command is given again. Answer rules
(evaluation/answer_rules.py):
  paper   exactly as in the paper's code: the first \boxed{...} that holds a number, as a float or
          its first number (commas are not removed); else the last number of the first
          <answer>...</answer>. A null ground truth counts as wrong. (The default.)
  strict  the last answer given, read as a whole: sign, thousands commas, $, units, percent, LaTeX
          fractions. Two numbers, or anything that may change one (roots, powers, ranges, dozens,
          unknowns), count as no answer.
Defaults are the paper's for GSM8K: tau_leaping, prob_diff, no window, 256 steps; LLaDA: one block,
one step per token, random remasking.
"""

import argparse
from collections import Counter
from collections.abc import Hashable
from pathlib import Path

from common.command_line import ArgumentParser
from common.errors import SAME_COMMAND_RESUMES, InputError, run
from common.rows import Row
from evaluation.answer_rules import gold_answer, gold_number, is_right, paper_answer, strict_answer
from evaluation.benchmarks import gsm8k_items, gsm8k_name
from evaluation.driver import (
    Evaluation,
    Scores,
    add_run_flags,
    check_run_flags,
    evaluate,
    report,
)
from evaluation.generation_run import Stop
from evaluation.model import EvaluatedModel, Given
from evaluation.results import pass_rates, share_of
from sampling.flags import add_flexmdm_flags, add_llada_flags, add_model_flags


class Gsm8k(Evaluation):
    """Questions whose answer is a number."""

    default_steps = 256
    name_field = "question"
    needs_items = False  # rows carry their ground truth

    def read_items(self) -> list[Row]:
        return gsm8k_items(self.args.data_path)

    def benchmark(self) -> str:
        return gsm8k_name(self.args.data_path, self.everything)

    def default_folder(self) -> Path:
        return Path("runs/eval_gsm8k") / self.checkpoint_name()

    def item_name(self, number: int) -> str:
        return f"item {number} ({self.items[number]['question'][:40]!r}...)"

    def encode(self, model: EvaluatedModel) -> Given:
        from data.math_prompts import math_prompt

        self.texts = [math_prompt(model.tokenizer, item["question"]) for item in self.items]
        return Given([model.encode(text) for text in self.texts])

    def row(self, number: int, text: str) -> Row:
        item = self.items[number]
        return {
            "question": item["question"],
            "prompt_input": self.texts[number],
            "generations": text,
            "ground_truth": gold_answer(item["answer"]),
        }

    def is_right(self, row: Row) -> bool:
        return is_right(row["generations"], row["ground_truth"], self.args.answer_rule)

    def check_given(self, row: Row, where: str) -> Row:
        """A given row with its ground truth as a number or None."""
        where = f"{where} (question {row['question'][:40]!r})"
        if not isinstance(row.get("generations"), str) or "ground_truth" not in row:
            raise InputError(f"{where} has no text under 'generations', or no 'ground_truth'")
        truth = row["ground_truth"]
        if truth is not None and (truth := gold_number(truth)) is None:
            raise InputError(
                f"{where}: its 'ground_truth' {str(row['ground_truth'])[:60]!r} is not a readable"
                " number"
            )
        return {**row, "ground_truth": truth}

    def name_given(self, rows: list[Row]) -> tuple[list[Row], list[Hashable] | None]:
        """Names that match rows to items. Items that share a question are told apart by their
        answer; rows with the same question and answer are matched in order.
        """
        if not self.items:
            return rows, None
        times = Counter(item["question"] for item in self.items)
        named = lambda question, truth: (question, truth) if times[question] > 1 else question
        return (
            [{**row, "name": named(row["question"], row["ground_truth"])} for row in rows],
            [named(item["question"], gold_answer(item["answer"])) for item in self.items],
        )

    def score(self, rows: list[Row], folder: Path | None, stop: Stop | None) -> Scores:
        """pass@k, and how many texts hold an answer. Under the strict rule the ground truths are
        the data set's if it was read, else the rows' own.
        """
        rule = self.args.answer_rule
        if rule == "strict" and self.items:
            truths = [gold_answer(self.items[row["item"]]["answer"]) for row in rows]
        else:
            truths = [row["ground_truth"] for row in rows]
        right = [is_right(row["generations"], truth, rule) for row, truth in zip(rows, truths)]
        read = paper_answer if rule == "paper" else strict_answer
        found = sum(read(row["generations"]) is not None for row in rows)
        verdicts = [
            {
                "name": row["question"],
                "item": row["item"],
                "sample": row.get("sample", 0),
                "right": value,
            }
            for row, value in zip(rows, right)
        ]
        metrics = {
            **pass_rates([row["item"] for row in rows], right),
            "answer_found": share_of(found, len(rows)),
        }
        return Scores(metrics, verdicts, {"answer_rule": rule})

    def check_references(self) -> None:
        """Score the gold rationales as if a model had written them: 100 % under the strict rule;
        the paper's rule cannot read thousands commas.
        """
        from data.math_prompts import math_target

        rows = [
            {
                "item": number,
                "question": item["question"],
                "generations": math_target(item["answer"]),
                "ground_truth": gold_answer(item["answer"]),
            }
            for number, item in enumerate(self.load_items())
        ]
        folder = self.args.output_dir
        report(self, rows, settings={}, details={}, label="gold rationales", folder=folder)
        rule, wrong = self.args.answer_rule, [row for row in rows if not self.is_right(row)]
        for row in wrong[:5]:
            print(
                f"  wrong under rule {rule}: {row['generations'].splitlines()[-1]} against"
                f" {row['ground_truth']}"
            )
        if wrong and rule == "strict":
            raise InputError(
                f"--check_references: {len(wrong)} gold rationales are not read as their own answer"
            )


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    add_run_flags(parser, "eval_gsm8k")
    parser.add_argument(
        "--answer_rule",
        choices=("paper", "strict"),
        default="paper",
        help="how a number is read from an answer (default: paper)",
    )
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(unmasking="confidence", confidence_method="prob_diff", remasking="random")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    args = make_parser().parse_args(argv)
    check_run_flags(args)
    return args


def main() -> None:
    evaluate(Gsm8k(parse_args()))


if __name__ == "__main__":
    run(main, SAME_COMMAND_RESUMES)
