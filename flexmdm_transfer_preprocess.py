r"""Turn text corpora into rows of at most --max_length tokens for transfer learning: a
datasets.DatasetDict on disk, columns `input_ids` and `prompt_length` (0, except for documents with
a --prompt_field: the beginning of their text, which training keeps clean).

Laptop, local files:
    python flexmdm_transfer_preprocess.py --data_path wiki.test.raw tinyshakespeare.txt \
        --tokenizer llada_tokenizer
A small run from the Hub:
    python flexmdm_transfer_preprocess.py --corpus wikitext --max_documents 2000 \
        --output_dir data_cache/small
The paper's data:
    python flexmdm_transfer_preprocess.py --corpus openwebtext proof-pile-2 \
        --rows_per_corpus 6400000 --num_proc 32
Slurm (CPUs only; takes the same flags):
    sbatch scripts/flexmdm_transfer_preprocess.sh
Then:
    python flexmdm_transfer_openwebtext.py --variable_length --train_data data_cache/transfer ...

--rows_per_corpus balances the corpora: 200,000 steps of 64 rows, half from each, are 6.4 million
rows per corpus. Each --corpus and each --data_path (a file, or the files of a folder) is one
corpus. Documents: rows of JSONL, .jsonl.zst and parquet files (field --text_field); a plain text
file (.txt, .raw) is one document or, if it begins with a WikiText heading ` = Title = `, one per
article.

A document is tokenised once. Pieces longer than --max_length are split in two, repeatedly: after
the blank line nearest the middle (paper's code), else after the nearest newline, else at the middle
token. No text is lost, and info.json counts each kind of split. Dropped, and counted there: pieces
shorter than --min_tokens, and pieces whose text contains the mask or padding token (a model would
mistake them for its own).
Splits, seed 42: `heldout` 2 % of each corpus, `validation` 0.1 % of the remainder (paper's code),
`train`. Whole documents are held out if a corpus has 50 or more, single rows otherwise.

An interrupted run resumes: documents and tokenised parts of 100,000 documents are kept under
--cache_path, which can be deleted once the output is complete. Finished output made with the same
settings is kept; output made with other settings is replaced only with --overwrite.
"""

import json
from typing import Any

from common.command_line import ArgumentParser, require_positive
from common.errors import SAME_COMMAND_RESUMES, InputError, run
from common.files import describe_files, is_finished
from common.progress import add_quiet_flag, command, ending
from data.chunking import CUTTING_SETTINGS, cut_corpus
from data.corpora import CORPORA, hub_files, local_files
from data.corpus_splits import choose_rows
from data.token_rows import write_dataset
from data.tokenizer import open_tokenizer, tokenizer_hash


def make_parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        choices=sorted(CORPORA),
        help="data sets of the Hub, downloaded file by file",
    )
    parser.add_argument(
        "--data_path", nargs="+", default=[], help="local files or folders, each one corpus"
    )
    parser.add_argument(
        "--text_field",
        default="text",
        help="field of local JSONL and parquet rows that holds the document",
    )
    parser.add_argument(
        "--prompt_field",
        help="field with the beginning of the text, which training keeps clean (default: none)",
    )
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument("--output_dir", default="data_cache/transfer")
    parser.add_argument("--cache_path", help="intermediate files (default: OUTPUT_DIR_cache)")
    parser.add_argument(
        "--max_length", type=int, default=1024, help="longest row, in tokens (paper: 1024)"
    )
    parser.add_argument(
        "--min_tokens", type=int, default=1, help="shorter pieces are dropped and counted"
    )
    parser.add_argument(
        "--max_documents", type=int, help="read at most this many documents of each corpus"
    )
    parser.add_argument(
        "--rows_per_corpus",
        type=int,
        help="at most this many training rows per corpus, drawn with seed 42",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="processes that read and tokenise")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    add_quiet_flag(parser)
    return parser


def main() -> None:
    """Split every corpus into rows, divide them into splits, write the data set."""
    args = make_parser().parse_args()
    require_positive(
        args, "max_length", "min_tokens", "max_documents", "rows_per_corpus", "num_proc"
    )
    if not args.corpus and not args.data_path:
        raise InputError(
            f"--data_path: give local files, or --corpus with one of {', '.join(sorted(CORPORA))}"
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
    following = command(
        "flexmdm_transfer_openwebtext.py",
        *("--variable_length", "--model_name_or_path", args.tokenizer),
        *("--train_data", args.output_dir, "--job_name", "transfer"),
    )
    if is_finished(args.output_dir, settings, args.overwrite):
        ending("nothing new", args.output_dir, following)
        return
    import datasets

    corpora = {f"hub {CORPORA[name][0]}": hub_files(name) for name in args.corpus} | local
    chosen: dict[str, list[Any]]
    info: dict[str, Any]
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
        following=following,
    )


if __name__ == "__main__":
    run(main, SAME_COMMAND_RESUMES)
