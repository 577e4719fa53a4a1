"""Text corpora -> tokenised pieces of at most --max_length tokens, as a data set on disk that the transfer script reads.

Laptop    python flexmdm_transfer_preprocess.py --data_path wiki.test.raw --tokenizer llada_tokenizer --output_dir data_cache/wiki
Paper     python flexmdm_transfer_preprocess.py --corpus openwebtext proof-pile-2 --num_proc 32
Slurm     sbatch scripts/flexmdm_transfer_preprocess.sh            (no GPU needed)

A document that is too long is split at the blank line nearest its middle, and each half again, until every piece fits (the paper's
code). Where there is no blank line the nearest line break serves, else the middle token; info.json says how often. Documents are
tokenised once: blank lines are found in the text and looked up in the tokens' offsets.
Of each corpus 2 % of the documents are held out, then 0.1 % of the rest are for evaluation, seed 42 (paper's code): splits "heldout",
"validation", "train". A second run with the same settings keeps what is there; a run that was stopped reuses the tokenised parts.
"""
import argparse
import hashlib
import re
import shutil
from bisect import bisect_left
from pathlib import Path

from records import InputError, read_rows, run, write_json

HUB_CORPORA = {         # name -> arguments of datasets.load_dataset; the text is in the field `text` of all of them
    "openwebtext": [{"path": "Skylion007/openwebtext", "revision": "refs/convert/parquet"}],
    "proof-pile-2": [{"path": "json", "data_files": f"hf://datasets/EleutherAI/proof-pile-2/{part}/train/*.jsonl.zst"}
                     for part in ("arxiv", "open-web-math", "algebraic-stack")],
    "wikitext": [{"path": "Salesforce/wikitext", "name": "wikitext-103-raw-v1"}],
}
HELDOUT_SHARE, VALIDATION_SHARE, SPLIT_SEED = 0.02, 0.001, 42      # [paper's code]
WHOLE, BLANK_LINE, LINE_BREAK, MIDDLE = range(4)                    # what ended a piece


# ---- splitting -----------------------------------------------------------------------------------------------------------

def cut_points(text, starts, pattern):
    """Token indices that begin exactly where a match of `pattern` ends: cutting there splits no token. starts: character of each token."""
    places = []
    for match in re.finditer(pattern, text):
        index = bisect_left(starts, match.end())
        if 0 < index < len(starts) and starts[index] == match.end():
            places.append(index)
    return places


def split_tokens(n, max_length, blank_lines, line_breaks):
    """Cut n tokens into pieces of at most max_length: [(start, end, what the piece was ended by)].

    Recursive, at the blank line nearest the middle; without one at the nearest line break, else at the middle itself. O(pieces log n).
    """
    pieces, todo = [], [(0, n, WHOLE)]
    while todo:
        start, end, ended_by = todo.pop()
        if end - start <= max_length:
            pieces.append((start, end, ended_by))
            continue
        middle = (start + end) // 2
        cut, kind = nearest(blank_lines, start, end, middle), BLANK_LINE
        if cut is None:
            cut, kind = nearest(line_breaks, start, end, middle), LINE_BREAK
        if cut is None:
            cut, kind = middle, MIDDLE
        todo += [(cut, end, ended_by), (start, cut, kind)]
    return pieces


def nearest(places, start, end, middle):
    """The element of the sorted `places` strictly between start and end that is nearest to middle, or None."""
    index = bisect_left(places, middle)
    near = [place for place in places[max(0, index - 1):index + 1] if start < place < end]
    return min(near, key=lambda place: abs(place - middle)) if near else None


def chunk(batch, tokenizer, max_length, min_tokens):
    """datasets.map over batches of `text`: rows of input_ids, with what ended each piece and whether it is too short to keep."""
    encoded = tokenizer(batch["text"], add_special_tokens=False, return_offsets_mapping=True)
    rows = {"input_ids": [], "ended_by": [], "short": []}
    for text, ids, offsets in zip(batch["text"], encoded["input_ids"], encoded["offset_mapping"]):
        if len(ids) <= max_length:
            pieces = [(0, len(ids), WHOLE)]
        else:
            starts = [start for start, _ in offsets]
            pieces = split_tokens(len(ids), max_length, cut_points(text, starts, r"\n[ \t]*\n\s*"), cut_points(text, starts, r"\n"))
        for start, end, ended_by in pieces:
            rows["input_ids"].append(ids[start:end])
            rows["ended_by"].append(ended_by)
            rows["short"].append(end - start < min_tokens)
    return rows


