"""What the processes of a distributed run do together: one decides for all, and all end cleanly."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from common.errors import InputError
from training.arguments import RunArguments

Decided = TypeVar("Decided")


def decide_on_rank_zero(args: RunArguments, decide: Callable[[], Decided]) -> Decided:
    """Call decide() in the first process; every process gets its result, or ends with its error:
    one line from the first process, exit code 2.
    """
    outcome: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            outcome[0] = decide()
        except InputError as error:
            outcome[1] = str(error)
    if args.world_size > 1:
        torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        if args.process_index > 0:
            sys.exit(2)
        raise InputError(outcome[1])
    return outcome[0]


def end_process_group() -> None:
    """Leave a distributed run cleanly: barrier, destroy, flush, pause. gloo can otherwise abort a
    finished process at exit.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.5)
