"""Several training runs one after the other in the same processes: a process start costs more than
a tiny run.

    RANK=0 WORLD_SIZE=2 ... python tests/helpers/several_runs.py jobs.json
jobs.json: [{"script", "words", "port", "facts"}]. `facts` is a file that receives what the Trainer
really used (rank 0 writes it): the class around the model, ZeRO's stage, the process group's and
the Trainer's world size, the share of all elements (and of one block's matrix) held here, memory
grown in MiB.
"stop_at": send SIGTERM to this process when that step begins. "fails": InputError expected; its
line is printed.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

# what a training imports: once, before the processes are forked
IMPORTED = (
    "peft",
    "flexmdm_trainer",
    "flexmdm_transfer_openwebtext",
    "instruction_finetuning",
    "llada_trainer",
)
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def anonymous_mib():
    """Memory of this process's own: mapped files, which processes share, do not count. 0 where the
    system does not say.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def watch(job):
    """Patch the Trainer to write down what it is, and to be signalled at a step."""
    import torch
    from torch.distributed.tensor import DTensor

    from training.trainer import DiffusionTrainer

    whole = DiffusionTrainer._prepare_for_training

    def prepare(self, *arguments):
        model, loader = whole(self, *arguments)

        def elements(parameter):
            """(held by this process, whole)"""
            if isinstance(parameter, DTensor):
                return parameter.to_local().numel(), parameter.numel()
            if hasattr(parameter, "ds_tensor"):
                return parameter.ds_tensor.numel(), parameter.ds_numel
            return parameter.numel(), parameter.numel()

        held, whole_size = map(
            sum, zip(*(elements(parameter) for parameter in self.model.parameters()))
        )
        # of either kind
        block = next(
            parameter
            for name, parameter in self.model.named_parameters()
            if "blocks.0.ff_proj" in name
        )
        optimizer = self.optimizer.optimizer
        grown = anonymous_mib() - job["anonymous_mib"]
        state = getattr(optimizer, "single_partition_of_fp32_groups", None) or getattr(
            optimizer, "fp32_partitioned_groups_flat", None
        )
        trained = sum(
            getattr(p, "ds_numel", p.numel()) for p in self.model.parameters() if p.requires_grad
        )
        facts = {
            "wrapped": type(model).__name__,
            "stage": (
                model.zero_optimization_stage()
                if hasattr(model, "zero_optimization_stage")
                else None
            ),
            "group": (
                torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            ),
            "trainer": self.args.world_size,
            "grown_mib": grown,
            "held_share": held / whole_size,
            "block_share": elements(block)[0] / elements(block)[1],
            "dtensors": any(isinstance(p, DTensor) for p in self.model.parameters()),
            "optimizer_share": sum(part.numel() for part in state) / trained if state else None,
        }
        if job.get("facts") and self.args.process_index == 0:
            Path(job["facts"]).write_text(json.dumps(facts))
        if "stop_at" in job:
            from transformers import TrainerCallback

            class Signal(TrainerCallback):
                def on_step_begin(self, args, state, control, **kwargs):
                    if state.global_step + 1 == job["stop_at"]:
                        os.kill(os.getpid(), signal.SIGTERM)

            self.add_callback(Signal())
        return model, loader

    DiffusionTrainer._prepare_for_training = prepare
    return lambda: setattr(DiffusionTrainer, "_prepare_for_training", whole)


def main():
    for name in IMPORTED:
        importlib.import_module(name)
    from common.errors import InputError

    for job in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        sys.argv = [f"{job['script']}.py", *job["words"]]
        job["anonymous_mib"] = anonymous_mib()
        undo = watch(job)
        try:
            importlib.import_module(job["script"]).main()
        except InputError as error:
            if not job.get("fails"):
                raise
            print(f"refused: {error}", flush=True)
        except SystemExit as end:
            if not job.get("fails") or end.code != 2:
                raise
        finally:
            undo()
            import torch

            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo can abort a finished process at interpreter exit


if __name__ == "__main__":
    main()
