"""Starting, resuming and ending a run: what every training script does with its arguments, model,
rows and collator.

OUTPUT_DIR/settings.json holds the run's settings; resuming with other settings is refused.
train_log.jsonl has every log line; final is the result. On SIGTERM or SIGUSR1 (a scheduler's
warning) the run finishes its step, saves and stops; --resume_from_checkpoint auto resumes.
"""

import math
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from common.errors import InputError
from common.files import lock_for_writing, read_json, resolve_folder, write_json
from common.gpu_memory import out_of_memory_advice
from common.rows import RowWriter, read_finished, write_rows
from data.noise_stream import NoiseStream
from data.token_rows import held_out_split, load_rows, row_lengths, rows_hash
from data.tokenizer import reserved_ids
from llada_dit import LLaDADiT
from network.checkpoint_folder import checkpoint_hash, checkpoint_kind, named_base
from network.fast_blocks import compile_network
from training.arguments import RunArguments
from training.checkpoints import check_checkpoint, newest_complete
from training.likelihood_bound import report
from training.memory import HELD_OUT, training_advice
from training.models import longest_row
from training.process_group import decide_on_rank_zero, end_process_group
from training.progress import print_ending, show_progress
from training.rows import check_origin, check_rows
from training.sharding import shard_by_fsdp2, shard_by_zero3
from training.trainer import DiffusionTrainer, named_failure

if TYPE_CHECKING:
    from datasets import Dataset

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


class JsonlLog(TrainerCallback):
    """Every log line of the Trainer, as a row of train_log.jsonl. Non-finite values are null."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The Trainer calls it with every log line."""
        if state.is_world_process_zero and logs:
            values = {key: float(value) for key, value in logs.items()}
            path = Path(args.output_dir) / "train_log.jsonl"
            with named_failure(path), RowWriter(path) as writer:
                writer.append(
                    {
                        "step": state.global_step,
                        **{
                            key: value if math.isfinite(value) else None
                            for key, value in values.items()
                        },
                    }
                )


