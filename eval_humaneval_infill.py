"""HumanEval infilling (single-line, multi-line, random-span, random-span-light, or any set with its
fields): generate, run, report.

Laptop, local data, one process:   python eval_humaneval_infill.py --checkpoint_path runs/code/flexmdm --data_path humaneval
One GPU, the paper's settings:     python eval_humaneval_infill.py --checkpoint_path CHECKPOINT --variable_length --allow_code_execution
Several GPUs:                      torchrun --nproc_per_node 4 eval_humaneval_infill.py ...         (the same rows as one process)
Slurm:                             sbatch scripts/inference_code.sh --checkpoint_path CHECKPOINT
The baseline, three ways:          ... --llada_infill paper | oracle | fixed --gen_length 64
Score what exists already:         python eval_humaneval_infill.py --score_only samples.jsonl --data_path humaneval --allow_code_execution
Check data and sandbox:            python eval_humaneval_infill.py --check_references --data_path humaneval --allow_code_execution

Writes to --output_dir: generations-NNN.jsonl (one file a process), settings.json, results.json,
verdicts.jsonl. A run that was stopped goes on when the same command is given again. Model-written
programs run only with --allow_code_execution, in the sandbox of evaluation/sandbox/runner.py, never
in this process; without it generations are written and scored by text alone.

A completion is the middle alone. A program is prompt + completion + suffix + newline + test +
newline + check(entry_point), 3 s, as the official scorer composes it. A set without tests is scored
by exact match and by whether prompt + completion + suffix parses; one in which only some items have
a test is refused with --allow_code_execution, because its score would be two measures in one.
--llada_infill: paper = the paper's instruction layout, the middle after the prompt; oracle = masks
in place, as many as the reference has tokens; fixed = --gen_length masks in place. Defaults are the
paper's: top_prob, window (alpha 15, at most 32), 4096 steps; LLaDA: one block, a step a token,
random remasking.
"""

import ast
import statistics
import sys
import warnings
from pathlib import Path

from common.command_line import ArgumentParser, finite_number, process_rank
from common.errors import InputError, run
from common.files import content_hash, require_writable, write_json
from common.gpu_memory import EVALUATION, out_of_memory_advice
from common.rows import RowWriter, read_finished, read_rows, write_rows
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

HUB_DATA = "loubnabnl/humaneval_infilling"
BENCHMARKS = {
    "single-line": "HumanEval-SingleLineInfilling",
    "multi-line": "HumanEval-MultiLineInfilling",
    "random-span": "HumanEval-RandomSpanInfilling",
    "random-span-light": "HumanEval-RandomSpanInfillingLight",
}
FIELDS = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
# Characters: what is longer is refused, so that scoring ends in seconds (edit distance costs the
# product of two lengths / 64)
LONGEST_REFERENCE, LONGEST_COMPLETION, LONGEST_PARSED = 20_000, 200_000, 100_000

REACHED = "verdicts-reached.jsonl"  # while programs run: a row for each that is done


# ---- data ----------------------------------------------------------------------------------------


def data_file(args):
    """The file of --data_path that holds --benchmark, or None for the hub."""
    if not args.data_path:
        return None
    path, official = Path(args.data_path), BENCHMARKS[args.benchmark]
    if path.is_dir():
        for ending in (".jsonl.gz", ".jsonl", ".parquet"):
            if (path / f"{official}{ending}").exists():
                return path / f"{official}{ending}"
        raise InputError(
            f"--data_path: folder {path} holds no {official}.jsonl.gz (or .jsonl, .parquet)"
        )
    return path


def benchmark_name(args):
    """humaneval-infill single-line and so on, or the file's own name where it is none of the
    official ones.
    """
    file = data_file(args)
    if file is None:
        return f"humaneval-infill {args.benchmark}"
    stem = file.name.split(".")[0]
    for name, official in BENCHMARKS.items():
        if stem == official:
            if name != args.benchmark:
                raise InputError(f"--benchmark {args.benchmark}: {file} is {name}")
            return f"humaneval-infill {name}"
    return stem


