"""Check all training rows once, before the first step, for errors that would make a collator fail
days later or be trained on silently.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import read_json

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 2000
SCRIPT_OF_TASK = {"math": "preprocess_math.py", "code": "preprocess_code_infilling.py"}


def check_rows(
    rows: "Dataset",
    vocabulary: int,
    reserved: Mapping[str, int],
    longest: int,
    flag: str,
    answers: bool = False,
) -> None:
    """Refuse, by its number, the first row (0 based) that cannot be trained on. Raises InputError.

    rows: with input_ids, and optionally prompt_length; vocabulary: ids must be below it; reserved:
    data.tokenizer.reserved_ids, which no row may hold; longest: maximum tokens per row; flag: of
    the data, for messages; answers: whether every row needs tokens after its prompt.
    """
    import numpy as np
    import pyarrow as pa

    columns = [name for name in ("input_ids", "prompt_length") if name in rows.column_names]
    number, some = 0, False
    for batch in rows.select_columns(columns).with_format("arrow").iter(ROWS_AT_ONCE):
        lists = batch["input_ids"].combine_chunks()
        if (
            not pa.types.is_list(lists.type)
            and not pa.types.is_large_list(lists.type)
            or not (
                pa.types.is_integer(lists.type.value_type)
                or pa.types.is_null(lists.type.value_type)
            )
        ):
            raise InputError(f"{flag}: input_ids are {lists.type}, not lists of whole numbers")
        if lists.null_count or lists.flatten().null_count:
            raise InputError(
                f"{flag}: row {number + _first(np.asarray(lists.is_null()))} (or a token in it) is"
                " empty (null)"
            )
        lengths = np.diff(np.asarray(lists.offsets))
        ids = np.asarray(lists.flatten().cast(pa.int64()))
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        prompt = (
            np.asarray(batch["prompt_length"])
            if "prompt_length" in columns
            else np.zeros(len(lengths))
        )
        if (
            not np.issubdtype(prompt.dtype, np.number)
            or np.isnan(prompt.astype(float)).any()
            or (prompt != np.floor(prompt)).any()
        ):
            raise InputError(f"{flag}: prompt_length is not a column of whole numbers")
        wrong_id = (ids < 0) | (ids >= vocabulary)
        for what, bad in (
            (
                (
                    f"holds an id outside 0 ... {vocabulary - 1}; was it tokenised by another"
                    " tokenizer?"
                ),
                _rows_with(wrong_id, starts, lengths),
            ),
            *(
                (f"holds the {name} token {token}", _rows_with(ids == token, starts, lengths))
                for name, token in reserved.items()
            ),
            (f"has {{}} tokens, --sft_max_length is {longest}", lengths > longest),
            (
                "has a prompt_length that is not within its tokens",
                (prompt < 0) | (prompt > lengths),
            ),
            ("has no tokens after its prompt", answers & (prompt >= lengths)),
        ):
            if bad.any():
                row = int(bad.argmax())
                raise InputError(f"{flag}: row {number + row} {what.format(lengths[row])}")
        number += len(lengths)
        some |= bool(lengths.any())
    if not some:
        raise InputError(f"{flag}: every row is empty")


def _first(bad):
    return int(bad.argmax()) if bad.any() else 0


def _rows_with(marked, starts, lengths):
    """Which rows hold a marked token, bool (rows,)."""
    import numpy as np

    counts = np.concatenate([[0], np.cumsum(marked)])
    return counts[starts + lengths] > counts[starts]


def check_origin(path: str | Path, tokenizer: Any, task: str | None, flag: str) -> None:
    """Refuse rows made with another tokenizer or for another task (None: any), according to
    info.json. Folders without it are accepted. Raises InputError.
    """
    from data.tokenizer import tokenizer_hash

    info = Path(path) / "info.json"
    if not info.exists():
        return
    content = read_json(info)
    settings = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise InputError(f"{flag}: {info} does not say how the rows were made")
    if settings.get("tokenizer_hash") not in (None, tokenizer_hash(tokenizer)):
        raise InputError(
            f"{flag}: the rows of {path} were tokenised by another tokenizer"
            f" ({content.get('tokenizer')}), not the model's"
        )
    script = settings.get("script")
    if task and script in SCRIPT_OF_TASK.values() and script != SCRIPT_OF_TASK[task]:
        raise InputError(
            f"{flag}: {path} was written by {script}; --task {task} needs rows of"
            f" {SCRIPT_OF_TASK[task]}"
        )
