"""From the work folder of scripts/reproduce_small.sh: what a chain's runs and evaluations say, as
the content of results/CHAIN.json.
"""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from machine import card, processor

from common.errors import InputError
from common.rows import read_finished, read_object
from evaluation.results import item_scores, versions
from evaluation.results_table import sampler_name


def made_on(begun: Path) -> dict[str, Any]:
    """What the numbers were made on: processor, GPU with its driver where there is one, commit (of
    the chain's beginning, from the file begun), date, versions.
    """
    from network.devices import pick_device

    facts = card(device) if (device := pick_device()).type == "cuda" else {}
    return {
        "processor": processor(),
        **{name: facts[name] for name in ("card", "driver") if name in facts},
        "commit": begun.read_text().strip() if begun.exists() else "",
        "date": date.today().isoformat(),
        "versions": versions(),
    }


def training(folder: Path) -> dict[str, Any]:
    """Steps, seconds, loss curve, and likelihood bound with held-out loss of a finished run."""
    log = read_finished(folder / "train_log.jsonl")
    lines = [row for row in log if "loss" in row]
    names = [
        name
        for name in ("loss", "unmask_loss", "insertion_loss", "gap_error")
        if lines and name in lines[-1]
    ]
    # one a session: a run may have been resumed
    seconds = sum(row.get("train_runtime", 0) for row in log)
    content = {
        "steps": log[-1]["step"],
        "seconds": round(seconds, 1),
        "curve": {
            "step": [row["step"] for row in lines],
            **{name: [round(row[name], 4) for row in lines] for name in names},
        },
    }
    if (folder / "bound.log").exists():
        line = [
            line for line in (folder / "bound.log").read_text().splitlines() if line.startswith("{")
        ][-1]
        content["bound"] = {key: value for key, value in json.loads(line).items() if key != "what"}
    return content


def evaluation(folder: Path, with_rows: bool = False) -> dict[str, Any]:
    """Metrics, evaluations and which items were right (a 0/1 string in the items' order; a list of
    shares with several samples). with_rows: lengths and success of each infill as well.
    """
    result = read_object(folder / "results.json", "--work")
    right = item_scores(folder)
    content = {
        "label": result["label"],
        "sampler": sampler_name(result),
        "metrics": result["metrics"],
        "rows": result["rows"],
        "evaluations": result["evaluations"],
        "positions": result.get("positions"),
        "tokens": result["tokens"],
        "seconds": result["seconds"],
        "items_hash": result["settings"].get("data_hash"),
        "right": (
            "".join(str(int(right[name])) for name in sorted(right))
            if result["rows"] == len(right)
            else [round(right[name], 4) for name in sorted(right)]
        ),
    }
    if with_rows:
        rows = [
            row
            for file in sorted(folder.glob("generations-*.jsonl"))
            for row in read_finished(file)
        ]
        content["columns"] = ["reference tokens", "written tokens", "exact", "passed"]
        content["infills"] = sorted(
            [
                row["reference_length"],
                row["length"],
                int(row["completion"] == row["ground_truth"]),
                int(right[row["task_id"]]),
            ]
            for row in rows
        )
    return content


def folder_of(chain: str, work: Path) -> Path:
    """Where a chain of scripts/reproduce_small.sh has its runs. Raises InputError if they are not
    there.
    """
    name = re.sub(r"^comparison_", "seed", chain)
    name = re.sub(r"^(ablations|counting|rivals|training|budget)_", r"\1", name)
    folder = Path("runs/sampler_curve") if chain == "samplers" else work / name
    if not folder.is_dir():
        raise InputError(
            f"--work: {folder} is missing; scripts/reproduce_small.sh {chain} makes it"
        )
    return folder


def collected(chain: str, work: Path, scale: float) -> dict[str, Any]:
    """The content of CHAIN.json, whose runs had that --scale. Raises InputError where the chain has
    not run.
    """
    folder = folder_of(chain, work)
    runs = {
        "_".join(path.parent.relative_to(folder).parts): training(path.parent)
        for path in sorted(folder.glob("**/train_log.jsonl"))
        if (path.parent / "final").is_dir()
    }
    evaluations = {
        path.parent.name: evaluation(path.parent, with_rows=chain == "lengths")
        for path in sorted(folder.glob("**/results.json"))
    }
    content = {
        "chain": chain,
        "scale": scale,
        **made_on(work / f"{chain}.commit"),
        "training": runs,
        "evaluations": evaluations,
    }
    if (folder / "free.json").exists():
        content["free"] = read_object(folder / "free.json", "--work")
    return content
