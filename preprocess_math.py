r"""GSM8K -> instruction rows for fine-tuning: `input_ids` (prompt + answer, tokenised as one text)
and `prompt_length`.

Laptop, local copy (7,473 rows; no network):   python preprocess_math.py --data_path gsm8k/train.jsonl --tokenizer llada_tokenizer
From the hub, LLaDA's tokenizer:               python preprocess_math.py
Slurm (no GPU needed):                         sbatch --cpus-per-task=8 --mem=16GB --wrap "python preprocess_math.py --num_proc 8"
Then:                                          python instruction_finetuning.py --task math --train_data data_cache/gsm8k ...

A row, as text (layout: the paper's code; the wording of the system text is ours):
    chat template of one user turn (system text, blank line, question) + assistant header + `<reasoning>`           prompt
    rationale + `</reasoning>` newline `<answer>\boxed{A}</answer>`, A = what follows `####`, stripped              answer
Nothing follows the answer: the LLaDA trainer fills rows with end-of-text itself, FlexMDM learns the
length from the row's end. `prompt_length` counts the tokens that end inside the prompt; a token
that straddles the border belongs to the answer. Rows longer than --max_length are left out, counted
in info.json and on the screen. A finished output made with the same settings is kept as it is; with
other settings the script refuses unless --overwrite.
"""

import argparse
import re
from pathlib import Path

from common.command_line import require_positive
from common.errors import InputError, run
from common.files import describe_files, is_finished
from common.rows import DATA_SUFFIXES, read_rows

SYSTEM_PROMPT = (
    "You are a careful mathematician. Work the problem below out one step at a time. Put your"
    " working between <reasoning> and </reasoning>; then state the final result between <answer>"
    " and </answer>, written as \\boxed{result}."
)
HUB_DATA = "openai/gsm8k"


def math_prompt(tokenizer, question):
    """The prompt as text; encode it with add_special_tokens=False, because the template has written
    the start token already.
    """
    turn = [{"role": "user", "content": f"{SYSTEM_PROMPT}\n\n{question}"}]
    return (
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        + "<reasoning>"
    )


def math_target(answer):
    """The text that follows math_prompt, from a GSM8K answer "rationale #### A". Raises ValueError
    without `####`.
    """
    rationale, mark, final = answer.rpartition("####")
    if not mark:
        raise ValueError("the answer has no '####' before its final result")
    return f"{rationale.strip()}</reasoning>\n<answer>\\boxed{{{final.strip()}}}</answer>"


def joint_row(tokenizer, prompt, target):
    """Tokenise prompt + target as one text.

    Returns {"input_ids": list of n ids, "prompt_length": tokens that end inside the prompt,
    "straddles": whether the token after them begins inside the prompt}. Such a token belongs to the
    answer: a prompt token is never noised, an answer's is.
    """
    encoded = tokenizer(prompt + target, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]  # (start, end) in characters, one a token
    prompt_length = next(
        (index for index, (_, end) in enumerate(offsets) if end > len(prompt)), len(offsets)
    )
    straddles = prompt_length < len(offsets) and offsets[prompt_length][0] < len(prompt)
    return {
        "input_ids": encoded["input_ids"],
        "prompt_length": prompt_length,
        "straddles": straddles,
    }


def math_row(row, tokenizer, strip_annotations):
    """joint_row of one GSM8K row; strip_annotations removes the calculator's <<48/2=24>>."""
    answer = re.sub(r"<<[^<>]*>>", "", row["answer"]) if strip_annotations else row["answer"]
    return joint_row(tokenizer, math_prompt(tokenizer, row["question"]), math_target(answer))


def training_files(data_path):
    """Files to read: the file itself, or of a folder those with "train" in their name (all of them
    where none has it).
    """
    path = Path(data_path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.name.endswith(DATA_SUFFIXES))
    return [file for file in files if "train" in file.name] or files or [path]


def read_training_rows(data_path, hub_data, fields):
    """(datasets.Dataset with exactly `fields`, what was read) from a local copy, or from the hub:
    hub_data is (id, configuration).
    """
    import datasets

    if data_path is not None:
        files = training_files(data_path)
        rows = [row for file in files for row in read_rows(file, fields=fields, flag="--data_path")]
        for number, row in enumerate(rows, 1):
            for field in fields:
                if not isinstance(row[field], str):
                    raise InputError(
                        f"--data_path: field {field!r} of row {number} in {data_path} is not text"
                    )
        rows = datasets.Dataset.from_list([{field: row[field] for field in fields} for row in rows])
        return rows, describe_files(file for file in files if file.is_file())
    try:
        rows = datasets.load_dataset(*hub_data, split="train")
    except Exception as error:
        # the hub's client raises a dozen kinds: no network, no such set, no rights
        raise InputError(
            f"--data_path: {hub_data[0]} cannot be read from the hub ({type(error).__name__}); name"
            " a local copy"
        ) from None
    return rows.select_columns(fields), [" ".join(hub_data)]


