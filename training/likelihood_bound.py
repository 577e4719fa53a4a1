"""How well a checkpoint models text: its NLL upper bound in nats per token, and its loss on
held-out rows by quarter of time.

FlexMDM     -log p(x1) <= E[loss]: the loss is the relative entropy between the paths that lead to
            x1 and the model's paths (arXiv 2509.01025). The model covers the length as well.
LLaDA       -log p(x | length) <= E[loss] (arXiv 2502.09992). Where rows are filled with
            end-of-text, the length is covered too.
Training never draws times from the last time_epsilon of its clock. A reconstruction term at that
point accounts for them: for FlexMDM a Poisson number of masks per gap, then all masks at once; for
LLaDA the last masks at once. With it the sum is a proper upper bound. The error is the standard
error over rows (each row's draws of noise are averaged first).
"""

import json
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from data.noise_stream import NoiseStream

# of N draws, each (N,): cost, row number, number of tokens of the row that are not given
Draws: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


def loss_by_time(
    terms: Mapping[str, np.ndarray], time: np.ndarray, constant: float
) -> dict[str, float]:
    """Held-out loss, its terms, and the loss in each quarter of time. terms: {name: (N,)}; time:
    (N,) in [0, 1).

    loss and loss_quarter_k are means over rows / constant, as in training; NAME_loss are means over
    rows. Time is the uniform that a row's t (FlexMDM, 1 = clean) or mask ratio (LLaDA, 1 = all
    masks) was made from.
    """
    first, *others = terms.values()
    whole = sum(others, start=first)
    metrics = {
        "loss": float(whole.mean()) / constant,
        **{f"{name}_loss": float(costs.mean()) for name, costs in terms.items()},
    }
    for quarter in range(4):
        inside = (time >= quarter / 4) & (time < (quarter + 1) / 4)
        if inside.any():
            metrics[f"loss_quarter_{quarter + 1}"] = float(whole[inside].mean()) / constant
    return metrics


def ratio_with_error(costs: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """(sum of costs / sum of tokens, its standard error), one entry per row: the error of a ratio
    of two means.
    """
    ratio, rows = costs.sum() / tokens.sum(), len(costs)
    spread = np.square(costs - ratio * tokens).sum()
    return float(ratio), float(np.sqrt(spread * rows / max(rows - 1, 1)) / tokens.sum())


def likelihood_bound(main: Draws, end: Draws, epsilon: float) -> dict[str, Any]:
    """main, end: draws from the trained times and at their end. Returns {"nats_per_token", its
    standard error "nats_per_token_error", "nats_per_row", "rows", "tokens"}.
    """
    bound: dict[int, float] = {}
    tokens: dict[int, float] = {}
    for (costs, rows, counts), share in ((main, 1 - epsilon), (end, 1.0)):
        for row in np.unique(rows):
            bound[row] = bound.get(row, 0.0) + share * float(
                costs[rows == row].astype(np.float64).mean()
            )
            tokens[row] = float(counts[rows == row].astype(np.float64).mean())
    bounds, counts = (np.array([found[row] for row in bound]) for found in (bound, tokens))
    ratio, error = ratio_with_error(bounds, counts)
    return {
        "nats_per_token": ratio,
        "nats_per_token_error": error,
        "nats_per_row": float(bounds.mean()),
        "rows": len(bounds),
        "tokens": float(counts.sum()),
    }


def report(
    trainer: Any, draws: "NoiseStream", ends: "NoiseStream | None", epsilon: float, what: str
) -> dict[str, Any]:
    """Evaluate two NoiseStreams with a trainer, print the bound and the loss by quarter, and one
    JSON line with both.

    ends None: a model that does not sample the distribution of the text (geometric insertion stops
    below 1) has no bound; its loss is still printed. Returns the content of the JSON line.
    """
    begin = perf_counter()
    main = trainer.predict(draws, metric_key_prefix="heldout")
    values = {
        name.removeprefix("heldout_"): value
        for name, value in main.metrics.items()
        if "loss" in name
    }
    if ends is not None:
        trainer.at_end = True
        end = trainer.predict(ends, metric_key_prefix="heldout")
        trainer.at_end = False
        drawn, at_the_end = (
            (output.predictions.sum(1), output.label_ids[:, 1], output.label_ids[:, 2])
            for output in (main, end)
        )
        values = likelihood_bound(drawn, at_the_end, epsilon) | values
    if trainer.is_world_process_zero():
        print(
            f"{what}: no NLL bound, its insertion schedule ends below 1"
            if ends is None
            else (
                f"{what}: NLL upper bound {values['nats_per_token']:.4f} +-"
                f" {values['nats_per_token_error']:.4f} nats/token ({values['rows']} rows,"
                f" {values['tokens']:.0f} tokens, {len(draws) // values['rows']} draws per row)"
            )
        )
        print(
            "loss by quarter of time: "
            + ", ".join(
                f"{values[f'loss_quarter_{k}']:.4f}"
                for k in range(1, 5)
                if f"loss_quarter_{k}" in values
            )
        )
        print(json.dumps({"what": what, **values, "seconds": round(perf_counter() - begin, 1)}))
    return values
