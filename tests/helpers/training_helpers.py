"""What the tests of training share: a tiny base and data sets on disk, and runs of the scripts, in
this process or in others.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import tiny
import torch
from conftest import ROOT
from safetensors.torch import load_file

SCRIPTS = {
    "transfer": "flexmdm_transfer_openwebtext",
    "math": "instruction_finetuning",
    "code": "instruction_finetuning",
}


def write_data(folder, rows=40, seed=3, prompts=True, longest=30):
    """A data set on disk, as the preprocessing scripts write it."""
    from datasets import Dataset, DatasetDict

    generator = torch.Generator().manual_seed(seed)

    def split(count):
        made = []
        for _ in range(count):
            n = int(torch.randint(8, longest, (1,), generator=generator))
            made.append(
                {
                    "input_ids": torch.randint(5, 50, (n,), generator=generator).tolist(),
                    "prompt_length": 4 if prompts else 0,
                }
            )
        return Dataset.from_list(made)

    DatasetDict({"train": split(rows), "validation": split(12)}).save_to_disk(str(folder))
    return folder


def flags(**settings):
    """Command line words of settings: True is a bare flag, None is left out."""
    words = []
    for name, value in settings.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def run_flags(base, data, output, **changes):
    """A short run's flags; the commonest are given, `changes` add or replace."""
    settings = {
        "model_name_or_path": base,
        "train_data": data,
        "output_dir": output,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "sft_max_length": 64,
        "save_steps": 2,
        "logging_steps": 1,
        "lora_r": 4,
        "lora_alpha": 4,
        "loss_constant": 64,
        "adaln_group_size": 2,
        "disable_tqdm": "true",
    } | changes
    lora, flexmdm = {"lora_r", "lora_alpha"}, {"adaln_group_size"}
    unused = lora if changes.get("all_parameters") else set()
    unused |= set() if changes.get("variable_length") else flexmdm
    unused -= set(changes)  # those are meant
    return flags(**{name: value for name, value in settings.items() if name not in unused})


def run_here(script, words, monkeypatch):
    """main() of a training script with these words, in this process."""
    import importlib

    monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
    importlib.import_module(script).main()


def environment(**more):
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    return {
        **clean,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
        **more,
    }


def start(script, words, processes=1, **more):
    """A training script in processes of its own: a Popen whose output is text."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        if processes > 1
        else []
    )
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / f"{script}.py"), *words],
        env=environment(**more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def weights(folder):
    """Every tensor of a checkpoint folder."""
    return {
        name: tensor
        for file in sorted(Path(folder).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same_weights(first, second, exact=True):
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and a
    for name in a:
        if exact:
            assert torch.equal(a[name], b[name]), name
        else:
            torch.testing.assert_close(
                a[name],
                b[name],
                rtol=1e-4,
                atol=2e-6,
                msg=lambda message, name=name: f"{name}: {message}",
            )


def log_of(output):
    """{step: row} of a run's log lines about training."""
    rows = [
        json.loads(line) for line in (Path(output) / "train_log.jsonl").read_text().splitlines()
    ]
    return {row["step"]: row for row in rows if "loss" in row}


def make_base(folder, **changes):
    return tiny.write_llada(folder, **changes)


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(folder, jobs, processes=2, timeout=600):
    """tests/helpers/several_runs.py over jobs (dicts without `port`), in that many processes.
    Returns the output of the first process.
    """
    listing = Path(folder) / f"jobs-{free_port()}.json"
    listing.write_text(
        json.dumps(
            [
                {**job, "words": [str(word) for word in job["words"]], "port": free_port()}
                for job in jobs
            ],
            default=str,
        )
    )
    running = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/helpers/several_runs.py"), str(listing)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(processes),
                LOCAL_WORLD_SIZE=str(processes),
                MASTER_ADDR="127.0.0.1",
            ),
        )
        for rank in range(processes)
    ]
    from concurrent.futures import ThreadPoolExecutor

    try:
        with ThreadPoolExecutor(processes) as pool:
            outputs = list(
                pool.map(lambda process: process.communicate(timeout=timeout)[0], running)
            )
    finally:
        for process in running:
            process.kill()
    failed = [
        f"process {rank} ended with {process.returncode}:\n{output[-4000:]}"
        for rank, (process, output) in enumerate(zip(running, outputs))
        if process.returncode
    ]
    assert not failed, "\n\n".join(failed)
    return outputs[0]
