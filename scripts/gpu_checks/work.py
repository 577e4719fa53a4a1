"""What every check needs: the device, a scratch folder, built-in data, short trainings whose
checkpoints later checks read, and networks.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = ROOT / "LLaDA-tiny-Base"


class Skipped(Exception):
    """A check that cannot be made here; its text says why."""


class Work:
    """One run: its device, its scratch folder, built-in data, and trained checkpoints that later
    checks read. golden: folder of numbers of the original code.
    """

    def __init__(self, device: torch.device, folder: str | Path, golden: Path | None) -> None:
        self.device, self.folder, self.golden = device, Path(folder), golden
        self.on_cpu = ["--use_cpu"] if device.type == "cpu" else []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TOKENIZERS_PARALLELISM": "false",
            **({"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}),
        }

    # ---- scripts

    def python(self, *words: object, timeout: float = 200) -> str:
        """What a script prints, in a process of its own. Raises RuntimeError with its last lines,
        TimeoutExpired after that many seconds.
        """
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(
                f"{words[0]} ended with {done.returncode}: "
                + " / ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
            )
        return done.stdout

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """The same, not waited for; what it prints is dropped."""
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def script(self, name: str, *words: object) -> str:
        """main() of a script in this process; what it prints."""
        printed = io.StringIO()
        before, sys.argv = sys.argv, [name, *map(str, words)]
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(Path(name).stem).main()
        finally:
            sys.argv = before
        return printed.getvalue()

    # ---- data and trainings

    def items(self, kind: str, split: str, n: int, seed: int) -> Path:
        """A file of n built-in items. kind, split: as scripts/builtin_data.py names them."""
        path = self.folder / f"{kind}_{split}.jsonl"
        words = f"{kind} --split {split} --n {n} --seed {seed} --output".split()
        self.script("scripts/builtin_data.py", *words, path)
        return path

    def data(self, kind: str) -> Path:
        """Folder of training rows: text, math or code."""
        output = self.folder / kind
        if not output.exists():
            script, flags = {
                "text": ("flexmdm_transfer_preprocess.py", ["--prompt_field", "prompt"]),
                "math": ("preprocess_math.py", []),
                "code": ("preprocess_code_infilling.py", []),
            }[kind]
            places = ["--data_path", self.items(kind, "train", 120, 3), "--output_dir", output]
            self.script(script, *places, "--tokenizer", BASE, "--max_length", 136, *flags)
        return output

    def training(
        self, name: str, kind: str, model: str, *flags: object, steps: int = 3
    ) -> list[Any]:
        """The script and flags of a short training into the folder `name`. kind: text, math or
        code; model: flexmdm or llada.
        """
        task = (
            ["flexmdm_transfer_openwebtext.py"]
            if kind == "text"
            else ["instruction_finetuning.py", "--task", kind]
        )
        places = ["--train_data", self.data(kind), "--output_dir", self.folder / name]
        source = [] if "--init_from" in flags else ["--model_name_or_path", BASE]
        numbers = (
            f"--max_steps {steps} --sft_max_length 136 --logging_steps 1 --disable_tqdm true"
            " --per_device_train_batch_size 4 --learning_rate 1e-3"
        )
        kind_of_model = ["--variable_length"] if model == "flexmdm" else []
        return [*task, *places, *numbers.split(), *source, *self.on_cpu, *flags, *kind_of_model]

    def train(self, name: str, kind: str, model: str, *flags: object, steps: int = 3) -> Path:
        """The final folder of that training, which runs where it is not there yet."""
        output = self.folder / name
        if not (output / "final").exists():
            self.script(*self.training(name, kind, model, *flags, steps=steps))
        lines = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert (
            losses
            and all(loss is not None and loss < 1e6 for loss in losses)
            and not lines[-2].get("nonfinite_steps")
        ), f"losses {losses}"
        return output / "final"

    # ---- networks and their input

    def trained_flexmdm(self) -> Path:
        """The folder of a FlexMDM that was trained a little."""
        flags = "--all_parameters --insertion_schedule power:5 --time_epsilon 0.02".split()
        return self.train("text_flexmdm", "text", "flexmdm", *flags)

    def flexmdm(
        self, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Any:
        """That FlexMDM; fp32 and the run's device unless told otherwise."""
        import torch

        from llada_utils import load_flexmdm

        folder = self.trained_flexmdm()
        return load_flexmdm(folder, dtype=dtype or torch.float32, device=device or self.device)

    def llada(
        self, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Any:
        """LLaDA-tiny-Base, in fp32 on the run's device unless told otherwise."""
        import torch

        from llada_utils import load_llada

        return load_llada(BASE, dtype=dtype or torch.float32, device=device or self.device)

    def prompts(self, n: int = 6) -> Tensor:
        """(n, 9) token ids; every other row ends in three of padding."""
        import torch

        generator = torch.Generator().manual_seed(4)
        ids = torch.randint(5, 900, (n, 9), generator=generator)
        ids[::2, 6:] = self.ids["pad_id"]
        return ids

    @property
    def ids(self) -> dict[str, int]:
        """The tokenizer's numbers that samplers ask for."""
        from data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(BASE)
        return dict(
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id,
            num_tokens=len(tokenizer),
        )


def relative(ours: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((ours.float().cpu() - reference.float()).norm() / reference.float().norm())
