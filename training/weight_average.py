"""Exponential moving average of the trained parameters (--ema_decay D).

Training goes on from the parameters themselves; held-out evaluation, step checkpoints and `final`
use the averages. After each optimizer step

    average = d * average + (1 - d) * parameter,   d = min(D, (1 + step) / (10 + step))

so that the untrained start weighs little, also in short runs (the decay that TensorFlow's
tf.train.ExponentialMovingAverage uses when it is given num_updates).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from training.sharding import reshard


class WeightAverage(TrainerCallback):
    """Averages of a model's trained parameters: on their device, in their dtype (fp32: DeepSpeed's
    bf16 copies are refused) and sharded as they are. decay: D, in (0, 1).
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.model: Any = None
        self.parameters: list[nn.Parameter] = []
        self.averages: list[Tensor] = []

    def begin(self, model: nn.Module) -> None:
        """Start with the model's present parameters as the averages."""
        self.model = model
        self.parameters = [each for each in model.parameters() if each.requires_grad]
        self.averages = [each.detach().clone() for each in self.parameters]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer calls it after every optimizer step: update the averages."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        parameters = [each.detach() for each in self.parameters]
        get_ema_multi_avg_fn(decay)(self.averages, parameters, state.global_step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model holds the averages; afterwards its own parameters again, bit for bit.
        Before `begin` it changes nothing.
        """
        own = [each.detach().clone() for each in self.parameters]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        if self.model is not None:
            reshard(self.model)
        for parameter, value in zip(self.parameters, values):
            parameter.copy_(value)