def read_items(args):
    """Items in the official fields, from --data_path or the hub."""
    file, name = data_file(args), BENCHMARKS[args.benchmark]
    if file is not None:
        rows = read_rows(file, fields=FIELDS, flag="--data_path")
    else:
        import datasets

        try:
            try:
                rows = datasets.load_dataset(HUB_DATA, name, split="test")
            except (RuntimeError, ValueError):
                # sets that still have a loading script; the hub keeps a converted copy
                rows = datasets.load_dataset(
                    HUB_DATA, name, split="test", revision="refs/convert/parquet"
                )
        except Exception as error:  # the hub's client raises a dozen kinds
            raise InputError(
                f"cannot get {HUB_DATA} from the hub ({type(error).__name__}); give a local copy by"
                " --data_path"
            ) from None
    items, seen = [], set()
    for number, row in enumerate(rows, 1):
        item = {field: row[field] for field in FIELDS}
        wrong = [field for field in FIELDS if not isinstance(item[field], str)]
        if wrong:
            raise InputError(f"--data_path: field {wrong[0]!r} of row {number} is not text")
        if len(item["canonical_solution"]) > LONGEST_REFERENCE:
            raise InputError(
                f"--data_path: 'canonical_solution' of row {number} has more than"
                f" {LONGEST_REFERENCE:,} characters"
            )
        if item["task_id"] in seen:
            raise InputError(f"--data_path: task_id {item['task_id']!r} occurs twice")
        seen.add(item["task_id"])
        items.append(item)
    return items


# ---- scores of text ------------------------------------------------------------------------------


def edit_similarity(a, b):
    """1 - Levenshtein distance / length of the longer, in characters; 1 for two empty texts."""
    longest = max(len(a), len(b))
    if a == b:
        return 1.0
    short, long = sorted((a, b), key=len)
    if not short:
        return 0.0
    # Myers's bit-vector algorithm in Hyyro's form (2001): bit i of `up` and `down` says how column
    # cell i differs from the one above
    masks, top, distance = {}, 1 << (len(short) - 1), len(short)
    for place, character in enumerate(short):
        masks[character] = masks.get(character, 0) | 1 << place
    whole = (1 << len(short)) - 1
    up, down = whole, 0
    for character in long:
        match = masks.get(character, 0)
        zero = (((match & up) + up) ^ up) | match | down
        right_up, right_down = down | ~(zero | up) & whole, zero & up
        distance += bool(right_up & top) - bool(right_down & top)
        right_up = (right_up << 1 | 1) & whole
        up, down = (right_down << 1 | ~(zero | right_up)) & whole, right_up & zero
    return 1 - distance / longest


def parses(program):
    """Whether a text is Python of the running interpreter; one of more than LONGEST_PARSED
    characters is not read.
    """
    if len(program) > LONGEST_PARSED:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes and the like, by the thousand
        try:
            ast.parse(program)
            return True
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False


def text_metrics(rows, items):
    """Exact match, parsing, edit similarity and length errors of completed rows against the
    references.
    """
    by_id = {item["task_id"]: item for item in items}
    pairs = [(row["completion"], by_id[row["task_id"]]) for row in rows]
    exact = sum(text == item["canonical_solution"] for text, item in pairs)
    whole = sum(parses(item["prompt"] + text + item["suffix"]) for text, item in pairs)
    metrics = {
        "exact_match": share_of(exact, len(rows)),
        "parses": share_of(whole, len(rows)),
        "edit_similarity": statistics.fmean(
            edit_similarity(text, item["canonical_solution"]) for text, item in pairs
        ),
        "length_error_characters": statistics.fmean(
            abs(len(text) - len(item["canonical_solution"])) for text, item in pairs
        ),
    }
    tokens = [
        abs(row["length"] - row["reference_length"])
        for row in rows
        if row.get("length") is not None and row.get("reference_length") is not None
    ]
    if tokens:
        metrics["length_error_tokens"] = statistics.fmean(tokens)
    return metrics


# ---- running programs ----------------------------------------------------------------------------


