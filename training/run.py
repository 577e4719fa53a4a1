"""Starting and ending a run: what every training script does with its arguments, model, rows and
collator.

OUTPUT_DIR/settings.json holds the run's settings; resuming with other settings is refused
(run_folder.py). train_log.jsonl has every log line; final is the result. On SIGTERM or SIGUSR1 (a
scheduler's warning) the run finishes its step, saves and stops; --resume_from_checkpoint auto
resumes.
"""

import math
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.gpu_memory import out_of_memory_advice
from data.noise_stream import NoiseStream
from data.token_rows import load_rows, row_lengths
from data.tokenizer import reserved_ids
from network.checkpoint_folder import checkpoint_kind
from network.fast_blocks import compile_network
from training.arguments import RunArguments
from training.memory import training_advice
from training.process_group import decide_on_rank_zero, end_process_group
from training.progress import print_ending, show_progress
from training.rows import check_origin, check_rows
from training.run_folder import prepare_output, save_final
from training.run_settings import input_hashes, run_settings
from training.sharding import shard_by_fsdp2, shard_by_zero3
from training.stop_signal import StopOnSignal
from training.train_log import JsonlLog
from training.trainer import DiffusionTrainer
from training.unused_flags import evaluates, evaluates_again, refuse_other_settings

if TYPE_CHECKING:
    from datasets import Dataset


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
    if evaluates(args) and not len(rows.get("validation", ())):
        flag = "--eval_strategy" if evaluates_again(args) else "--eval_on_start"
        raise InputError(f"{flag}: {args.train_data} has no validation split to evaluate")
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
    """Refuse an --init_from that is not the kind of model that --variable_length asks for, or has
    other settings than the flags. Raises InputError.
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
    refuse_other_settings(args)


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
