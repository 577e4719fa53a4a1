"""Rows on disk, and how a script says no. Nothing here imports torch, so `--help` stays fast.

Reading: `read_rows` takes a data set's local copy (JSONL, JSON, parquet, gzipped or not, one file
or a folder); `open_text` is the one way text files are opened, `parse_json` the one way JSON is
read.
Writing: `write_rows` / `write_json` write whole files, under a temporary name that is renamed when
complete; `RowWriter` appends finished rows one by one, so that a run stopped at any moment can go
on (`read_finished`); `is_finished` tells whether an output folder with an info.json was made with
the same settings.
Refusing: raise `InputError` with one sentence that names the flag or file; `run` turns it into exit
code 2.
"""

import codecs
import gzip
import hashlib
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

DATA_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


class InputError(Exception):
    """Bad input from the command line. The message names the flag or file and says what would be
    right.
    """


def lock_for_writing(path):
    """An open file that no other process can lock until it is closed. Raises InputError where one
    has it, or the file cannot be made.

    (Some network file systems have no locks; there nothing is refused.)"""
    import fcntl

    try:
        handle = open(path, "ab")
    except OSError as error:
        raise InputError(f"--output_dir: cannot write {path}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise InputError(f"--output_dir: another process is writing {path}") from None
    except OSError:
        pass
    return handle


def run(main):
    """Call main() and exit: 0, 2 with one line for an InputError, 130 with one line for Ctrl-C, 1
    where nobody reads what is printed.
    """
    script = Path(sys.argv[0]).name
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            f"{script}: interrupted; what was finished is on disk, the same command goes on from"
            " there",
            file=sys.stderr,
        )
        sys.exit(130)
    except BrokenPipeError:  # ... | head -1
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def process_rank():
    """(rank, world size) as torchrun and srun launchers set them in the environment; (0, 1) without
    one.
    """
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def open_text(path):
    """A text file, gzipped or not, for reading: UTF-8, with or without a byte order mark, any line
    ends.

    Raises ValueError for another encoding that names itself by its byte order mark.
    """
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rb") as file:
        head = file.read(4)
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if head.startswith(mark):
            raise ValueError(f"it is {name}; save it as UTF-8")
    return opened(path, "rt", encoding="utf-8-sig")


def parse_json(text):
    """One JSON value. ValueError also for what Python's reader lets through or fails at: half a
    character, nesting without end.
    """
    try:
        value = json.loads(text)
        escape = b"\\ud" if isinstance(text, bytes) else "\\ud"
        if escape in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(
            "it holds half of a character (a lone surrogate, \\ud800 to \\udfff)"
        ) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def stream_jsonl(path, flag):
    """Rows of one JSONL file, gzipped or not, one at a time. Raises InputError naming the line that
    is not JSON.
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


def read_file(path, flag):
    """All rows of one file, in order."""
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


def read_object(path, flag):
    """The one JSON object that a file holds. Raises InputError for anything else."""
    content = read_file(path, flag)
    if len(content) != 1 or not isinstance(content[0], dict):
        raise InputError(f"{flag}: {path} does not hold one JSON object")
    return content[0]


def read_rows(path, *, fields, flag):
    """Rows of a data set's local copy: one file, or every data file of a folder in name order.

    path: .jsonl, .json (a list, or one object), .parquet, and .gz of the first two; fields: names
    every row must have;
    flag: the command line flag to name when something is wrong. Raises InputError: not there,
    empty, unreadable, a field missing.
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
    rows = [row for file in files for row in read_file(file, flag)]
    if not rows:
        raise InputError(f"{flag}: {path} is empty")
    for number, row in enumerate(rows, 1):
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise InputError(
                f"{flag}: row {number} of {path} has no field {missing[0]!r} (every row needs"
                f" {', '.join(fields)})"
            )
    return rows


def require_writable(folder, flag):
    """Try to write into a folder, before work that would be lost. Leaves nothing behind, not even
    the folder where it was not there.

    Raises InputError naming the flag where files cannot be written there.
    """
    folder, made = Path(folder), []
    try:
        place = folder
        while not place.exists() and place != place.parent:
            made.append(place)
            place = place.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" " * 4096)
    except OSError as error:
        raise InputError(f"{flag}: cannot write {folder}: {error.strerror}") from None
    finally:
        for place in made:
            try:
                place.rmdir()
            except OSError:  # another process has written there by now, or it was never made
                pass


def write_text(path, text):
    """Write a whole file: under a temporary name beside it, renamed when complete. Raises
    InputError where that cannot be done.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def write_rows(path, rows):
    """Write a whole JSONL file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path, content):
    """Write one JSON document, indented for reading."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_finished(path):
    """Rows of a JSONL file that a RowWriter made; a torn last line (a killed process) does not
    count. [] without a file.
    """
    if not Path(path).exists():
        return []
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn, or empty
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number} is not JSON ({error}): mend or move the file"
                ) from None
    return rows


class RowWriter:
    """Append rows to a JSONL file, each whole and flushed before `append` returns. A torn last line
    is cut off on opening.
    """

    def __init__(self, path):
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

    def append(self, row):
        try:
            self.file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            self.file.flush()
        except OSError as error:  # the rows before it are on disk
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None

    def close(self):
        try:
            self.file.close()
        except OSError:  # a full disk: `append` has said so
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def describe_files(files):
    """[{"file": name, "sha256": first 12 digits}] of local files: the same data elsewhere is the
    same data.
    """
    described = []
    for file in files:
        try:
            with open(file, "rb") as content:
                described.append(
                    {
                        "file": Path(file).name,
                        "sha256": hashlib.file_digest(content, "sha256").hexdigest()[:12],
                    }
                )
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from None
    return described


def require_positive(args, *names):
    """Refuse flags that are not at least 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name}: {getattr(args, name)} is not at least 1")


def is_finished(output_dir, settings, overwrite):
    """Whether output_dir holds a finished output of these settings. Raises InputError for anything
    else that is there.
    """
    folder = Path(output_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"--output_dir: cannot write {folder}: {error.strerror}") from None
    if not occupied:
        return False
    if not (folder / "info.json").is_file():
        raise InputError(
            f"--output_dir: {folder} exists and is no output of a preprocessing script; name"
            " another"
        )
    earlier = json.loads((folder / "info.json").read_text(encoding="utf-8")).get("settings", {})
    different = sorted(
        key for key in earlier.keys() | settings.keys() if earlier.get(key) != settings.get(key)
    )
    if overwrite:
        return False
    if different:
        raise InputError(
            f"--output_dir: {folder} was made with other settings ({', '.join(different)}); "
            "add --overwrite to replace it, or name another"
        )
    print(f"{folder} is finished and has these settings: kept as it is")
    return True
