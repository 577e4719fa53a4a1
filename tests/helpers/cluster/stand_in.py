#!/usr/bin/env python3
"""Stands in for python in tests of scripts/launch.sh alone: no imports, short steps, and the
manners of the training scripts.

Goes on from the newest checkpoint of --output_dir, saves and stops with exit code 0 at SIGUSR1,
ends with `final` at step STEPS.
STAND_IN_IMPORTS: seconds before it listens to signals; STAND_IN_STEP: seconds a step;
STAND_IN_DIES: the rank that dies at its third step.
"""

import os
import signal
import sys
import time
from pathlib import Path

STEPS = 30
if "--output_dir" not in sys.argv or {"--dry_run", "--evaluate_only"} & set(sys.argv):
    sys.exit(print("no run:", os.environ.get("WORLD_SIZE"), flush=True))
rank, folder = int(os.environ["RANK"]), Path(sys.argv[sys.argv.index("--output_dir") + 1])
time.sleep(float(os.environ.get("STAND_IN_IMPORTS", 0)))
stop = []


def hear(*_):
    stop.append(True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


signal.signal(signal.SIGUSR1, hear)
step = max([int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")], default=0)
print(
    f"rank {rank} of {os.environ['WORLD_SIZE']}, local {os.environ['LOCAL_RANK']} of"
    f" {os.environ['LOCAL_WORLD_SIZE']}, from step {step},"
    f" {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
    flush=True,
)
for made in range(1, STEPS - step + 1):
    time.sleep(float(os.environ.get("STAND_IN_STEP", 0.2)))
    if made == 3 and os.environ.get("STAND_IN_DIES") == str(rank):
        os.kill(os.getpid(), signal.SIGKILL)
    if stop or step + made == STEPS:
        if rank == 0:
            (folder / (f"checkpoint-{step + made}" if stop else "final")).mkdir(parents=True)
        break
