"""The flags of every training script: Hugging Face's TrainingArguments with the paper's values as
defaults, and our own.

Settings that cannot work are refused here, naming the flag, before anything is read or written.
"""

import importlib.util
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from common.config_values import LENGTH_DISTRIBUTION
from common.errors import InputError
from flexmdm_interpolant import parse_schedule

# (test of a value, the same in words, flags); None means not given
RANGES = (
    (
        lambda value: value > 0,
        "above 0",
        (
            "num_train_epochs",
            "adam_epsilon",
            "lora_alpha",
            "time_scale",
            "loss_constant",
            "logging_steps",
            "save_steps",
            "eval_steps",
            "mfu",
            "gpu_tflops",
            "dry_run_tokens",
        ),
    ),
    (
        lambda value: value >= 0,
        "at least 0",
        (
            "learning_rate",
            "lora_lr",
            "weight_decay",
            "lora_weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "eval_delay",
            "seed",
            "max_nonfinite_steps",
        ),
    ),
    (
        lambda value: value >= 1,
        "at least 1",
        (
            "lora_r",
            "adaln_group_size",
            "sft_max_length",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "eval_draws",
            "dry_run_gpus",
        ),
    ),
    (
        lambda value: 0 <= value < 1,
        "at least 0 and below 1",
        ("adam_beta1", "adam_beta2", "lora_dropout", "start_share"),
    ),
    (LENGTH_DISTRIBUTION[0], "between 0 and 1048575", ("length_distribution",)),
    (lambda value: 0 < value < 0.5, "between 0 and 0.5", ("time_epsilon",)),
    (lambda value: 0 < value < 1, "between 0 and 1", ("mask_ratio_epsilon",)),
)


