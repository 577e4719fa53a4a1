"""Documents of text corpora: local files (plain text, JSONL, parquet) and data sets of the hub."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import InputError
from common.files import open_text
from common.hub import use_local_copies_offline
from common.rows import DATA_SUFFIXES, Row, read_file, stream_jsonl

# (hub id, revision, file name)
HubFile: TypeAlias = tuple[str, str, str]
Source: TypeAlias = str | HubFile
TEXT_SUFFIXES = (".txt", ".raw")
# name: hub id, revision, files. The first two sets' main revisions rest on loading scripts, so
# their files are read
CORPORA = {
    "openwebtext": ("Skylion007/openwebtext", "refs/convert/parquet", "*train/*.parquet"),
    "proof-pile-2": ("EleutherAI/proof-pile-2", "main", "*/train/*.jsonl.zst"),
    "wikitext": ("Salesforce/wikitext", "main", "wikitext-103-raw-v1/train-*.parquet"),
}
WIKI_HEADING = re.compile(r" = (?!= )\S.*(?<! =) = ?\n?")


def wiki_articles(lines: Iterable[str]) -> Iterator[str]:
    """Articles of a WikiText file: each begins at a heading ` = Title = `, which follows a blank
    line where the file has any.

    (Body lines such as ` = 1 henry and capacitance C = ` look the same; copies without blank lines
    are cut there too.)
    """
    article: list[str]
    article, after_blank, any_blank = [], True, False
    for line in lines:
        if article and WIKI_HEADING.fullmatch(line) and (after_blank or not any_blank):
            yield "".join(article)
            article = []
        article.append(line)
        after_blank = not line.strip()
        any_blank |= after_blank
    yield "".join(article)


def text_documents(path: str | Path) -> Iterator[str]:
    """Documents of a plain text file, all line ends as newlines; none of an empty file. Raises
    InputError for a file that cannot be read.
    """
    try:
        with open_text(path) as file:
            head = []
            for line in file:
                head.append(line)
                if line.strip():
                    break
            lines = chain(head, file)
            if head and WIKI_HEADING.fullmatch(head[-1]):
                yield from wiki_articles(lines)
            elif head:
                yield "".join(lines)
    except (OSError, ValueError) as error:  # ValueError: no UTF-8
        raise InputError(f"--data_path: cannot read {path}: {error}") from None


def parquet_rows(path: str | Path, fields: Sequence[str | None]) -> Iterator[Row]:
    """Rows of a parquet file with those of `fields` that it has, a thousand in memory at a time.
    Raises InputError for a file that cannot be read.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        columns = [field for field in fields if field in file.schema_arrow.names]
        for batch in file.iter_batches(1000, columns=columns):
            yield from batch.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"--data_path: cannot read {path}: {error}") from None


def file_documents(
    path: str | Path, text_field: str, prompt_field: str | None = None
) -> Iterator[tuple[str, int]]:
    """(document, characters of its prompt) of one local file. Raises InputError naming the row that
    has no text or another beginning.
    """
    name = str(path)
    if name.endswith(TEXT_SUFFIXES):
        yield from ((text, 0) for text in text_documents(path))
        return
    if name.endswith(".parquet"):
        rows: Iterable[Any] = parquet_rows(path, [text_field, prompt_field])
    elif name.endswith((".json", ".json.gz")):
        rows = read_file(path, "--data_path")
    else:
        rows = stream_jsonl(path, "--data_path")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
            raise InputError(
                f"--text_field: row {number} of {path} has no text in a field {text_field!r}"
            )
        prompt = row.get(prompt_field) or ""  # type: ignore[arg-type]  # None is no key
        if not isinstance(prompt, str) or not row[text_field].startswith(prompt):
            raise InputError(
                f"--prompt_field: the text of row {number} of {path} does not begin with its"
                f" {prompt_field!r}"
            )
        yield row[text_field], len(prompt)


def documents(
    files: Sequence[Source], text_field: str, prompt_field: str | None, max_documents: int | None
) -> Iterator[Row]:
    """{"text": document, "prompt_characters": how many of its first stay clean in training}, one at
    a time.

    files: each a local path, or (hub id, revision, file name), which is fetched when its turn
    comes. Raises InputError for a local file that cannot be read to its end or holds no document.
    """

    def found():
        for file in files:
            if isinstance(file, str):
                empty = True
                for document in file_documents(file, text_field, prompt_field):
                    empty = False
                    yield document
                if empty:
                    raise InputError(f"--data_path: {file} holds no documents")
                continue
            from huggingface_hub import hf_hub_download

            repo, revision, name = file
            try:
                path = hf_hub_download(repo, name, repo_type="dataset", revision=revision)
            except Exception as error:
                # the hub's client raises a dozen kinds: no network, no such set, no rights
                raise InputError(
                    f"--corpus: cannot fetch {name} of {repo} ({type(error).__name__}); "
                    "the same command resumes from there"
                ) from None
            texts = (text for text, _ in file_documents(path, "text"))
            if repo == CORPORA["wikitext"][0]:  # a row is a line there, a blank line an empty row
                texts = wiki_articles(line or " \n" for line in texts)
            yield from ((text, 0) for text in texts)

    for text, prompt in islice(found(), max_documents):
        yield {"text": text, "prompt_characters": prompt}


def local_files(path: str | Path) -> list[str]:
    """The files of one --data_path as strings. Raises InputError: not there, of no known kind,
    empty.
    """
    suffixes = (*DATA_SUFFIXES, *TEXT_SUFFIXES)
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"--data_path: {path} does not exist")
    files = (
        sorted(file for file in folder.iterdir() if file.name.endswith(suffixes))
        if folder.is_dir()
        else [folder]
    )
    if not files or not files[0].name.endswith(suffixes):
        raise InputError(f"--data_path: {path} is or holds none of {', '.join(suffixes)}")
    for file in files:
        if not file.stat().st_size:
            raise InputError(f"--data_path: {file} is empty")
    return [str(file) for file in files]


def hub_files(corpus: str) -> list[HubFile]:
    """[(hub id, revision, file name)] of one of CORPORA. Raises InputError where the hub cannot be
    asked or has none.
    """
    from huggingface_hub import HfApi

    repo, revision, pattern = CORPORA[corpus]
    use_local_copies_offline()
    try:
        names = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
    except Exception as error:
        # the hub's client raises a dozen kinds: no network, no such set, no rights
        raise InputError(
            f"--corpus {corpus}: cannot list {repo} on the hub ({type(error).__name__}); "
            "give a local copy by --data_path"
        ) from None
    files = [(repo, revision, name) for name in sorted(names) if fnmatch.fnmatch(name, pattern)]
    if not files:
        raise InputError(
            f"--corpus {corpus}: {repo} on the hub has no files {pattern} (any more); give a local"
            " copy by --data_path"
        )
    return files