def run_rows(rows, items, args, stop=None, folder=None):
    """(verdicts, isolation): one result of code_runner for each row. Rows in order; the items'
    tests, prompts and suffixes are used, never those that a generations file may hold.

    folder: where each verdict is written as it is reached (REACHED), so that a full disk or a
    signal loses none; a later call takes those that it finds there.
    """
    from contextlib import nullcontext

    from tqdm import tqdm

    from evaluation.sandbox.runner import (
        CodeRunner,
        rebound_name,
        suspicious_text,
        test_with_helpers,
    )

    by_id = {item["task_id"]: item for item in items}
    references = {
        name: item["prompt"] + item["canonical_solution"] + item["suffix"]
        for name, item in by_id.items()
    }
    tests = {
        name: test_with_helpers(references[name], item["test"], item["entry_point"])
        for name, item in by_id.items()
    }
    jobs = []
    for row in rows:
        item = by_id[row["task_id"]]
        jobs.append(
            (
                item["prompt"] + row["completion"] + item["suffix"],
                tests[row["task_id"]],
                item["entry_point"],
            )
        )
    passed = 0

    def progress(number, result):
        nonlocal passed
        if reached:
            reached.append({"job": keys[to_run[number]], "verdict": result})
        passed += result["status"] == "passed"
        bar.set_postfix_str(f"passed {passed / (bar.n + 1):.1%}", refresh=False)
        bar.update()
        if stop is not None and stop.asked:
            raise InputError(
                "stopped by SIGTERM while programs ran; all generations and the verdicts reached are"
                " on disk, the same command scores the rest"
            )

    with (
        CodeRunner(
            workers=args.code_workers, timeout=args.timeout, unsafe_as_root=args.unsafe_as_root
        ) as runner,
        RowWriter(Path(folder) / REACHED) if folder else nullcontext() as reached,
        tqdm(
            total=len(jobs),
            desc="running programs",
            unit="program",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        ) as bar,
    ):
        isolation = runner.isolation
        keys = [content_hash([*job, args.timeout, runner.level]) for job in jobs]
        known = reached_verdicts(Path(folder) / REACHED) if folder else {}
        results = [dict(known[key]) if key in known else None for key in keys]
        to_run = [number for number, result in enumerate(results) if result is None]
        bar.update(len(jobs) - len(to_run))
        made = runner.run_all([jobs[number] for number in to_run], progress)
        for number, result in zip(to_run, made):
            results[number] = result
    for row, job, result in zip(rows, jobs, results):
        if result["status"] == "passed" and not result["suspicious"]:
            name = rebound_name(job[0], references[row["task_id"]])
            result["suspicious"] = name and f"the completion binds {name} of the prompt again"
        if result["status"] == "passed" and not result["suspicious"]:
            word = suspicious_text(row["completion"], by_id[row["task_id"]]["canonical_solution"])
            result["suspicious"] = word and f"the completion says {word!r}"
    return results, isolation


def reached_verdicts(path):
    """{hash of a job: its verdict} that an earlier call wrote; programs that ran out of time or
    could not be run are tried again.
    """
    found = {}
    for row in read_finished(path):
        verdict = row.get("verdict") if isinstance(row, dict) else None
        if isinstance(verdict, dict) and verdict.get("status") in ("passed", "failed"):
            found[row.get("job")] = verdict
    return found


def pass_metrics(rows, verdicts):
    """pass@k over items for 1, 5, 10, 100 and all samples, and pass@1 without what is suspicious."""
    by_item, honest = {}, {}
    for row, verdict in zip(rows, verdicts):
        passed = verdict["status"] == "passed"
        by_item.setdefault(row["task_id"], []).append(passed)
        honest.setdefault(row["task_id"], []).append(passed and not verdict["suspicious"])
    samples = min(map(len, by_item.values()))
    metrics = {}
    for k in sorted({1, *(k for k in (5, 10, 100) if k <= samples), samples}):
        metrics[f"pass@{k}"] = share_of(
            sum(pass_at_k(len(right), sum(right), k) for right in by_item.values()), len(by_item)
        )
    metrics["pass@1_unsuspicious"] = share_of(
        sum(pass_at_k(len(right), sum(right), 1) for right in honest.values()), len(by_item)
    )
    return metrics


def check_tests(items, args):
    """Whether programs are to be run. Refuses, before anything runs, a set in which only some items
    have a test; says what is measured.
    """
    without = [item["task_id"] for item in items if not item["test"].strip()]
    if not args.allow_code_execution:
        return False
    if len(without) == len(items):
        print(
            "note: no item has a test, so no program is run: the score is exact match",
            file=sys.stderr,
        )
    elif without:
        raise InputError(
            f"--allow_code_execution: {len(without)} of {len(items)} items have no test (the first:"
            f" {without[0]!r}); leave these items out, or leave the flag out to score by text alone"
        )
    return not without


