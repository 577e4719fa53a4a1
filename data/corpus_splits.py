"""Which rows of a corpus are trained on, which are held out, and which are left out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError
from data.chunking import BLANK_LINE, MIDDLE, NEWLINE
from data.token_rows import row_lengths

if TYPE_CHECKING:
    import datasets


def split_rows(document: np.ndarray, seed: int = 42) -> tuple[np.ndarray, str]:
    """(labels, unit): "train", "validation" or "heldout" for each row, given each row's document
    number (rows,). labels: (rows,) array; unit: "documents" or "rows", what was split.

    2 % held out, then 0.1 % of the remainder for validation, of documents if there are 50 or more,
    of rows otherwise; at least one unit each, none with fewer than 3.
    """
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


def choose_rows(
    pieces: datasets.Dataset, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({split: row numbers}, entries of info.json) for one corpus's pieces. Raises InputError if
    --min_tokens leaves none.
    """
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