def write_instruction_rows(args, rows, make_row, options, tokenizer, settings, room):
    """Tokenise every row by make_row(row, tokenizer, **options), leave out what is longer than
    `room` tokens or has no answer, write.

    args: parsed flags (output_dir, max_length, num_proc, overwrite, tokenizer); settings: what
    besides the tokenizer makes this output.
    """
    import datasets

    from flexmdm_transfer_preprocess import tokenizer_hash, write_dataset

    settings = settings | {
        "max_length": args.max_length,
        "tokenizer_hash": tokenizer_hash(tokenizer),
    }
    if is_finished(args.output_dir, settings, args.overwrite):
        return
    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int32")),
            "prompt_length": datasets.Value("int32"),
            "straddles": datasets.Value("bool"),
        }
    )
    made = rows.map(
        make_row,
        fn_kwargs={"tokenizer": tokenizer, **options},
        remove_columns=rows.column_names,
        features=features,
        num_proc=min(args.num_proc, len(rows)) if args.num_proc > 1 else None,
        desc="tokenising",
    )
    sizes = [(len(row["input_ids"]), row["prompt_length"]) for row in made]
    too_long = sum(length > room for length, _ in sizes)
    without_answer = sum(length == prompt for length, prompt in sizes)
    # a mask in a text would be its own target
    masks = {
        number for number, ids in enumerate(made["input_ids"]) if tokenizer.mask_token_id in ids
    }
    kept = made.select(
        [
            number
            for number, (length, prompt) in enumerate(sizes)
            if prompt < length <= room and number not in masks
        ]
    )
    if not len(kept):
        raise InputError(
            f"--max_length {args.max_length}: no row fits; the shortest needs"
            f" {args.max_length - room + min(sizes)[0]} tokens"
        )
    straddling = sum(kept["straddles"])
    info = {
        "settings": settings,
        "tokenizer": args.tokenizer,
        "rows_read": len(rows),
        "rows": len(kept),
        "left_out": {
            "longer_than_max_length": too_long,
            "without_answer": without_answer,
            "with_mask_token": len(masks),
        },
        "longest_row_read": args.max_length - room + max(sizes)[0],
        "tokens": sum(map(len, kept["input_ids"])),
        "token_straddles_the_border": straddling,
    }
    print(
        f"{len(rows)} rows read; left out: {too_long} longer than --max_length {args.max_length},"
        f" {without_answer} without an answer, {len(masks)} with the mask token in their text; in"
        f" {straddling} a token straddles the border of prompt and answer (it belongs to the"
        " answer)"
    )
    write_dataset(
        datasets.DatasetDict({"train": kept.remove_columns("straddles")}), args.output_dir, info
    )


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument(
        "--data_path",
        help=(
            "local JSONL or parquet, file or folder, fields question and answer (default: hub"
            f" {HUB_DATA})"
        ),
    )
    parser.add_argument("--output_dir", default="data_cache/gsm8k")
    parser.add_argument(
        "--max_length",
        type=int,
        default=1024,
        help="tokens; longer rows are left out and counted (paper: 1024)",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="processes that tokenise")
    parser.add_argument(
        "--strip_annotations",
        action="store_true",
        help="remove the calculator annotations <<48/2=24>>",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    return parser


def main():
    args = make_parser().parse_args()
    from flexmdm_transfer_preprocess import open_tokenizer

    require_positive(args, "max_length", "num_proc")
    tokenizer = open_tokenizer(args.tokenizer, args.num_proc)
    rows, sources = read_training_rows(args.data_path, (HUB_DATA, "main"), ["question", "answer"])
    for number, answer in enumerate(rows["answer"], 1):
        if not answer.rpartition("####")[1]:
            raise InputError(
                f"--data_path: the answer of row {number} has no '####' before its final result"
            )
        if not answer.rpartition("####")[2].strip():
            raise InputError(
                f"--data_path: the answer of row {number} has nothing behind its '####'; it would"
                " be trained as an empty box"
            )
    settings = {
        "script": "preprocess_math.py",
        "sources": sources,
        "strip_annotations": args.strip_annotations,
    }
    options = {"strip_annotations": args.strip_annotations}
    write_instruction_rows(args, rows, math_row, options, tokenizer, settings, room=args.max_length)


if __name__ == "__main__":
    run(main)
