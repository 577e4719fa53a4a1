"""Files and folders: read as UTF-8 or refused, written completely or not at all, locked, hashed,
downloaded.

Nothing here imports torch, so `--help` stays fast.
"""

import codecs
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AnyStr, BinaryIO

from common.errors import InputError
from common.hub import use_local_copies_offline

FULL = 2**24  # bytes left on a disk that a failed write has filled
HUB_ID = r"[\w.-]+/[\w.-]+"  # owner/name
# what a checkpoint needs of a repository on the hub
HUB_FILES = [
    "*.json",
    "*.safetensors",
    "tokenizer*",
    "chat_template.jinja",
    "pytorch_model.bin",
    "README.md",
]
MARKER = ".written-by-flexmdm.json"  # in every folder that complete_folder wrote


def lock_for_writing(path: str | Path) -> BinaryIO:
    """An open file that no other process can lock until it is closed. Raises InputError if another
    process has locked it, or the file cannot be created.

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


def open_bytes(path: str | Path) -> io.BufferedReader | gzip.GzipFile:
    """A binary file for reading, .gz and .zst decompressed. Reading raises OSError, EOFError or
    zlib.error if a compressed file is damaged or truncated.
    """
    if str(path).endswith(".gz"):
        return gzip.open(path, "rb")
    if str(path).endswith(".zst"):
        import pyarrow

        # zstandard's own reader silently stops if a file is truncated
        return pyarrow.input_stream(path, compression="zstd")
    return open(path, "rb")


def open_text(path: str | Path) -> io.TextIOWrapper:
    """A text file for reading, as open_bytes: UTF-8, with or without a byte order mark, any line
    ends.

    Raises ValueError for another encoding that names itself by its byte order mark.
    """
    with open_bytes(path) as file:
        head = file.read(4)
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if head.startswith(mark):
            raise ValueError(f"it is {name}; save it as UTF-8")
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig")


def parse_json(text: AnyStr) -> Any:
    """One JSON value. Raises ValueError also for lone surrogates, which Python's reader accepts,
    and for nesting that is too deep for it.
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


def require_writable(folder: str | Path, flag: str) -> None:
    """Try to write into a folder before doing work that would be lost; where it does not exist yet,
    into the nearest parent that does. Leaves nothing behind, and makes no folder: several processes
    of one run ask at once, and none may remove what another has just found.

    Raises InputError naming the flag if files cannot be written there.
    """
    try:
        place = Path(folder)
        while is_missing(place):
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b" " * 4096)
    except OSError as error:
        raise InputError(f"{flag}: cannot write {folder}: {error.strerror}") from None


def require_writable_file(path: str | Path, flag: str) -> None:
    """As require_writable, for a file that will be written or replaced. Raises InputError naming
    the flag, also where the path is a folder's.
    """
    if Path(path).is_dir():
        raise InputError(f"{flag}: {path} is a folder; name a file")
    require_writable(Path(path).parent, flag)


def is_missing(path: Path) -> bool:
    """Whether nothing is there, not even a broken link. Raises OSError for a path that can never
    be: below a file, or with a name that is too long.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    return False


def write_reason(error: Exception, path: str | Path) -> str | None:
    """Why writing a path failed, in words; None if the error is not of that kind. Besides OSError,
    the libraries that write checkpoints have errors of their own for a full disk: safetensors,
    tokenizers (a bare Exception), and torch.save, which does not say that it is full.
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError):
        return error.strerror or text
    if type(error).__name__ == "SafetensorError":
        return text
    if type(error) is Exception:
        return text if "os error" in text else None
    words = ("inline_container", "PytorchStreamWriter", "iostream")
    if type(error) is RuntimeError and any(word in str(error) for word in words):
        return "No space left on device" if free_bytes(path) < FULL else text
    return None


def free_bytes(path: str | Path) -> int:
    """What is left on the disk of a path, or of the folder that it would be in."""
    place = Path(path).resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def write_text(path: str | Path, text: str) -> None:
    """Write a whole file: under a temporary name beside it, renamed when complete. Raises
    InputError if that fails.
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


def write_json(path: str | Path, content: Any) -> None:
    """Write one JSON document, indented for reading, as write_text does."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def describe_files(files: Iterable[str | Path]) -> list[dict[str, str]]:
    """[{"file": name, "sha256": first 12 digits}] of local files: the same data elsewhere is the
    same data. Raises InputError for one that cannot be read.
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


def is_finished(output_dir: str | Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether output_dir holds finished output of these settings. Raises InputError if it holds
    anything else.
    """
    folder = Path(output_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"--output_dir: cannot write {folder}: {error.strerror}") from None
    if not occupied:
        return False
    if overwrite:
        require_replaceable(folder, "data set")
        return False
    info = read_json(folder / "info.json") if (folder / "info.json").is_file() else None
    earlier = info.get("settings") if isinstance(info, dict) else None
    if not isinstance(earlier, dict):
        raise InputError(
            f"--output_dir: {folder} exists and is no output of a preprocessing script; name"
            " another"
        )
    different = sorted(
        key for key in earlier.keys() | settings.keys() if earlier.get(key) != settings.get(key)
    )
    if different:
        raise InputError(
            f"--output_dir: {folder} was made with other settings ({', '.join(different)}); "
            "add --overwrite to replace it, or name another"
        )
    print(f"{folder} is finished and has the same settings: kept")
    return True


