"""The networks' numbers against a reference: the original code, or the CPU in fp32."""

from __future__ import annotations

from common.errors import InputError
from gpu_checks.work import Skipped, Work, relative


def golden(work: Work) -> str:
    """LLaDA's logits against those of the original code."""
    import torch
    from safetensors.torch import load_file

    from llada_utils import load_llada

    if not work.golden or not (work.golden / "llada_tiny/golden.safetensors").exists():
        raise Skipped("FLEXMDM_GOLDEN does not name a folder of golden numbers")
    numbers = load_file(str(work.golden / "llada_tiny/golden.safetensors"))
    found = {}
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        model = load_llada(work.golden / "llada_tiny", dtype=dtype, device=work.device)
        with torch.no_grad():
            found[str(dtype)] = relative(
                model(numbers["input_ids"].to(work.device)).logits, numbers["logits"]
            )
        assert found[str(dtype)] < limit, (
            f"LLaDA in {dtype}: relative error {found[str(dtype)]:.2e}"
        )
    return "LLaDA: " + ", ".join(
        f"{name.removeprefix('torch.')} {error:.1e}" for name, error in found.items()
    )


def network(work: Work) -> str:
    """FlexMDM against the CPU: padded and packed rows, places named or found, graphs and fused
    projections, bf16.
    """
    import torch

    from network.packed_rows import Places
    from sampling.network_graphs import speed_up_sampling

    lengths, width = torch.tensor([5, 0, 40, 33]), 48
    ids = torch.where(
        torch.arange(width) < lengths[:, None],
        torch.randint(5, 900, (4, width)),
        work.ids["pad_id"],
    )
    text, t = torch.arange(width) < lengths[:, None], torch.rand(4)
    wanted = text & (torch.rand(4, width) < 0.5)
    ends = torch.arange(width + 1) <= lengths[:, None]
    places = Places(
        ends.flatten().nonzero()[:, 0].to(work.device),
        wanted.flatten().nonzero()[:, 0].to(work.device),
    )
    on_cpu = work.flexmdm(device="cpu")
    with torch.no_grad():
        reference = on_cpu(ids, t, attention_mask=text, logits_mask=wanted)
        errors = {}
        for dtype, limit in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
            model = work.flexmdm(dtype)
            given = dict(attention_mask=text.to(work.device), logits_mask=wanted.to(work.device))
            outputs = [
                model(ids.to(work.device), t.to(work.device), **given, **options)
                for options in ({}, {"places": places})
            ]
            speed_up_sampling(model)
            outputs += [
                model(ids.to(work.device), t.to(work.device), **given, places=places)
                for _ in range(2)
            ]
            errors[dtype] = max(
                max(
                    relative(output["logits"], reference["logits"]),
                    relative(output["length"].cpu()[ends], reference["length"][ends]),
                )
                for output in outputs
            )
            assert errors[dtype] < limit, f"{dtype}: relative error {errors[dtype]:.2e}"
    return ", ".join(
        f"{str(dtype).removeprefix('torch.')} {error:.1e}" for dtype, error in errors.items()
    )


def gradients(work: Work) -> str:
    """Loss and gradient of one batch, fp32: the device against the CPU."""
    import torch

    from data.noise_stream import NoiseStream
    from data.token_rows import load_rows
    from flexmdm_trainer import FlexMDMCollator, flexmdm_losses

    found = {}
    for device in ("cpu", work.device):
        model = work.flexmdm(device=device).train()
        collator = FlexMDMCollator(model.config)
        stream = NoiseStream(load_rows(work.data("text"))["train"], 8, 1, seed=1)
        batch = {
            name: value.to(device)
            for name, value in collator([stream[place] for place in range(8)]).items()
        }
        losses = flexmdm_losses(model, batch, collator.interpolant)
        (losses["unmask"] + losses["insertion"]).sum().backward()
        found[str(device)] = torch.cat(
            [parameter.grad.flatten().cpu() for parameter in model.parameters()]
        )
    error = relative(found[str(work.device)], found["cpu"])
    assert error < 1e-3, f"relative error {error:.2e}"
    return f"relative error {error:.1e}"


def float8(work: Work) -> str:
    """Weights in float8 against fp32 on the CPU, before and after graphs and compiled blocks."""
    import torch

    from network.float8 import require_float8
    from sampling.network_graphs import speed_up_sampling

    try:
        require_float8(work.device)
    except InputError as reason:
        raise Skipped(str(reason)) from None
    ids, t, on_gpu = torch.randint(5, 900, (4, 48)), torch.rand(4), work.device.type == "cuda"
    model, errors = work.flexmdm(torch.float8_e4m3fn), []
    with torch.no_grad():
        reference = work.flexmdm(device="cpu")(ids, t)["logits"]
        for _ in range(2):
            logits = model(ids.to(work.device), t.to(work.device))["logits"]
            errors.append(relative(logits, reference))
            assert errors[-1] < 0.1, f"relative error {errors[-1]:.2e}"
            speed_up_sampling(model, torch_compile=on_gpu)
    return "relative error " + ", ".join(f"{error:.1e}" for error in errors)


def fsdp2(work: Work) -> str:
    """FSDP2 over one process (NCCL on a GPU): a step equals the step of the model that is not
    sharded.
    """
    import torch

    from training.sharding import shard_by_fsdp2, whole_tensor

    if torch.distributed.is_initialized():
        raise Skipped("a process group exists already")
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
    torch.distributed.init_process_group(
        "nccl" if work.device.type == "cuda" else "gloo", store=store, rank=0, world_size=1
    )
    try:
        ids = torch.randint(5, 900, (2, 12), device=work.device)
        weights = []
        for sharded in (False, True):
            model = work.llada().train()
            if sharded:
                shard_by_fsdp2(model, work.device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            model(ids).logits.float().logsumexp(-1).sum().backward()
            optimizer.step()
            weights.append(
                torch.cat([whole_tensor(parameter).flatten() for parameter in model.parameters()])
            )
        error = relative(weights[1], weights[0].cpu())
        assert error < 1e-5, f"relative error {error:.2e}"
    finally:
        torch.distributed.destroy_process_group()
    return f"relative error {error:.1e}"
