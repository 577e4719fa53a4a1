"""The Hugging Face Trainer that both losses use: loss accounting, micro-batches, skipped steps,
evaluation by time, the values of a log line.

DDP, DeepSpeed (--deepspeed) and so on come with the Trainer. Added here: data in NoiseStream's
order, the loss divided by one constant over the global batch, non-finite steps skipped and counted.
Saving and resuming are checkpoint_trainer.py's. What is replaced: trainer_methods.py.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from common.errors import InputError
from training.checkpoint_trainer import CheckpointTrainer
from training.likelihood_bound import loss_by_time
from training.masked_loss import Batch
from training.micro_batches import accumulating, collate_micro_batches, micro_batches_of
from training.optimizer_groups import parameter_groups
from training.train_log import SinceLastLine


class DiffusionTrainer(CheckpointTrainer):
    """Trainer whose subclasses define the loss of each row of a batch.

    row_terms(model, batch) -> {term: (B,)}, whose sum is a row's loss; reconstruction_terms(model,
    batch) -> (B,), what the NLL bound adds for the times that training never draws.
    """

    TERMS: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any):
        super().__init__(compute_metrics=self.held_out_metrics, **kwargs)
        # several GPUs without torchrun: never torch's DataParallel
        self.args._n_gpu = min(self.args._n_gpu, 1)
        # so that the Trainer divides by the accumulation steps itself
        self.model_accepts_loss_kwargs = False
        self.at_end = False  # whether held-out rows are at LAST_TIME
        self.since = SinceLastLine(self.args, self.model)

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
        self.since.micro_batches += len(losses)
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
        self.since.end_step()
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
        """The Trainer's, of the averages with --ema_decay; its time does not count as training
        (`SinceLastLine.pause`).
        """
        with self.since.pause(), self.averaged():
            return super().evaluate(*args, **kwargs)

    # ---- log

    def note(self, rows: int, passed_tokens: Tensor, **values: Tensor) -> None:
        """Accumulate per-row values (B,) for the next log line, which has their means over the rows
        since the last one. passed_tokens: tokens that passed through the network.
        """
        if self.model.training:
            self.since.add(rows, passed_tokens, values)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's; a training line also has means over rows, speed and balance since the
        last one, learning rates and skipped steps.
        """
        if "loss" in logs and self.since.rows:
            logs.update(self.since.values(self.accelerator))
            for name, rate in zip(self.group_names, self.rates):
                logs[f"learning_rate_{name}"] = rate
            logs["nonfinite_steps"] = self.nonfinite_steps
        super().log(logs, start_time)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.since.start_clock()
        return prepared

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.since.pause():
            super()._save_checkpoint(*args, **kwargs)

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
        """The optimizer, created at the first call, with the groups of `parameter_groups`."""
        if self.optimizer is None:
            groups = parameter_groups(model or self.model, self.args)
            self.group_names = list(groups)
            optimizer_cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_cls(list(groups.values()), **kwargs)
        return self.optimizer
