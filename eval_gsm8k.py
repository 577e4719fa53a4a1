r"""GSM8K (or any set with its fields question and answer): generate, score, report.

Laptop, local data, one process:    python eval_gsm8k.py --checkpoint_path runs/math/flexmdm --data_path test.jsonl --diffusion_steps 64
One GPU, the paper's settings:      python eval_gsm8k.py --checkpoint_path CHECKPOINT --variable_length --batch_size 32
Several GPUs:                       torchrun --nproc_per_node 4 eval_gsm8k.py ...              (the same rows as one process)
Slurm:                              sbatch scripts/inference_math.sh --checkpoint_path CHECKPOINT
The baseline as the paper ran it:   ... --gen_length 1024 --block_length 1024 --remasking random; a left-to-right prior: --block_length 32
Score what exists already:          python eval_gsm8k.py --score_only runs/eval_gsm8k/flexmdm other_program.json --answer_rule strict
Check data and rule:                python eval_gsm8k.py --check_references --data_path gsm8k/test.jsonl --answer_rule strict

Writes to --output_dir: generations-NNN.jsonl (one file a process), settings.json, results.json,
verdicts.jsonl. A run that was stopped goes on when the same command is given again. Answer rules:
  paper   the paper's code to the letter: the first \boxed{...} that holds a number, as a float or its first number (commas are not
          removed); else the first <answer>...</answer>, its last number. A null ground truth is
          wrong. (The default.)
  strict  the last answer given, read whole: sign, thousands commas, $, units, percent, LaTeX fractions. Two numbers, or anything that
          may change one (roots, powers, ranges, dozens, unknowns), are no answer.
          (evaluation/answer_rules.py)
Defaults are the paper's for GSM8K: tau_leaping, prob_diff, no window, 256 steps; LLaDA: one block,
a step a token, random remasking.
"""

import sys
from collections import Counter
from pathlib import Path

from common.command_line import ArgumentParser, process_rank
from common.errors import InputError, run
from common.files import content_hash, require_writable, write_json
from common.gpu_memory import EVALUATION, out_of_memory_advice
from common.rows import DATA_SUFFIXES, read_rows, write_rows
from evaluation.answer_rules import gold_answer, gold_number, is_right, paper_answer, strict_answer
from evaluation.generation_run import (
    GenerationRun,
    Stop,
    add_run_flags,
    check_run_flags,
    first_items,
    make_tasks,
    merge_rows,
    note_unused_flags,
    read_generations,
)
from evaluation.model import EvaluatedModel
from evaluation.results_table import describe, make_result, pass_at_k, share_of
from sampling.options import add_flexmdm_flags, add_llada_flags, add_model_flags

HUB_DATA = ("openai/gsm8k", "main")


# ---- data, scoring, wiring -----------------------------------------------------------------------


def read_items(args):
    """[{"question", "answer"}] from --data_path or the hub."""
    if args.data_path:
        path = Path(args.data_path)
        files = (
            sorted(file for file in path.iterdir() if file.name.endswith(DATA_SUFFIXES))
            if path.is_dir()
            else [path]
        )
        files = [file for file in files if "test" in file.name] or (
            [path] if path.is_dir() else files
        )
        rows = [
            row
            for file in files
            for row in read_rows(file, fields=("question", "answer"), flag="--data_path")
        ]
    else:
        import datasets

        try:
            rows = datasets.load_dataset(*HUB_DATA, split="test")
        except Exception as error:  # the hub's client raises a dozen kinds
            raise InputError(
                f"cannot get {HUB_DATA[0]} from the hub ({type(error).__name__}); give a local copy"
                " by --data_path"
            ) from None
    items = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    for number, item in enumerate(items, 1):
        if (
            not isinstance(item["question"], str)
            or not isinstance(item["answer"], str)
            or gold_answer(item["answer"]) is None
        ):
            raise InputError(
                f"--data_path: item {number} has no question, or no number after '####' in its"
                " answer"
            )
    return items


def benchmark_name(args, items):
    """gsm8k for the real test set, by its content; else the file's or folder's name."""
    real = len(items) == 1319 and items[0]["question"].startswith(
        "Janet\u2019s ducks lay 16 eggs per day."
    )
    return "gsm8k" if real or not args.data_path else Path(args.data_path).name.split(".")[0]


