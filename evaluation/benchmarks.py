"""The data sets of both evaluations: their items, read from a file, a folder or the Hub, and their
names in results.json.

    items = gsm8k_items(data_path)                      # data_path: --data_path, None for the Hub
    items = infill_items(data_path, "single-line")      # HumanEval infilling, or SantaCoder-FIM

Everything raises InputError naming the flag, and the row where there is one.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.hub import use_local_copies_offline
from common.rows import DATA_SUFFIXES, Row, read_rows
from evaluation.answer_rules import gold_answer
from evaluation.santacoder_fim import is_santacoder, python_items

GSM8K_HUB = ("openai/gsm8k", "main")
INFILL_HUB = "loubnabnl/humaneval_infilling"
INFILL_BENCHMARKS = {
    "single-line": "HumanEval-SingleLineInfilling",
    "multi-line": "HumanEval-MultiLineInfilling",
    "random-span": "HumanEval-RandomSpanInfilling",
    "random-span-light": "HumanEval-RandomSpanInfillingLight",
}
INFILL_FIELDS = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
# characters: longer texts are refused, so that scoring takes seconds (edit distance costs the
# product of two lengths / 64)
LONGEST_REFERENCE = 20_000


def load_hub_set(name: str, load: Callable[[], Iterable[Row]]) -> list[Row]:
    """The rows that load() downloads from the Hub."""
    use_local_copies_offline()
    try:
        return list(load())
    except Exception as error:  # the hub's client raises a dozen kinds
        raise InputError(
            f"cannot load {name} from the hub ({type(error).__name__}); give a local copy with"
            " --data_path"
        ) from None


# ---- GSM8K ---------------------------------------------------------------------------------------


def gsm8k_items(data_path: str | None) -> list[dict[str, str]]:
    """[{"question", "answer"}]. Of a folder the files with "test" in their name, if there are
    some.
    """
    if data_path:
        path = Path(data_path)
        files = (
            sorted(file for file in path.iterdir() if file.name.endswith(DATA_SUFFIXES))
            if path.is_dir()
            else [path]
        )
        files = [file for file in files if "test" in file.name] or (
            [path] if path.is_dir() else files
        )
        rows = [
            row
            for file in files
            for row in read_rows(file, fields=("question", "answer"), flag="--data_path")
        ]
    else:
        import datasets

        rows = load_hub_set(GSM8K_HUB[0], lambda: datasets.load_dataset(*GSM8K_HUB, split="test"))
    items = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    for number, item in enumerate(items, 1):
        if (
            not isinstance(item["question"], str)
            or not isinstance(item["answer"], str)
            or gold_answer(item["answer"]) is None
        ):
            raise InputError(
                f"--data_path: item {number} has no question, or no number after '####' in its"
                " answer"
            )
    return items


def gsm8k_name(data_path: str | None, items: list[Row]) -> str:
    """gsm8k for the real test set, recognised by its content; else the file's or folder's name."""
    real = len(items) == 1319 and items[0]["question"].startswith(
        "Janet\u2019s ducks lay 16 eggs per day."
    )
    return "gsm8k" if real or not data_path else Path(data_path).name.split(".")[0]


# ---- infilling -----------------------------------------------------------------------------------


def infill_file(data_path: str | None, benchmark: str) -> Path | None:
    """The file of --data_path that holds the benchmark, or None for the Hub."""
    if not data_path:
        return None
    path, official = Path(data_path), INFILL_BENCHMARKS[benchmark]
    if path.is_dir():
        for ending in (".jsonl.gz", ".jsonl", ".parquet"):
            if (path / f"{official}{ending}").exists():
                return path / f"{official}{ending}"
        raise InputError(
            f"--data_path: folder {path} holds no {official}.jsonl.gz (or .jsonl, .parquet)"
        )
    return path


def infill_name(data_path: str | None, benchmark: str) -> str:
    """humaneval-infill single-line and so on, or the file's own name if it is not an official
    set.
    """
    file = infill_file(data_path, benchmark)
    if file is None:
        return f"humaneval-infill {benchmark}"
    stem = file.name.split(".")[0]
    for name, official in INFILL_BENCHMARKS.items():
        if stem == official:
            if name != benchmark:
                raise InputError(f"--benchmark {benchmark}: {file} is the benchmark {name}")
            return f"humaneval-infill {name}"
    return stem


def _infill_hub_rows(name: str) -> Any:
    """One of the official sets. Sets that still have a loading script are read from the Hub's
    converted copy.
    """
    import datasets

    try:
        return datasets.load_dataset(INFILL_HUB, name, split="test")
    except (RuntimeError, ValueError):
        return datasets.load_dataset(
            INFILL_HUB, name, split="test", revision="refs/convert/parquet"
        )


def infill_items(data_path: str | None, benchmark: str) -> list[dict[str, str]]:
    """Items in the fields of HumanEval infilling, each task_id once."""
    file, name = infill_file(data_path, benchmark), INFILL_BENCHMARKS[benchmark]
    if file is None:
        rows = load_hub_set(INFILL_HUB, lambda: _infill_hub_rows(name))
    elif is_santacoder(file, "--data_path"):
        rows = python_items(file, "--data_path")
    else:
        rows = read_rows(file, fields=INFILL_FIELDS, flag="--data_path")
    items, seen = [], set()
    for number, row in enumerate(rows, 1):
        item = {field: row[field] for field in INFILL_FIELDS}
        wrong = [field for field in INFILL_FIELDS if not isinstance(item[field], str)]
        if wrong:
            raise InputError(f"--data_path: field {wrong[0]!r} of row {number} is not text")
        if len(item["canonical_solution"]) > LONGEST_REFERENCE:
            raise InputError(
                f"--data_path: 'canonical_solution' of row {number} has more than"
                f" {LONGEST_REFERENCE:,} characters"
            )
        if item["task_id"] in seen:
            raise InputError(f"--data_path: task_id {item['task_id']!r} occurs twice")
        seen.add(item["task_id"])
        items.append(item)
    return items
