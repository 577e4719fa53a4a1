"""Transfer learning: a pretrained LLaDA becomes a FlexMDM (or, without --variable_length, trains on
as a LLaDA).

Data: a folder that flexmdm_transfer_preprocess.py wrote.

Laptop    python flexmdm_transfer_openwebtext.py --variable_length --model_name_or_path LLaDA-tiny-Base --train_data DATA \\
              --max_steps 200 --per_device_train_batch_size 32 --learning_rate 1e-3 --job_name transfer
One GPU   python flexmdm_transfer_openwebtext.py --variable_length --train_data DATA --gradient_accumulation_steps 16 --gradient_checkpointing
Slurm     sbatch scripts/flexmdm_transfer.sh            (16 H100, 200,000 steps, three days [paper])

The matched baseline, same data and budget:     the same command without --variable_length
A small base from nothing:                      ... --from_scratch --all_parameters --model_name_or_path FOLDER_WITH_CONFIG_AND_TOKENIZER
Going on after a stop of any kind:              ... --resume_from_checkpoint auto
The paper's learning rate shape:                ... --lr_scheduler_kwargs '{"num_cycles": 5}'
The paper code's network:                       ... --length_head softplus --time_scale 1 --attend_to_padding
Weights in shards:                              ... --fully_shard, or --deepspeed scripts/ds_zero2.json (ds_zero1, 3, 3_offload)
How well a checkpoint models a text:            ... --evaluate_only --init_from CHECKPOINT --eval_data FILE.txt (or a data folder)
What a run will need, without weights:          ... --dry_run --variable_length --gradient_checkpointing
Every flag of transformers.TrainingArguments works. Results: runs/JOB_NAME/{checkpoint-N, final,
train_log.jsonl, settings.json}.
"""

from data.token_rows import load_rows
from training_arguments import RunArguments, parse_arguments
from training_run import check_kind, dry_run, evaluate_only, held_out_rows, train


def build_model(args):
    """(model to train, its tokenizer) as the flags say: from a base, a checkpoint, or nothing."""
    import torch
    from transformers import set_seed

    from common.errors import InputError
    from common.files import resolve_folder
    from data.tokenizer import load_tokenizer
    from llada_dit import LLaDAModelLM
    from llada_utils import (
        add_lora,
        llada_config,
        load_flexmdm,
        load_llada,
        new_flexmdm,
        quantize_base,
    )
    from training_memory import require_room_for_training

    set_seed(args.seed)
    # of the frozen base
    dtype = torch.bfloat16 if args.bf16 and not args.all_parameters else torch.float32
    source = args.init_from or args.model_name_or_path
    folder = resolve_folder(source, "--init_from" if args.init_from else "--model_name_or_path")
    require_room_for_training(args, folder)
    tokenizer = load_tokenizer(source)
    if args.init_from:
        load = load_flexmdm if args.variable_length else load_llada
        model = load(args.init_from, dtype=dtype, merge=False)
        if (
            not args.variable_length
            and not hasattr(model, "peft_config")
            and not args.all_parameters
        ):
            add_lora(
                model,
                {
                    "r": args.lora_r,
                    "lora_alpha": args.lora_alpha,
                    "lora_dropout": args.lora_dropout,
                },
            )
    elif args.from_scratch:
        if args.variable_length or not args.all_parameters:
            raise InputError(
                "--from_scratch: a LLaDA is made from nothing with --all_parameters and without"
                " --variable_length"
            )
        model = LLaDAModelLM(llada_config(resolve_folder(args.model_name_or_path)))
    elif args.variable_length:
        model = new_flexmdm(args.model_name_or_path, dtype=dtype, **args.flexmdm_settings())
    else:
        model = load_llada(args.model_name_or_path, dtype=dtype)
        if not args.all_parameters:
            model.name_or_path = args.model_name_or_path
            add_lora(
                model,
                {
                    "r": args.lora_r,
                    "lora_alpha": args.lora_alpha,
                    "lora_dropout": args.lora_dropout,
                },
            )
    if args.load_in_4bit:
        quantize_base(model)
    return model, tokenizer


def collator_of(args, model):
    """The collator for text rows."""
    from flexmdm_trainer import FlexMDMCollator
    from llada_trainer import LLaDACollator

    if args.variable_length:
        return FlexMDMCollator(model.config)
    return LLaDACollator(
        model.config.mask_token_id, model.config.pad_token_id, epsilon=args.mask_ratio_epsilon
    )


def main():
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
    from common.errors import run

    run(main)
