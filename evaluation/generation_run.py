"""The generation loop of both evaluations: find missing rows, generate them in batches, append
each, and know when all are there.

    tasks = make_tasks(costs, num_samples)                     # one per (item, sample)
    run = GenerationRun(output_dir, settings, tasks)           # refuses rows of other settings
    run.generate(rows_per_call, generate_batch, is_right)      # this process's share
    rows = run.collect()                                       # process 0: all rows, or None

A row is keyed by (item, sample) and carries the hash of the settings it was generated with. Each
process appends to its own file (`generations-000.jsonl`, ...) after every call of the sampler and
reads the files of all, so a run can be interrupted at any moment (a truncated last line is removed)
and resume with another number of processes or another batch size. Random numbers depend only on
(seed, item, sample). SIGTERM or SIGUSR1 (a scheduler's warning) ends the run after the current
call, with exit code 0 and a line that says what is missing.

Importing this module does not import torch.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.command_line import process_rank
from common.errors import InputError
from common.files import content_hash, lock_for_writing, write_json
from common.rows import Row, RowWriter, read_finished, read_object

GENERATIONS = "generations-*.jsonl"
KEY = ("item", "sample")
Task = dict[str, Any]  # {"item", "sample"}


def is_count(value: object) -> bool:
    """Whether a value is a non-negative integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def make_tasks(costs: Sequence[int], num_samples: int) -> list[Task]:
    """[{"item", "sample"}], long rows first (so that memory runs out at once or never, and batches
    hold rows of similar length).

    costs: tokens of each item's prompt.
    """
    order = sorted(range(len(costs)), key=lambda item: (-costs[item], item))
    return [{"item": item, "sample": sample} for item in order for sample in range(num_samples)]


def settings_hash(settings: dict[str, Any]) -> str:
    """The hash of what is set: an option that is new, and left alone, does not keep a run that
    began without it from resuming.
    """
    return content_hash({name: value for name, value in settings.items() if value is not None})


class Stop:
    """Whether SIGTERM or SIGUSR1 has come. Install it before slow work begins."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True
        # scripts/launch.sh repeats it; one at the process's very end would kill it
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class GenerationRun:
    """Rows of one configuration in one folder.

    settings: everything that the generated text depends on (and nothing else: not batch size,
    device or number of processes). Raises InputError if output_dir holds rows of other settings, or
    another process is writing this process's file.
    """

    def __init__(
        self,
        output_dir: str | Path,
        settings: dict[str, Any],
        tasks: list[Task],
        stop: Stop | None = None,
    ) -> None:
        self.folder, self.tasks, self.stop = Path(output_dir), tasks, stop or Stop()
        self.rank, self.world_size = process_rank()
        self.configuration = settings_hash(settings)
        self._check_settings(settings)
        self.path = self.folder / f"generations-{self.rank:03d}.jsonl"
        # two processes that append to one file would write rows twice (not detected on file systems
        # without locks)
        self.lock = lock_for_writing(self.path)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        # in this order: another process of this run writes the settings, then its rows
        generations = next(self.folder.glob(GENERATIONS), None)
        if path.exists():
            there = read_object(path, "--output_dir")
            if settings_hash(there) != self.configuration:
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
        elif generations:
            raise InputError(
                f"--output_dir: {self.folder} holds generations, but no settings.json that says how"
                " they were made"
            )
        else:
            write_json(path, settings)
        self.finished()

    def finished(self) -> dict[tuple[int, int], Row]:
        """{(item, sample): row} of all processes' files. Raises InputError for a row of another
        configuration.
        """
        rows: dict[tuple[int, int], Row] = {}
        for path in sorted(self.folder.glob(GENERATIONS)):
            for number, row in enumerate(read_finished(path), 1):
                if not isinstance(row, dict) or not all(is_count(row.get(name)) for name in KEY):
                    raise InputError(
                        f"--output_dir: row {number} of {path} is not a row of an evaluation (it"
                        " has no item and sample number)"
                    )
                if row.get("configuration") != self.configuration:
                    raise InputError(
                        f"--output_dir: {path} has a row of another configuration"
                        f" ({row.get('configuration')}, this run is {self.configuration}); choose"
                        " another folder"
                    )
                rows.setdefault((row["item"], row["sample"]), row)
        return rows

    def generate(
        self,
        rows_per_call: int,
        generate_batch: Callable[[list[Task]], list[Row]],
        is_right: Callable[[Row], bool] | None = None,
    ) -> None:
        """Generate the missing rows of this process's share of the tasks.

        generate_batch(tasks) -> a dict of row fields for each task; is_right(row), for the
        progress bar.
        """
        from tqdm import tqdm

        finished = self.finished()
        share = self.tasks[self.rank :: self.world_size]
        missing = [task for task in share if (task["item"], task["sample"]) not in finished]
        rows = [row for task in share if (row := finished.get((task["item"], task["sample"])))]
        right, count = sum(map(is_right, rows)) if is_right else 0, len(rows)
        bar = tqdm(
            total=len(share),
            initial=count,
            desc=f"process {self.rank}" if self.world_size > 1 else "generating",
            unit="row",
            disable=self.rank > 0,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5,
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
                    count, right = count + 1, right + (is_right(row) if is_right else 0)
                if is_right:
                    bar.set_postfix_str(f"right so far {right / count:.1%}", refresh=False)
                bar.update(len(batch))
        self.lock.close()

    def collect(self) -> list[Row] | None:
        """Process 0: wait for the others, then return all rows in order of (item, sample), or None
        (and a line on stderr) if some are missing. Other processes: None.
        """
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
                f" {missing[0]['item']}, sample {missing[0]['sample']}); finished rows are in"
                f" {self.folder}, the same command resumes from there",
                file=sys.stderr,
            )
            return None
        wanted = sorted((task["item"], task["sample"]) for task in self.tasks)
        return [finished[key] for key in wanted]