def local_folder(name: str | Path, flag: str = "--model_name_or_path") -> Path | None:
    """The local folder that a path means, a run's folder meaning its `final`; None for a hub id.
    Neither imports nor downloads anything. Raises InputError naming `flag` if it is neither.
    """
    path = Path(name)
    if path.is_dir():
        a_run = (path / "final").is_dir() and not any(path.glob("*config.json"))
        return path / "final" if a_run else path
    if path.exists() or not re.fullmatch(HUB_ID, str(name)):
        raise InputError(f"{flag}: {name} is neither a folder nor a hub id (owner/name)")
    if path.parent.is_dir():  # runs/transfer could be a hub id, but nobody means that
        raise InputError(f"{flag}: {name} does not exist, and {path.parent} is a folder")
    return None


def resolve_folder(
    name: str | Path, flag: str = "--model_name_or_path", **hub_arguments: Any
) -> Path:
    """The local folder of a path or hub id (downloads only weights, configs, tokenizer and card),
    as `local_folder` has it. hub_arguments: snapshot_download's, such as revision. Raises
    InputError naming `flag`.
    """
    if folder := local_folder(name, flag):
        return folder
    from huggingface_hub import snapshot_download

    use_local_copies_offline()
    try:
        return Path(
            snapshot_download(
                str(name),
                allow_patterns=HUB_FILES,
                **hub_arguments,
            )
        )
    except Exception as error:
        # the hub client raises many kinds: no such repository, no access, no network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{flag}: {name} is no local folder, and fetching it from the hub failed: {reason}"
        ) from None


def files_hash(folder: str | Path, files: Iterable[Path]) -> str:
    """12 hex digits over names and contents of files below a folder, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]


def require_replaceable(folder: str | Path, kind: str) -> None:
    """Refuse, before doing work that would be lost, a folder that complete_folder must not replace.
    It may replace an empty folder, or one that it wrote as this kind and that holds nothing else.
    Raises InputError.
    """
    folder = Path(folder).resolve()
    try:
        if not folder.exists():
            return
        if not folder.is_dir():
            raise InputError(f"--output_dir: {folder} is a file; name a folder")
        inside = {
            str(path.relative_to(folder)) for path in folder.rglob("*") if not is_folder(path)
        }
        mark = read_json(folder / MARKER) if MARKER in inside else {}
    except OSError as error:
        raise InputError(f"--output_dir: cannot read {folder}: {error.strerror}") from None
    if not any(folder.iterdir()):
        if Path.cwd().is_relative_to(folder):
            raise InputError(f"--output_dir: {folder} is the current folder; name another")
        return
    if not isinstance(mark, dict) or not isinstance(mark.get("files"), list):
        mark = {}
    if mark.get("kind") != kind:
        raise InputError(f"--output_dir: {folder} exists and is no {kind} of ours; name another")
    foreign = sorted(inside - {MARKER, *map(str, mark["files"])})
    if foreign:
        raise InputError(
            f"--output_dir: {folder} holds {foreign[0]}, which would be lost; move it, or name"
            " another"
        )


def is_folder(path: Path) -> bool:
    """Whether a path is a folder itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()


@contextmanager
def complete_folder(folder: str | Path, kind: str) -> Iterator[Path]:
    """Write a folder under a temporary name beside it; it is renamed to its final name, complete,
    when the block ends without an error.

    Yields the temporary folder.
    kind: the kind of folder, such as "data set". MARKER in the folder records it and lists the
    files, so that require_replaceable lets a later run of the same kind replace it. Raises
    InputError for a folder that cannot be written or that we did not write.
    """
    require_replaceable(folder, kind)
    folder = Path(folder).resolve()
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        files = sorted(
            str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()
        )
        write_json(staging / MARKER, {"kind": kind, "files": files})
        require_replaceable(folder, kind)  # again: it may have changed in the meantime
        if folder.exists():
            folder.rename(old)
        staging.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        reason = write_reason(error, staging)
        if reason is None:
            raise
        raise InputError(f"--output_dir: cannot write {folder}: {reason}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises InputError, also if it is not a regular file (reading a
    pipe would block for ever).
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"cannot read {path}: it is no regular file")
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def content_hash(content: Any) -> str:
    """12 hex digits over any JSON value."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, ensure_ascii=False, default=str).encode()
    ).hexdigest()[:12]
