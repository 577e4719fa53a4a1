"""What a generation run has written."""

import json
from pathlib import Path

from evaluation.generation_run import GENERATIONS


def rows_of(folder):
    """{(item, sample): row without what may differ between runs}; no row is there twice."""
    rows = [
        json.loads(line)
        for file in sorted(Path(folder).glob(GENERATIONS))
        for line in file.read_text().splitlines()
    ]
    keyed = {
        (row["item"], row["sample"]): {key: value for key, value in row.items() if key != "seconds"}
        for row in rows
    }
    assert len(keyed) == len(rows)
    return keyed