class StopOnSignal(TrainerCallback):
    """SIGTERM or SIGUSR1: finish the step, save, stop. The scheduler's warning before preemption or
    the time limit.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # the signal's name
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: Any) -> None:
        """The signals' handler."""
        self.received = signal.Signals(number).name
        for each in (signal.SIGTERM, signal.SIGUSR1):
            # once is enough; a later one would kill a process on its way out
            signal.signal(each, signal.SIG_IGN)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer calls it after every step: save and stop if any process was signalled."""
        stop = self.received is not None
        if args.world_size > 1:  # one process may have been signalled and the others not yet
            flag = torch.tensor(float(stop), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            stop = bool(flag.item())
        if stop:
            control.should_save = control.should_training_stop = True
            self.received = self.received or "signal"


SETTINGS = (
    "model_name_or_path",
    "init_from",
    "variable_length",
    "from_scratch",
    "all_parameters",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "train_data",
    "sft_max_length",
    "low_discrepancy",
    "loss_constant",
    "learning_rate",
    "lora_lr",
    "weight_decay",
    "lora_weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "mask_ratio_epsilon",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "ema_decay",
    "bf16",
    "fp16",
    "load_in_4bit",
    "seed",
    "max_steps",
    "task",
)


def run_settings(args: RunArguments, model: Any, rows: int) -> dict[str, Any]:
    """Settings that must not change when a run is resumed. rows: how many it trains on."""
    settings = {key: getattr(args, key) for key in SETTINGS if hasattr(args, key)} | {
        "global_batch": args.global_batch
    }
    settings |= {"lr_scheduler_kwargs": args.lr_scheduler_kwargs or {}, "rows": rows}
    if isinstance(model, LLaDADiT):
        settings |= {
            key: getattr(model.config, key)
            for key in (
                "insertion_schedule",
                "unmask_schedule",
                "length_head",
                "time_scale",
                "time_epsilon",
                "adaln_group_size",
                "attend_to_padding",
            )
        }
        if model.config.length_distribution:
            settings["length_distribution"] = model.config.length_distribution
            settings["start_share"] = args.start_share
    return settings


def input_hashes(args: RunArguments) -> dict[str, str]:
    """Hashes of files that must not change either: training rows, and the weights and tokenizer
    that the run starts from (with their base).
    """
    start, flag = (
        (args.init_from, "--init_from")
        if args.init_from
        else (args.model_name_or_path, "--model_name_or_path")
    )
    base = named_base(resolve_folder(start, flag))
    assert args.train_data is not None  # check: a run that trains has it
    hashes = {
        "train_data_hash": rows_hash(args.train_data),
        "start_hash": checkpoint_hash(start, flag),
    }
    return hashes | ({"base_hash": checkpoint_hash(base)} if base else {})


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
    before = output_dir / "settings.json"
    old = read_json(before) if before.exists() else None
    if not (isinstance(old, dict) and OF_A_RUN <= old.keys()):
        foreign = sorted(
            entry.name for entry in output_dir.iterdir() if not STARTED.fullmatch(entry.name)
        )
        if foreign:
            raise InputError(
                f"--output_dir: {output_dir} holds {foreign[0]}: no run of ours; name another"
            )
        old = None
    elif args.overwrite and not args.resume_from_checkpoint:
        for entry in output_dir.iterdir():
            if WRITTEN.fullmatch(entry.name):  # the lock stays, and what is not ours
                (
                    shutil.rmtree(entry)
                    if entry.is_dir() and not entry.is_symlink()
                    else entry.unlink()
                )
        old = None
    if old is not None:
        if not args.resume_from_checkpoint:
            raise InputError(
                f"--output_dir: {output_dir} already holds a run; --resume_from_checkpoint auto"
                " resumes it, --overwrite deletes it"
            )
        changed = [
            f"{key} (was {old.get(key)!r}, is {settings[key]!r})"
            for key in settings
            if key in old and old[key] != settings[key]  # older runs say less
        ]
        if changed:
            raise InputError(
                f"--resume_from_checkpoint: {output_dir} was made with other settings:"
                f" {', '.join(changed)}"
            )
    checkpoint = None
    if args.resume_from_checkpoint == "auto":
        if (output_dir / "final").is_dir():
            return None, True
        checkpoint = newest_complete(output_dir)
    elif args.resume_from_checkpoint:
        checkpoint = Path(args.resume_from_checkpoint)
        if not checkpoint.is_dir():
            raise InputError(f"--resume_from_checkpoint: {checkpoint} is not a folder")
    if checkpoint:
        averaged = args.ema_decay is not None
        check_checkpoint(checkpoint, args.engine, args.world_size, averaged)
    log = output_dir / "train_log.jsonl"
    if log.exists():  # drop lines of steps that will be repeated
        step = read_json(checkpoint / "trainer_state.json")["global_step"] if checkpoint else 0
        write_rows(log, [row for row in read_finished(log) if row["step"] <= step])
    # of a process that was killed
    for left in output_dir.iterdir():
        if re.fullmatch(rf"{HALF_WRITTEN}|\.saving|\.final", left.name):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    with named_failure(before):
        write_json(before, settings)
    return (str(checkpoint) if checkpoint else None), False


def held_out_rows(
    args: RunArguments, rows: "dict[str, Dataset] | None", tokenizer: Any
) -> "Dataset":
    """The rows for --evaluate_only: --eval_data (a data folder or text), else the held-out split of
    --train_data. Raises InputError.
    """
    if not args.eval_data:
        assert rows is not None  # then they come from --train_data
        return held_out_split(rows)
    path = Path(args.eval_data)
    if path.is_dir() and (
        (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
    ):
        return held_out_split(load_rows(path, "--eval_data"))
    from datasets import Dataset

    from data.chunking import tokenise_and_cut
    from data.corpora import documents, local_files

    try:
        texts = list(documents(local_files(path), "text", None, None))
    except InputError as error:
        raise InputError(str(error).replace("--data_path", "--eval_data")) from None
    if not texts:
        raise InputError(f"--eval_data: {path} holds no text")
    batch = {name: [document[name] for document in texts] for name in ("text", "prompt_characters")}
    pieces = tokenise_and_cut(batch, range(len(texts)), tokenizer, args.sft_max_length, 0)
    kept = [
        ids for ids, forbidden in zip(pieces["input_ids"], pieces["forbidden"]) if not forbidden
    ]
    if len(kept) < len(pieces["input_ids"]):
        print(
            f"{len(pieces['input_ids']) - len(kept)} of {len(pieces['input_ids'])} rows contain the"
            " mask or padding token: left out"
        )
    if not kept:
        raise InputError(f"--eval_data: {path} holds no text")
    return Dataset.from_dict({"input_ids": kept})


def dry_run(args: RunArguments) -> None:
    """Print sizes, memory, steps and GPU hours (training/estimate.py), with the mean length of
    --train_data if it is given.
    """
    from training.estimate import dry_run as describe

    mean_length = None
    if args.train_data:
        rows = load_rows(args.train_data)["train"]
        mean_length = float(row_lengths(rows).mean())
        if args.max_steps <= 0:
            batch = (
                args.per_device_train_batch_size
                * args.gradient_accumulation_steps
                * args.dry_run_gpus
            )
            args.max_steps = math.ceil(args.num_train_epochs * len(rows) / batch)
    describe(args, mean_length)


def check_data(args: RunArguments, model: Any, tokenizer: Any, rows: "dict[str, Dataset]") -> None:
    """Refuse rows that this model cannot be trained on, before anything is written. Raises
    InputError.
    """
    assert args.train_data is not None  # check: a run that trains has it
    task, backbone = getattr(args, "task", None), getattr(model, "backbone", model)
    check_origin(args.train_data, tokenizer, task, "--train_data")
    for split, part in rows.items():
        check_rows(
            part,
            backbone.config.embedding_size,
            reserved_ids(tokenizer),
            args.sft_max_length,
            f"--train_data ({split})",
            task is not None,
        )


def check_kind(args: RunArguments) -> None:
    """Refuse an --init_from that is not the kind of model that --variable_length asks for. Raises
    InputError.
    """
    if args.init_from and checkpoint_kind(args.init_from, "--init_from") != (
        "flexmdm" if args.variable_length else "llada"
    ):
        kind = (
            "a LLaDA: drop --variable_length"
            if args.variable_length
            else "a FlexMDM: add --variable_length"
        )
        raise InputError(f"--init_from: {args.init_from} is {kind}")


@out_of_memory_advice(training_advice)
def train(args: RunArguments, *what: Any) -> None:
    """Train to the end (or until a signal) and write OUTPUT_DIR/final, as the only process group
    that writes there.

    what: trainer class, model, tokenizer, rows {"train": ..., "validation": ... or absent},
    collator, text of the model card.
    """
    try:
        train_alone(args, *what)
    finally:
        lock = getattr(args, "output_lock", None)
        if lock:
            lock.close()


def train_alone(
    args: RunArguments,
    trainer_cls: type[DiffusionTrainer],
    model: Any,
    tokenizer: Any,
    rows: "dict[str, Dataset]",
    collator: Any,
    card: str,
) -> None:
    """`train`, while the caller holds the folder's lock."""
    decide_on_rank_zero(args, lambda: check_data(args, model, tokenizer, rows))
    train_rows = rows["train"]
    if args.sanity_run:
        train_rows, args.max_steps = train_rows.select(range(min(64, len(train_rows)))), 10
    if args.max_steps <= 0:
        args.max_steps = math.ceil(args.num_train_epochs * len(train_rows) / args.global_batch)
    settings = run_settings(args, model, len(train_rows))
    checkpoint, finished = decide_on_rank_zero(
        args, lambda: prepare_output(args, settings | input_hashes(args))
    )
    if finished:
        if args.process_index == 0:
            print(f"{args.output_dir}/final exists: this run is finished")
            print_ending(args, f"{args.max_steps} steps")
        end_process_group()
        return
    cost = getattr(collator, "expected_cost", None)
    stream = NoiseStream(
        train_rows,
        args.global_batch,
        args.max_steps,
        args.seed,
        args.low_discrepancy,
        expected_cost=cost,
        tokens=collator.tokens,
        micro_batch=args.per_device_train_batch_size,
        tokens_per_batch=args.tokens_per_batch,
        processes=args.world_size,
        start_share=settings.get("start_share", 0.0),
    )
    held_out = rows.get("validation")
    validation = (
        NoiseStream(held_out, len(held_out), 1, args.seed + 1, shuffle=False, expected_cost=cost)
        if held_out is not None and len(held_out)
        else None
    )
    if args.fully_shard:
        shard_by_fsdp2(model, args.device)
    elif args.engine == "zero-3":
        shard_by_zero3(model, args.hf_deepspeed_config.config)
    if args.compile_blocks:
        compile_network(model)
    stop = StopOnSignal()
    trainer = trainer_cls(
        card=card,
        sharded=args.fully_shard,
        model=model,
        args=args,
        train_dataset=stream,
        eval_dataset=validation,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[JsonlLog(), stop],
    )
    show_progress(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < args.max_steps:
        if args.process_index == 0:
            print(
                f"stopped by {stop.received} at step {trainer.state.global_step} of"
                f" {args.max_steps}; --resume_from_checkpoint auto resumes"
            )
    else:
        save_final(trainer)
        if args.process_index == 0:
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            newest = f", last logged loss {losses[-1]:.4g}" if losses else ""
            print_ending(args, f"{args.max_steps} steps{newest}")
    end_process_group()


def save_final(trainer: DiffusionTrainer) -> None:
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


@out_of_memory_advice(HELD_OUT)
def evaluate_only(
    args: RunArguments,
    trainer_cls: type[DiffusionTrainer],
    model: Any,
    tokenizer: Any,
    rows: "Dataset",
    collator: Any,
) -> None:
    """Print the NLL upper bound and the loss by quarter of time of a model on rows (a data set with
    input_ids). Nothing is written.
    """
    check_rows(
        rows,
        getattr(model, "backbone", model).config.embedding_size,
        reserved_ids(tokenizer),
        longest_row(args, model),
        "--eval_data" if args.eval_data else "--train_data",
        hasattr(args, "task"),
    )
    unbounded = args.variable_length and collator.config.insertion_schedule["name"] == "geometric"
    draws = args.eval_draws * len(rows)
    cost = getattr(collator, "expected_cost", None)
    main = NoiseStream(rows, draws, 1, args.seed + 1, shuffle=False, expected_cost=cost)
    ends = (
        None
        if unbounded
        else NoiseStream(
            rows,
            draws,
            1,
            args.seed + 2,
            shuffle=False,
            expected_cost=cost,
            fixed_time=collator.LAST_TIME,
        )
    )
    epsilon = collator.config.time_epsilon if args.variable_length else collator.epsilon
    with tempfile.TemporaryDirectory() as args.output_dir:  # the Trainer makes its folder
        trainer = trainer_cls(
            model=model, args=args, data_collator=collator, processing_class=tokenizer
        )
        report(trainer, main, ends, epsilon, args.init_from or args.model_name_or_path)
    end_process_group()
