r"""Transfer learning: train a pretrained LLaDA into a FlexMDM (or, without --variable_length,
continue training it as a LLaDA).

Data: a folder written by flexmdm_transfer_preprocess.py.

Laptop:
    python flexmdm_transfer_openwebtext.py --variable_length \
        --model_name_or_path LLaDA-tiny-Base --train_data DATA --max_steps 200 \
        --per_device_train_batch_size 32 --learning_rate 1e-3 --job_name transfer
One GPU:
    python flexmdm_transfer_openwebtext.py --variable_length --train_data DATA \
        --gradient_accumulation_steps 16 --gradient_checkpointing
Slurm (16 H100, 200,000 steps, three days [paper]):
    sbatch scripts/flexmdm_transfer.sh

The matched baseline (same data and budget): the same command without --variable_length. Other runs:
A small base from scratch:
    ... --from_scratch --all_parameters --model_name_or_path FOLDER_WITH_CONFIG_AND_TOKENIZER
Resume after any interruption:
    ... --resume_from_checkpoint auto
The paper's learning rate schedule:
    ... --lr_scheduler_kwargs '{"num_cycles": 5}'
The paper code's network:
    ... --length_head softplus --time_scale 1 --attend_to_padding
Sharding (or ds_zero1.json, ds_zero3.json, ds_zero3_offload.json):
    ... --fully_shard, or --deepspeed scripts/ds_zero2.json
NLL upper bound of a checkpoint on a text file or a data folder:
    ... --evaluate_only --init_from CHECKPOINT --eval_data FILE.txt
Estimate a run's cost, without loading weights:
    ... --dry_run --variable_length --gradient_checkpointing
Every flag of transformers.TrainingArguments works. Results: runs/JOB_NAME/{checkpoint-N, final,
train_log.jsonl, settings.json}.
"""

from typing import TYPE_CHECKING, Any

from common.errors import AUTO_RESUMES, run
from data.token_rows import load_rows
from training.command_line import first_look
from training.flags import RunFlags
from training.models import build_model

if TYPE_CHECKING:
    from training.arguments import RunArguments


def collator_of(args: "RunArguments", model: Any) -> Any:
    """The collator for text rows."""
    from flexmdm_trainer import FlexMDMCollator
    from llada_trainer import LLaDACollator

    if args.variable_length:
        return FlexMDMCollator(model.config)
    return LLaDACollator(
        model.config.mask_token_id, model.config.pad_token_id, epsilon=args.mask_ratio_epsilon
    )


def main() -> None:
    """Train as the flags say, or --dry_run, or --evaluate_only. Raises InputError."""
    first_look(RunFlags, __doc__)
    from training.arguments import RunArguments, parse_arguments
    from training.held_out import evaluate_only, held_out_rows
    from training.run import check_kind, dry_run, train

    args = parse_arguments(RunArguments, __doc__)
    check_kind(args)
    if args.dry_run:
        dry_run(args)
        return
    rows = load_rows(args.train_data) if args.train_data else None
    from flexmdm_trainer import FlexMDMTrainer
    from llada_trainer import LLaDATrainer

    model, tokenizer = build_model(args)
    trainer_cls = FlexMDMTrainer if args.variable_length else LLaDATrainer
    if args.evaluate_only:
        evaluate_only(
            args,
            trainer_cls,
            model,
            tokenizer,
            held_out_rows(args, rows, tokenizer),
            collator_of(args, model),
        )
        return
    kind = "FlexMDM" if args.variable_length else "LLaDA"
    card = (
        f"# {kind} by transfer learning\n\nFrom `{args.init_from or args.model_name_or_path}` on"
        f" `{args.train_data}`. Training settings: settings.json of the run.\n"
    )
    train(args, trainer_cls, model, tokenizer, rows, collator_of(args, model), card)


if __name__ == "__main__":
    run(main, AUTO_RESUMES)
