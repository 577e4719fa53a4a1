"""The Hugging Face Trainer that both losses use: loss accounting, optimizer groups, skipped steps,
evaluation by time, logging, saving.

DDP, DeepSpeed (--deepspeed) and so on come with the Trainer. Added here: data in NoiseStream's
order, the loss divided by one constant over the global batch, non-finite steps skipped and counted,
checkpoints complete or invisible (training/checkpoints.py).
"""

import contextlib
import functools
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from common.errors import InputError
from common.files import read_json, write_reason
from llada_utils import write_checkpoint
from training.checkpoints import (
    MANIFEST,
    keep_newest,
    load_trained,
    publish_atomically,
    trained_pairs,
    write_manifest,
)
from training.estimate import flops_per_token, peak_flops
from training.likelihood_bound import loss_by_time
from training.masked_loss import Batch
from training.micro_batches import accumulating, collate_micro_batches, micro_batches_of
from training.sharding import load_sharded_optimizer, save_sharded_optimizer, whole_tensor

OPTIMIZER_FOLDER = "optimizer_shards"

# Methods of transformers' Trainer that DiffusionTrainer replaces or calls, including private ones:
# the parameters it relies on, and why. Check these first when transformers is upgraded.
TRAINER_METHODS = {
    # replaced
    "compute_loss": ("model inputs return_outputs num_items_in_batch", "our loss and its constant"),
    "training_step": (
        "model inputs num_items_in_batch",
        "micro-batches of a token budget; a loss that is not finite logs as 0",
    ),
    "floating_point_ops": ("inputs", "over the micro-batches of a token budget"),
    "_track_num_input_tokens": ("inputs", "over the micro-batches of a token budget"),
    "_get_grad_norm": ("model grad_norm", "skip and count steps that are not finite"),
    "_defer_fsdp_gradient_reduction": ("", "accumulation under fully_shard"),
    "prediction_step": (
        "model inputs prediction_loss_only ignore_keys",
        "cost of held-out rows, for the NLL bound",
    ),
    "evaluate": ("eval_dataset ignore_keys metric_key_prefix", "its time is no training time"),
    "log": ("logs start_time", "means over rows, speed and balance besides"),
    "get_train_dataloader": ("", "lists of micro-batches of a token budget"),
    "_get_train_sampler": ("train_dataset", "NoiseStream is the order"),
    "create_optimizer": ("model", "groups: LoRA, matrices, vectors"),
    "_get_output_dir": ("trial", "a checkpoint is written under .saving"),
    "_save_checkpoint": ("model trial", "and renamed when it is complete"),
    "save_model": ("output_dir _internal_call", "our folders; shards are gathered"),
    "_save_optimizer_and_scheduler": ("output_dir", "its shards, by torch or DeepSpeed"),
    "_load_from_checkpoint": ("resume_from_checkpoint model", "the trained weights, strictly"),
    "_prepare_for_training": (
        "max_steps train_dataloader resume_from_checkpoint",
        "DeepSpeed's weights without the frozen base; the clock starts",
    ),
    "_load_optimizer_and_scheduler": ("checkpoint", "its shards; one line where they are damaged"),
    # called
    "_prepare_inputs": ("inputs", "a batch onto the device"),
    "compute_loss_context_manager": ("", "autocast of held-out rows"),
    "get_optimizer_cls_and_kwargs": ("args model", "--optim"),
}


