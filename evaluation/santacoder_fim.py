"""SantaCoder-FIM (bigcode/santacoder-fim-task): lines taken out of programs, in the fields `name`,
`language`, `prompt`, `suffix`, `canonical_solution`, `tests`; its score is exact match.

    if is_santacoder(file, "--data_path"): items = python_items(file, "--data_path")
"""

import sys
from collections import Counter
from pathlib import Path

from common.errors import InputError
from common.rows import Row, read_rows

FIELDS = ("name", "language", "prompt", "suffix", "canonical_solution")


def is_santacoder(file: Path, flag: str) -> bool:
    """Whether a data set's first row has these fields instead of HumanEval infilling's. Raises
    InputError naming the flag if the file cannot be read.
    """
    row = read_rows(file, fields=(), flag=flag)[0]
    return isinstance(row, dict) and {"name", "language"} <= row.keys() and "task_id" not in row


def python_items(file: Path, flag: str) -> list[Row]:
    """The Python rows with the fields of HumanEval infilling; the number of others is printed.

    One program gives many rows of one `name`: the task_id is NAME/0, NAME/1 and so on, in the
    file's order. `test` is empty, because the set is scored by its text. Raises InputError naming
    the flag: a field missing or not text, no row in Python.
    """
    seen: Counter[str] = Counter()
    items, others = [], 0
    for number, row in enumerate(read_rows(file, fields=FIELDS, flag=flag), 1):
        wrong = [field for field in FIELDS if not isinstance(row[field], str)]
        if wrong:
            raise InputError(f"{flag}: field {wrong[0]!r} of row {number} is not text")
        if row["language"] != "py":
            others += 1
            continue
        name = row["name"]
        item = {field: row[field] for field in ("prompt", "suffix", "canonical_solution")}
        items.append({**item, "task_id": f"{name}/{seen[name]}", "entry_point": "", "test": ""})
        seen[name] += 1
    if not items:
        raise InputError(
            f"{flag}: no row of {file} has the language 'py'; only Python is evaluated"
        )
    if others:
        print(f"note: {others} rows in other languages than Python left out", file=sys.stderr)
    return items


def same_text(completion: str, reference: str) -> bool:
    """Exact match as published for this set: white space at both ends does not count."""
    return completion.strip() == reference.strip()
