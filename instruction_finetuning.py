r"""Instruction fine-tuning of either model on either task (the paper trains one model per task).

Laptop:
    python instruction_finetuning.py --task math --variable_length \
        --init_from runs/transfer/final --train_data DATA --max_steps 200 \
        --per_device_train_batch_size 32 --learning_rate 1e-3 --sft_max_length 192 \
        --job_name IFT_math
One GPU:
    python instruction_finetuning.py --task code --variable_length \
        --init_from runs/transfer/final --train_data DATA --gradient_accumulation_steps 16 \
        --gradient_checkpointing
Slurm (16 H100, batch 4 per GPU; 100 and 50 epochs [paper's code]):
    sbatch scripts/IFT_math.sh
    sbatch scripts/IFT_code.sh

--task math   DATA from preprocess_math.py: the prompt stays clean, the answer is noised
--task code   DATA from preprocess_code_infilling.py: a new middle span is drawn each time a row is
              read. FlexMDM sees prefix <infill-boundary> middle <infill-boundary> suffix, LLaDA an
              instruction with prefix and suffix, then the middle
--variable_length
              FlexMDM, from --init_from; without it LLaDA from --model_name_or_path (or
              --init_from): LoRA on q, k, v, head
LLaDA's rows are filled to --sft_max_length with end-of-text, which belongs to the answer: this is
how LLaDA learns to stop.
Without training: --evaluate_only (NLL upper bound of the answers), --dry_run (memory, steps, GPU
hours).
Resume after any interruption: ... --resume_from_checkpoint auto. Results:
runs/JOB_NAME/{checkpoint-N, final, train_log.jsonl}.
"""

from typing import TYPE_CHECKING, Any

from common.errors import AUTO_RESUMES, InputError, run
from data.token_rows import held_out_split, load_rows
from training.command_line import first_look
from training.flags import InstructionFlags
from training.models import build_model, longest_row

if TYPE_CHECKING:
    from datasets import Dataset

    from training.arguments import InstructionArguments


def collator_of(args: "InstructionArguments", model: Any, tokenizer: Any) -> tuple[Any, int]:
    """The collator of a task for a kind of model, and the number of tokens its format adds to a
    row.
    """
    from data.infills import infill_boundary_ids, llada_infill_layout
    from flexmdm_trainer import FlexMDMCollator
    from llada_trainer import LLaDACollator

    if args.variable_length:
        boundary = infill_boundary_ids(tokenizer) if args.task == "code" else None
        return FlexMDMCollator(model.config, boundary), 2 * len(boundary or [])
    layout = llada_infill_layout(tokenizer) if args.task == "code" else None
    collator = LLaDACollator(
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        fill_length=args.sft_max_length,
        infill_layout=layout,
        epsilon=args.mask_ratio_epsilon,
    )
    return collator, sum(map(len, layout)) if layout else 0


def rows_that_fit(rows: "dict[str, Dataset]", extra: int, limit: int) -> "dict[str, Dataset]":
    """Drop the rows that do not fit with their formatting tokens, and print how many. Raises
    InputError if no row fits.
    """
    from data.token_rows import row_lengths

    for split in ("train", "validation"):
        if split in rows:
            fits = row_lengths(rows[split]) + extra <= limit
            if not fits.any():
                raise InputError(
                    f"--sft_max_length: no {split} row fits into {limit} tokens ({extra} of them"
                    " for formatting)"
                )
            if not fits.all():
                print(
                    f"{(~fits).sum()} of {len(fits)} {split} rows are longer than {limit} tokens"
                    f" with their format ({extra} tokens): left out"
                )
                rows[split] = rows[split].select(fits.nonzero()[0])
    return rows


def main() -> None:
    """Train as the flags say, or --dry_run, or --evaluate_only. Raises InputError."""
    first_look(InstructionFlags, __doc__)
    from training.arguments import InstructionArguments, parse_arguments
    from training.held_out import evaluate_only
    from training.run import check_kind, dry_run, train

    args = parse_arguments(InstructionArguments, __doc__)
    check_kind(args)
    if args.dry_run:
        dry_run(args)
        return
    flag = "eval_data" if args.evaluate_only and args.eval_data else "train_data"
    rows = load_rows(getattr(args, flag), f"--{flag}")
    if "prompt_length" not in rows["train"].column_names:
        raise InputError(
            f"--{flag}: {getattr(args, flag)} has no prompt_length;"
            f" preprocess_{'math' if args.task == 'math' else 'code_infilling'}.py writes it"
        )
    from flexmdm_trainer import FlexMDMTrainer
    from llada_trainer import LLaDATrainer

    model, tokenizer = build_model(args)
    collator, extra = collator_of(args, model, tokenizer)
    rows = rows_that_fit(rows, extra, longest_row(args, model))
    trainer_cls = FlexMDMTrainer if args.variable_length else LLaDATrainer
    if args.evaluate_only:
        evaluate_only(args, trainer_cls, model, tokenizer, held_out_split(rows), collator)
        return
    kind = "FlexMDM" if args.variable_length else "LLaDA"
    card = (
        f"# {kind} fine-tuned on {args.task}\n\nFrom `{args.init_from or args.model_name_or_path}`"
        f" on `{args.train_data}`. Training settings: settings.json of the run.\n"
    )
    train(args, trainer_cls, model, tokenizer, rows, collator, card)


if __name__ == "__main__":
    run(main, AUTO_RESUMES)
