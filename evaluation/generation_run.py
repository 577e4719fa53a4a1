"""The loop of both evaluations: which rows are missing, generate them in batches, append each, and
know when all are there.

    tasks = make_tasks(costs, num_samples)                     # one a (item, sample)
    run = GenerationRun(output_dir, settings, tasks)           # refuses a folder with rows of another configuration
    run.generate(rows_per_call, generate_batch, judge)           # this process's share; a torn last line is cut off, finished rows stay
    rows = run.collect()                                       # process 0: all rows in order of (item, sample); None where rows are missing

A row is keyed by (item, sample) and carries the hash of the settings it was generated with. One
file a process (`generations-000.jsonl`, ...), appended after every call of the sampler; every
process reads all of them, so a run may be stopped at any moment and go on with another number of
processes or another batch size. Random numbers follow from (seed, item, sample) alone. SIGTERM or
SIGUSR1 (a scheduler's warning) ends the run after the call in hand, with exit code 0 and a line
that says what is missing.

Nothing here imports torch at import.
"""

import signal
import sys
import time
from pathlib import Path

from common.command_line import process_rank
from common.errors import InputError
from common.files import content_hash, lock_for_writing, write_json
from common.rows import RowWriter, read_file, read_finished, read_object

GENERATIONS = "generations-*.jsonl"
KEY = ("item", "sample")


def is_count(value):
    """Whether a value is an integer from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def make_tasks(costs, num_samples):
    """[{"item", "sample"}], long rows first (memory runs out at once or never, and batches hold
    rows of like length).

    costs: tokens of each item's prompt.
    """
    order = sorted(range(len(costs)), key=lambda item: (-costs[item], item))
    return [{"item": item, "sample": sample} for item in order for sample in range(num_samples)]


class Stop:
    """Whether SIGTERM or SIGUSR1 has come. Install it before slow work begins."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, *_):
        self.asked = True
        # scripts/launch.sh repeats it; one at the process's very end would kill it
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class GenerationRun:
    """Rows of one configuration in one folder.

    settings: everything that the generated text depends on (and nothing else: batch size, device
    and number of processes do not belong there). Raises InputError where output_dir holds rows of
    other settings, or where another process is writing this process's file.
    """

    def __init__(self, output_dir, settings, tasks, stop=None):
        self.folder, self.tasks, self.stop = Path(output_dir), tasks, stop or Stop()
        self.rank, self.world_size = process_rank()
        self.configuration = content_hash(settings)
        self._check_settings(settings)
        self.path = self.folder / f"generations-{self.rank:03d}.jsonl"
        self.lock = self._lock()

    def _check_settings(self, settings):
        path = self.folder / "settings.json"
        if path.exists():
            there = read_object(path, "--output_dir")
            if content_hash(there) != self.configuration:
                names = [
                    name
                    for name in sorted({*there, *settings})
                    if there.get(name) != settings.get(name)
                ]
                shown = ", ".join(
                    f"{name}: {there.get(name)!r} there, {settings.get(name)!r} now"
                    for name in names[:4]
                )
                raise InputError(
                    f"--output_dir: {self.folder} holds generations made with other settings"
                    f" ({shown}); choose another folder"
                )
        elif next(self.folder.glob(GENERATIONS), None):
            raise InputError(
                f"--output_dir: {self.folder} holds generations, but no settings.json that says how"
                " they were made"
            )
        else:
            write_json(path, settings)
        self.finished()

    def _lock(self):
        """Two processes that append to one file would write rows twice. File systems without locks
        go without.
        """
        return lock_for_writing(self.path)

    def finished(self):
        """{(item, sample): row} of all processes' files. Raises InputError for a row of another
        configuration.
        """
        rows = {}
        for path in sorted(self.folder.glob(GENERATIONS)):
            for number, row in enumerate(read_finished(path), 1):
                if not isinstance(row, dict) or not all(is_count(row.get(name)) for name in KEY):
                    raise InputError(
                        f"--output_dir: row {number} of {path} is no row of an evaluation (it has"
                        " no item and sample number)"
                    )
                if row.get("configuration") != self.configuration:
                    raise InputError(
                        f"--output_dir: {path} has a row of another configuration"
                        f" ({row.get('configuration')}, this run is {self.configuration}); choose"
                        " another folder"
                    )
                rows.setdefault((row["item"], row["sample"]), row)
        return rows

    def generate(self, rows_per_call, generate_batch, judge=None):
        """Generate what is missing of this process's share of the tasks.

        generate_batch(tasks) -> a dict of row fields for each task; judge(row) -> whether it is
        right, for the progress bar.
        """
        from tqdm import tqdm

        finished = self.finished()
        share = self.tasks[self.rank :: self.world_size]
        missing = [task for task in share if (task["item"], task["sample"]) not in finished]
        rows = [row for task in share if (row := finished.get((task["item"], task["sample"])))]
        right, count = sum(map(judge, rows)) if judge else 0, len(rows)
        bar = tqdm(
            total=len(share),
            initial=count,
            desc=f"process {self.rank}" if self.world_size > 1 else "generating",
            unit="row",
            disable=self.rank > 0,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )
        with RowWriter(self.path) as writer, bar:
            for start in range(0, len(missing), rows_per_call):
                if self.stop.asked:
                    break
                batch, began = missing[start : start + rows_per_call], time.monotonic()
                made = generate_batch(batch)
                # a row's share of its batch's time
                seconds = (time.monotonic() - began) / len(batch)
                for task, fields in zip(batch, made):
                    row = {
                        **task,
                        "configuration": self.configuration,
                        **fields,
                        "seconds": round(seconds, 4),
                    }
                    writer.append(row)
                    count, right = count + 1, right + (judge(row) if judge else 0)
                if judge:
                    bar.set_postfix_str(f"right so far {right / count:.1%}", refresh=False)
                bar.update(len(batch))
        self.lock.close()

    def collect(self):
        """Process 0: wait for the others, then all rows in order of (item, sample), or None (and a
        line on stderr) where some are missing.
        Other processes: None."""
        if self.rank:
            return None
        said = time.monotonic()
        while True:
            finished = self.finished()
            missing = [
                task for task in self.tasks if (task["item"], task["sample"]) not in finished
            ]
            if not missing or self.stop.asked or self.world_size == 1:
                break
            if time.monotonic() - said > 60:
                print(f"waiting for other processes: {len(missing)} rows to go", file=sys.stderr)
                said = time.monotonic()
            time.sleep(1)
        if missing:
            print(
                f"stopped: {len(missing)} of {len(self.tasks)} rows are missing (the first: item"
                f" {missing[0]['item']}, sample {missing[0]['sample']}); what is done is in"
                f" {self.folder}, the same command goes on from there",
                file=sys.stderr,
            )
            return None
        wanted = sorted((task["item"], task["sample"]) for task in self.tasks)
        return [finished[key] for key in wanted]


