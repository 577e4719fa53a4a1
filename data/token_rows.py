"""Tokenised rows on disk: a datasets.DatasetDict with `input_ids` and `prompt_length`, and
info.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from common.errors import InputError
from common.files import files_hash, write_json
from common.progress import ending
from common.rows import Row

if TYPE_CHECKING:
    import datasets


Splits: TypeAlias = "dict[str, datasets.Dataset]"


def load_rows(path: str | Path, flag: str = "--train_data") -> Splits:
    """{"train": rows, "validation": rows or absent} of a preprocessing script's output. Raises
    InputError for any other folder, naming the flag.
    """
    from datasets import DatasetDict, load_from_disk

    if not Path(path).is_dir():
        raise InputError(f"{flag}: {path} is not a folder written by a preprocessing script")
    try:
        rows = load_from_disk(str(path))
    except Exception as error:
        raise InputError(
            f"{flag}: {path} is no data set on disk: {str(error).splitlines()[0]}"
        ) from None
    rows = rows if isinstance(rows, DatasetDict) else {"train": rows}
    if (
        "train" not in rows
        or not len(rows["train"])
        or "input_ids" not in rows["train"].column_names
    ):
        raise InputError(f"{flag}: {path} has no train split with rows of input_ids")
    return rows


def rows_hash(path: str | Path) -> str:
    """12 hex digits over the rows of a folder that load_rows reads (its Arrow files, in order)."""
    return files_hash(path, sorted(Path(path).rglob("*.arrow")))


def held_out_split(rows: Splits) -> datasets.Dataset:
    """The validation split, else (a data set made for evaluation) the training rows."""
    return rows["validation"] if "validation" in rows and len(rows["validation"]) else rows["train"]


def row_lengths(rows: datasets.Dataset | list[Row]) -> np.ndarray:
    """Tokens of every row, (rows,), without reading the tokens of a datasets.Dataset."""
    if isinstance(rows, list):
        return np.array([len(row["input_ids"]) for row in rows])
    import pyarrow.compute

    return pyarrow.compute.list_value_length(
        rows.with_format("arrow")[:].column("input_ids")
    ).to_numpy()


def write_dataset(
    splits: datasets.DatasetDict,
    output_dir: str | Path,
    info: dict[str, Any],
    num_proc: int | None = None,
    following: str = "",
) -> None:
    """Write a DatasetDict and its info.json as one folder, completely or not at all. Prints what
    was written, and `following`, the command that uses it.
    """
    from common.files import complete_folder

    with complete_folder(output_dir, "data set") as folder:
        splits.save_to_disk(str(folder), num_proc=num_proc)
        write_json(folder / "info.json", info)
    made = ", ".join(f"{name} {len(rows):,} rows" for name, rows in splits.items())
    ending(made, output_dir, following)
