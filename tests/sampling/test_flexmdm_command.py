"""The FlexMDM sampler on a real network, and flexmdm_inference.py as a command. Random weights;
nothing is judged by its sense.

pytest tests/sampling/test_flexmdm_command.py           about twenty seconds on two cores
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import tiny
import torch
from conftest import ROOT

import flexmdm_inference
from common.errors import run
from network.fast_blocks import compile_network
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling

SCRIPT = ROOT / "flexmdm_inference.py"
COMMON = dict(mask_id=tiny.MASK, pad_id=tiny.PAD, num_tokens=58, temperature=1.0, max_length=24)


def network(**settings):
    model = tiny.flexmdm(**settings)
    with torch.no_grad():
        # about one missing token a gap, falling nowhere: rows fill up slowly
        model.scalar_length_head.proj2.weight.mul_(0.3)
        model.scalar_length_head.proj2.bias.fill_(-1.0)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        dict(sampler="event_driven", unmasking="confidence", confidence_method="prob_diff"),
        dict(
            steps=24, unmasking="confidence", confidence_method="entropy", use_sliding_window=True
        ),
    ],
    ids=["event_driven", "tau_leaping"],
)
def test_rows_of_a_network_do_not_depend_on_neighbours(settings):
    """fp32 on a CPU: at most one row in 1,000 may differ, so two of these would be too many; and
    what differs must be rounding: with the same weights in float64 it does not."""
    model, rows = network(), 150
    lengths = torch.randint(0, 9, (rows,))
    prompts = torch.where(
        torch.arange(8) < lengths[:, None], torch.randint(5, 58, (rows, 8)), tiny.PAD
    )
    seeds = torch.randint(2**62, (rows,))

    def sample(which, model=model):
        return generate_flexmdm(model, prompts[which], seeds=seeds[which], **COMMON, **settings)

    def differing(together, apart, which):
        return [
            row
            for index, row in enumerate(which.tolist())
            if together.lengths[row] != apart.lengths[index]
            or not torch.equal(
                together.sequences[row, : together.lengths[row]],
                apart.sequences[index, : together.lengths[row]],
            )
        ]

    together, everything = sample(torch.arange(rows)), torch.randperm(rows)
    assert int((together.lengths > lengths).sum()) > rows // 2  # something was written
    different = [
        row for part in everything.split(50) for row in differing(together, sample(part), part)
    ]
    print(f"{len(different)} of {rows} rows differ")
    assert len(different) <= 1
    for row in different:
        wide = model.double()
        both = generate_flexmdm(wide, prompts, seeds=seeds, **COMMON, **settings)
        assert not differing(both, sample(torch.tensor([row]), wide), torch.tensor([row]))


@pytest.mark.full
def test_a_compiled_network_samples_the_same():
    """But for rounding: one row of the twelve may differ (the insertion head is fp32). The graph
    must serve every length.
    """
    model = network().double()
    prompts = torch.randint(5, 58, (12, 4))
    seeds = torch.randint(2**62, (12,))
    settings = dict(
        seeds=seeds,
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="top_prob",
        **COMMON,
    )
    plain = generate_flexmdm(model, prompts, **settings)
    compile_network(model)
    compiled = generate_flexmdm(model, prompts, **settings)
    same = [
        plain.sequences[row, : plain.lengths[row]].tolist()
        == compiled.sequences[row, : compiled.lengths[row]].tolist()
        for row in range(12)
    ]
    assert sum(same) >= 11, (
        plain.lengths,
        compiled.lengths,
        plain.evaluations,
        compiled.evaluations,
    )


def test_logits_at_chosen_positions_change_nothing():
    class Plain(torch.nn.Module):
        """The same network without its offer."""

        device = torch.device("cpu")

        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, input_ids, timesteps, attention_mask=None):
            return self.model(input_ids, timesteps, attention_mask=attention_mask)

    model, seeds = network(), torch.arange(12)
    for settings in (
        dict(steps=16),
        dict(sampler="event_driven", unmasking="confidence", confidence_method="top_prob"),
    ):
        offered, plain = (
            generate_flexmdm(m, batch_size=12, seeds=seeds, **COMMON, **settings)
            for m in (model, Plain(model))
        )
        assert torch.equal(offered.sequences, plain.sequences)


def test_sampling_keeps_the_padding_that_training_attended_to():
    """In compatibility mode the canvas is as wide as in training, whatever --max_length says; the
    head says nearly nothing, so a prompt is all there ever is."""
    seen = []
    for attended in (True, False):
        model = network(attend_to_padding=attended)
        with torch.no_grad():
            model.scalar_length_head.proj2.bias.fill_(-14.0)
        model.register_forward_pre_hook(
            lambda module, arguments: seen.append(arguments[0].shape[1])
        )
        generate_flexmdm_infilling(
            model, torch.tensor([[7, 8, 9]]), torch.tensor([[10]]), steps=3, **COMMON
        )
    assert (
        seen == [network().config.max_length] * 3 + [4] * 3
        and network().config.max_length > COMMON["max_length"]
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from llada_utils import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "flexmdm").mkdir()
    model = network()
    with torch.no_grad():
        model.scalar_length_head.proj2.bias.fill_(1.5)
    write_checkpoint(
        model, folder / "flexmdm", tiny.tokenizer(["<infill-boundary>"]), card="# test\n"
    )
    tiny.write_llada(folder / "llada")
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """The script's main in this process, as common.errors.run calls it: (exit code, stdout,
    stderr).
    """

    def call(*flags):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, flags)])
        with pytest.raises(SystemExit) as exit:
            run(flexmdm_inference.main)
        written = capsys.readouterr()
        return SimpleNamespace(returncode=exit.value.code, stdout=written.out, stderr=written.err)

    return call


def test_command_continues_a_prompt(checkpoint, command):
    flags = (
        "--checkpoint_path",
        checkpoint / "flexmdm",
        "--prompt",
        "w7 w8",
        "--diffusion_steps",
        12,
        "--temperature",
        1,
        "--max_length",
        24,
    )
    first, again, other = command(*flags), command(*flags), command(*flags, "--seed", 7)
    assert first.returncode == 0, first.stderr
    alone = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, flags)], capture_output=True, text=True, timeout=120
    )
    assert (alone.returncode, alone.stdout) == (0, first.stdout), alone.stderr
    assert first.stdout == again.stdout != other.stdout
    assert (
        "evaluations" in first.stderr
        and "endoftext" not in first.stdout
        and "mdm_mask" not in first.stdout
    )


def test_command_infills_and_prints_the_result(checkpoint, command, tmp_path):
    done = command(
        "--checkpoint_path",
        checkpoint / "flexmdm",
        "--prefix",
        "w7 w8",
        "--suffix",
        "w9",
        "--sampler",
        "event_driven",
        "--unmasking",
        "confidence",
        "--use_sliding_window",
        "--num_samples",
        2,
        "--max_length",
        20,
        "--watch",
        "--trace",
        tmp_path / "page.html",
    )
    assert done.returncode == 0, done.stderr
    assert "sample 2:" in done.stderr and "\u2592" in done.stdout + done.stderr
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_help_is_fast_and_needs_no_torch():
    program = (
        "import sys, time; sys.argv = ['flexmdm_inference.py', '--help']; start = time.time()\n"
        f"import runpy\ntry: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=SCRIPT.parent
    )
    assert done.returncode == 0 and "--use_sliding_window" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--prompt", "w7", "--checkpoint_path", "{}/nowhere"), "--checkpoint_path"),
        (("--prompt", "w7", "--checkpoint_path", "{}/llada"), "is a LLaDA"),
        (("--prompt", "w7", "--prefix", "w8", "--checkpoint_path", "{}/flexmdm"), "--prompt"),
        (("--checkpoint_path", "{}/flexmdm"), "--prompt"),
        (
            ("--prompt", "w7 w8 w9", "--max_length", "3", "--checkpoint_path", "{}/flexmdm"),
            "--max_length",
        ),
        (
            ("--prompt", "w7 <|endoftext|>", "--checkpoint_path", "{}/flexmdm"),
            "holds the padding token",
        ),
        (
            ("--prompt", "w7 <|endoftext|> w8", "--checkpoint_path", "{}/flexmdm"),
            "--prompt: holds the padding token",
        ),
        (
            ("--prefix", "w7", "--suffix", "w8 <|endoftext|>", "--checkpoint_path", "{}/flexmdm"),
            "holds the padding token",
        ),
        (
            ("--prefix", "<|endoftext|> w7", "--suffix", "w8", "--checkpoint_path", "{}/flexmdm"),
            "--prefix and --suffix: holds the padding token",
        ),
        (
            ("--prompt", "w7", "--rows_at_once", "0", "--checkpoint_path", "{}/flexmdm"),
            "--rows_at_once",
        ),
        (("--prompt", "w7", "--alpha", "0", "--checkpoint_path", "{}/flexmdm"), "--alpha"),
        (
            ("--prompt", "w7", "--temperature", "hot", "--checkpoint_path", "{}/flexmdm"),
            "--temperature",
        ),
        (
            ("--prompt", "w7", "--insertion_schedule", "cubic", "--checkpoint_path", "{}/flexmdm"),
            "--insertion_schedule",
        ),
        (("--prompt", "w7", "--trace", "page.gif", "--checkpoint_path", "{}/flexmdm"), "--trace"),
        (("--prompt", "w7", "--task", "code", "--checkpoint_path", "{}/flexmdm"), "--task"),
        (("--prompt", "w7"), "--checkpoint_path"),
    ],
)
def test_bad_input_is_one_line_that_names_the_flag(checkpoint, command, flags, words):
    done = command(*(flag.format(checkpoint) for flag in flags))
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and words in done.stderr, done.stderr
