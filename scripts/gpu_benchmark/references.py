"""What the other parts are compared with: the card's limits, and transformers' Llama."""

from __future__ import annotations

from gpu_benchmark.bench import CANVAS, Bench
from gpu_benchmark.random_network import batches, fill
from gpu_benchmark.training_steps import say_training


def measure_limits(bench: Bench) -> None:
    """Copy bandwidth and rate of a matrix product."""
    torch = bench.torch
    size, side = (2**20, 256) if bench.small else (2**31, 8192)
    x = torch.empty(size, dtype=torch.uint8, device=bench.device)
    y = torch.empty_like(x)
    copy = 2 * size / bench.seconds(lambda: y.copy_(x), 10)
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * side**3 / bench.seconds(lambda: a @ b, 10)
    bench.limits = {"copy_bytes_per_second": copy, "matmul_flops_per_second": rate}
    bench.say("limits", "copy, matrix product", TB_per_s=copy / 1e12, TFLOP_per_s=rate / 1e12)


def measure_peer(bench: Bench) -> None:
    """transformers' Llama of the same shape: rows padded to their longest, logits of every
    position, as its own loss wants them.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch, size = bench.torch, bench.size
    config = LlamaConfig(
        hidden_size=size["d_model"],
        num_hidden_layers=size["n_layers"],
        num_attention_heads=size["n_heads"],
        intermediate_size=size["mlp_hidden_size"],
        vocab_size=size["vocab_size"],
        max_position_embeddings=4096,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.requires_grad_(False)
    fill(bench, model, torch.bfloat16)
    # its buffers were on the meta device
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(bench.device)
    for rows, length in ((1, 20),) if bench.small else ((1, 256), (32, 180)):
        ids = torch.randint(0, bench.vocabulary - 2, (rows, length), device=bench.device)
        with torch.no_grad():
            seconds = bench.seconds(lambda: model(ids, logits_to_keep=8, use_cache=False), 10, 3)
        bench.say("peer", f"Llama forward {rows} x {length}", ms=seconds * 1e3)
    inject_adapter_in_model(
        LoraConfig(r=128, lora_alpha=128, target_modules=["q_proj", "k_proj", "v_proj", "lm_head"]),
        model,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.to(bench.device).float()
    model.train()
    from training.estimate import flops_per_token

    flops = flops_per_token(model)
    small, _ = batches(bench).items()
    full = (
        ("2 x 20", (20,) * 2) if bench.small else (f"16 x {CANVAS:,}, no padding", (CANVAS,) * 16)
    )
    for name, lengths in (small, full):
        ids = torch.randint(
            0, bench.vocabulary - 2, (len(lengths), max(lengths)), device=bench.device
        )
        text = (
            torch.arange(max(lengths), device=bench.device)
            < torch.tensor(lengths, device=bench.device)[:, None]
        )
        labels = torch.where(text & (torch.rand(ids.shape, device=bench.device) < 0.5), ids, -100)
        model.gradient_checkpointing_enable()

        def step():
            model.zero_grad(set_to_none=True)
            with torch.autocast(bench.device.type, torch.bfloat16):
                loss = model(
                    ids,
                    attention_mask=None if text.all() else text.long(),
                    labels=labels,
                    use_cache=False,
                ).loss
            loss.backward()

        say_training(bench, "peer", f"Llama {name}, checkpointing", step, sum(lengths), flops)
