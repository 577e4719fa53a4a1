"""The short ways to sample: generate_text and infill_text of both networks, and library calls
that are given nothing but ids: they do what the commands do.

pytest tests/sampling/test_text.py                                    seconds
"""

import random
import re
import sys
from argparse import ArgumentParser

import pytest
import tiny
import torch
from conftest import ROOT
from transformers import AutoModel

import flexmdm_inference
import llada_inference
from common.errors import InputError
from data.tokenizer import load_tokenizer
from llada_utils import load_flexmdm, load_llada, new_flexmdm, write_checkpoint
from sampling.flags import add_flexmdm_flags, add_llada_flags, add_model_flags, options_from
from sampling.flexmdm import generate_flexmdm
from sampling.llada import generate_mdm, generate_mdm_infilling
from sampling.options import LLaDAOptions, SamplerOptions

SCRIPTS = {"flexmdm": flexmdm_inference, "llada": llada_inference}
NOT_A_TOKEN = 4  # rows of the embedding beyond the tokenizer's 60 ids


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both models, whose likeliest ids by far are rows of the embedding that are no tokens."""
    work = tmp_path_factory.mktemp("made")
    rows = 60 + NOT_A_TOKEN
    base = tiny.llada(embedding_size=rows, vocab_size=rows, max_sequence_length=200)
    with torch.no_grad():
        base.model.transformer.ff_out.weight[60:] *= 30
    tokenizer = tiny.tokenizer(["<infill-boundary>"])
    for kind in ("llada", "flexmdm"):
        (work / kind).mkdir()
        if kind == "flexmdm":
            base = new_flexmdm(work / "llada", lora=None, max_length=40)
            with torch.no_grad():
                base.scalar_length_head.proj2.bias.fill_(1.0)
        write_checkpoint(base, work / kind, tokenizer)
    return work


def printed(script, monkeypatch, capsys, *flags):
    """What a command writes to stdout."""
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, flags)])
    script.main()
    return capsys.readouterr().out


def words(count):
    return " ".join(f"w{random.randrange(8, 58)}" for _ in range(count))


DRAWN = {
    "flexmdm": [
        dict(sampler="event_driven", temperature=1.0),
        dict(steps=8, unmasking="confidence", temperature=1.0, max_length=30),
        dict(max_length=20),
    ],
    "llada": [
        dict(gen_length=8, block_length=4, steps=4, temperature=1.0),
        dict(max_length=40, remasking="random", temperature=1.0),
        {},
    ],
}
FLAGS = {"steps": "diffusion_steps"}


@pytest.mark.parametrize(
    ("kind", "options"), [(kind, options) for kind in DRAWN for options in DRAWN[kind]]
)
def test_one_line_writes_what_the_command_prints(made, kind, options, monkeypatch, capsys):
    model = AutoModel.from_pretrained(made / kind)
    tokenizer, seed = load_tokenizer(made / kind), random.randrange(2**31)
    flags = ["--checkpoint_path", made / kind]
    if options:
        flags, options = [*flags, "--seed", seed], {**options, "seed": seed}
    for name, value in options.items():
        flags += [f"--{FLAGS.get(name, name)}", value] if name != "seed" else []
    prompt, prefix, suffix = words(3), words(4), words(2)
    shown = printed(SCRIPTS[kind], monkeypatch, capsys, *flags, "--prompt", prompt)
    assert model.generate_text(tokenizer, prompt, **options) + "\n" == shown
    infill = [*flags, "--prefix", prefix, "--suffix", suffix]
    shown = printed(SCRIPTS[kind], monkeypatch, capsys, *infill)
    assert model.infill_text(tokenizer, prefix, suffix, **options) + "\n" == shown
    if kind == "llada" and "gen_length" not in options:
        shown = printed(SCRIPTS[kind], monkeypatch, capsys, *infill, "--middle_length", 5)
        text = model.infill_text(tokenizer, prefix, suffix, middle_length=5, **options)
        assert text + "\n" == shown


def test_text_that_leaves_nothing_to_write_is_refused(made):
    for kind in SCRIPTS:
        model, tokenizer = AutoModel.from_pretrained(made / kind), load_tokenizer(made / kind)
        for prompt, message in ((words(210), "210 tokens"), ("w9 <|mdm_mask|>", "mask token")):
            with pytest.raises(InputError, match=message):
                model.generate_text(tokenizer, prompt)
            with pytest.raises(InputError, match=message.split()[1]):
                model.infill_text(tokenizer, prompt, "w9")
        with pytest.raises(ValueError, match="temperature"):
            model.generate_text(tokenizer, "w9", temperature=-1)
        with pytest.raises(TypeError, match="tempratur"):
            model.generate_text(tokenizer, "w9", tempratur=1)
    with pytest.raises(InputError, match="--middle_length 0: must be at least 1"):
        model.infill_text(tokenizer, "w9", "w9", middle_length=0)


def assert_equal(one, other):
    for name in ("sequences", "lengths", "evaluations"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_library_call_takes_ids_and_vocabulary_from_the_model(made):
    prompts = [[9, 10], [], [11]]
    ids, more = dict(mask_id=tiny.MASK, pad_id=tiny.PAD), dict(seeds=torch.arange(3), max_length=24)
    for generate, load in ((generate_flexmdm, load_flexmdm), (generate_mdm, load_llada)):
        kind = "flexmdm" if load is load_flexmdm else "llada"
        model = load(made / kind)
        result = generate(model, prompts, **more)
        assert int(result.sequences.max()) < 60
        assert_equal(result, generate(model, prompts, num_tokens=60, **ids, **more))
        model.tokenizer_folder = None  # as of a network that was not loaded
        assert int(generate(model, prompts, **more).sequences.max()) >= 60


def test_a_library_call_has_the_defaults_of_the_command():
    parser = ArgumentParser()
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    args = parser.parse_args([])
    assert options_from(args, SamplerOptions) == SamplerOptions(steps=256)
    assert options_from(args, LLaDAOptions) == LLaDAOptions()
    model = tiny.flexmdm()
    seeds = torch.arange(4)
    result = generate_flexmdm(model, batch_size=4, seeds=seeds, unmasking="confidence")
    options = options_from(parser.parse_args(["--unmasking", "confidence"]), SamplerOptions)
    assert_equal(result, generate_flexmdm(model, batch_size=4, seeds=seeds, options=options))


def test_llada_fills_what_its_model_and_options_leave():
    """gen_length if it is given, else all of max_length, or the likeliest number."""
    model, prompts = tiny.llada(length_distribution=9), [[9, 10, 11], [], [12]]
    assert generate_mdm(model, prompts).lengths.tolist() == [64] * 3
    assert generate_mdm(model, prompts, max_length=20).lengths.tolist() == [20] * 3
    assert generate_mdm(model, prompts, gen_length=5).lengths.tolist() == [8, 5, 6]
    options = LLaDAOptions(gen_length=4, block_length=2)
    assert generate_mdm(model, prompts, options=options).lengths.tolist() == [7, 4, 5]
    counted = generate_mdm_infilling(model, prompts, prompts[::-1], llada_length="counted")
    masks = counted.lengths - torch.tensor([4, 0, 4])
    plain = generate_mdm_infilling(model, prompts, prompts[::-1], middle_lengths=masks)
    assert torch.equal(counted.sequences, plain.sequences)
    assert torch.equal(counted.evaluations, plain.evaluations + 1)
    assert torch.equal(counted.positions, plain.positions + torch.tensor([5, 1, 5]))
    with pytest.raises(ValueError, match="negative"):
        generate_mdm(model, prompts, max_length=2)


def test_without_a_sampler_the_network_and_the_steps_decide(made, monkeypatch, capsys):
    """count_first where the network has a length distribution, of four lengths for an infill, and
    no option stands against it; the command and the methods agree."""
    folder, prompt, pair = made / "flexmdm", words(3), (words(4), words(2))
    tokenizer, order = load_tokenizer(folder), dict(unmasking="confidence")
    order["confidence_method"] = "top_prob"
    plain = AutoModel.from_pretrained(folder)
    counting = tiny.flexmdm(length_distribution=9, embedding_size=64)
    for model, options, prompted, infilled in (
        (plain, {}, dict(sampler="event_driven"), dict(sampler="event_driven")),
        (plain, dict(steps=6), dict(sampler="tau_leaping"), dict(sampler="tau_leaping")),
        (
            counting,
            {},
            dict(sampler="count_first"),
            dict(sampler="count_first", length_candidates=4),
        ),
        (
            counting,
            dict(length_choice="drawn"),
            dict(sampler="count_first"),
            dict(sampler="count_first"),
        ),
        (counting, dict(placed_share=0.5), *[dict(sampler="event_driven")] * 2),
        (counting, dict(corrector_time=0.5), *[dict(sampler="event_driven")] * 2),
        (counting, dict(steps=6), *[dict(sampler="tau_leaping")] * 2),
        (counting, dict(sampler="event_driven"), *[dict(sampler="event_driven")] * 2),
    ):
        given = flexmdm_inference.given_prompt(tokenizer, prompt)
        chosen = flexmdm_inference.text_options(model, given, options)
        assert chosen == SamplerOptions(**order, **{**options, **prompted})
        given = flexmdm_inference.given_infill(tokenizer, *pair)
        chosen = flexmdm_inference.text_options(model, given, options)
        assert chosen == SamplerOptions(**order, **{**options, **infilled})
    command = ["--checkpoint_path", folder, "--seed", 3, "--max_length", 30]
    shown = printed(flexmdm_inference, monkeypatch, capsys, *command, "--prompt", prompt)
    options = dict(seed=3, max_length=30, sampler="event_driven", **order)
    assert plain.generate_text(tokenizer, prompt, **options) + "\n" == shown


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_question_is_formatted_as_in_fine_tuning(made, kind, monkeypatch):
    model, tokenizer = AutoModel.from_pretrained(made / kind), load_tokenizer(made / kind)
    monkeypatch.setattr("data.math_prompts.math_prompt", lambda tokenizer, text: f"{text} w9")
    options = dict(max_length=40)
    asked = model.generate_text(tokenizer, "w10 w11", task="math", **options)
    assert asked == model.generate_text(tokenizer, "w10 w11 w9", **options)
    with pytest.raises(ValueError, match="task is 'maths'"):
        model.generate_text(tokenizer, "w10", task="maths")


def test_the_readme_s_library_example_runs(monkeypatch, capsys):
    """As it stands there, in the repository's folder; five lines at most, and a right answer."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 5
    monkeypatch.chdir(ROOT)
    exec(program, {})
    assert "boxed{81}" in capsys.readouterr().out
