"""Documents -> rows of at most max_length tokens: where long ones are cut."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from data.corpora import Source, documents
from data.tokenizer import reserved_ids

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from transformers import PreTrainedTokenizerFast

DOCUMENTS_A_PART = 100_000
# what tokenised parts depend on
CUTTING_SETTINGS = ("tokenizer_hash", "text_field", "prompt_field", "max_length", "max_documents")
# what a piece begins with: the document, or a cut of one of three kinds
WHOLE, BLANK_LINE, NEWLINE, MIDDLE = range(4)
# ends after the last newline of a run of blank lines
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def cut_document(text: str, starts: np.ndarray, max_length: int) -> list[tuple[int, int, int]]:
    """[(start, end, kind)] of a document's pieces in order, in tokens; kind says what a piece
    begins with.

    starts: (n,) array, the character at which each token begins, ascending. While a piece is too
    long it is split nearest its middle: at the first token after a blank line, else after a
    newline, else at the middle. One bisection per split, without tokenising again.
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


def tokenise_and_cut(
    batch: dict[str, list[Any]],
    numbers: Sequence[int],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    first: int,
) -> dict[str, list[Any]]:
    """datasets.map function: documents -> pieces with `prompt_length`, `document` (its number),
    `begins_with` and `forbidden`.

    numbers: each document's place in this part; first: what the part counts from.
    """
    import numpy as np

    forbidden = set(reserved_ids(tokenizer).values())
    encoded = tokenizer(
        batch["text"], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    rows: dict[str, list[Any]] = {
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


def input_error_behind(error: BaseException | None) -> InputError | None:
    """The InputError that datasets wrapped, or None."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def cut_corpus(
    name: str,
    files: Sequence[Source],
    key: list[Any],
    tokenizer: PreTrainedTokenizerFast,
    args: argparse.Namespace,
) -> tuple[datasets.Dataset, int]:
    """(all pieces of a corpus, number of its documents). Finished work is cached under --cache_path
    by `key`. Raises InputError for files that cannot be read or hold no text.

    name: for messages; key: everything the pieces depend on; args: parsed flags.
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
