"""Instruction data -> rows of prompt and answer, tokenised as one text; shared by both tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import describe_files, is_finished
from common.hub import use_local_copies_offline
from common.progress import command, ending
from common.rows import DATA_SUFFIXES, Row, read_rows

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast


def joint_row(tokenizer: PreTrainedTokenizerFast, prompt: str, target: str) -> Row:
    """Tokenise prompt + target as one text.

    Returns {"input_ids": list of n ids, "prompt_length": tokens that end inside the prompt,
    "straddles": whether the token after them begins inside the prompt}. Such a token belongs to the
    answer: a prompt token is never noised, an answer's is.
    """
    encoded = tokenizer(prompt + target, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]  # (start, end) in characters, per token
    prompt_length = next(
        (index for index, (_, end) in enumerate(offsets) if end > len(prompt)), len(offsets)
    )
    straddles = prompt_length < len(offsets) and offsets[prompt_length][0] < len(prompt)
    return {
        "input_ids": encoded["input_ids"],
        "prompt_length": prompt_length,
        "straddles": straddles,
    }


def training_files(data_path: str | Path) -> list[Path]:
    """Files to read: the file itself, or of a folder those with "train" in their name (all of them
    where none has it).
    """
    path = Path(data_path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.name.endswith(DATA_SUFFIXES))
    return [file for file in files if "train" in file.name] or files or [path]


def read_training_rows(
    data_path: str | Path | None, hub_data: tuple[str, str], fields: list[str]
) -> tuple[datasets.Dataset, list[Any]]:
    """(datasets.Dataset with exactly `fields`, what was read) from a local copy, or from the hub:
    hub_data is (id, configuration). Raises InputError for what cannot be read.
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
    use_local_copies_offline()
    try:
        rows = datasets.load_dataset(*hub_data, split="train")
    except Exception as error:
        # the hub's client raises a dozen kinds: no network, no such set, no rights
        raise InputError(
            f"--data_path: {hub_data[0]} cannot be read from the hub ({type(error).__name__}); name"
            " a local copy"
        ) from None
    return rows.select_columns(fields), [" ".join(hub_data)]


def write_instruction_rows(
    args: argparse.Namespace,
    rows: datasets.Dataset,
    make_row: Callable[..., Row],
    options: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    settings: dict[str, Any],
    room: int,
    task: str,
) -> None:
    """Tokenise every row by make_row(row, tokenizer, **options), drop rows that are longer than
    `room` tokens or have no answer, and write the rest.

    args: parsed flags (output_dir, max_length, num_proc, overwrite, tokenizer); settings: what the
    output depends on besides the tokenizer; task: math or code. Raises InputError if no row fits.
    """
    import datasets

    from data.token_rows import write_dataset
    from data.tokenizer import reserved_ids, tokenizer_hash

    settings = settings | {
        "max_length": args.max_length,
        "tokenizer_hash": tokenizer_hash(tokenizer),
    }
    following = command(
        "instruction_finetuning.py",
        *("--task", task, "--variable_length", "--init_from", "runs/transfer/final"),
        *("--train_data", args.output_dir, "--job_name", f"IFT_{task}"),
    )
    if is_finished(args.output_dir, settings, args.overwrite):
        ending("nothing new", args.output_dir, following)
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
    reserved = set(reserved_ids(tokenizer).values())
    forbidden = {
        number for number, ids in enumerate(made["input_ids"]) if not reserved.isdisjoint(ids)
    }
    kept = made.select(
        [
            number
            for number, (length, prompt) in enumerate(sizes)
            if prompt < length <= room and number not in forbidden
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
            "mask_or_padding_token_in_text": len(forbidden),
        },
        "longest_row_read": args.max_length - room + max(sizes)[0],
        "tokens": sum(map(len, kept["input_ids"])),
        "token_straddles_the_border": straddling,
    }
    print(
        f"{len(rows)} rows read; left out: {too_long} longer than --max_length {args.max_length},"
        f" {without_answer} without an answer, {len(forbidden)} with the mask or padding token in"
        f" their text; in {straddling} a token straddles the boundary of prompt and answer (it"
        " belongs to the answer)"
    )
    write_dataset(
        datasets.DatasetDict({"train": kept.remove_columns("straddles")}),
        args.output_dir,
        info,
        following=following,
    )
