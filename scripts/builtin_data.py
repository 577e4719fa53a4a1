"""Built-in data: synthetic math word problems, generated functions with tests, standard-library
functions, and the tokenizer of the tiny base.

    python scripts/builtin_data.py math --split train --n 7000 --seed 0 --output math_train.jsonl
    python scripts/builtin_data.py code_infill --split test --n 200 --seed 0 --output code.jsonl
    python scripts/builtin_data.py text --split train --n 40000 --seed 0 --output text.jsonl
    python scripts/builtin_data.py tokenizer --output_dir tokenizer
    srun --mem=2G python scripts/builtin_data.py ...      (seconds on one CPU core, no network)

kind           fields of a row; the data set with the same fields
math           question, answer; GSM8K
code, stdlib   seq_id, instruction, output, code, entry_point, testcase;
               OpenCoder-LLM/opc-sft-stage2, educational_instruct
code_infill    task_id, entry_point, prompt, suffix, canonical_solution, test; HumanEval-infilling
stdlib_infill  the same; test is empty: scored by exact match and by parsing
text           text, prompt (its beginning that stays clean, or ""); a pretraining corpus

Everything is a function of (kind, split, n, seed) and, for standard-library functions, of the
Python version that runs this.
What the test split holds out never occurs in training: in math the last sum or difference, in code
the combination of template, function name and constants, in stdlib the module.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser, finite_number
from common.errors import InputError, run
from common.progress import command, ending
from common.rows import Row, write_rows
from data.functions import code_infill_rows, code_rows
from data.library_code import stdlib_infill_rows, stdlib_rows
from data.pretraining_text import TEXT_WEIGHTS, text_rows, write_tokenizer
from data.word_problems import math_rows

MAKERS: dict[str, Callable[..., list[Row]]] = {
    "math": math_rows,
    "code": code_rows,
    "code_infill": code_infill_rows,
    "stdlib": stdlib_rows,
    "stdlib_infill": stdlib_infill_rows,
    "text": text_rows,
}


def use_of(kind: str, split: str, target: str) -> str:
    """The command that reads rows of a kind."""
    tokenizer, checkpoint = ("--tokenizer", "LLaDA-tiny-Base"), ("--checkpoint_path", "CHECKPOINT")
    script, *flags = {
        "text": ("flexmdm_transfer_preprocess.py", "--prompt_field", "prompt", *tokenizer),
        "code_infill": ("eval_humaneval_infill.py", *checkpoint, "--allow_code_execution"),
        "stdlib_infill": ("eval_humaneval_infill.py", *checkpoint),
        "math": ("preprocess_math.py", *tokenizer),
    }.get(kind, ("preprocess_code_infilling.py", *tokenizer))
    if (kind, split) == ("math", "test"):
        script, flags = "eval_gsm8k.py", [*checkpoint]
    return command(script, *flags, "--data_path", target)


def make_parser() -> ArgumentParser:
    """The flags, a command for each kind."""
    parser = ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(
        dest="kind", required=True, metavar="KIND", help=f"{', '.join(MAKERS)} or tokenizer"
    )
    for kind in MAKERS:
        subparser = kinds.add_parser(kind)
        subparser.add_argument("--split", choices=("train", "test"), default="train")
        subparser.add_argument("--n", type=int, default=1000, help="number of rows")
        subparser.add_argument("--seed", type=int, default=0)
        subparser.add_argument("--output", required=True, help="JSONL file to write")
        if kind == "text":
            subparser.add_argument(
                "--weights",
                type=finite_number,
                nargs=6,
                metavar=tuple(map(str.upper, TEXT_WEIGHTS)),
                default=list(TEXT_WEIGHTS.values()),
                help="shares of the six kinds among the documents (default: %(default)s)",
            )
    kinds.add_parser("tokenizer").add_argument(
        "--output_dir", required=True, help="folder for tokenizer.json and tokenizer_config.json"
    )
    return parser


def main() -> None:
    """Write the rows of a kind, or the tokenizer."""
    args = make_parser().parse_args()
    target, flag = (
        (args.output_dir, "--output_dir") if args.kind == "tokenizer" else (args.output, "--output")
    )
    if args.kind != "tokenizer" and Path(target).is_dir():
        raise InputError(f"--output: {target} is a folder; name a JSONL file")
    try:
        if args.kind == "tokenizer":
            size = write_tokenizer(target).get_vocab_size()
            following = command("scripts/new_base.py", "random", "--tokenizer", target)
            ending(f"a tokenizer of {size} tokens", target, following)
            return
        if args.n < 1:
            raise InputError(f"--n: {args.n} is not at least 1")
        options: dict[str, Any] = {}
        if args.kind == "text":
            if min(args.weights) < 0 or sum(args.weights) <= 0:
                raise InputError(f"--weights: {args.weights} must not be negative, nor all zero")
            options["weights"] = dict(zip(TEXT_WEIGHTS, args.weights))
        write_rows(target, MAKERS[args.kind](args.split, args.n, args.seed, **options))
        following = use_of(args.kind, args.split, target)
        ending(f"{args.n:,} rows of {args.kind} ({args.split})", target, following)
    except OSError as error:
        raise InputError(f"{flag}: cannot write {target}: {error.strerror or error}") from None


if __name__ == "__main__":
    run(main)
