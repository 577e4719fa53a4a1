"""Flags of the training scripts: our own, and those of transformers whose default is the paper's.

Nothing here imports torch: `--help`, a wrong path and a mistyped value are answered before the
seconds that torch and transformers' Trainer take to import (`first_look`). training/arguments.py
joins these flags to those of Hugging Face's TrainingArguments and checks what they mean.
"""

from dataclasses import dataclass, field


@dataclass
class RunFlags:
    """Flags of every training script."""

    # what is trained
    model_name_or_path: str = field(
        default="GSAI-ML/LLaDA-8B-Base", metadata={"help": "LLaDA base: local folder or hub id"}
    )
    variable_length: bool = field(
        default=False, metadata={"help": "train a FlexMDM; without it a plain LLaDA"}
    )
    init_from: str | None = field(
        default=None,
        metadata={"help": "checkpoint to start from (transfer -> fine-tuning); keeps its settings"},
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "random weights, config.json of --model_name_or_path"}
    )
    all_parameters: bool = field(
        default=False,
        metadata={"help": "train every parameter, not just LoRA and newly initialised modules"},
    )
    lora_r: int = field(default=128, metadata={"help": "LoRA rank on q, k, v and the head [paper]"})
    lora_alpha: float = field(
        default=128, metadata={"help": "LoRA scale is lora_alpha / lora_r [paper]"}
    )
    lora_dropout: float = field(default=0.1, metadata={"help": "[paper]"})
    # FlexMDM's choices; all are stored in the checkpoint
    insertion_schedule: str = field(
        default="linear",
        metadata={
            "help": (
                "linear [paper], power:P or geometric:MIN,MAX; small networks: power:5 (RESULTS.md)"
            )
        },
    )
    unmask_schedule: str = field(default="linear", metadata={"help": "linear [paper], power:P"})
    length_head: str = field(
        default="log_rate",
        metadata={
            "help": (
                "log_rate and softplus [paper's code]: the number of tokens missing in each gap;"
                " total: the row's number, shared out over its gaps"
            )
        },
    )
    length_distribution: int = field(
        default=0,
        metadata={
            "help": (
                "FlexMDM: largest number of missing tokens in a gap for the head p(n | xt, t) that"
                " --sampler count_first needs; 0: no such head [paper]. Added to an --init_from"
                " that has none"
            )
        },
    )
    start_share: float = field(
        default=0.1,
        metadata={
            "help": (
                "with a length distribution: share of the rows trained at t = 0, where count_first"
                " queries it"
            )
        },
    )
    time_scale: float = field(
        default=1000.0,
        metadata={"help": "t is multiplied by this before it is embedded; 1 [paper's code]"},
    )
    time_epsilon: float = field(
        default=1e-3,
        metadata={"help": "t is drawn from [0, 1 - this); loss weights stay below 1 / this"},
    )
    mask_ratio_epsilon: float = field(
        default=1e-3,
        metadata={
            "help": "LLaDA: mask ratios are drawn from [this, 1); loss weights stay below 1 / this"
        },
    )
    adaln_group_size: int = field(
        default=8, metadata={"help": "blocks that share one modulation [paper]"}
    )
    attend_to_padding: bool = field(
        default=False,
        metadata={"help": "as in the paper's code; every batch is then padded to full length"},
    )
    # data
    train_data: str | None = field(
        default=None, metadata={"help": "folder written by a preprocessing script"}
    )
    cache_path: str | None = field(
        default=None, metadata={"help": "same as --train_data (the paper's code calls it this)"}
    )
    sft_max_length: int = field(
        default=1024,
        metadata={"help": "longest row in tokens; LLaDA's instruction rows are filled to it"},
    )
    low_discrepancy: bool = field(
        default=True, metadata={"help": "stratify t over the global batch [paper]"}
    )
    loss_constant: float = field(
        default=1024.0,
        metadata={"help": "the loss is the sum over the global batch / (rows x this) [paper]"},
    )
    sanity_run: bool = field(
        default=False, metadata={"help": "check that everything fits and runs: 10 steps on 64 rows"}
    )
    # run
    output_dir: str | None = field(default=None, metadata={"help": "default runs/JOB_NAME"})
    job_name: str | None = field(default=None, metadata={"help": "name of the run"})
    wandb: bool = field(default=False, metadata={"help": "same as --report_to wandb"})
    overwrite: bool = field(
        default=False, metadata={"help": "delete the files of an earlier run in --output_dir"}
    )
    quiet: bool = field(
        default=False,
        metadata={"help": "show no progress; results, warnings and the last three lines remain"},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "off: it would synchronise at every step; ours filters on the device"},
    )
    max_nonfinite_steps: int = field(
        default=10,
        metadata={
            "help": (
                "steps whose loss or gradient is not finite are skipped; more than this end the run"
            )
        },
    )
    fully_shard: bool = field(
        default=False,
        metadata={
            "help": (
                "FSDP2 by torch's own fully_shard, on CPUs too: shards weights, gradients and"
                " optimizer"
            )
        },
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "frozen base in 4 bits (bitsandbytes, CUDA): LoRA on a 24 GB card"},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": (
                "evaluate and save an exponential moving average of the trained parameters with"
                " this decay per step, such as 0.999; default: the parameters themselves [paper]"
            )
        },
    )
    lora_lr: float | None = field(
        default=None, metadata={"help": "learning rate of LoRA; default --learning_rate"}
    )
    lora_weight_decay: float = field(default=0.0, metadata={"help": "[paper's code]"})
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "rows per process and micro-batch [paper]"}
    )
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": (
                "micro-batches of at most this many tokens after noising (a longer row is one of"
                " its own), instead of a number of rows. The rows of a step stay the same:"
                " per_device_train_batch_size x gradient_accumulation_steps x processes"
            )
        },
    )
    per_device_eval_batch_size: int = field(default=4)
    learning_rate: float = field(default=1e-4, metadata={"help": "[paper's code]"})
    weight_decay: float = field(
        default=0.01,
        metadata={
            "help": (
                "of newly initialised modules and, with --all_parameters, of all matrices"
                " [paper's code]"
            )
        },
    )
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "cosine to zero; the paper's code: --lr_scheduler_kwargs '{\"num_cycles\": 5}'"
        },
    )
    warmup_steps: float = field(
        default=0.05,
        metadata={"help": "steps, or a fraction of the run when below 1 [paper's code: 5 %%]"},
    )
    max_grad_norm: float = field(default=1.0)
    seed: int = field(default=42)
    save_steps: float = field(default=10_000)
    save_total_limit: int | None = field(default=3)
    logging_steps: float = field(default=10)
    report_to: str = field(
        default="none", metadata={"help": "wandb or tensorboard, in addition to train_log.jsonl"}
    )
    # None until __post_init__ has queried the GPU
    bf16: bool | None = field(default=None, metadata={"help": "default: if the GPU supports it"})
    remove_unused_columns: bool = field(default=False)
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "every trained parameter is used in every step"}
    )
    # instead of training
    evaluate_only: bool = field(
        default=False,
        metadata={"help": "print the NLL upper bound of --init_from (or the base) and stop"},
    )
    eval_data: str | None = field(
        default=None,
        metadata={
            "help": (
                "data for --evaluate_only: folder of a preprocessing script, or text "
                "(.txt, .raw, JSONL); default: the validation split of --train_data"
            )
        },
    )
    eval_draws: int = field(
        default=4,
        metadata={"help": "noised copies of each held-out row, t stratified over all of them"},
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "print sizes, memory, steps and GPU hours without loading weights, and stop"
        },
    )
    dry_run_gpus: int = field(
        default=16, metadata={"help": "--dry_run: number of GPUs [paper: 16]"}
    )
    dry_run_tokens: float = field(
        default=13.1e9,
        metadata={"help": "--dry_run: tokens of x1, without --max_steps and --train_data [paper]"},
    )
    mfu: float = field(
        default=0.4, metadata={"help": "--dry_run: model FLOPs utilisation, a fraction of the peak"}
    )
    gpu_tflops: float = field(
        default=989.0,
        metadata={"help": "--dry_run: peak of the GPU, bf16 dense [H100 SXM, NVIDIA's data sheet]"},
    )


@dataclass
class InstructionFlags(RunFlags):
    """RunFlags with the paper code's values for fine-tuning, and the task."""

    task: str = field(default="math", metadata={"help": "math (GSM8K) or code (infilling)"})
    num_train_epochs: float = field(
        default=100, metadata={"help": "[paper's code: 100 for math, 50 for code]"}
    )
    weight_decay: float = field(default=0.1, metadata={"help": "[paper's code]"})
    lora_weight_decay: float = field(
        default=0.1, metadata={"help": "[paper's code: 0.1 everywhere]"}
    )
