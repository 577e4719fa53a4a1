"""The arguments of every training script: Hugging Face's TrainingArguments, with our own flags and
the paper's defaults (training/flags.py).

Settings that cannot work are refused here, naming the flag, before anything is read or written.
"""

import importlib.util
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from common.config_values import LENGTH_DISTRIBUTION, LENGTH_HEADS
from common.errors import InputError
from common.hub import use_local_copies_offline
from common.progress import silence_progress
from flexmdm_interpolant import parse_schedule
from training.command_line import parse_dataclass
from training.flags import InstructionFlags, RunFlags

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
            "tokens_per_batch",
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
    (lambda value: 0 < value < 1, "between 0 and 1", ("mask_ratio_epsilon", "ema_decay")),
)


@dataclass
class RunArguments(RunFlags, TrainingArguments):  # type: ignore[misc]  # our own bf16, report_to
    """Hugging Face's TrainingArguments with the paper's values as defaults, and the paper's own
    flags.
    """

    def __post_init__(self) -> None:
        self.check_numbers()
        if self.quiet:
            silence_progress()
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
        self.output_dir = self.output_dir or str(Path("runs") / (self.job_name or "unnamed"))
        self.run_name = self.run_name or self.job_name or Path(self.output_dir).name
        os.environ.setdefault("WANDB_PROJECT", "flexmdm")  # transformers would say "huggingface"
        if self.ema_decay and (self.deepspeed or self.fsdp):
            raise InputError(
                "--ema_decay: cannot be combined with --deepspeed or --fsdp; --fully_shard shards"
                " the averages as well"
            )
        for flag, needed, wanted in (
            ("deepspeed", "deepspeed", self.deepspeed),
            ("report_to", "wandb", "wandb" in self.report_to),
            ("report_to", "tensorboard", "tensorboard" in self.report_to),
        ):
            if wanted and not importlib.util.find_spec(needed):
                raise InputError(
                    f"--{flag}: {needed} is not installed"
                    + (", see requirements-cluster.txt" if needed != "tensorboard" else "")
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
        if self.tokens_per_batch is not None:
            # the Trainer gets a process's rows of a step at once; training_step takes its
            # micro-batches one after the other
            self.per_device_train_batch_size *= self.gradient_accumulation_steps
            self.gradient_accumulation_steps = 1
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
        if self.length_head not in LENGTH_HEADS:
            kinds = ", ".join(LENGTH_HEADS)
            raise InputError(f"--length_head: {self.length_head} is none of {kinds}")
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
        if self.push_to_hub:
            self._check_hub()
        if self.fully_shard and world == 1:
            raise InputError(
                "--fully_shard: needs more than one process; start several with torchrun"
            )

    def _check_hub(self) -> None:
        """Refuse --push_to_hub at once if the end of the run could push nothing: InputError."""
        from huggingface_hub import whoami

        use_local_copies_offline()
        try:
            whoami(self.hub_token)
        except Exception as error:  # no network, no token, a wrong one
            raise InputError(
                f"--push_to_hub: the hub cannot be asked who you are ({type(error).__name__}); it"
                " needs a network, and --hub_token or `hf auth login`"
            ) from None

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

    def lora_settings(self) -> dict[str, Any]:
        """peft's settings of a new LoRA, as the flags choose them."""
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
        }

    def flexmdm_settings(self) -> dict[str, Any]:
        """Fields of FlexMDMConfig that the flags choose."""
        return {
            "insertion_schedule": parse_schedule(self.insertion_schedule).to_config(),
            "lora": None if self.all_parameters else self.lora_settings(),
            "unmask_schedule": parse_schedule(self.unmask_schedule).to_config(),
            "length_head": self.length_head,
            "length_distribution": self.length_distribution,
            "time_scale": self.time_scale,
            "time_epsilon": self.time_epsilon,
            "adaln_group_size": self.adaln_group_size,
            "attend_to_padding": self.attend_to_padding,
            "max_length": self.sft_max_length,
        }


@dataclass
class InstructionArguments(InstructionFlags, RunArguments):  # type: ignore[misc]  # as above
    """RunArguments with the paper code's values for fine-tuning, and the task."""

    def check(self) -> None:
        """As RunArguments, and the task is one of the two. Raises InputError."""
        super().check()
        if self.task not in ("math", "code"):
            raise InputError(f"--task: {self.task} is neither math nor code")
        if self.variable_length and not self.init_from:
            print(
                "note: no --init_from, so the newly initialised modules start untrained; the paper"
                " fine-tunes a transferred checkpoint"
            )


Arguments = TypeVar("Arguments", bound=RunArguments)


def parse_arguments(cls: type[Arguments], description: str | None) -> Arguments:
    """The script's arguments. Unknown flags and impossible values are refused in one line: raises
    InputError.
    """
    arguments: Arguments = parse_dataclass(cls, description)
    arguments.check()
    return arguments