def score(rows, rule, gold=None):
    """(metrics, rows with `right`) of rows in order of (item, sample). gold: item -> ground truth
    instead of the rows' own.
    """
    rows = [
        {
            **row,
            "right": is_right(
                row["generations"], (gold or {}).get(row["item"], row["ground_truth"]), rule
            ),
        }
        for row in rows
    ]
    by_item = {}
    for row in rows:
        by_item.setdefault(row["item"], []).append(row["right"])
    samples = min(map(len, by_item.values()))
    metrics = {}
    for k in sorted({1, *(k for k in (5, 10, 100) if k <= samples), samples}):
        metrics[f"pass@{k}"] = share_of(
            sum(pass_at_k(len(right), sum(right), k) for right in by_item.values()), len(by_item)
        )
    read = paper_answer if rule == "paper" else strict_answer
    metrics["answer_found"] = share_of(
        sum(read(row["generations"]) is not None for row in rows), len(rows)
    )
    return metrics, rows


def report(rows, args, *, benchmark, label, settings, details, gold=None, folder=None):
    """Score, write verdicts.jsonl and results.json where there is a folder, then print."""
    metrics, rows = score(rows, args.answer_rule, gold)
    result = make_result(
        benchmark=benchmark,
        label=label,
        metrics=metrics,
        rows=rows,
        settings=settings,
        details={"answer_rule": args.answer_rule, "data_path": args.data_path, **details},
    )
    if folder:
        write_rows(
            Path(folder) / "verdicts.jsonl",
            [
                {
                    "name": row["question"],
                    "item": row["item"],
                    "sample": row.get("sample", 0),
                    "right": row["right"],
                }
                for row in rows
            ],
        )
        write_json(Path(folder) / "results.json", result)
    print(describe(result))
    if folder:
        print(f"  written: {Path(folder) / 'results.json'}")


def read_given_rows(args):
    """(rows, settings) of --score_only, their ground truths as numbers or None. Raises InputError
    naming the row that cannot be scored.
    """
    rows, settings = read_generations(args.score_only, "question")
    for number, row in enumerate(rows, 1):
        where = f"--score_only: row {number} (question {row['question'][:40]!r})"
        if not isinstance(row.get("generations"), str) or "ground_truth" not in row:
            raise InputError(f"{where} has no text under 'generations', or no 'ground_truth'")
        if row["ground_truth"] is not None:
            truth = gold_number(row["ground_truth"])
            if truth is None:
                raise InputError(
                    f"{where}: its 'ground_truth' {str(row['ground_truth'])[:60]!r} is not a number"
                    " that can be read"
                )
            row["ground_truth"] = truth
    return rows, settings


def score_only(args):
    if args.output_dir:
        require_writable(args.output_dir, "--output_dir")
    rows, settings = read_given_rows(args)
    everything = read_items(args) if args.data_path else None
    items = first_items(everything, args) if everything else None
    expected, gold = None, None
    if items:
        # Items may share a question: then the answer tells them apart, and rows of the same
        # question and answer are dealt in turn
        questions = [item["question"] for item in items]
        shared = {question for question, times in Counter(questions).items() if times > 1}
        named = lambda question, truth: (question, truth) if question in shared else question
        expected = [named(item["question"], gold_answer(item["answer"])) for item in items]
        rows = [{**row, "name": named(row["question"], row["ground_truth"])} for row in rows]
        if args.answer_rule == "strict":
            gold = {number: gold_answer(item["answer"]) for number, item in enumerate(items)}
    rows, counts = merge_rows(
        rows, expected, args.num_samples, args.allow_duplicates, args.allow_missing
    )
    benchmark = benchmark_name(args, everything) if everything else settings["benchmark"]
    report(
        rows,
        args,
        benchmark=benchmark,
        label=args.label or kind_label(settings),
        settings=settings,
        gold=gold,
        folder=args.output_dir,
        details={"score_only": args.score_only, **counts},
    )