class DiffusionTrainer(Trainer):
    """Trainer whose subclasses define the loss of each row of a batch.

    row_terms(model, batch) -> {term: (B,)}, whose sum is a row's loss; reconstruction_terms(model,
    batch) -> (B,), what the NLL bound adds for the times that training never draws. card: text of
    the model card; sharded: the model's parameters are already sharded.
    """

    TERMS: tuple[str, ...] = ()
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
        super().__init__(compute_metrics=self.held_out_metrics, **kwargs)
        # several GPUs without torchrun: never torch's DataParallel
        self.args._n_gpu = min(self.args._n_gpu, 1)
        # the Trainer then wraps nothing around the model
        self.is_distributed_loading_by_transformers = self.sharded = sharded
        self.card, self.at_end = card, False
        # so that the Trainer divides by the accumulation steps itself
        self.model_accepts_loss_kwargs = False
        self.sums: dict[str, Any] = defaultdict(float)
        self.noted_rows = self.micro_batches = 0
        self.step_tokens: Any = 0  # a tensor on the device, once there are some
        self.tokens_of_steps: list[Any] = []
        self.nonfinite_steps, self.paused = 0, 0.0
        self.clock: float | None = None
        self.flops_per_token = flops_per_token(self.model)
        self.peak_flops = peak_flops(self.args.device)

    # ---- loss

    def row_terms(self, model: Any, batch: Batch) -> Batch:
        """{term: (B,)} of each row; defined by a subclass."""
        raise TypeError(f"{type(self).__name__} does not define row_terms")

    def reconstruction_terms(self, model: Any, batch: Batch) -> Tensor:
        """(B,), what the NLL bound adds at t = 1 - epsilon; defined by a subclass."""
        raise TypeError(f"{type(self).__name__} does not define reconstruction_terms")

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum over rows / (rows of the global batch x constant). The Trainer divides by the
        accumulation steps and DDP averages over processes, so the micro-batch's share is multiplied
        by both first: the result does not depend on how the batch is split. Returns the loss, or
        with return_outputs (loss, every row's (B,)).
        """
        first, *others = self.row_terms(model, inputs).values()
        losses = sum(others, start=first)
        args = self.args
        loss = losses.sum() * (
            args.world_size
            * args.gradient_accumulation_steps
            / (args.global_batch * args.loss_constant)
        )
        # A non-finite loss makes every gradient non-finite in all processes, so all of them skip
        # the step (_get_grad_norm).
        loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)
        return (loss, losses) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's, for every micro-batch if inputs are a list of them. Returns the sum of
        their losses; a non-finite one counts as 0 in the log, because the Trainer's own filter
        would synchronise at every step.
        """
        step = super().training_step
        *earlier, last = micro_batches_of(inputs)
        with accumulating(self, model) if earlier else contextlib.nullcontext():
            losses = [step(model, batch, *args, **kwargs) for batch in earlier]
        losses.append(step(model, last, *args, **kwargs))
        self.micro_batches += len(losses)
        return torch.nan_to_num(torch.stack(losses), nan=0.0, posinf=0.0, neginf=0.0).sum()

    def floating_point_ops(self, inputs: Any) -> int:
        """The Trainer's count, of all micro-batches."""
        return sum(map(super().floating_point_ops, micro_batches_of(inputs)))

    def _track_num_input_tokens(self, inputs: Any) -> None:
        for batch in micro_batches_of(inputs):
            super()._track_num_input_tokens(batch)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """Norm of the whole gradient, a float, the same in all processes. If it is not finite, the
        step is skipped and counted.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self.tokens_of_steps.append(self.step_tokens)
        self.step_tokens = 0
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        skipped = not math.isfinite(norm) or (
            self.is_deepspeed_enabled and getattr(self.model_wrapped.optimizer, "overflow", False)
        )
        if skipped:
            # AdamW leaves parameters without a gradient, and their moments, alone
            model.zero_grad(set_to_none=True)
            self.nonfinite_steps += 1
            if self.is_world_process_zero():
                print(
                    f"step {self.state.global_step + 1}: loss or gradient is not finite, step"
                    f" skipped ({self.nonfinite_steps} so far)",
                    flush=True,
                )
            if self.nonfinite_steps > self.args.max_nonfinite_steps:
                raise InputError(
                    f"--max_nonfinite_steps: {self.nonfinite_steps} steps had a loss or gradient"
                    f" that is not finite, the last one step {self.state.global_step + 1}; the run"
                    " stops"
                )
        return norm

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    # ---- held-out rows

    def prediction_step(
        self,
        model: Any,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, terms of each row (B, terms), its time, row number and tokens (B, 3)) for
        held_out_metrics.
        """
        with torch.no_grad():
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                terms = (
                    [self.reconstruction_terms(model, inputs)]
                    if self.at_end
                    else list(self.row_terms(model, inputs).values())
                )
        costs = torch.stack(terms, 1)  # (B, terms)
        facts = torch.stack(
            [inputs[name].to(costs) for name in ("time_uniform", "row", "answer_tokens")], 1
        )
        return costs.sum(1).mean() / self.args.loss_constant, costs, facts

    def held_out_metrics(self, prediction: Any) -> dict[str, float]:
        """`loss_by_time` of prediction_step's results for all rows; none at LAST_TIME."""
        costs, facts = prediction.predictions, prediction.label_ids
        return (
            {}
            if self.at_end
            else loss_by_time(dict(zip(self.TERMS, costs.T)), facts[:, 0], self.args.loss_constant)
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The Trainer's; its time does not count as training (`pause`)."""
        with self.pause():
            return super().evaluate(*args, **kwargs)

    # ---- log

    def note(self, rows: int, passed_tokens: Tensor, **values: Tensor) -> None:
        """Accumulate per-row values (B,) for the next log line, which has their means over the rows
        since the last one. passed_tokens: tokens that passed through the network.
        """
        if self.model.training:
            self.noted_rows += rows
            # on the device, like the sums: nothing waits for it here
            self.step_tokens = self.step_tokens + passed_tokens
            for name, value in values.items():
                self.sums[name] = (
                    self.sums[name]
                    + torch.nan_to_num(
                        value.detach().double(), nan=0.0, posinf=0.0, neginf=0.0
                    ).sum()
                )

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside does not count as training time in tokens per second."""
        started = time.perf_counter()
        yield
        self.paused += time.perf_counter() - started

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's; a training line also has `log_values`."""
        if "loss" in logs and self.noted_rows:
            logs.update(self.log_values())
        super().log(logs, start_time)

    def log_values(self) -> dict[str, float]:
        """Means over rows, speed and balance of all processes since the last log line. Every
        process must call it.
        """
        names = sorted(self.sums)
        totals = torch.stack(
            [
                torch.tensor(self.noted_rows, device=self.args.device, dtype=torch.float64),
                *(self.sums[name].to(self.args.device) for name in names),
            ]
        )
        totals = self.accelerator.reduce(totals, reduction="sum").tolist()
        values = {name: total / totals[0] for name, total in zip(names, totals[1:])}
        # (1, steps)
        tokens = torch.stack(
            [torch.as_tensor(each, device=self.args.device) for each in self.tokens_of_steps]
        )[None].double()
        tokens = self.accelerator.gather(tokens)  # (processes, steps)
        now = time.perf_counter()
        seconds = now - self.clock - self.paused if self.clock is not None else None
        if seconds and len(self.tokens_of_steps):
            values["sequences_per_second"] = totals[0] / seconds
            values["tokens_per_second"] = values["tokens"] * totals[0] / seconds
            if self.peak_flops:
                values["mfu"] = (
                    float(tokens.sum())
                    * self.flops_per_token
                    / seconds
                    / (self.peak_flops * self.args.world_size)
                )
        if self.args.world_size > 1:
            values["process_tokens_max_over_mean"] = float(
                (tokens.max(0).values / tokens.mean(0).clamp_min(1)).mean()
            )
        values |= {
            f"learning_rate_{name}": rate for name, rate in zip(self.group_names, self.rates)
        }
        values["nonfinite_steps"] = self.nonfinite_steps
        if self.args.tokens_per_batch is not None:
            values["micro_batches_per_step"] = self.micro_batches / len(self.tokens_of_steps)
        self.sums.clear()
        self.micro_batches = 0
        self.noted_rows, self.tokens_of_steps, self.clock, self.paused = 0, [], now, 0.0
        return values

    # ---- data and optimizer

    def get_train_dataloader(self) -> Any:
        """The Trainer's; with --tokens_per_batch each item is the list of a step's micro-batches,
        for training_step.
        """
        collator = self.data_collator
        if self.args.tokens_per_batch is not None:
            self.data_collator = functools.partial(collate_micro_batches, collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # NoiseStream itself is the order
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, created at the first call: LoRA, matrices and vectors are groups with
        their own learning rates and weight decays.
        """
        if self.optimizer is None:
            args, groups = self.args, defaultdict(list)
            for name, parameter in (model or self.model).named_parameters():
                if parameter.requires_grad:
                    groups[
                        "lora" if ".lora_" in name else "matrix" if parameter.ndim > 1 else "vector"
                    ].append(parameter)
            settings = {
                "lora": {
                    "lr": args.lora_lr or args.learning_rate,
                    "weight_decay": args.lora_weight_decay,
                },
                "matrix": {"lr": args.learning_rate, "weight_decay": args.weight_decay},
                "vector": {"lr": args.learning_rate, "weight_decay": 0.0},
            }
            self.group_names = [name for name in settings if groups[name]]
            optimizer_cls, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(args, self.model)
            self.optimizer = optimizer_cls(
                [{"params": groups[name], **settings[name]} for name in self.group_names],
                **optimizer_kwargs,
            )
        return self.optimizer

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
        with self.pause(), named_failure(f"{output_dir / name}"):
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights, config, tokenizer and card, written by one process; all must call it, because
        shards are gathered.
        """
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
        self.clock = time.perf_counter()
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