# ---- reading -------------------------------------------------------------------------------------------------------------

def wiki_articles(text):
    """WikiText as documents: a line ` = Title = ` begins an article (== headings == of sections do not)."""
    starts = [match.start() for match in re.finditer(r"^ = [^=\n].*? = $", text, re.MULTILINE)]
    starts = starts if starts and not text[:starts[0]].strip() else [0, *starts]
    return [article for article in (text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])) if article.strip()]


def local_documents(path, text_field):
    """Texts of one local file or folder: .txt and .raw as text (WikiText by article, others whole), the rest as rows with text_field."""
    path = Path(path)
    files = sorted(file for file in path.iterdir() if file.suffix in (".txt", ".raw")) if path.is_dir() else [path]
    if not path.exists():
        raise InputError(f"--data_path: {path} does not exist")
    if files and files[0].suffix in (".txt", ".raw"):
        try:
            texts = [file.read_text(encoding="utf-8") for file in files]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--data_path: cannot read {path}: {error}") from None
        documents = [document for file, text in zip(files, texts) for document in (wiki_articles(text) if file.suffix == ".raw" else [text])]
    else:
        documents = [row[text_field] for row in read_rows(path, fields=[text_field], flag="--data_path")]
        wrong = next((number for number, document in enumerate(documents, 1) if not isinstance(document, str)), None)
        if wrong:
            raise InputError(f"--data_path: field {text_field!r} of row {wrong} in {path} is not text")
    if not any(document.strip() for document in documents):
        raise InputError(f"--data_path: {path} holds no text")
    return documents


def read_corpora(args):
    """[(name, datasets.Dataset with a column `text`)]: every corpus of its own, because held-out rows are taken from each."""
    import datasets
    corpora = []
    for path in args.data_path:
        corpora.append((Path(path).name, datasets.Dataset.from_dict({"text": local_documents(path, args.text_field)})))
    for name in args.corpus:
        try:
            parts = [datasets.load_dataset(**part, split="train", cache_dir=args.cache_path).select_columns("text")
                     for part in HUB_CORPORA[name]]
        except Exception as error:              # the hub's client raises a dozen kinds: no network, no such set, no rights
            raise InputError(f"--corpus: cannot get {name} from the hub ({type(error).__name__}); give a local copy by --data_path") from None
        documents = datasets.concatenate_datasets(parts)
        if name == "wikitext":                  # the hub has it line by line
            documents = datasets.Dataset.from_dict({"text": wiki_articles("".join(documents["text"]))})
        corpora.append((name, documents))
    if args.max_documents:
        corpora = [(name, documents.select(range(min(args.max_documents, len(documents))))) for name, documents in corpora]
    return corpora


def hold_out(documents):
    """{"train", "validation", "heldout"} of one corpus; at least one document each where there are three."""
    n = len(documents)
    if n < 3:
        return {"train": documents}
    outer = documents.train_test_split(test_size=max(1, round(HELDOUT_SHARE * n)), seed=SPLIT_SEED)
    inner = outer["train"].train_test_split(test_size=max(1, round(VALIDATION_SHARE * n)), seed=SPLIT_SEED)
    return {"train": inner["train"], "validation": inner["test"], "heldout": outer["test"]}


# ---- what all three preprocessing scripts share: the tokenizer, and an output that is finished or not there -----------------

def open_tokenizer(name):
    """llada_utils.load_tokenizer, whose refusals name --tokenizer."""
    from llada_utils import load_tokenizer
    return load_tokenizer(name)


