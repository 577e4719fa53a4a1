"""Which generated rows belong to the test split: a fixed share of all keys, the same everywhere."""

import hashlib
from collections.abc import Iterator
from typing import Any

from common.errors import InputError
from common.rows import Row


def held_out(share: float, *key: Any) -> bool:
    """True for a fixed `share` of all keys, the same on every machine and Python (hash() is
    not).
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def take_distinct(rows: Iterator[Row], n: int, key: str) -> list[Row]:
    """The first n rows of an endless iterator that differ in row[key]. Raises InputError when
    almost no new ones appear.
    """
    taken: dict[Any, Row]
    taken, misses = {}, 0
    while len(taken) < n:
        row = next(rows)
        misses = misses + 1 if row[key] in taken else 0
        taken.setdefault(row[key], row)
        if misses > 2000:
            raise InputError(
                f"--n: {n} different rows were requested; this split holds hardly more than"
                f" {len(taken)}"
            )
    return list(taken.values())
