"""Rows on disk. Nothing here imports torch, so `--help` stays fast.

Reading: `read_rows` takes a data set's local copy (JSONL, JSON, parquet, compressed or not, one
file or a folder); all text files are opened by `open_text`, all JSON is read by `parse_json`.
Writing: `write_rows` / `write_json` write whole files, under a temporary name that is renamed when
complete; `RowWriter` appends finished rows one by one, so that an interrupted run can resume
(`read_finished`); `is_finished` tells whether an output folder with an info.json was made with the
same settings.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from common.errors import InputError
from common.files import open_text, parse_json, write_text

# one JSON object
Row: TypeAlias = dict[str, Any]
DATA_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".parquet")


def stream_jsonl(path: str | Path, flag: str) -> Iterator[Any]:
    """Values of one JSONL file (also .gz, .zst), one at a time. Raises InputError naming the line
    that is not JSON.
    """
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        row = parse_json(line)
                    except ValueError as error:
                        raise InputError(
                            f"{flag}: {path}, line {number} is not JSON: {error}"
                        ) from None
                    yield row
    except (OSError, ValueError, EOFError, zlib.error) as error:
        # ValueError: no UTF-8; EOFError, zlib.error: cut or damaged gzip
        raise InputError(f"{flag}: cannot read {path}: {error}") from None


def read_file(path: str | Path, flag: str) -> list[Any]:
    """All rows of one file, in order. Raises InputError naming the flag for what cannot be read."""
    name = str(path)
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet as parquet

            return parquet.read_table(path).to_pylist()
        if name.endswith((".json", ".json.gz")):
            with open_text(path) as file:
                content = parse_json(file.read())
            return content if isinstance(content, list) else [content]
    except (OSError, ValueError, EOFError, zlib.error) as error:
        # ValueError: broken JSON, UTF-8 or parquet
        raise InputError(f"{flag}: cannot read {path}: {error}") from None
    return list(stream_jsonl(path, flag))


def read_object(path: str | Path, flag: str) -> Row:
    """The one JSON object that a file holds. Raises InputError for anything else."""
    content = read_file(path, flag)
    if len(content) != 1 or not isinstance(content[0], dict):
        raise InputError(f"{flag}: {path} does not hold one JSON object")
    return content[0]


def read_rows(path: str | Path, *, fields: Sequence[str], flag: str) -> list[Row]:
    """Rows of a data set's local copy: one file, or every data file of a folder in name order.

    path: .jsonl, .json (a list, or one object), .parquet, and .gz of the first two, .zst of the
    first; fields: names every row must have;
    flag: the command line flag to name when something is wrong. Raises InputError: not there,
    a file without rows, unreadable, a field missing.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(DATA_SUFFIXES))
        if not files:
            raise InputError(f"{flag}: folder {path} holds none of {', '.join(DATA_SUFFIXES)}")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{flag}: {path} does not exist")
    rows = []
    for file in files:
        found = read_file(file, flag)
        if not found:
            raise InputError(f"{flag}: {file} is empty")
        for number, row in enumerate(found, 1):
            missing = [field for field in fields if not isinstance(row, dict) or field not in row]
            if missing:
                raise InputError(
                    f"{flag}: row {number} of {file} has no field {missing[0]!r} (every row needs"
                    f" {', '.join(fields)})"
                )
        rows += found
    return rows


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write a whole JSONL file, as write_text does."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_finished(path: str | Path) -> list[Any]:
    """Rows of a JSONL file written by a RowWriter; a truncated last line (a killed process) is
    ignored. [] if there is no file. Raises InputError for any other line that is not JSON.
    """
    if not Path(path).exists():
        return []
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # after the last newline: truncated, or empty
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number} is not JSON ({error}): repair or move the file"
                ) from None
    return rows


class RowWriter:
    """Append rows to a JSONL file, each complete and flushed before `append` returns. A truncated
    last line is removed on opening. Raises InputError if the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab+")
            self.file.seek(0)
            content = self.file.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                self.file.truncate(whole)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None

    def append(self, row: Row) -> None:
        """Write one row. Raises InputError if it cannot be written completely."""
        try:
            self.file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            self.file.flush()
        except OSError as error:  # the rows before it are on disk
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Close the file; done by `with`."""
        try:
            self.file.close()
        except OSError:  # a full disk: `append` has said so
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
