r"""Text corpora -> rows of at most --max_length tokens for transfer learning: a
datasets.DatasetDict on disk, columns `input_ids` and `prompt_length` (0, but for documents with a
--prompt_field: the beginning of their text that training keeps clean).

Laptop, local files:   python flexmdm_transfer_preprocess.py --data_path wiki.test.raw tinyshakespeare.txt --tokenizer llada_tokenizer
Small hub run:         python flexmdm_transfer_preprocess.py --corpus wikitext --max_documents 2000 --output_dir data_cache/small
The paper's data:      python flexmdm_transfer_preprocess.py --corpus openwebtext proof-pile-2 --rows_per_corpus 6400000 --num_proc 32
Slurm:                 sbatch scripts/flexmdm_transfer_preprocess.sh             (CPUs only; the same flags may follow)
Then:                  python flexmdm_transfer_openwebtext.py --variable_length --train_data data_cache/transfer ...

--rows_per_corpus makes corpora equal: 200,000 steps of 64 rows, half from each, are 6.4 million
rows a corpus. Every --corpus and every --data_path (a file, or a folder's files) is one corpus.
Documents: rows of JSONL, .jsonl.zst (needs `pip install zstandard`) and parquet files (field
--text_field); a plain text file (.txt, .raw) is one document, or, where it begins with a WikiText
heading ` = Title = `, one an article.

A document is tokenised once. While a piece is longer than --max_length it is cut in two after the
blank line nearest its middle (paper's code), without a blank line after the nearest newline,
without a newline at the middle token: nothing is lost, and info.json says how often each happened.
Left out, and counted there: pieces shorter than --min_tokens, and pieces in whose text the mask or
padding token is written out (a model would take them for its own).
Splits, seed 42: `heldout` 2 % of each corpus, `validation` 0.1 % of the rest (paper's code),
`train`. Whole documents are held out where a corpus has 50 or more, single rows otherwise.

A stopped run goes on where it was: documents and tokenised parts of 100,000 documents lie under
--cache_path, which may be deleted when the output is there. A finished output made with the same
settings is kept; with others the script refuses unless --overwrite.
"""

import argparse
import fnmatch
import hashlib
import io
import json
import os
import re
from itertools import chain, islice
from pathlib import Path

from common.command_line import require_positive
from common.errors import InputError, run
from common.files import describe_files, is_finished, write_json
from common.rows import DATA_SUFFIXES, read_file, stream_jsonl

TEXT_SUFFIXES = (".txt", ".raw")
# name: hub id, revision, files. The first two sets' main revisions rest on loading scripts, so
# their files are read
CORPORA = {
    "openwebtext": ("Skylion007/openwebtext", "refs/convert/parquet", "*train/*.parquet"),
    "proof-pile-2": ("EleutherAI/proof-pile-2", "main", "*/train/*.jsonl.zst"),
    "wikitext": ("Salesforce/wikitext", "main", "wikitext-103-raw-v1/train-*.parquet"),
}
DOCUMENTS_A_PART = 100_000
# what tokenised parts depend on
CUTTING_SETTINGS = ("tokenizer_hash", "text_field", "prompt_field", "max_length", "max_documents")
# what a piece begins with: the document, or a cut of one of three kinds
WHOLE, BLANK_LINE, NEWLINE, MIDDLE = range(4)
# ends after the last newline of a run of blank lines
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
WIKI_HEADING = re.compile(r" = (?!= )\S.*(?<! =) = ?\n?")


# ---- what every preprocessing script shares ------------------------------------------------------


def open_tokenizer(name, num_proc):
    """load_tokenizer for num_proc processes; every failure is an InputError that names --tokenizer."""
    from llada_utils import load_tokenizer

    if num_proc > 1:
        # the tokenizer's own threads do not survive a fork
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return load_tokenizer(name)
    except InputError as error:
        message = str(error)
        raise InputError(
            message if "--tokenizer" in message else f"--tokenizer: {message}"
        ) from None
    except Exception as error:  # the tokenizers library raises bare Exceptions for broken files
        raise InputError(f"--tokenizer: cannot read {name}: {error}") from None


