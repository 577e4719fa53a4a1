"""transformers' Trainer with our checkpoints: complete or invisible (training/checkpoints.py), of
sharded weights too, with the averages of --ema_decay, and read strictly when a run resumes.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from common.errors import InputError
from common.files import read_json
from llada_utils import write_checkpoint
from training.checkpoints import (
    MANIFEST,
    UNAVERAGED,
    keep_newest,
    load_trained,
    named_failure,
    publish_atomically,
    trained_pairs,
    write_manifest,
)
from training.sharding import load_sharded_optimizer, save_sharded_optimizer, whole_tensor
from training.weight_average import WeightAverage

OPTIMIZER_FOLDER = "optimizer_shards"


class CheckpointTrainer(Trainer):
    """Trainer that writes and reads our checkpoints. card: text of the model card; sharded: the
    model's parameters are already sharded.
    """

    # what the Trainer leaves wider open: RunArguments, one of the two networks and its collator, a
    # NoiseStream, what accelerate or DeepSpeed makes of model, optimizer and scheduler
    args: Any
    model: Any
    model_wrapped: Any
    data_collator: Any
    train_dataset: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *, card: str = "", sharded: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        # the Trainer then wraps nothing around the model
        self.is_distributed_loading_by_transformers = self.sharded = sharded
        self.card, self.nonfinite_steps = card, 0
        self.average = WeightAverage(self.args.ema_decay) if self.args.ema_decay else None
        if self.average:
            self.add_callback(self.average)

    # ---- saving: under .saving, renamed when every process has written its part

    def _get_output_dir(self, trial: Any = None) -> str:
        return (
            os.path.join(self.args.output_dir, ".saving")
            if getattr(self, "_staging", False)
            else self.args.output_dir
        )

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        output_dir, staging = Path(self.args.output_dir), Path(self.args.output_dir) / ".saving"
        with named_failure(f"{output_dir / name}"):
            if self.is_world_process_zero():
                shutil.rmtree(staging, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self._staging = True
            try:
                super()._save_checkpoint(model, trial)
            except Exception:
                shutil.rmtree(staging, ignore_errors=True)  # a full disk stays as full as it was
                raise
            finally:
                self._staging = False
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                write_manifest(
                    staging / name,
                    {
                        "engine": self.args.engine,
                        "processes": self.args.world_size,
                        "nonfinite_steps": self.nonfinite_steps,
                    },
                )
                publish_atomically(staging / name, output_dir / name)
                shutil.rmtree(staging, ignore_errors=True)
                keep_newest(output_dir, self.args.save_total_limit)
            self.accelerator.wait_for_everyone()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model holds the averaged parameters, if the run averages them."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights (with --ema_decay their averages), config, tokenizer and card, written by one
        process; all must call it, because shards are gathered.
        """
        with self.averaged():
            self._write_model(output_dir)

    def _write_model(self, output_dir: str | None) -> None:
        state: dict[str, Tensor] | None = None
        if self.sharded or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            state = {}
            for name, parameter in self.accelerator.unwrap_model(
                self.model, keep_torch_compile=False
            ).named_parameters():
                if parameter.requires_grad:
                    whole = whole_tensor(parameter)
                    state |= {name: whole.to("cpu", copy=True)} if self.args.should_save else {}
        if self.args.should_save:
            assert output_dir is not None  # the Trainer's own calls name it, as ours do
            os.makedirs(output_dir, exist_ok=True)
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            write_checkpoint(model, output_dir, self.processing_class, state, self.card)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.average:
            self._write_model(os.path.join(output_dir, UNAVERAGED))
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        elif self.sharded or self.is_fsdp_enabled:
            save_sharded_optimizer(
                self.model, self.optimizer.optimizer, Path(output_dir) / OPTIMIZER_FOLDER
            )
        else:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    # ---- resuming

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(
            self.accelerator.unwrap_model(self.model if model is None else model),
            Path(resume_from_checkpoint),
        )

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        zero = self.is_deepspeed_enabled and resume_from_checkpoint is not None
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, None if zero else resume_from_checkpoint
        )
        # DeepSpeed cannot be strict, the frozen base is not in the checkpoint: names and shapes are
        # checked here
        if zero and resume_from_checkpoint is not None:
            from transformers.integrations.deepspeed import deepspeed_load_checkpoint

            for _ in trained_pairs(
                self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint)
            ):
                pass
            deepspeed_load_checkpoint(
                self.model_wrapped, resume_from_checkpoint, load_module_strict=False
            )
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        if (
            resume_from_checkpoint is not None
            and (Path(resume_from_checkpoint) / MANIFEST).exists()
        ):
            self.nonfinite_steps = read_json(Path(resume_from_checkpoint) / MANIFEST)[
                "nonfinite_steps"
            ]
        if self.average:
            self.average.begin(self.model)  # a checkpoint's weights are the averages
            if resume_from_checkpoint is not None:
                self._load_from_checkpoint(str(Path(resume_from_checkpoint) / UNAVERAGED))
        return prepared

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (self.sharded or self.is_fsdp_enabled):
            load_sharded_optimizer(
                self.model, self.optimizer.optimizer, Path(checkpoint) / OPTIMIZER_FOLDER
            )
            self.lr_scheduler.load_state_dict(
                torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True)
            )
            return
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise InputError(
                f"--resume_from_checkpoint: the optimizer or scheduler in {checkpoint} cannot be"
                f" read: {str(error).splitlines()[0]}"
            ) from None