# ---- generations made earlier, or by another program ---------------------------------------------


def read_generations(paths, name_field):
    """(rows, settings found) of --score_only files: our JSONL, the older layout (one JSON object,
    its list under `generations`), or a folder of ours.

    name_field: what names an item in files of other programs ("question", "task_id"). Every row
    gets `name` (the item's) and `sample`.
    Raises InputError naming file and row: not JSON (a last line that was cut short too), no name, a
    field of the wrong kind, rows with and without `sample` or `item`. Settings that name no
    benchmark get `benchmark`: the first file's or folder's name.
    """
    files = []
    for path in map(Path, paths):
        inside = sorted(path.glob(GENERATIONS)) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"--score_only: folder {path} holds no {GENERATIONS}")
        files += inside
    rows, settings, configurations, first = [], {}, {}, {}
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
            f"--score_only: rows of several configurations ({shown}); score each on its own"
        )
    if not isinstance(settings.get("benchmark"), str):
        settings["benchmark"] = Path(paths[0]).resolve().name.split(".")[0]
    return rows, settings


def check_generated_row(row, name_field, where):
    """Refuse a row of a generations file whose fields are not what every reader of them takes for
    granted.
    """
    if not isinstance(row, dict) or not isinstance(row.get(name_field), str):
        raise InputError(
            f"{where} has no text under {name_field!r}"
            if isinstance(row, dict) and name_field in row
            else f"{where} has no field {name_field!r}"
        )
    for name in KEY:
        if name in row and not is_count(row[name]):
            raise InputError(f"{where}: {name!r} is not a whole number from 0 on")
    for name in ("evaluations", "length", "reference_length", "seconds"):
        value = row.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15
        ):
            raise InputError(f"{where}: {name!r} is not a number from 0 on")
    if not isinstance(row.get("configuration", ""), str):
        raise InputError(f"{where}: 'configuration' is not text")


def find_places(rows, expected):
    """The item of each row, a number: its place in `expected` (names of all items in order; items
    may share one), or without `expected` the row's own `item`, or the place of its name's first
    row. Raises InputError for a name that is not expected, and for an item number that two names
    have.

    Rows of one name that several items have, and that do not say which by a fitting `item`, are
    dealt to them in turn.
    """
    if expected is None and rows and "item" not in rows[0]:
        expected = list(dict.fromkeys(row["name"] for row in rows))
    if expected is None:
        names = {}
        for row in rows:
            if names.setdefault(row["item"], row["name"]) != row["name"]:
                raise InputError(
                    f"--score_only: item {row['item']} has two names: {_shown(names[row['item']])}"
                    f" and {_shown(row['name'])}"
                )
        return [row["item"] for row in rows]
    places_of, dealt, places = {}, {}, []
    for place, name in enumerate(expected):
        places_of.setdefault(name, []).append(place)
    for row in rows:
        name, item = row["name"], row.get("item")
        if name not in places_of:
            raise InputError(f"--score_only: item {_shown(name)} is not in the data set")
        if item not in places_of[name]:
            turn = dealt.setdefault((name, row["sample"]), 0)
            dealt[name, row["sample"]] += 1
            item = places_of[name][turn % len(places_of[name])]
        places.append(item)
    return places


