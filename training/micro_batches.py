"""A step's micro-batches by a token budget (--tokens_per_batch).

The Trainer's number of micro-batches per step is fixed, that of a budget is not. So the Trainer
gets all rows that a process has in a step at once, as a list of collated micro-batches, and
DiffusionTrainer.training_step computes one after the other; gradients add up. NoiseStream says
which row belongs to which micro-batch.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from common.rows import Row
from training.masked_loss import Batch

if TYPE_CHECKING:
    from transformers import Trainer


def collate_micro_batches(
    collator: Callable[[Sequence[Row]], Batch], items: Sequence[Row]
) -> list[Batch]:
    """One batch for each run of items with the same `micro_batch`."""
    return [
        collator(list(rows)) for _, rows in groupby(items, key=lambda item: item["micro_batch"])
    ]


def micro_batches_of(inputs: Any) -> list[Batch]:
    """What the Trainer got from its loader, a batch or a list of them, as a list."""
    return inputs if isinstance(inputs, list) else [inputs]


@contextlib.contextmanager
def accumulating(trainer: "Trainer", model: Any) -> Iterator[None]:
    """Inside, gradients add up and processes do not exchange them: a later backward pass of the
    step does. What the Trainer does between its own micro-batches. model: as the Trainer wrapped
    it.
    """
    inside: contextlib.AbstractContextManager[Any]
    if trainer.is_deepspeed_enabled:  # it exchanges them at the end of a step, or at once (ZeRO-2)
        inside = contextlib.nullcontext()
    elif trainer.is_distributed_loading_by_transformers:
        inside = trainer._defer_fsdp_gradient_reduction()
    else:
        inside = trainer.accelerator.no_sync(model)
    state = trainer.accelerator.gradient_state
    state._set_sync_gradients(False)  # DeepSpeed's engine makes no step
    try:
        with inside:
            yield
    finally:
        state._set_sync_gradients(True)
