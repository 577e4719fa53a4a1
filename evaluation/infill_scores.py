"""Scores of completed programs: by their text, and by running them in the sandbox.

    text_metrics(rows, items)                  # exact match, parses, edit similarity, length errors
    metrics, verdicts, details = score_programs(rows, items, args, stop, folder)    # pass@k

A row has `task_id` and `completion`, an item the data set's fields of the same `task_id`.
"""

import argparse
import ast
import statistics
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import content_hash
from common.rows import Row, RowWriter, read_finished
from evaluation.generation_run import Stop
from evaluation.results import pass_rates, share_of

# characters: longer programs are not parsed
LONGEST_PARSED = 100_000
REACHED = "verdicts-reached.jsonl"  # while programs run: a row for each finished one


# ---- scores of text ------------------------------------------------------------------------------


def edit_similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance / length of the longer, in characters; 1 for two empty texts."""
    longest = max(len(a), len(b))
    if a == b:
        return 1.0
    short, long = sorted((a, b), key=len)
    if not short:
        return 0.0
    # Myers's bit-vector algorithm in Hyyro's form (2001): bit i of `up` and `down` says how column
    # cell i differs from the one above
    masks: dict[str, int] = {}
    top, distance = 1 << (len(short) - 1), len(short)
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


def parses(program: str) -> bool:
    """Whether a text parses with the running interpreter; texts of more than LONGEST_PARSED
    characters are not tried.
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


def text_metrics(rows: list[Row], items: list[Row]) -> dict[str, Any]:
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


def run_rows(
    rows: list[Row],
    items: list[Row],
    args: argparse.Namespace,
    stop: Stop | None = None,
    folder: Path | None = None,
) -> tuple[list[Row], dict[str, str]]:
    """(verdicts, isolation): one result of the runner for each row, in order. Tests, prompts and
    suffixes come from the items, never from a generations file.

    folder: where each verdict is written when it is reached (REACHED), so that a full disk or a
    signal loses none; a later call reuses those that it finds there.
    """
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

    def progress(number: int, result: Row) -> None:
        nonlocal passed
        if reached:
            reached.append({"job": keys[to_run[number]], "verdict": result})
        passed += result["status"] == "passed"
        bar.set_postfix_str(f"passed {passed / (bar.n + 1):.1%}", refresh=False)
        bar.update()
        if stop is not None and stop.asked:
            raise InputError(
                "stopped by SIGTERM while programs ran; all generations and the verdicts so far are"
                " on disk, the same command scores the others"
            )

    with (
        CodeRunner(
            workers=args.code_workers, timeout=args.timeout, unsafe_as_root=args.unsafe_as_root
        ) as runner,
        RowWriter(folder / REACHED) if folder else nullcontext() as reached,
        tqdm(
            total=len(jobs),
            desc="running programs",
            unit="program",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5,
        ) as bar,
    ):
        isolation = runner.isolation
        keys = [content_hash([*job, args.timeout, runner.level]) for job in jobs]
        known = reached_verdicts(folder / REACHED) if folder else {}
        to_run = [number for number, key in enumerate(keys) if key not in known]
        bar.update(len(jobs) - len(to_run))
        made = runner.run_all([jobs[number] for number in to_run], progress)
    by_number = dict(zip(to_run, made))
    results = [by_number.get(number) or dict(known[key]) for number, key in enumerate(keys)]
    for row, job, result in zip(rows, jobs, results):
        if result["status"] == "passed" and not result["suspicious"]:
            name = rebound_name(job[0], references[row["task_id"]])
            result["suspicious"] = name and f"the completion binds {name} of the prompt again"
        if result["status"] == "passed" and not result["suspicious"]:
            word = suspicious_text(row["completion"], by_id[row["task_id"]]["canonical_solution"])
            result["suspicious"] = word and f"the completion says {word!r}"
    return results, isolation


def reached_verdicts(path: Path) -> dict[str, Row]:
    """{hash of a job: its verdict} written by an earlier call; programs that timed out or could not
    be run are tried again.
    """
    found = {}
    for row in read_finished(path):
        verdict = row.get("verdict") if isinstance(row, dict) else None
        if isinstance(verdict, dict) and verdict.get("status") in ("passed", "failed"):
            found[row.get("job")] = verdict
    return found


def pass_metrics(rows: list[Row], verdicts: list[Row]) -> dict[str, Any]:
    """pass@k over items (pass_rates), and pass@1 without suspicious passes."""
    names = [row["task_id"] for row in rows]
    passed = [verdict["status"] == "passed" for verdict in verdicts]
    honest = [one and not verdict["suspicious"] for one, verdict in zip(passed, verdicts)]
    return {
        **pass_rates(names, passed),
        "pass@1_unsuspicious": pass_rates(names, honest)["pass@1"],
    }


def score_programs(
    rows: list[Row],
    items: list[Row],
    args: argparse.Namespace,
    stop: Stop | None = None,
    folder: Path | None = None,
) -> tuple[dict[str, Any], list[Row], dict[str, Any]]:
    """(pass_metrics, a verdict for each row, details for results.json) of running the programs, as
    run_rows does. Warns of programs that could not be run.
    """
    verdicts, isolation = run_rows(rows, items, args, stop, folder)
    verdicts = [{"right": verdict["status"] == "passed", **verdict} for verdict in verdicts]
    counts = {
        status: sum(verdict["status"] == status for verdict in verdicts)
        for status in ("passed", "failed", "timed out", "sandbox error")
    }
    if counts["sandbox error"]:
        print(
            f"warning: {counts['sandbox error']} programs could not be run and are counted as"
            " failed (see verdicts.jsonl)",
            file=sys.stderr,
        )
    details = {
        "isolation": isolation,
        "verdicts": counts,
        "suspicious": sum(bool(verdict["suspicious"]) for verdict in verdicts),
        "timeout": args.timeout,
    }
    return pass_metrics(rows, verdicts), verdicts, details


def describe_programs(result: dict[str, Any]) -> str:
    """A line about the programs of a result, to print; "" if none was run."""
    if "isolation" not in result:
        return ""
    shown = ", ".join(
        f"{key}: {result['isolation'][key]}" for key in ("user", "files", "network", "processes")
    )
    return f"\n  programs: {result['verdicts']}, suspicious {result['suspicious']}; {shown}"