def _shown(name):
    return repr(str(name if isinstance(name, str) else name[0])[:60])


def merge_rows(rows, expected, num_samples, allow_duplicates, allow_missing):
    """Rows in order of (item, sample), each once, with `item` (its place) and `sample`; and
    {"missing", "duplicates"}, how many there were.

    expected: names of all items in order, or None where nobody knows them (then rows with an `item`
    number must have no hole in it). Raises InputError for duplicates and for missing rows, unless
    allowed: then a duplicate is left out (or, in rows that have no sample number, is a further
    sample of its item), and what is missing is not counted.
    """
    kept, duplicates, seen = {}, 0, {}
    for row, item in zip(rows, find_places(rows, expected)):
        sample = row["sample"]
        if sample is None:
            sample = seen.get(item, 0)
            seen[item] = sample + 1
            if sample >= num_samples and not allow_duplicates:
                raise InputError(
                    f"--score_only: item {_shown(row['name'])} occurs {sample + 1} times;"
                    " --num_samples says how often it may, --allow_duplicates takes all as its"
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
            f" {sample}; --allow_missing scores the rest"
        )
    return [kept[key] for key in sorted(kept)], {"missing": missing, "duplicates": duplicates}


# ---- flags ---------------------------------------------------------------------------------------


def add_run_flags(parser, name_of_output):
    """Flags that both evaluations have besides the samplers'."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--data_path", help="local copy of the data set, file or folder (default: from the hub)"
    )
    group.add_argument(
        "--subsample", type=int, metavar="N", help="only the first N items (default: all)"
    )
    group.add_argument(
        "--num_samples", type=int, default=1, metavar="K", help="answers to each item (default: 1)"
    )
    group.add_argument(
        "--batch_size", type=int, default=16, help="rows in the network's batch (default: 16)"
    )
    group.add_argument(
        "--output_dir",
        help=f"where rows and results.json go (default: runs/{name_of_output}/<checkpoint>)",
    )
    group.add_argument(
        "--label",
        help="name of this row in scripts/results_table.py's table (default: FlexMDM or LLaDA)",
    )
    group.add_argument(
        "--variable_length",
        action="store_true",
        help="say that the checkpoint is a FlexMDM; refused where it is not",
    )
    group.add_argument(
        "--score_only",
        nargs="+",
        metavar="FILE",
        help="score earlier generations: ours, the older layout, or a folder",
    )
    group.add_argument(
        "--allow_duplicates",
        action="store_true",
        help="--score_only: do not refuse an item that occurs twice",
    )
    group.add_argument(
        "--allow_missing",
        action="store_true",
        help="--score_only: do not refuse when items are missing",
    )
    group.add_argument(
        "--check_references",
        action="store_true",
        help="score the data set's own solutions instead of a model's, and stop",
    )


def check_run_flags(args):
    for flag in ("subsample", "num_samples", "batch_size"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: must be at least 1")
    if not (args.score_only or args.check_references or args.checkpoint_path):
        raise InputError(
            "--checkpoint_path: a checkpoint is needed (or --score_only, or --check_references)"
        )


def first_items(items, args):
    if args.subsample is not None and args.subsample > len(items):
        raise InputError(f"--subsample {args.subsample}: the data set has only {len(items)} items")
    return items[: args.subsample]


def note_unused_flags(kind, argv):
    """Say which of the given flags have no effect, because they are the other kind's."""
    from common.command_line import ArgumentParser
    from sampling.options import add_flexmdm_flags, add_llada_flags

    add_flags, name = (
        (add_llada_flags, "LLaDA") if kind == "flexmdm" else (add_flexmdm_flags, "FlexMDM")
    )
    parser = ArgumentParser()
    add_flags(parser)
    names = set(vars(parser.parse_args([])))
    given = sorted(
        {
            word.split("=")[0]
            for word in argv
            if word.startswith("--") and word.split("=")[0][2:].removeprefix("no-") in names
        }
    )
    if given and process_rank()[0] == 0:
        print(
            f"note: {', '.join(given)}: {name}'s, without effect on this checkpoint",
            file=sys.stderr,
        )
