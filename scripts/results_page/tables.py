"""What the tables of RESULTS.md have in common: where their numbers come from, and their cells."""

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import InputError
from common.rows import read_object
from results_page.intervals import mean_and_seeds, over_items, over_seeds, signed, width

Evaluation: TypeAlias = dict[str, Any]  # of one run of an evaluation script, by collecting.py
Chains: TypeAlias = dict[str, list[dict[str, Any]]]  # by kind, what collect wrote of each seed


def read_chains(folder: Path) -> Chains:
    """Every JSON file of a folder: KIND_SEED.json as one of its kind's. Raises InputError where
    there is none, and for one that `reproduction.py collect` has not written.
    """
    chains: Chains = {}
    for path in sorted(folder.glob("*.json")):
        content = read_object(path, "--results")
        if missing := {"chain", "training", "evaluations"} - set(content):
            raise InputError(f"--results: {path} is no chain's, it has no {min(missing)}")
        chains.setdefault(re.sub(r"_\d+$", "", path.stem), []).append(content)
    if not chains:
        raise InputError(
            f"--results: {folder} has no JSON files; scripts/reproduce_small.sh writes them"
        )
    return chains


def by_seed(chains: Chains, *kinds: str) -> dict[str, dict[str, Evaluation]]:
    """Evaluations of the chains KIND_SEED: {seed: {name: evaluation}}, all kinds together; of two
    with one name the later kind's.
    """
    found: dict[str, dict[str, Evaluation]] = {}
    for kind in kinds:
        for each in chains.get(kind, []):
            found.setdefault(each["chain"].rsplit("_", 1)[1], {}).update(each["evaluations"])
    return found


def markdown(titles: str, rows: Iterable[str]) -> str:
    """A table of lines that begin and end with a bar, under its line of titles."""
    return "\n".join([titles, "|---" * (titles.count("|") - 1) + "|", *rows])


# ---- cells


def score(evaluation: Evaluation) -> dict[str, Any]:
    """The first of its metrics: the one that its benchmark is about."""
    return next(iter(evaluation["metrics"].values()))


def scores(found: Iterable[Evaluation]) -> list[float]:
    """The score of each, a share."""
    return [score(each)["value"] for each in found]


def correct(found: Iterable[Evaluation]) -> str:
    """ "61.5 (60.0, 62.5, 62.0)": the scores of one arm in percent, their mean before them."""
    return mean_and_seeds(scores(found))


def nfe(found: Iterable[Evaluation]) -> float:
    """Network evaluations per sample, the mean over the seeds of an arm."""
    return statistics.fmean(each["evaluations"]["mean"] for each in found)


def difference(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> str:
    """The first evaluation's score less the second's, over the pairs of all seeds, each on the same
    items; with the wider of the intervals over seeds and over items. "" without pairs.
    """
    if not pairs:
        return ""
    seeds = over_seeds([score(a)["value"] - score(b)["value"] for a, b in pairs])
    return signed(max(over_items([(a["right"], b["right"]) for a, b in pairs]), seeds, key=width))
