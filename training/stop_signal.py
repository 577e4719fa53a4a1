"""A scheduler's warning before preemption or the time limit: save, and stop."""

import signal
from typing import Any

import torch
from transformers import TrainerCallback


class StopOnSignal(TrainerCallback):
    """SIGTERM or SIGUSR1: finish the step, save, stop."""

    def __init__(self) -> None:
        self.received: str | None = None  # the signal's name
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: Any) -> None:
        """The signals' handler."""
        self.received = signal.Signals(number).name
        for each in (signal.SIGTERM, signal.SIGUSR1):
            # once is enough; a later one would kill a process on its way out
            signal.signal(each, signal.SIG_IGN)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer calls it after every step: save and stop if any process was signalled."""
        stop = self.received is not None
        if args.world_size > 1:  # one process may have been signalled and the others not yet
            flag = torch.tensor(float(stop), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            stop = bool(flag.item())
        if stop:
            control.should_save = control.should_training_stop = True
            self.received = self.received or "signal"
