"""What a measurement was made on: processor, GPU, driver, versions of the packages."""

from __future__ import annotations

import platform
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def processor() -> str:
    """The processor's name by Linux, "" where it does not say."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "")


def card(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on: the card, its driver, the versions."""
    import peft
    import torch
    import transformers

    facts: dict[str, Any] = {
        "card": platform.processor() or "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
        facts |= {
            "card": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "driver": asked.stdout.strip().splitlines()[0],
        }
    return facts
