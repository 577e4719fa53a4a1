"""Checkpoints that are complete or invisible: write one, choose the one to resume from, restore its
weights.

A checkpoint is written under OUTPUT_DIR/.saving. When every process has written its part,
complete.json (every file and its size) is added, everything is flushed to disk, and the folder is
renamed to checkpoint-N. So a folder of that name is complete, unless something truncated it
afterwards: then its files disagree with complete.json, and it is reported and set aside, never
silently skipped.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from common.errors import InputError
from common.files import read_json, write_json, write_reason
from llada_dit import LLaDADiT
from network.tensor_files import read_tensors
from training.sharding import copy_into

MANIFEST = "complete.json"
UNAVERAGED = "unaveraged"  # with --ema_decay: the parameters that training resumes from
FLAG = "--resume_from_checkpoint"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add complete.json to a finished folder (files with their sizes, and `facts`) and flush
    everything in it to disk.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / MANIFEST,
        {**facts, "files": {str(path.relative_to(folder)): path.stat().st_size for path in files}},
    )
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def publish_atomically(staging: Path, folder: Path) -> None:
    """Rename a complete folder to its final name; a folder that had the name before is removed only
    once the new one is there.
    """
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    os.replace(staging, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def named_failure(what: str | Path) -> Iterator[None]:
    """A full disk, a quota, lost permissions: one line that names what could not be written.
    Whatever was complete before is untouched.
    """
    try:
        yield
    except Exception as error:
        reason = write_reason(error, what)
        if reason is None:
            raise
        raise InputError(
            f"cannot write {what}: {reason}. The run stops; --resume_from_checkpoint auto resumes"
            " from the newest complete one"
        ) from None


def checkpoints(output_dir: str | Path) -> list[tuple[int, Path]]:
    """[(step, folder)] of a run, newest first."""
    found = [
        (folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"), folder)
        for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    ]
    return sorted(((int(step), folder) for step, folder in found if step.isdigit()), reverse=True)


def keep_newest(output_dir: str | Path, count: int | None) -> None:
    """Delete all but the newest `count` checkpoints (None or 0: keep all). Each is renamed first,
    so that a kill never leaves a partial one visible.
    """
    for _, folder in checkpoints(output_dir)[count or len(os.listdir(output_dir)) :]:
        folder.rename(folder.with_name(f".old-{folder.name}"))
    for left in Path(output_dir).glob(f".old-{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(left, ignore_errors=True)


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in words, or None. Without complete.json (an older
    checkpoint), only the required files are checked.
    """
    if not (folder / MANIFEST).exists():
        missing = [
            name for name in ("trainer_state.json", "scheduler.pt") if not (folder / name).exists()
        ]
        return f"{missing[0]} is missing" if missing else None
    try:
        files = read_json(folder / MANIFEST)["files"]
    except (InputError, KeyError):
        return f"{MANIFEST} cannot be read"
    for name, size in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (folder / name).stat().st_size != size:
            return f"{name} has {(folder / name).stat().st_size} bytes instead of {size}"
    return None


def newest_complete(output_dir: str | Path) -> Path | None:
    """Folder of the newest complete checkpoint, or None if there is no checkpoint. Damaged newer
    ones are reported and renamed to damaged-checkpoint-N. Raises InputError if all are damaged:
    starting over is for the user to decide.
    """
    named: list[tuple[Path, str]] = []
    for _, folder in checkpoints(output_dir):
        problem = damage_of(folder)
        if problem is None:
            for damaged, why in named:
                aside = damaged.with_name(f"damaged-{damaged.name}")
                shutil.rmtree(aside, ignore_errors=True)
                damaged.rename(aside)
                print(
                    f"{damaged} is damaged ({why}): set aside as {aside.name}; resuming from"
                    f" {folder.name}",
                    flush=True,
                )
            return folder
        named.append((folder, problem))
    if named:
        raise InputError(
            f"{FLAG}: every checkpoint in {output_dir} is damaged:"
            f" {'; '.join(f'{folder.name}: {why}' for folder, why in named)}. --overwrite, without"
            " this flag, starts anew"
        )
    return None


def check_checkpoint(folder: Path, engine: str, processes: int, averaged: bool = False) -> None:
    """Raises InputError if a checkpoint is damaged, or was written in a way that this run cannot
    read. averaged: whether the run has an --ema_decay.
    """
    problem = damage_of(folder)
    if problem:
        raise InputError(f"{FLAG}: {folder} is damaged: {problem}")
    if (folder / UNAVERAGED).is_dir() != averaged:
        was, now = ("without", "with") if averaged else ("with", "without")
        raise InputError(f"{FLAG}: {folder} was written {was} --ema_decay, this run is {now} it")
    if not (folder / MANIFEST).exists():
        return
    written = read_json(folder / MANIFEST)
    if written["engine"] != engine:
        raise InputError(
            f"{FLAG}: {folder} was written with optimizer state {written['engine']} (--deepspeed,"
            f" --fully_shard or neither); this run uses {engine}"
        )
    if engine.startswith("zero") and written["processes"] != processes:
        raise InputError(
            f"{FLAG}: {folder} was written by {written['processes']} DeepSpeed processes, this run"
            f" has {processes}; convert it with DeepSpeed's ds_to_universal, or start as many"
        )


def trained_pairs(model: nn.Module, folder: Path) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """(parameter, its tensor) for each tensor that write_checkpoint wrote of a model of this kind,
    one at a time. Raises InputError for a tensor that this run does not train, and at the end for
    missing tensors."""
    parameters = dict(model.named_parameters())
    adapter = (folder / "adapter_model.safetensors").exists()
    names = {
        f"base_model.model.{name.replace('.default.', '.')}" if adapter else name: name
        for name, parameter in parameters.items()
        if parameter.requires_grad or not (adapter or saves_trainable(model))
    }
    seen = set()
    for name, tensor in read_tensors(
        folder, "adapter_model.safetensors" if adapter else "model.safetensors"
    ):
        parameter = parameters.get(names.get(name, ""))
        # ds_shape: whole, under ZeRO-3
        if parameter is None or getattr(parameter, "ds_shape", parameter.shape) != tensor.shape:
            raise InputError(
                f"{FLAG}: {folder} holds {name} {tuple(tensor.shape)}, which this run does not"
                " train"
            )
        yield parameter, tensor
        seen.add(name)
    if set(names) - seen:
        raise InputError(f"{FLAG}: {folder} lacks {', '.join(sorted(set(names) - seen)[:4])}")


def load_trained(model: nn.Module, folder: Path) -> None:
    """Load the tensors of write_checkpoint into a model of the same kind, in place."""
    with torch.no_grad():
        for parameter, tensor in trained_pairs(model, folder):
            copy_into(parameter, tensor)


def saves_trainable(model: nn.Module) -> bool:
    """Whether a checkpoint of the model omits the frozen base, as a FlexMDM may choose."""
    return isinstance(model, LLaDADiT) and model.config.saved_weights == "trainable"
