#!/usr/bin/env python
"""Check that everything that touches a device works on this GPU. One line per check; all of them
run, even if one fails; exit code 1 if any failed.

    One GPU, at most four minutes; writes results/gpu/check_CARD.json:
        python scripts/check_gpu.py
    The same on a CPU:
        python scripts/check_gpu.py --device cpu
    Some of the checks (--list names them):
        python scripts/check_gpu.py --only golden,flexmdm_samplers
    With numbers of the original LLaDA code, skipped without:
        FLEXMDM_GOLDEN=... python scripts/check_gpu.py

Networks are small (LLaDA-tiny-Base, 1.3 M parameters) and the data is built in: this checks
correctness; scripts/benchmark_gpu.py measures speed. The reference for the GPU is the CPU in fp32.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from gpu_checks import networks, sampling_runs, trainings
from gpu_checks.work import Skipped, Work
from gpu_runs import add_flags, default_output
from machine import card

from common.command_line import ArgumentParser
from common.errors import run
from common.files import write_json

CHECKS: dict[str, Callable[[Work], str]] = {
    check.__name__: check
    for check in (
        networks.golden,
        networks.network,
        trainings.training,
        networks.gradients,
        trainings.checkpointing_and_compile,
        trainings.token_budget,
        trainings.kill_and_resume,
        trainings.evaluate_only,
        sampling_runs.flexmdm_samplers,
        sampling_runs.llada_samplers,
        sampling_runs.compiled_sampling,
        networks.float8,
        sampling_runs.evaluations,
        networks.fsdp2,
        trainings.zero,
        trainings.four_bits,
    )
}


def outcome_of(check: Callable[[Work], str], work: Work) -> dict[str, Any]:
    """{"outcome": ok, skipped or failed, "said", "seconds"} of a check; a traceback on stderr if it
    failed.
    """
    import torch

    torch.manual_seed(0)
    # fp32 is then compared in fp32; training turns TF32 on
    torch.set_float32_matmul_precision("highest")
    started = time.perf_counter()
    try:
        outcome, said = "ok", check(work)
    except Skipped as reason:
        outcome, said = "skipped", str(reason)
    except (Exception, SystemExit) as error:
        outcome = "failed"
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        print(traceback.format_exc()[-2500:], file=sys.stderr, flush=True)
    return {"outcome": outcome, "said": said, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Run the chosen checks; exit code 1 if one failed."""
    args = make_parser().parse_args()
    if args.list:
        print("\n".join(CHECKS))
        return
    from network.devices import pick_device

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    device = pick_device(args.device)
    facts, outcomes = card(device), {}
    golden = args.golden or os.environ.get("FLEXMDM_GOLDEN")
    output = args.output
    if not output and not args.only and device.type == "cuda":
        output = default_output("check", facts)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(device, folder, Path(golden) if golden else None)
        for name in args.only or CHECKS:
            outcomes[name] = found = outcome_of(CHECKS[name], work)
            if output:
                write_json(output, {**facts, "checks": outcomes})
            print(
                f"{name:<28}{found['outcome']:<9}{found['seconds']:7.1f} s  {found['said']}",
                flush=True,
            )
    failed = [name for name, each in outcomes.items() if each["outcome"] == "failed"]
    print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} checks are well"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    if failed:
        sys.exit(1)


def make_parser() -> ArgumentParser:
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    add_flags(parser, "check", CHECKS, device="auto")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--golden", help="folder of golden numbers (default: $FLEXMDM_GOLDEN)")
    return parser


if __name__ == "__main__":
    run(main)
