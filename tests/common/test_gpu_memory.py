"""Input about GPUs that cannot work: a device that is not there, too small, or runs out of memory.

Run: pytest tests/common/test_gpu_memory.py
No GPU is needed: its size and its failure are made up.
"""

import importlib
import json
import signal
import sys

import pytest
import tiny
import torch
from command_lines import module_of
from training_helpers import SCRIPTS, make_base, run_flags, run_here, write_data

import llada_utils
from common import gpu_memory
from common.errors import InputError, run
from llada_dit import LLaDADiT, LLaDAModelLM
from llada_utils import build_flexmdm, write_checkpoint
from network.checkpoint_folder import flexmdm_config
from network.devices import pick_device
from network.lora import add_lora
from training import memory as training_memory

# before read_tensors is replaced, which it imports by name
from training import run as training_run  # noqa: F401

SAID = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB "
    "of which 1.20 GiB is free. Including non-PyTorch memory, this process has 14 GiB in use."
)


def unread(*_):
    """Instead of read_tensors, which begins when its first tensor is asked for."""
    raise InputError("weights were read")
    yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a base, training data, a checkpoint of each kind and questions."""
    folder = tmp_path_factory.mktemp("made")
    make_base(folder / "base")
    write_data(folder / "data")
    (folder / "flexmdm").mkdir()
    write_checkpoint(tiny.flexmdm(), folder / "flexmdm", tiny.tokenizer(), card="# test\n")
    (folder / "adapter").mkdir()
    model = llada_utils.load_llada(folder / "base")
    model.name_or_path = str(folder / "base")
    model = add_lora(model, {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0})
    write_checkpoint(model, folder / "adapter", tiny.tokenizer(), card="# test\n")
    rows = [{"question": f"w7 w{number}", "answer": f"w9 #### {number}"} for number in range(8, 14)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(monkeypatch, capsys):
    """The one line with which a script, in this process, ends with exit code 2."""

    def call(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run(module_of(script).main)
        lines = capsys.readouterr().err.splitlines()
        lines = [line for line in lines if ": error: " in line]
        assert ended.value.code == 2 and len(lines) == 1, lines
        return lines[0]

    return call


def fails_after(function, calls):
    """The function, but it is out of memory from so many calls on."""
    count = 0

    def called(*args, **kwargs):
        nonlocal count
        count += 1
        if count > calls:
            raise torch.OutOfMemoryError(SAID)
        return function(*args, **kwargs)

    return called


# ---- a device that is not there


@pytest.mark.parametrize(
    "name",
    [
        "cuda",
        "cuda:0",
        "cuda:9",
        "gpu",
        "xpu",
        "cuda:",
        "cuda:x",
        "",
        "cuda:-1",
        "meta",
        "cpu:",
        "mps:1",
        "cuda cpu",
        "CUDA",
        "0",
    ],
)
def test_a_missing_device_is_named(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"^--device: {name} "):
        pick_device(name)


def test_each_process_gets_an_available_device(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    devices = [str(pick_device(name)) for name in ("auto", "cuda", "cuda:0", "cuda:1", "cpu")]
    assert devices == ["cuda", "cuda", "cuda:0", "cuda:1", "cpu"] and chosen == [1, 1, 0, 1]
    with pytest.raises(InputError, match="--device: cuda:2 .*cuda:0 to cuda:1"):
        pick_device("cuda:2")


@pytest.mark.parametrize("device", ["cuda", "cuda:9", "gpu", "xpu"])
def test_every_script_refuses_a_missing_device(device, made, refused, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(llada_utils, "read_tensors", unread)
    questions = ("--data_path", made / "questions.jsonl", "--output_dir", tmp_path / "out")
    for script, *words in [
        ("eval_gsm8k.py", "--checkpoint_path", made / "flexmdm", *questions),
        ("flexmdm_inference.py", "--checkpoint_path", made / "flexmdm", "--prompt", "w7"),
        ("llada_inference.py", "--checkpoint_path", made / "base", "--prompt", "w7"),
        ("scripts/benchmark_training.py",),
        ("scripts/benchmark_sampling.py",),
    ]:
        line = refused(script, *words, "--device", device)
        assert "--device" in line and device in line
    assert not (tmp_path / "out").exists()


# ---- a device that is too small


def test_weights_that_cannot_fit_are_not_read(made, refused, monkeypatch, tmp_path):
    """Refused from the first byte that is missing on, and no earlier."""
    monkeypatch.setattr(llada_utils, "read_tensors", unread)
    model = build_flexmdm(flexmdm_config(made / "flexmdm"))
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    words = ("--checkpoint_path", made / "flexmdm", "--prompt", "w7")
    monkeypatch.setattr(gpu_memory, "device_memory", lambda device: size - 1)
    line = refused("flexmdm_inference.py", *words)
    assert "GiB" in line and "--dtype bfloat16" in line and "weights" in line
    line = refused(
        "eval_gsm8k.py",
        *words[:2],
        "--data_path",
        made / "questions.jsonl",
        "--output_dir",
        tmp_path / "out",
    )
    assert "--dtype bfloat16" in line and not list(tmp_path.glob("out/generations*"))
    for memory, dtype in ((size, "float32"), (size - 1, "bfloat16")):
        monkeypatch.setattr(gpu_memory, "device_memory", lambda device, memory=memory: memory)
        with pytest.raises(InputError, match="weights were read"):
            llada_utils.load_flexmdm(made / "flexmdm", dtype=getattr(torch, dtype))


@pytest.mark.parametrize(
    "changes, helps",
    [
        ({"variable_length": True}, ("--fully_shard", "ds_zero3.json")),
        ({}, ("--fully_shard",)),
        ({"variable_length": True, "all_parameters": True}, ("LoRA", "--fully_shard")),
        ({"init_from": "adapter"}, ("--fully_shard",)),
        ({"ema_decay": 0.9}, ("no --ema_decay", "--fully_shard")),
    ],
)
def test_a_run_whose_weights_and_optimizer_cannot_fit_is_refused(
    changes, helps, made, refused, monkeypatch, tmp_path
):
    """2 bytes a frozen weight, 4 + 8 a trained one, 4 its average; gradients and activations refuse
    nothing.
    """
    if "init_from" in changes:
        changes = {"init_from": made / changes["init_from"]}
    words = run_flags(made / "base", made / "data", tmp_path / "run", **changes)
    sizes = {}

    monkeypatch.setattr(llada_utils, "read_tensors", unread)
    real = training_memory.always_held

    def noted(args, model):
        for parameter in model.parameters():
            kind = parameter.requires_grad
            sizes[kind] = sizes.get(kind, 0) + parameter.numel()
        return real(args, model)

    monkeypatch.setattr(training_memory, "always_held", noted)
    monkeypatch.setattr(gpu_memory, "device_memory", lambda device: 1)
    line = refused(f"{SCRIPTS['transfer']}.py", *words)
    assert all(word in line for word in ("GPU memory", "weights", "optimizer", "GiB", *helps)), line
    if "init_from" in changes:  # of LoRA with the rank that the adapter has, not the flags'
        from safetensors.torch import load_file

        tensors = load_file(made / "adapter/adapter_model.safetensors").values()
        assert sizes[True] == sum(tensor.numel() for tensor in tensors)
    need = 2 * sizes.get(False, 0) + (16 if "ema_decay" in changes else 12) * sizes[True]
    for memory, word in ((need - 1, "GPU memory"), (need, "weights were read")):
        # load_into asks the same question of the CPU, which a run loads to
        monkeypatch.setattr(gpu_memory, "device_memory", lambda device, memory=memory: memory)
        monkeypatch.setattr("network.tensor_files.require_room", lambda *_: None)
        assert word in refused(f"{SCRIPTS['transfer']}.py", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{}", "[1]", '{"r": null, "base_model_name_or_path": "x"}'])
def test_an_adapter_without_a_usable_base_is_refused(content, refused, tmp_path):
    (tmp_path / "adapter_config.json").write_text(content)
    line = refused(f"{SCRIPTS['transfer']}.py", "--dry_run", "--init_from", tmp_path)
    assert "adapter_config.json" in line


def test_a_cpu_has_no_gpu_memory():
    assert gpu_memory.device_memory("cpu") is None
    gpu_memory.require_room("cpu", lambda: pytest.fail("it was estimated"), "nothing")


# ---- memory that runs out


def test_training_that_runs_out_of_memory_ends_in_one_line_and_can_resume(
    made, refused, monkeypatch, tmp_path
):
    """One line: the estimate, what helps. Its checkpoints are whole, and it goes on from them."""
    from flexmdm_trainer import FlexMDMTrainer

    words = run_flags(made / "base", made / "data", tmp_path / "run", variable_length=True)
    with monkeypatch.context() as patch:
        patch.setattr(FlexMDMTrainer, "row_terms", fails_after(FlexMDMTrainer.row_terms, 3))
        line = refused(f"{SCRIPTS['transfer']}.py", *words)
    for word in (
        "GPU memory",
        "Tried to allocate 2.50 GiB",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "--gradient_checkpointing",
        "--fully_shard",
        "--per_device_train_batch_size than 4",
        "--deepspeed scripts/ds_zero3.json",
        "--sft_max_length",
    ):
        assert word in line, (word, line)
    assert "non-PyTorch" not in line
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["checkpoint-2", "lock", "settings.json", "train_log.jsonl"]
    run_here(SCRIPTS["transfer"], [*words, "--resume_from_checkpoint", "auto"], monkeypatch)
    assert (tmp_path / "run/final/model.safetensors").exists()


def test_memory_advice_leaves_out_flags_already_in_use(made, refused, monkeypatch, tmp_path):
    from llada_trainer import LLaDATrainer

    monkeypatch.setattr(LLaDATrainer, "row_terms", fails_after(None, 0))
    words = run_flags(
        made / "base",
        made / "data",
        tmp_path / "run",
        gradient_checkpointing=True,
        per_device_train_batch_size=1,
    )
    line = refused(f"{SCRIPTS['transfer']}.py", *words)
    assert "--gradient_checkpointing" not in line and "--per_device_train_batch_size" not in line
    assert "--fully_shard" in line
    for budget, advised in ((64, False), (65, True)):  # of rows of up to 64 tokens
        words = run_flags(made / "base", made / "data", tmp_path / "run", tokens_per_batch=budget)
        line = refused(f"{SCRIPTS['transfer']}.py", *words, "--overwrite")
        assert (f"a smaller --tokens_per_batch than {budget}" in line) == advised
        assert "--per_device_train_batch_size" not in line
    words = run_flags(made / "base", made / "data", tmp_path / "none", evaluate_only=True)
    assert "--per_device_eval_batch_size" in refused(f"{SCRIPTS['transfer']}.py", *words)
    assert not (tmp_path / "none").exists()


def test_an_evaluation_that_runs_out_of_memory_keeps_finished_rows(
    made, refused, monkeypatch, tmp_path, capsys
):
    """Its finished rows stay, and the same command with another batch size goes on."""
    words = [
        "--checkpoint_path",
        made / "flexmdm",
        "--data_path",
        made / "questions.jsonl",
        "--output_dir",
        tmp_path,
        "--diffusion_steps",
        4,
        "--max_length",
        48,
    ]
    with monkeypatch.context() as patch:
        patch.setattr(LLaDADiT, "forward", fails_after(LLaDADiT.forward, 9))
        line = refused("eval_gsm8k.py", *words, "--batch_size", 2)
    for word in (
        "GPU memory",
        "Tried to allocate 2.50 GiB",
        "--batch_size",
        "--rows_at_once",
        "--max_length",
        "--dtype bfloat16",
    ):
        assert word in line, (word, line)
    text = (tmp_path / "generations-000.jsonl").read_text()
    before = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n") and 0 < len(before) < 6 and not (tmp_path / "results.json").exists()
    monkeypatch.setattr(sys, "argv", ["eval_gsm8k.py", *map(str, [*words, "--batch_size", 1])])
    importlib.import_module("eval_gsm8k").main()
    assert (tmp_path / "generations-000.jsonl").read_text().startswith(text)
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    "script, checkpoint, network",
    [("flexmdm_inference.py", "flexmdm", LLaDADiT), ("llada_inference.py", "base", LLaDAModelLM)],
)
def test_inference_that_runs_out_of_memory_ends_in_one_line(
    script, checkpoint, network, made, refused, monkeypatch
):
    monkeypatch.setattr(network, "forward", fails_after(network.forward, 1))
    words = ("--checkpoint_path", made / checkpoint, "--prompt", "w7", "--max_length", 12)
    line = refused(script, *words)
    for word in ("GPU memory", "--rows_at_once", "--num_samples", "--max_length"):
        assert word in line, (word, line)
    assert "--batch_size" not in line


def test_only_out_of_memory_errors_get_memory_advice():
    def raises(error, before=None):
        @gpu_memory.out_of_memory_advice(lambda: "what helps: a walk")
        def failing():
            if before:
                try:
                    raise before
                except torch.OutOfMemoryError:
                    raise error from None
            raise error

        return failing

    for error in (RuntimeError("CUDA error: device-side assert"), InputError("--seed"), KeyError()):
        with pytest.raises(type(error)) as raised:
            raises(error)()
        assert raised.value is error
    for error, before in (
        (torch.cuda.OutOfMemoryError(SAID), None),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), None),
        (InputError("cannot write: CUDA out of memory"), torch.OutOfMemoryError(SAID)),
    ):
        with pytest.raises(InputError, match="(?s)out of memory.*a walk"):
            raises(error, before)()