def report(rows, items, args, *, label, settings, details, folder=None, stop=None):
    """Score, write verdicts.jsonl and results.json where there is a folder, then print. Returns the
    result.
    """
    metrics, tested = {}, all(item["test"].strip() for item in items)
    if folder:
        # the verdicts of an hour of programs must have a place
        require_writable(folder, "--output_dir")
    if check_tests(items, args):
        verdicts, isolation = run_rows(rows, items, args, stop, folder)
        verdicts = [{"right": verdict["status"] == "passed", **verdict} for verdict in verdicts]
        metrics.update(pass_metrics(rows, verdicts))
        counts = {
            status: sum(verdict["status"] == status for verdict in verdicts)
            for status in ("passed", "failed", "timed out", "sandbox error")
        }
        details = {
            **details,
            "isolation": isolation,
            "verdicts": counts,
            "suspicious": sum(bool(v["suspicious"]) for v in verdicts),
            "timeout": args.timeout,
        }
        if counts["sandbox error"]:
            print(
                f"warning: {counts['sandbox error']} programs could not be run and count as failed"
                " (see verdicts.jsonl)",
                file=sys.stderr,
            )
    elif tested and not args.allow_code_execution:
        print(
            "note: programs were not run; --allow_code_execution runs them in a sandbox and gives"
            " pass@k",
            file=sys.stderr,
        )
    if not metrics:
        references = {item["task_id"]: item["canonical_solution"] for item in items}
        verdicts = [{"right": row["completion"] == references[row["task_id"]]} for row in rows]
    metrics.update(text_metrics(rows, items))
    result = make_result(
        benchmark=benchmark_name(args),
        label=label,
        metrics=metrics,
        rows=rows,
        settings=settings,
        details={"data_path": args.data_path, **details},
    )
    if folder:
        write_rows(
            Path(folder) / "verdicts.jsonl",
            [
                {"name": row["task_id"], "sample": row.get("sample", 0), **verdict}
                for row, verdict in zip(rows, verdicts)
            ],
        )
        write_json(Path(folder) / "results.json", result)
        (Path(folder) / REACHED).unlink(missing_ok=True)
    print(describe(result))
    if "isolation" in result:
        shown = ", ".join(
            f"{key}: {result['isolation'][key]}"
            for key in ("user", "files", "network", "processes")
        )
        print(f"  programs: {result['verdicts']}, suspicious {result['suspicious']}; {shown}")
    if folder:
        print(f"  written: {Path(folder) / 'results.json'}")
    return result


# ---- the three things to do ----------------------------------------------------------------------


def score_only(args):
    items = first_items(read_items(args), args)
    check_tests(items, args)
    rows, settings = read_generations(args.score_only, "task_id")
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("completion"), str):
            raise InputError(f"--score_only: row {number} has no text under 'completion'")
        if len(row["completion"]) > LONGEST_COMPLETION:
            raise InputError(
                f"--score_only: 'completion' of row {number} has more than {LONGEST_COMPLETION:,}"
                " characters"
            )
    rows, counts = merge_rows(
        rows,
        [item["task_id"] for item in items],
        args.num_samples,
        args.allow_duplicates,
        args.allow_missing,
    )
    present = {row["task_id"] for row in rows}
    report(
        rows,
        [item for item in items if item["task_id"] in present],
        args,
        label=args.label or kind_label(settings),
        settings=settings,
        folder=args.output_dir,
        details={"score_only": args.score_only, **counts},
    )


def kind_label(settings):
    return {"flexmdm": "FlexMDM", "llada": "LLaDA"}.get(str(settings.get("kind")), "given")


def check_references(args):
    """Canonical solutions (all must pass) and, as the trivial baseline, empty completions."""
    if not args.allow_code_execution:
        raise InputError(
            "--check_references: runs the data set's programs, so it needs --allow_code_execution"
        )
    items = first_items(read_items(args), args)
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
        result = report(
            rows,
            items,
            args,
            label=label,
            settings={},
            details={},
            folder=args.output_dir and Path(args.output_dir) / name,
        )
        if name == "reference":
            metric = result["metrics"].get("pass@1") or result["metrics"]["parses"]
            failed = metric["n"] - round(metric["right"])
    if failed:
        raise InputError(f"--check_references: {failed} canonical solutions fail")


