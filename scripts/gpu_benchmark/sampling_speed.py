"""Sampling: one forward, in bf16 and in float8, and generations by both samplers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from gpu_benchmark.bench import ANSWER, CANVAS, PROMPT, Bench
from gpu_benchmark.random_network import flexmdm

if TYPE_CHECKING:
    from torch import Tensor


class KnownLength:
    """A FlexMDM whose insertion head says what a text of PROMPT + ANSWER tokens lacks. Counts
    calls, and the network's seconds where told to.
    """

    supports_logits_mask = supports_places = True

    def __init__(self, bench: Bench, model: Any, timed: bool = False) -> None:
        self.bench, self.model, self.device, self.config = bench, model, model.device, model.config
        self.timed, self.calls, self.seconds, self.positions = timed, 0, 0.0, 0

    def key_stores(self, size: int) -> list[Tensor]:
        """The network's own stores of keys and values."""
        return self.model.key_stores(size)

    def __call__(
        self, ids: Tensor, t: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> dict[str, Tensor]:
        """The network's output for ids (B, L), with `length` (B, L+1) the oracle's."""
        torch = self.bench.torch
        assert attention_mask is not None  # the sampler always gives one
        if self.timed:
            self.bench.sync()
            started = time.perf_counter()
        output = self.model(ids, t, attention_mask=attention_mask, **options)
        if self.timed:
            self.bench.sync()
            self.seconds += time.perf_counter() - started
        self.calls += 1
        self.positions += len(options["places"].tokens) if "places" in options else ids.numel()
        have = attention_mask.sum(1, keepdim=True)
        gap = torch.arange(ids.shape[1] + 1, device=self.device)
        allowed = (gap >= PROMPT) & (gap <= have)
        return {
            **output,
            "length": (
                allowed / allowed.sum(1, keepdim=True) * (PROMPT + ANSWER - have).clamp(min=0)
            ),
        }


def say_forward(
    bench: Bench, name: str, model: Any, rows: int, length: int, part: str = "sampling"
) -> None:
    """One network evaluation of rows of a length, in which 8 places of each row get logits."""
    from network.packed_rows import Places

    torch = bench.torch
    ids = torch.randint(0, bench.vocabulary - 2, (rows, length), device=bench.device)
    text = torch.ones_like(ids, dtype=torch.bool)
    wanted = torch.zeros_like(text)
    wanted[:, -8:] = True
    tokens = torch.arange(rows * (length + 1), device=bench.device)
    options = dict(attention_mask=text, logits_mask=wanted)
    if bench.device.type == "cuda":
        options["places"] = Places(tokens, wanted.flatten().nonzero()[:, 0])
    t = torch.full((rows,), 0.5, device=bench.device)
    with torch.no_grad():
        seconds = bench.seconds(lambda: model(ids, t, **options), 10, 3)
    blocks = model.backbone.model.transformer.blocks
    flops = rows * (length + 1) * 2 * sum(parameter.numel() for parameter in blocks.parameters())
    bench.say(
        part,
        name,
        ms=seconds * 1e3,
        TFLOP_per_s=flops / seconds / 1e12,
        peak_GiB=bench.peak_gib(),
    )


def prompts_of(bench: Bench, rows: int) -> Tensor:
    """(rows, PROMPT) random token ids, the same in every run."""
    random = bench.torch.Generator().manual_seed(1)
    return bench.torch.randint(0, bench.vocabulary - 2, (rows, PROMPT), generator=random)


def say_sampler(bench: Bench, name: str, model: Any, rows: int, **options: Any) -> None:
    """One generation by the event-driven sampler, and the share of it that is not the network's."""
    from sampling.flexmdm import generate_flexmdm

    torch, prompts = bench.torch, prompts_of(bench, rows)
    settings = dict(
        max_length=CANVAS,
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="prob_diff",
        use_sliding_window=True,
        bound_inflation=1.25,
        events_per_evaluation=4,
        seeds=torch.arange(rows),
        **bench.ids,
        **options,
    )
    # captures what is to be captured
    generate_flexmdm(KnownLength(bench, model), prompts, **settings)
    bench.sync()
    started, network = time.perf_counter(), KnownLength(bench, model)
    result = generate_flexmdm(network, prompts, **settings)
    seconds = time.perf_counter() - started
    timed, started = KnownLength(bench, model, timed=True), time.perf_counter()
    generate_flexmdm(timed, prompts, **settings)
    own = time.perf_counter() - started - timed.seconds
    tokens = int(result.lengths.sum()) - rows * PROMPT
    bench.say(
        "sampling",
        name,
        calls=network.calls,
        ms_per_call=seconds / network.calls * 1e3,
        network_ms=timed.seconds / timed.calls * 1e3,
        own_ms=own / timed.calls * 1e3,
        positions=network.positions / network.calls,
        tokens_per_second=tokens / seconds,
    )


def say_llada(bench: Bench, name: str, model: Any, rows: int, **options: Any) -> None:
    """One generation by LLaDA's sampler, 96 tokens after each prompt."""
    from sampling.llada import generate_mdm

    torch, prompts = bench.torch, prompts_of(bench, rows)
    settings = dict(
        steps=24, gen_length=96, block_length=32, seeds=torch.arange(rows), **bench.ids, **options
    )
    generate_mdm(model, prompts, **settings)
    bench.sync()
    started = time.perf_counter()
    result = generate_mdm(model, prompts, **settings)
    seconds = time.perf_counter() - started
    calls = int(result.evaluations.max())
    bench.say(
        "sampling",
        name,
        evaluations=calls,
        ms_per_evaluation=seconds / calls * 1e3,
        tokens_per_second=rows * 96 / seconds,
    )


def measure_sampling(bench: Bench) -> None:
    """One forward at several sizes, then both samplers."""
    from sampling.network_graphs import speed_up_sampling

    model = flexmdm(bench).eval()
    sizes = ((1, 20),) if bench.small else ((1, 100), (1, 256), (1, 512), (8, 193), (32, 179))
    for rows, length in sizes[:2]:
        say_forward(bench, f"forward {rows} x {length}, eager", model, rows, length)
    speed_up_sampling(model)
    for rows, length in sizes[1:2]:
        say_forward(bench, f"forward {rows} x {length}, graphs", model, rows, length)
    speed_up_sampling(model, torch_compile=True)
    for rows, length in sizes:
        say_forward(bench, f"forward {rows} x {length}, graphs, compiled", model, rows, length)
    for rows in (1,) if bench.small else (1, 8):
        say_sampler(bench, f"event-driven, {rows} rows, 4 events", model, rows)
        say_sampler(
            bench,
            f"event-driven, {rows} rows, 4 events, cache_refresh 4",
            model,
            rows,
            cache_refresh=4,
        )
    llada = model.backbone
    if model.graphs is not None:
        llada.graphs = type(model.graphs)(llada.trunk)
    for rows in (1,) if bench.small else (1, 8):
        say_llada(bench, f"LLaDA, {rows} rows, blocks of 32", llada, rows)
        for refresh in (4, 8):
            say_llada(
                bench,
                f"LLaDA, {rows} rows, blocks of 32, cache_refresh {refresh}",
                llada,
                rows,
                cache_refresh=refresh,
            )


def measure_float8(bench: Bench) -> None:
    """One forward at several sizes with float8 weights, where they are possible."""
    from network.float8 import require_float8, to_float8
    from sampling.network_graphs import speed_up_sampling

    try:
        require_float8(bench.device)
    except InputError as reason:
        bench.say("float8", "skipped", reason=str(reason))
        return
    model = to_float8(flexmdm(bench).eval(), bench.device)
    bench.forget()
    for compiled in (False,) if bench.small else (False, True):
        speed_up_sampling(model, compiled)
        how = f"graphs{', compiled' if compiled else ''}"
        for rows, length in ((1, 20),) if bench.small else ((1, 256), (8, 193)):
            say_forward(bench, f"forward {rows} x {length}, {how}", model, rows, length, "float8")