def tokenizer_hash(tokenizer):
    """12 hex digits of what decides its output."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:12]


def is_finished(output_dir, settings, overwrite):
    """True, and said so, when output_dir was made with these settings. Raises InputError when it was made with others."""
    from llada_utils import read_json
    output_dir = Path(output_dir)
    if not output_dir.exists() or overwrite:
        return False
    before = read_json(output_dir / "info.json")["settings"] if (output_dir / "info.json").exists() else None
    if before != settings:
        changed = [key for key in settings if before is None or before.get(key) != settings[key]]
        raise InputError(f"--output_dir: {output_dir} exists and was made with other settings ({', '.join(changed)}); --overwrite replaces it")
    print(f"{output_dir} is there already, made with the same settings")
    return True


def write_dataset(splits, output_dir, info, overwrite):
    """Save a DatasetDict and info.json as a folder that is complete or not there, and print what it holds."""
    from llada_utils import complete_folder
    if Path(output_dir).exists() and not overwrite:
        raise InputError(f"--output_dir: {output_dir} has appeared meanwhile; --overwrite replaces it")
    with complete_folder(output_dir) as staging:
        splits.save_to_disk(str(staging))
        write_json(staging / "info.json", info)
    print(f"{output_dir}: " + ", ".join(f"{key} {value}" for key, value in info.items() if key != "settings"))


# ---- command -------------------------------------------------------------------------------------------------------------

def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--corpus", nargs="+", choices=list(HUB_CORPORA), default=[], help="corpora from the hub (the paper: the first two)")
    parser.add_argument("--data_path", nargs="+", default=[], help="local .txt, .raw, JSONL or parquet, files or folders")
    parser.add_argument("--text_field", default="text", help="field of the text in JSONL and parquet")
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument("--max_length", type=int, default=1024, help="tokens of the longest piece [paper's code]")
    parser.add_argument("--min_tokens", type=int, default=1, help="shorter pieces are left out, and counted")
    parser.add_argument("--max_documents", type=int, default=0, help="only the first N documents of each corpus (0: all)")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that tokenise")
    parser.add_argument("--cache_path", default="data_cache/transfer_parts", help="parts of a run that was stopped; removed when it ends")
    parser.add_argument("--output_dir", default="data_cache/transfer")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that was made with other settings")
    args = parser.parse_args()
    if not args.corpus and not args.data_path:
        raise InputError("--corpus or --data_path: name at least one corpus or local file")
    for flag, least in (("max_length", 2), ("min_tokens", 1), ("num_proc", 1), ("max_documents", 0)):
        if getattr(args, flag) < least:
            raise InputError(f"--{flag}: {getattr(args, flag)} is below {least}")
    return args


def main():
    args = parse_args()
    missing = [path for path in args.data_path if not Path(path).exists()]
    if missing:
        raise InputError(f"--data_path: {missing[0]} does not exist")
    import datasets
    tokenizer = open_tokenizer(args.tokenizer)
    settings = {"script": "flexmdm_transfer_preprocess.py", "tokenizer": args.tokenizer, "tokenizer_hash": tokenizer_hash(tokenizer),
                **{key: getattr(args, key) for key in ("corpus", "data_path", "text_field", "max_length", "min_tokens", "max_documents")}}
    if is_finished(args.output_dir, settings, args.overwrite):
        return
    key = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
    parts_folder = Path(args.cache_path) / key
    parts_folder.mkdir(parents=True, exist_ok=True)
    made, documents_read = {}, 0
    for number, (name, documents) in enumerate(read_corpora(args)):
        documents_read += len(documents)
        for split, part in hold_out(documents).items():
            pieces = part.map(chunk, batched=True, batch_size=200, remove_columns=part.column_names, num_proc=min(args.num_proc, len(part)),
                              fn_kwargs={"tokenizer": tokenizer, "max_length": args.max_length, "min_tokens": args.min_tokens},
                              cache_file_name=str(parts_folder / f"{number}-{split}.arrow"), desc=f"{name}, {split}")
            made.setdefault(split, []).append(pieces)
    splits, info = datasets.DatasetDict(), {"settings": settings, "documents": documents_read}
    for split, parts in made.items():
        pieces = datasets.concatenate_datasets(parts).with_format("numpy")
        ended_by, short = pieces["ended_by"][:], pieces["short"][:]
        if split == "train":
            info |= {"cut_at_blank_line": int((ended_by == BLANK_LINE).sum()), "cut_at_line_break": int((ended_by == LINE_BREAK).sum()),
                     "cut_at_middle_token": int((ended_by == MIDDLE).sum()), "left_out_below_min_tokens": int(short.sum())}
        splits[split] = pieces.with_format(None).select((~short).nonzero()[0]).select_columns("input_ids")
        info[f"{split}_rows"] = len(splits[split])
    if not len(splits["train"]):
        raise InputError(f"--min_tokens: no piece has {args.min_tokens} tokens")
    write_dataset(splits, args.output_dir, info, args.overwrite)
    shutil.rmtree(parts_folder, ignore_errors=True)


if __name__ == "__main__":
    run(main)