def encode_items(model, items, args):
    """(prefixes, suffixes, middle_lengths, reference_lengths): ids of each item as the model's
    layout has them.

    A LLaDA in the paper's layout has everything in the prefix and no middle_lengths.
    """
    from data.tokenizer import inner_ids

    reference_lengths = [
        len(inner_ids(model.tokenizer, item["canonical_solution"])) for item in items
    ]
    if model.kind == "flexmdm":
        from data.infills import flexmdm_infill_ids

        pairs = [
            flexmdm_infill_ids(model.tokenizer, item["prompt"], item["suffix"]) for item in items
        ]
        return (
            [list(pair[0]) for pair in pairs],
            [list(pair[1]) for pair in pairs],
            None,
            reference_lengths,
        )
    if args.llada_infill == "paper":
        from data.infills import llada_infill_prompt

        prompts = [
            list(llada_infill_prompt(model.tokenizer, item["prompt"], item["suffix"]))
            for item in items
        ]
        return prompts, None, None, reference_lengths
    if args.llada_infill == "fixed" and not args.gen_length:
        raise InputError("--llada_infill fixed: --gen_length says how many masks stand in place")
    lengths = reference_lengths if args.llada_infill == "oracle" else [args.gen_length] * len(items)
    return (
        [model.encode(item["prompt"]) for item in items],
        [inner_ids(model.tokenizer, item["suffix"]) for item in items],
        lengths,
        reference_lengths,
    )


@out_of_memory_advice(EVALUATION)
def generate(args):
    stop = Stop()
    everything = read_items(args)
    items = first_items(everything, args)
    check_tests(items, args)
    folder = Path(
        args.output_dir
        or Path("runs/eval_humaneval_infill")
        / f"{Path(args.checkpoint_path).resolve().name}-{args.benchmark}"
    )
    require_writable(folder, "--output_dir")
    model = EvaluatedModel(args, default_steps=4096)
    note_unused_flags(model.kind, sys.argv[1:])
    prefixes, suffixes, middle_lengths, reference_lengths = encode_items(model, items, args)
    given = list(zip(prefixes, suffixes)) if suffixes else [[prefix] for prefix in prefixes]
    costs = [sum(map(len, parts)) for parts in given]
    model.check_fits([item["task_id"] for item in items], given, "--data_path", middle_lengths)
    settings = {
        "benchmark": benchmark_name(args),
        "data_hash": content_hash(everything),
        **model.settings,
        "prompts_hash": content_hash(prefixes[:1]),
    }
    if model.kind == "llada":
        settings["llada_infill"] = args.llada_infill
    generation = GenerationRun(folder, settings, make_tasks(costs, args.num_samples), stop)

    def generate_batch(tasks):
        numbers = [task["item"] for task in tasks]
        if suffixes is None:
            made = model.answer([prefixes[number] for number in numbers], tasks)
        else:
            made = model.infill(
                [prefixes[number] for number in numbers],
                [suffixes[number] for number in numbers],
                tasks,
                middle_lengths and [middle_lengths[number] for number in numbers],
            )
        return [
            {
                "task_id": item["task_id"],
                "completion": text,
                "prompt": item["prompt"],
                "suffix": item["suffix"],
                "ground_truth": item["canonical_solution"],
                "reference_length": reference_lengths[number],
                **fields,
            }
            for number, item, (text, fields) in zip(
                numbers, [items[number] for number in numbers], made
            )
        ]

    generation.generate(
        model.rows_per_call, generate_batch, lambda row: row["completion"] == row["ground_truth"]
    )
    rows = generation.collect()
    if rows is not None:
        report(
            rows,
            items,
            args,
            label=args.label or kind_label(settings),
            settings=settings,
            folder=folder,
            stop=stop,
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
    add_run_flags(parser, "eval_humaneval_infill")
    group = parser.add_argument_group("infilling")
    group.add_argument(
        "--benchmark",
        choices=tuple(BENCHMARKS),
        default="single-line",
        help="which set (default: single-line)",
    )
    group.add_argument(
        "--llada_infill",
        choices=("paper", "oracle", "fixed"),
        default="paper",
        help="LLaDA's layout (default: paper)",
    )
    group.add_argument(
        "--allow_code_execution", action="store_true", help="run the model's programs, in a sandbox"
    )
    group.add_argument(
        "--code_workers",
        type=int,
        metavar="N",
        help="programs that run at once (default: one a core)",
    )
    group.add_argument(
        "--timeout",
        type=finite_number,
        default=3.0,
        metavar="S",
        help="seconds a program may take (default: 3, the official)",
    )
    group.add_argument(
        "--unsafe_as_root",
        action="store_true",
        help="run programs as root where root cannot become another user",
    )
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(
        unmasking="confidence",
        confidence_method="top_prob",
        use_sliding_window=True,
        alpha=15.0,
        remasking="random",
    )
    return parser


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    check_run_flags(args)
    if args.timeout <= 0 or (args.code_workers is not None and args.code_workers < 1):
        raise InputError(
            f"--timeout {args.timeout}, --code_workers {args.code_workers}: must be above 0"
        )
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