def tokenizer_hash(tokenizer):
    """12 hex digits over vocabulary, merges, rules and chat template."""
    content = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def write_dataset(splits, output_dir, info, num_proc=None):
    """A DatasetDict and its info.json as one folder, complete or not there. Prints what was
    written.
    """
    from common.files import complete_folder

    with complete_folder(output_dir) as folder:
        splits.save_to_disk(str(folder), num_proc=num_proc)
        write_json(folder / "info.json", info)
    print(
        f"wrote {output_dir}: "
        + ", ".join(f"{name} {len(rows)} rows" for name, rows in splits.items())
    )


# ---- documents -----------------------------------------------------------------------------------


def wiki_articles(lines):
    """Articles of a WikiText file: each begins at a heading ` = Title = `, which follows a blank
    line where the file has any.

    (Body lines such as ` = 1 henry and capacitance C = ` look the same; copies without blank lines
    are cut there too.)
    """
    article, after_blank, any_blank = [], True, False
    for line in lines:
        if article and WIKI_HEADING.fullmatch(line) and (after_blank or not any_blank):
            yield "".join(article)
            article = []
        article.append(line)
        after_blank = not line.strip()
        any_blank |= after_blank
    yield "".join(article)


def text_documents(path):
    """Documents of a plain text file, all line ends as newlines."""
    try:
        with open(path, encoding="utf-8") as file:
            head = []
            for line in file:
                head.append(line)
                if line.strip():
                    break
            lines = chain(head, file)
            if head and WIKI_HEADING.fullmatch(head[-1]):
                yield from wiki_articles(lines)
            else:
                yield "".join(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--data_path: cannot read {path}: {error}") from None


def zst_rows(path):
    """Rows of a .jsonl.zst file."""
    try:
        import zstandard
    except ImportError:
        raise InputError(
            f"{path} is compressed by zstd; to read it: pip install zstandard"
        ) from None
    try:
        with (
            open(path, "rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as content,
        ):
            for line in io.TextIOWrapper(content, encoding="utf-8"):
                yield json.loads(line)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise InputError(f"--data_path: cannot read {path}: {error}") from None


def parquet_rows(path, fields):
    """Rows of a parquet file with those of `fields` that it has, a thousand in memory at a time."""
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--data_path: cannot read {path}: {error}") from None
    columns = [field for field in fields if field in file.schema_arrow.names]
    for batch in file.iter_batches(1000, columns=columns):
        yield from batch.to_pylist()


def file_documents(path, text_field, prompt_field=None):
    """(document, characters of its prompt) of one local file. Raises InputError naming the row that
    has no text or another beginning.
    """
    name = str(path)
    if name.endswith(TEXT_SUFFIXES):
        yield from ((text, 0) for text in text_documents(path))
        return
    if name.endswith(".parquet"):
        rows = parquet_rows(path, [text_field, prompt_field])
    elif name.endswith(".zst"):
        rows = zst_rows(path)
    else:
        rows = (
            stream_jsonl(path, "--data_path")
            if ".jsonl" in name
            else read_file(path, "--data_path")
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
            raise InputError(
                f"--text_field: row {number} of {path} has no text in a field {text_field!r}"
            )
        prompt = row.get(prompt_field) or ""
        if not isinstance(prompt, str) or not row[text_field].startswith(prompt):
            raise InputError(
                f"--prompt_field: the text of row {number} of {path} does not begin with its"
                f" {prompt_field!r}"
            )
        yield row[text_field], len(prompt)


def documents(files, text_field, prompt_field, max_documents):
    """{"text": document, "prompt_characters": how many of its first stay clean in training}, one at
    a time.

    files: each a local path, or (hub id, revision, file name), which is fetched when its turn
    comes.
    """

    def found():
        for file in files:
            if isinstance(file, str):
                yield from file_documents(file, text_field, prompt_field)
                continue
            from huggingface_hub import hf_hub_download

            repo, revision, name = file
            try:
                path = hf_hub_download(repo, name, repo_type="dataset", revision=revision)
            except Exception as error:
                # the hub's client raises a dozen kinds: no network, no such set, no rights
                raise InputError(
                    f"--corpus: cannot fetch {name} of {repo} ({type(error).__name__}); "
                    "the same command goes on from there"
                ) from None
            texts = (text for text, _ in file_documents(path, "text"))
            if repo == CORPORA["wikitext"][0]:  # a row is a line there, a blank line an empty row
                texts = wiki_articles(line or " \n" for line in texts)
            yield from ((text, 0) for text in texts)

    for text, prompt in islice(found(), max_documents):
        yield {"text": text, "prompt_characters": prompt}


def local_files(path):
    """The files of one --data_path as strings. Raises InputError: not there, of no known kind,
    empty.
    """
    suffixes = (*DATA_SUFFIXES, ".jsonl.zst", *TEXT_SUFFIXES)
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
    if not any(file.stat().st_size for file in files):
        raise InputError(f"--data_path: {path} is empty")
    return [str(file) for file in files]


def hub_files(corpus):
    """[(hub id, revision, file name)] of one of CORPORA."""
    from huggingface_hub import HfApi

    repo, revision, pattern = CORPORA[corpus]
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


# ---- pieces --------------------------------------------------------------------------------------


def cut_document(text, starts, max_length):
    """[(start, end, kind)] of a document's pieces in order, in tokens; kind says what a piece
    begins with.

    starts: (n,) array, the character at which each token begins, ascending. While a piece is too
    long it is cut nearest its middle: at the first token after a blank line, else after a newline,
    else at the middle. One bisection a cut, no tokenising again.
    """
    import numpy as np

    if len(starts) <= max_length:
        return [(0, len(starts), WHOLE)] if len(starts) else []
    candidates = [
        (
            kind,
            np.unique(np.searchsorted(starts, [match.end() for match in pattern.finditer(text)])),
        )
        for kind, pattern in ((BLANK_LINE, BLANK_LINES), (NEWLINE, re.compile("\n")))
    ]
    pieces, waiting = [], [(0, len(starts), WHOLE)]
    while waiting:
        start, end, begins_with = waiting.pop()
        if end - start <= max_length:
            pieces.append((start, end, begins_with))
            continue
        middle = (start + end) / 2
        for candidate, places in candidates:
            near = np.searchsorted(places, middle)
            inside = [
                int(place) for place in places[max(near - 1, 0) : near + 1] if start < place < end
            ]
            if inside:
                kind, cut = candidate, min(inside, key=lambda place: abs(place - middle))
                break
        else:
            kind, cut = MIDDLE, (start + end) // 2
        waiting += [(cut, end, kind), (start, cut, begins_with)]  # the left part is taken up first
    return pieces


def tokenise_and_cut(batch, numbers, tokenizer, max_length, first):
    """datasets.map function: documents -> pieces with `prompt_length`, `document` (its number),
    `begins_with` and `forbidden`.
    """
    import numpy as np

    forbidden = {tokenizer.mask_token_id, tokenizer.pad_token_id}
    encoded = tokenizer(
        batch["text"], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    rows = {
        "input_ids": [],
        "prompt_length": [],
        "document": [],
        "begins_with": [],
        "forbidden": [],
    }
    columns = zip(
        numbers,
        batch["text"],
        batch["prompt_characters"],
        encoded["input_ids"],
        encoded["offset_mapping"],
    )
    for number, text, prompt, ids, offsets in columns:
        # (n,)
        starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(offsets))
        for start, end, kind in cut_document(text, starts, max_length):
            rows["input_ids"].append(ids[start:end])
            # only a document that stays whole keeps its prompt
            whole_prompt = prompt if end - start == len(ids) else 0
            rows["prompt_length"].append(
                sum(stop <= whole_prompt for _, stop in offsets) if whole_prompt else 0
            )
            rows["document"].append(first + number)
            rows["begins_with"].append(kind)
            rows["forbidden"].append(not forbidden.isdisjoint(ids[start:end]))
    return rows


def split_rows(document, seed=42):
    """(labels, unit): "train", "validation" or "heldout" for each row, given each row's document
    number (rows,).

    2 % held out, then 0.1 % of the rest for validation, of documents where there are 50 or more, of
    rows otherwise; at least one unit each, none with fewer than 3.
    """
    import numpy as np

    units, unit_of_row = np.unique(document, return_inverse=True)
    unit = "documents" if len(units) >= 50 else "rows"
    if unit == "rows":
        unit_of_row = np.arange(len(document))
    n = int(unit_of_row.max()) + 1
    labels = np.full(n, "train", dtype="<U10")
    if n >= 3:
        order = np.random.default_rng(seed).permutation(n)
        heldout = max(1, round(0.02 * n))
        labels[order[:heldout]] = "heldout"
        labels[order[heldout : heldout + max(1, round(0.001 * (n - heldout)))]] = "validation"
    return labels[unit_of_row], unit


def input_error_behind(error):
    """The InputError that datasets wrapped, or None."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def cut_corpus(name, files, key, tokenizer, args):
    """(all pieces of a corpus, number of its documents). Everything done is found again under
    --cache_path by `key`.
    """
    import datasets

    processes = min(args.num_proc, len(files)) if args.max_documents is None else 1
    # datasets deals a list out, one call of `documents` a file
    files = files if args.max_documents is None else tuple(files)
    cache = Path(args.cache_path or f"{args.output_dir}_cache")
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        (cache / fingerprint).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--cache_path: cannot write {cache}: {error.strerror}") from None
    features = datasets.Features(
        {"text": datasets.Value("large_string"), "prompt_characters": datasets.Value("int64")}
    )
    try:
        texts = datasets.Dataset.from_generator(
            documents,
            features=features,
            cache_dir=str(cache / "documents"),
            gen_kwargs={"files": files}
            | {
                name: getattr(args, name)
                for name in ("text_field", "prompt_field", "max_documents")
            },
            num_proc=processes if processes > 1 else None,
            fingerprint=fingerprint,
        )
    except Exception as error:
        if (refusal := input_error_behind(error)) is not None:
            raise refusal from None
        raise
    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int32")),
            "prompt_length": datasets.Value("int32"),
            "document": datasets.Value("int64"),
            "begins_with": datasets.Value("int8"),
            "forbidden": datasets.Value("bool"),
        }
    )
    parts = []
    for first in range(0, len(texts), DOCUMENTS_A_PART):
        part = texts.select(range(first, min(first + DOCUMENTS_A_PART, len(texts))))
        parts.append(
            part.map(
                tokenise_and_cut,
                batched=True,
                batch_size=32,
                with_indices=True,
                remove_columns=texts.column_names,
                features=features,
                fn_kwargs={"tokenizer": tokenizer, "max_length": args.max_length, "first": first},
                num_proc=min(args.num_proc, len(part)) if args.num_proc > 1 else None,
                new_fingerprint=f"{fingerprint}{first}",
                cache_file_name=str(cache / fingerprint / f"part_{first:012d}.arrow"),
                desc=f"{name}, from document {first}",
            )
        )
    if not sum(map(len, parts)):
        raise InputError(f"--data_path / --corpus: {name} holds no text")
    return datasets.concatenate_datasets(parts), len(texts)


def choose_rows(pieces, args):
    """({split: row numbers}, what info.json says) of one corpus's pieces."""
    import numpy as np

    from noise_stream import row_lengths

    lengths = row_lengths(pieces)
    document, begins_with, forbidden = (
        pieces.data.column(column).to_numpy() for column in ("document", "begins_with", "forbidden")
    )
    short = lengths < args.min_tokens
    rows = np.flatnonzero(~short & ~forbidden)
    if not len(rows):
        raise InputError(f"--min_tokens {args.min_tokens}: no piece of the corpus is left")
    labels, unit = split_rows(document[rows])
    splits = {label: rows[labels == label] for label in ("train", "validation", "heldout")}
    over = 0
    if args.rows_per_corpus is not None and len(splits["train"]) > args.rows_per_corpus:
        over = len(splits["train"]) - args.rows_per_corpus
        splits["train"] = np.sort(
            np.random.default_rng(42).choice(splits["train"], args.rows_per_corpus, replace=False)
        )
    cuts = np.bincount(begins_with, minlength=4)
    return splits, {
        "documents_with_text": len(np.unique(document)),
        "pieces": len(pieces),
        "tokens": int(lengths.sum()),
        "cuts": {
            "blank_line": int(cuts[BLANK_LINE]),
            "newline": int(cuts[NEWLINE]),
            "middle_token": int(cuts[MIDDLE]),
        },
        "left_out": {
            "shorter_than_min_tokens": int(short.sum()),
            "mask_or_padding_token_in_text": int((forbidden & ~short).sum()),
            "over_rows_per_corpus": over,
        },
        "split_by": unit,
        "rows": {label: len(chosen) for label, chosen in splits.items()},
        "tokens_by_split": {label: int(lengths[chosen].sum()) for label, chosen in splits.items()},
    }


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        choices=sorted(CORPORA),
        help="sets of the hub; fetched file by file",
    )
    parser.add_argument(
        "--data_path", nargs="+", default=[], help="local files or folders; each is a corpus"
    )
    parser.add_argument(
        "--text_field",
        default="text",
        help="field of local JSONL and parquet rows that is the document",
    )
    parser.add_argument(
        "--prompt_field",
        help="field with the beginning of the text that training keeps clean (default: none)",
    )
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument("--output_dir", default="data_cache/transfer")
    parser.add_argument("--cache_path", help="work files of a run (default: OUTPUT_DIR_cache)")
    parser.add_argument(
        "--max_length", type=int, default=1024, help="longest row, in tokens (paper: 1024)"
    )
    parser.add_argument(
        "--min_tokens", type=int, default=1, help="shorter pieces are left out and counted"
    )
    parser.add_argument(
        "--max_documents", type=int, help="read only the first so many of each corpus"
    )
    parser.add_argument(
        "--rows_per_corpus",
        type=int,
        help="at most so many training rows of each corpus, drawn with seed 42",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="processes that read and tokenise")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    return parser


def main():
    args = make_parser().parse_args()
    require_positive(
        args, "max_length", "min_tokens", "max_documents", "rows_per_corpus", "num_proc"
    )
    if not args.corpus and not args.data_path:
        raise InputError(
            f"--data_path: name local files, or by --corpus one of {', '.join(sorted(CORPORA))}"
        )
    local = {path: local_files(path) for path in args.data_path}
    tokenizer = open_tokenizer(args.tokenizer, args.num_proc)
    settings = {
        "script": "flexmdm_transfer_preprocess.py",
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "seed": 42,
    }
    settings |= {
        name: getattr(args, name)
        for name in (
            "text_field",
            "prompt_field",
            "max_length",
            "min_tokens",
            "max_documents",
            "rows_per_corpus",
        )
    }
    sources = {f"hub {CORPORA[name][0]}": None for name in args.corpus} | {
        path: describe_files(files) for path, files in local.items()
    }
    settings["sources"] = [described or name for name, described in sources.items()]
    if is_finished(args.output_dir, settings, args.overwrite):
        return
    import datasets

    corpora = {f"hub {CORPORA[name][0]}": hub_files(name) for name in args.corpus} | local
    chosen, info = {"train": [], "validation": [], "heldout": []}, {}
    for name, files in corpora.items():
        key = [sources[name] or name] + [settings[part] for part in CUTTING_SETTINGS]
        pieces, documents_read = cut_corpus(name, files, key, tokenizer, args)
        splits, about = choose_rows(pieces, args)
        info[name] = {
            "documents": documents_read,
            "documents_without_text": documents_read - about["documents_with_text"],
        } | about
        for split, rows in splits.items():
            if len(rows):
                chosen[split].append(
                    pieces.select_columns(["input_ids", "prompt_length"]).select(rows)
                )
        print(f"{name}: {json.dumps(info[name])}")
    result = datasets.DatasetDict(
        {split: datasets.concatenate_datasets(parts) for split, parts in chosen.items() if parts}
    )
    write_dataset(
        result,
        args.output_dir,
        {"settings": settings, "tokenizer": args.tokenizer, "corpora": info},
        num_proc=(
            args.num_proc
            if args.num_proc > 1 and min(map(len, result.values())) >= args.num_proc
            else None
        ),
    )


if __name__ == "__main__":
    run(main)