@dataclass
class RunArguments(TrainingArguments):
    """Hugging Face's TrainingArguments with the paper's values as defaults, and the paper's own
    flags.
    """

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
        default="log_rate", metadata={"help": "log_rate, or softplus [paper's code]"}
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
    lora_lr: float | None = field(
        default=None, metadata={"help": "learning rate of LoRA; default --learning_rate"}
    )
    lora_weight_decay: float = field(default=0.0, metadata={"help": "[paper's code]"})
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "rows per process and micro-batch [paper]"}
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
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "default: if the GPU supports it"}
    )
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

    def __post_init__(self) -> None:
        self.check_numbers()
        accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
        # else torchrun on CPUs trains the same rows in every process
        self.use_cpu = self.use_cpu or not accelerator
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        self.tf32 = True if torch.cuda.is_available() and self.tf32 is None else self.tf32
        self.train_data = self.train_data or self.cache_path
        if self.wandb:
            self.report_to = "wandb"
        self.run_name = self.run_name or self.job_name
        self.output_dir = self.output_dir or str(Path("runs") / (self.job_name or "unnamed"))
        for flag, needed, wanted in (
            ("deepspeed", "deepspeed", self.deepspeed),
            ("report_to", "wandb", "wandb" in self.report_to),
            ("report_to", "tensorboard", "tensorboard" in self.report_to),
        ):
            if wanted and not importlib.util.find_spec(needed):
                raise InputError(
                    f"--{flag}: {needed} is not installed"
                    + (", see requirements-cluster.txt" if flag == "deepspeed" else "")
                )
        if self.fsdp and self.use_cpu:
            raise InputError(
                "--fsdp: on CPUs transformers would train with DDP instead; use --fully_shard"
            )
        if self.fully_shard and (self.fsdp or self.deepspeed):
            raise InputError(
                "--fully_shard: cannot be combined with --fsdp or --deepspeed, which shard by"
                " themselves"
            )
        if not self.use_cpu:
            # copies to the GPU do not wait for what it still does
            self.accelerator_config = self.accelerator_config or {"non_blocking": True}
        # block by block (compile_network), not by accelerate
        self.compile_blocks, self.torch_compile = self.torch_compile, False
        super().__post_init__()

    def check_numbers(self) -> None:
        """Refuse a number that is not finite or not in its flag's range. Raises InputError."""
        for name in (one.name for one in fields(self)):
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--{name}: {value} is not a finite number")
        for fits, words, names in RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise InputError(f"--{name}: {value} is not {words}")

    def check(self) -> None:
        """Refuse settings that cannot work, naming the flag, before anything is read or written.
        Raises InputError.
        """
        if not self.train_data and not self.dry_run and not (self.evaluate_only and self.eval_data):
            raise InputError("--train_data: give the folder that a preprocessing script wrote")
        for flag in ("insertion_schedule", "unmask_schedule"):
            try:
                parse_schedule(getattr(self, flag))
            except ValueError as error:
                raise InputError(f"--{flag}: {error}") from None
        if parse_schedule(self.unmask_schedule).to_config()["name"] == "geometric":
            raise InputError(
                "--unmask_schedule: geometric never reaches 1, masks would remain; only insertion"
                " may use it"
            )
        if self.length_head not in ("log_rate", "softplus"):
            raise InputError(f"--length_head: {self.length_head} is neither log_rate nor softplus")
        if self.length_distribution and not self.variable_length:
            raise InputError("--length_distribution: only a FlexMDM has one (--variable_length)")
        settings: Any = self.lr_scheduler_kwargs or {}
        for name, value in settings.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--lr_scheduler_kwargs: {name} {value} is not a finite number")
        for flag in ("label_smoothing_factor", "neftune_noise_alpha"):
            if getattr(self, flag):
                raise InputError(f"--{flag}: these losses have no such term; leave it out")
        if self.load_best_model_at_end or self.save_strategy == "best":
            raise InputError(
                "--load_best_model_at_end, --save_strategy best: not supported; checkpoints are"
                " chosen by step"
            )
        if self.auto_find_batch_size:
            raise InputError(
                "--auto_find_batch_size: it would change the global batch, and with it the rows and"
                " noise of every step"
            )
        if self.load_in_4bit:
            if self.all_parameters or self.from_scratch:
                raise InputError(
                    "--load_in_4bit: only a frozen base can be in 4 bits; not with --all_parameters"
                    " or --from_scratch"
                )
            if not torch.cuda.is_available() or not importlib.util.find_spec("bitsandbytes"):
                missing = (
                    "a CUDA GPU" if not torch.cuda.is_available() else "the package bitsandbytes"
                )
                raise InputError(f"--load_in_4bit: needs {missing}")
        world = int(os.environ.get("WORLD_SIZE", 1))
        if self.world_size != world:
            raise InputError(
                f"the launcher started {world} processes, but the Trainer sees {self.world_size}:"
                " each would train on the same rows"
            )
        if self.fully_shard and world == 1:
            raise InputError(
                "--fully_shard: needs more than one process; start several with torchrun"
            )

    @property
    def global_batch(self) -> int:
        """Rows of one step, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def engine(self) -> str:
        """What holds weights and optimizer; a checkpoint's optimizer can only be loaded by the same
        engine.
        """
        if self.deepspeed:
            zero = self.hf_deepspeed_config.config.get("zero_optimization", {})
            return f"zero-{zero.get('stage', 0)}"
        return "sharded" if self.fully_shard or self.fsdp else "whole"

    def flexmdm_settings(self) -> dict[str, Any]:
        """Fields of FlexMDMConfig that the flags choose."""
        lora = (
            None
            if self.all_parameters
            else {
                "r": self.lora_r,
                "lora_alpha": self.lora_alpha,
                "lora_dropout": self.lora_dropout,
            }
        )
        return {
            "insertion_schedule": parse_schedule(self.insertion_schedule).to_config(),
            "lora": lora,
            "unmask_schedule": parse_schedule(self.unmask_schedule).to_config(),
            "length_head": self.length_head,
            "length_distribution": self.length_distribution,
            "time_scale": self.time_scale,
            "time_epsilon": self.time_epsilon,
            "adaln_group_size": self.adaln_group_size,
            "attend_to_padding": self.attend_to_padding,
            "max_length": self.sft_max_length,
        }


Arguments = TypeVar("Arguments", bound=RunArguments)


class Parser(HfArgumentParser):
    """transformers' parser, whose refusals are InputErrors."""

    def add_argument(self, *flags: Any, **options: Any) -> Any:
        """argparse's."""
        # transformers allows a `bool` without a value, but not a `bool | None`
        if options.get("type") is string_to_bool:
            options |= {"nargs": "?", "const": True}
        return super().add_argument(*flags, **options)

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(message)  # argparse would print some 300 lines of usage first


def make_parser(cls: Any, description: str | None = None) -> Parser:
    """The parser of a training script, whose flags are the fields of a dataclass, cls. Every
    boolean flag may be given without a value (`--bf16`) or with one (`--bf16 false`).
    """
    return Parser(cls, description=description, allow_abbrev=False)


def parse_arguments(cls: type[Arguments], description: str | None) -> Arguments:
    """The script's arguments. Unknown flags and impossible values are refused in one line: raises
    InputError.
    """
    parser = make_parser(cls, description)
    try:
        (arguments,) = parser.parse_args_into_dataclasses()
    except ValueError as error:
        raise InputError(str(error)) from None
    arguments.check()
    return arguments
