"""A run's folder, OUTPUT_DIR: who may write there, what is resumed there, and `final`, its result.

settings.json holds the run's settings; resuming with other settings is refused.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import lock_for_writing, read_json, write_json
from common.rows import read_finished, write_rows
from training.arguments import RunArguments
from training.checkpoint_trainer import CheckpointTrainer
from training.checkpoints import check_checkpoint, named_failure, newest_complete

LOCK = "lock"  # in a run's folder: who holds it is training there
# settings.json of every run has these, and says by them that the folder is ours
OF_A_RUN = {"global_batch", "rows"}
# what a run writes into its folder: before settings.json is there, and at all
HALF_WRITTEN = r"\.(settings\.json|train_log\.jsonl)\.\d+\.tmp"
STARTED = re.compile(rf"{LOCK}|{HALF_WRITTEN}")
WRITTEN = re.compile(
    rf"{HALF_WRITTEN}|settings\.json|train_log\.jsonl|\.?final|\.saving"
    r"|(damaged-|\.old-)?checkpoint-\d+"
)


def prepare_output(args: RunArguments, settings: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Where this run starts: (checkpoint to resume or None, already finished). Refuses to mix runs
    in one folder. Raises InputError.
    """
    assert args.output_dir is not None  # __post_init__ names it
    output_dir = Path(args.output_dir)
    new, unlocked = not output_dir.exists(), not (output_dir / LOCK).exists()
    with named_failure(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    # before anything is touched; `train` lets go of it
    lock = lock_for_writing(output_dir / LOCK)
    args.output_lock = lock  # type: ignore[attr-defined]  # a field would be a flag
    try:
        return prepare_locked(args, settings)
    except InputError:
        if new:
            shutil.rmtree(output_dir)  # a refusal leaves nothing behind
        elif unlocked:
            (output_dir / LOCK).unlink(missing_ok=True)
        raise


def prepare_locked(args: RunArguments, settings: Mapping[str, Any]) -> tuple[str | None, bool]:
    """prepare_output, in a folder that this run has locked."""
    assert args.output_dir is not None  # __post_init__ names it
    output_dir = Path(args.output_dir)
    refuse_other_run(args, earlier_run(args, output_dir), settings)
    if args.resume_from_checkpoint == "auto" and (output_dir / "final").is_dir():
        return None, True
    checkpoint = checkpoint_to_resume(args, output_dir)
    drop_unfinished(output_dir, checkpoint)
    with named_failure(output_dir / "settings.json"):
        write_json(output_dir / "settings.json", settings)
    return (str(checkpoint) if checkpoint else None), False


def earlier_run(args: RunArguments, output_dir: Path) -> dict[str, Any] | None:
    """Settings of the run that the folder holds, None without one; --overwrite deletes it first.
    Raises InputError if the folder holds something else.
    """
    settings = output_dir / "settings.json"
    old = read_json(settings) if settings.exists() else None
    if not (isinstance(old, dict) and OF_A_RUN <= old.keys()):
        foreign = sorted(
            entry.name for entry in output_dir.iterdir() if not STARTED.fullmatch(entry.name)
        )
        if foreign:
            raise InputError(
                f"--output_dir: {output_dir} holds {foreign[0]}: no run of ours; name another"
            )
        return None
    if args.overwrite and not args.resume_from_checkpoint:
        for entry in output_dir.iterdir():
            if WRITTEN.fullmatch(entry.name):  # the lock stays, and what is not ours
                remove(entry)
        return None
    return old


def refuse_other_run(
    args: RunArguments, old: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> None:
    """Raises InputError if the folder holds a run that is not to be resumed, or was made with other
    settings. old: that run's settings, None without one.
    """
    if old is None:
        return
    if not args.resume_from_checkpoint:
        raise InputError(
            f"--output_dir: {args.output_dir} already holds a run; --resume_from_checkpoint auto"
            " resumes it, --overwrite deletes it"
        )
    changed = [
        f"{key} (was {old.get(key)!r}, is {settings[key]!r})"
        for key in settings
        if key in old and old[key] != settings[key]  # older runs say less
    ]
    if changed:
        raise InputError(
            f"--resume_from_checkpoint: {args.output_dir} was made with other settings:"
            f" {', '.join(changed)}"
        )


def checkpoint_to_resume(args: RunArguments, output_dir: Path) -> Path | None:
    """The folder that --resume_from_checkpoint names, auto: the newest complete one of the run.
    Raises InputError if this run cannot read it.
    """
    checkpoint = None
    if args.resume_from_checkpoint == "auto":
        checkpoint = newest_complete(output_dir)
    elif args.resume_from_checkpoint:
        checkpoint = Path(args.resume_from_checkpoint)
        if not checkpoint.is_dir():
            raise InputError(f"--resume_from_checkpoint: {checkpoint} is not a folder")
    if checkpoint:
        averaged = args.ema_decay is not None
        check_checkpoint(checkpoint, args.engine, args.world_size, averaged)
    return checkpoint


def drop_unfinished(output_dir: Path, checkpoint: Path | None) -> None:
    """Remove the log lines of steps that will be repeated, and what a process that was killed had
    not finished.
    """
    log = output_dir / "train_log.jsonl"
    if log.exists():
        step = read_json(checkpoint / "trainer_state.json")["global_step"] if checkpoint else 0
        write_rows(log, [row for row in read_finished(log) if row["step"] <= step])
    for left in output_dir.iterdir():
        if re.fullmatch(rf"{HALF_WRITTEN}|\.saving|\.final", left.name):
            remove(left)


def remove(path: Path) -> None:
    """A folder with what is in it, a file, or a link."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def save_final(trainer: CheckpointTrainer) -> None:
    """Write OUTPUT_DIR/final, completely or not at all. Every process must call it: gathering
    sharded weights needs them all.
    """
    final = Path(trainer.args.output_dir) / "final"
    staging = final.with_name(".final")
    with named_failure(final):
        trainer.save_model(str(staging), _internal_call=True)
        if trainer.is_world_process_zero():
            shutil.rmtree(final, ignore_errors=True)
            staging.rename(final)
    trainer.accelerator.wait_for_everyone()
