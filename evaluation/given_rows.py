"""Rows for --score_only: generations made earlier, or by another program.

    rows, settings = read_generations(paths, name_field)          # each row checked
    rows, counts = merge_rows(rows, expected, num_samples, ...)   # in order, each once

`name` is the data set's name of an item, `item` its index.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.rows import Row, read_file, read_object
from evaluation.generation_run import GENERATIONS, KEY, is_count


def read_generations(paths: Sequence[str], name_field: str) -> tuple[list[Row], dict[str, Any]]:
    """(rows, settings found) of --score_only files: our JSONL, the older layout (one JSON object,
    its list under `generations`), or a folder of ours.

    name_field: what names an item in files of other programs ("question", "task_id"). Every row
    gets `name` (the item's) and `sample`.
    Raises InputError naming file and row: not JSON (including a truncated last line), no name, a
    field of the wrong kind, only some rows with `sample` or `item`. Settings that name no benchmark
    get `benchmark`: the first file's or folder's name.
    """
    files = []
    for path in map(Path, paths):
        inside = sorted(path.glob(GENERATIONS)) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"--score_only: folder {path} holds no {GENERATIONS}")
        files += inside
    rows: list[Row] = []
    settings: dict[str, Any] = {}
    configurations: dict[str, Path] = {}
    first: dict[str, tuple[bool, str]] = {}
    for file in files:
        if not file.is_file():
            raise InputError(f"--score_only: {file} does not exist")
        content = read_file(file, "--score_only")
        if (
            len(content) == 1
            and isinstance(content[0], dict)
            and isinstance(content[0].get("generations"), list)
        ):
            settings.update(
                {
                    key: value
                    for key, value in content[0].items()
                    if key not in ("generations", "metrics")
                }
            )
            content = content[0]["generations"]
        beside = file.with_name("settings.json")
        if beside.exists():
            settings.update(read_object(beside, "--score_only"))
        for number, row in enumerate(content, 1):
            where = f"--score_only: row {number} of {file}"
            check_generated_row(row, name_field, where)
            for name in KEY:  # all rows number their samples, or none; the same of items
                has, place = first.setdefault(name, (name in row, where))
                if has != (name in row):
                    raise InputError(
                        f"{where} has {'a' if name in row else 'no'} {name!r}, unlike"
                        f" {place.partition(': ')[2]}"
                    )
            if "configuration" in row:
                configurations.setdefault(row["configuration"], file)
            rows.append({**row, "name": row[name_field], "sample": row.get("sample")})
    if not rows:
        raise InputError(f"--score_only: {', '.join(map(str, files))}: no rows")
    if len(configurations) > 1:
        shown = ", ".join(f"{name} in {file}" for name, file in configurations.items())
        raise InputError(
            f"--score_only: rows of several configurations ({shown}); score each separately"
        )
    if not isinstance(settings.get("benchmark"), str):
        settings["benchmark"] = Path(paths[0]).resolve().name.split(".")[0]
    return rows, settings


def check_generated_row(row: Any, name_field: str, where: str) -> None:
    """Refuse a row of a generations file whose fields have the wrong types."""
    if not isinstance(row, dict) or not isinstance(row.get(name_field), str):
        raise InputError(
            f"{where} has no text under {name_field!r}"
            if isinstance(row, dict) and name_field in row
            else f"{where} has no field {name_field!r}"
        )
    for name in KEY:
        if name in row and not is_count(row[name]):
            raise InputError(f"{where}: {name!r} is not a whole number from 0 on")
    for name in ("evaluations", "positions", "length", "reference_length", "seconds"):
        value = row.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15
        ):
            raise InputError(f"{where}: {name!r} is not a number from 0 on")
    if not isinstance(row.get("configuration", ""), str):
        raise InputError(f"{where}: 'configuration' is not text")


def find_places(rows: list[Row], expected: Sequence[Hashable] | None) -> list[int]:
    """The item number of each row: its index in `expected` (names of all items in order; items may
    share a name), or without `expected` the row's own `item`, or the index of the first row with
    its name. Raises InputError for a name that is not expected, and for two names with one item
    number.

    Rows whose name several items share, and whose `item` does not tell them apart, are matched with
    these items in order.
    """
    if expected is None and rows and "item" not in rows[0]:
        expected = list(dict.fromkeys(row["name"] for row in rows))
    if expected is None:
        names: dict[int, Hashable] = {}
        for row in rows:
            if names.setdefault(row["item"], row["name"]) != row["name"]:
                raise InputError(
                    f"--score_only: item {row['item']} has two names: {_shown(names[row['item']])}"
                    f" and {_shown(row['name'])}"
                )
        return [row["item"] for row in rows]
    places_of: dict[Hashable, list[int]] = {}
    turns: dict[tuple[Hashable, int | None], int] = {}
    places: list[int] = []
    for place, name in enumerate(expected):
        places_of.setdefault(name, []).append(place)
    for row in rows:
        name, item = row["name"], row.get("item")
        if name not in places_of:
            raise InputError(f"--score_only: item {_shown(name)} is not in the data set")
        if item is None or item not in places_of[name]:
            turn = turns.get((name, row["sample"]), 0)
            turns[name, row["sample"]] = turn + 1
            item = places_of[name][turn % len(places_of[name])]
        places.append(item)
    return places


def _shown(name: Any) -> str:
    return repr(str(name if isinstance(name, str) else name[0])[:60])


def merge_rows(
    rows: list[Row],
    expected: Sequence[Hashable] | None,
    num_samples: int,
    allow_duplicates: bool,
    allow_missing: bool,
) -> tuple[list[Row], dict[str, int]]:
    """Rows in order of (item, sample), each once, with `item` (its index) and `sample`; and the
    counts {"missing", "duplicates"}.

    expected: names of all items in order, or None if unknown (then `item` numbers must be
    consecutive). Raises InputError for duplicates and for missing rows, unless allowed: then a
    duplicate is dropped (or, in rows without a sample number, is a further sample of its item), and
    missing rows are not counted.
    """
    kept: dict[tuple[int, int], Row] = {}
    seen: dict[int, int] = {}
    duplicates = 0
    for row, item in zip(rows, find_places(rows, expected)):
        sample = row["sample"]
        if sample is None:
            sample = seen.get(item, 0)
            seen[item] = sample + 1
            if sample >= num_samples and not allow_duplicates:
                raise InputError(
                    f"--score_only: item {_shown(row['name'])} occurs {sample + 1} times;"
                    " --num_samples sets the number allowed, --allow_duplicates takes all as its"
                    " samples"
                )
        elif (item, sample) in kept:
            duplicates += 1
            if not allow_duplicates:
                raise InputError(
                    f"--score_only: item {_shown(row['name'])}, sample {sample} occurs twice;"
                    " --allow_duplicates keeps the first"
                )
            continue
        kept[item, sample] = {**row, "item": item, "sample": sample}
    samples = max(sample for _, sample in kept) + 1
    items = len(expected) if expected is not None else max(item for item, _ in kept) + 1
    missing = items * samples - len(kept)  # counted, not listed: a number in a file may be 10^9
    if missing and not allow_missing:
        item, sample = next(
            (item, sample)
            for item in range(items)
            for sample in range(samples)
            if (item, sample) not in kept
        )
        name = f"{_shown(expected[item])}, " if expected is not None else ""
        raise InputError(
            f"--score_only: {missing} rows are missing, the first: {name}item {item}, sample"
            f" {sample}; --allow_missing scores the others"
        )
    return [kept[key] for key in sorted(kept)], {"missing": missing, "duplicates": duplicates}