def kind_label(settings):
    return {"flexmdm": "FlexMDM", "llada": "LLaDA"}.get(
        str(settings.get("kind")), Path(str(settings.get("model_path", "given"))).name
    )


def check_references(args):
    """The gold rationales as if a model had written them: 100 % under the strict rule; the paper's
    rule cannot read thousands commas.
    """
    from data.math_prompts import math_target

    if args.output_dir:
        require_writable(args.output_dir, "--output_dir")
    everything = read_items(args)
    items = first_items(everything, args)
    rows = [
        {
            "item": number,
            "question": item["question"],
            "generations": math_target(item["answer"]),
            "ground_truth": gold_answer(item["answer"]),
        }
        for number, item in enumerate(items)
    ]
    report(
        rows,
        args,
        benchmark=benchmark_name(args, everything),
        label="gold rationales",
        settings={},
        details={},
        folder=args.output_dir,
    )
    wrong = [
        row
        for row in rows
        if not is_right(row["generations"], row["ground_truth"], args.answer_rule)
    ]
    for row in wrong[:5]:
        print(
            f"  wrong under rule {args.answer_rule}: {row['generations'].splitlines()[-1]} against"
            f" {row['ground_truth']}"
        )
    if wrong and args.answer_rule == "strict":
        raise InputError(
            f"--check_references: {len(wrong)} gold rationales are not read as their own answer"
        )


@out_of_memory_advice(EVALUATION)
def generate(args):
    stop = Stop()
    everything = read_items(args)
    items = first_items(everything, args)
    folder = Path(
        args.output_dir or Path("runs/eval_gsm8k") / Path(args.checkpoint_path).resolve().name
    )
    require_writable(folder, "--output_dir")
    from data.math_prompts import math_prompt

    model = EvaluatedModel(args, default_steps=256)
    note_unused_flags(model.kind, sys.argv[1:])
    texts = [math_prompt(model.tokenizer, item["question"]) for item in items]
    prompts = [model.encode(text) for text in texts]
    costs = list(map(len, prompts))
    model.check_fits(
        [f"item {number} ({item['question'][:40]!r}...)" for number, item in enumerate(items)],
        [[prompt] for prompt in prompts],
        "--data_path",
    )
    benchmark = benchmark_name(args, everything)
    settings = {
        "benchmark": benchmark,
        "data_hash": content_hash(everything),
        **model.settings,
        "prompts_hash": content_hash(prompts[:1]),
    }
    generation = GenerationRun(folder, settings, make_tasks(costs, args.num_samples), stop)

    def generate_batch(tasks):
        made = model.answer([prompts[task["item"]] for task in tasks], tasks)
        return [
            {
                "question": items[task["item"]]["question"],
                "prompt_input": texts[task["item"]],
                "generations": text,
                "ground_truth": gold_answer(items[task["item"]]["answer"]),
                **fields,
            }
            for task, (text, fields) in zip(tasks, made)
        ]

    generation.generate(
        model.rows_per_call,
        generate_batch,
        lambda row: is_right(row["generations"], row["ground_truth"], args.answer_rule),
    )
    rows = generation.collect()
    if rows is not None:
        report(
            rows,
            args,
            benchmark=benchmark,
            label=args.label or kind_label(settings),
            settings=settings,
            folder=folder,
            details={
                "configuration": generation.configuration,
                "batch_size": args.batch_size,
                "device": str(model.model.device),
                "processes": process_rank()[1],
                "num_samples": args.num_samples,
                "checkpoint_path": args.checkpoint_path,
                "base_model": args.base_model,
            },
        )


def make_parser():
    parser = ArgumentParser(description=__doc__)
    add_run_flags(parser, "eval_gsm8k")
    parser.add_argument(
        "--answer_rule",
        choices=("paper", "strict"),
        default="paper",
        help="how answers are read (default: paper)",
    )
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(unmasking="confidence", confidence_method="prob_diff", remasking="random")
    return parser


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    check_run_flags(args)
    return args


def main():
    args = parse_args()
    if args.check_references:
        check_references(args)
    elif args.score_only:
        score_only(args)
    else:
        generate(args)


if __name__ == "__main__":
    run(main)
