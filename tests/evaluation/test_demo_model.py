"""What the demo's page answers (evaluation/demo_model.py), without gradio.

Run: python -m pytest tests/evaluation/test_demo_model.py        (about 10 s)
"""

import argparse
import dataclasses
import random
import re
import threading
from html import unescape

import pytest
import tiny
import torch

from common.errors import InputError
from data.infills import flexmdm_infill_ids, llada_infill_prompt
from data.math_prompts import math_prompt
from data.tokenizer import load_tokenizer, text_ids
from evaluation.demo_model import (
    DEFAULTS,
    SHIPPED,
    Request,
    demo_options,
    load_demo_model,
    options_of,
)
from llada_utils import write_checkpoint
from sampling.flags import add_flexmdm_flags, add_llada_flags, add_model_flags, options_from
from sampling.flexmdm import generate_flexmdm_infilling
from sampling.llada import generate_mdm
from sampling.option_fields import flag_of
from sampling.options import LLaDAOptions, SamplerOptions
from sampling.row_random import item_seed

(BASE,) = SHIPPED["llada"]
KINDS = {"flexmdm": SamplerOptions, "llada": LLaDAOptions}
FLAGS = argparse.Namespace(device="cpu", dtype="auto", torch_compile=False, time_limit=60.0)


@pytest.fixture(scope="module")
def models():
    """The shipped base in both columns."""
    lock = threading.Lock()
    return {kind: load_demo_model(BASE, kind, FLAGS, lock) for kind in KINDS}


def answer(model, request, seed=1, **values):
    return list(filter(None, model.answer_live(request, values, seed)))


def words(shown):
    return unescape(re.sub("<[^>]*>", "", shown.text))


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_offers_what_the_text_depends_on(kind):
    offered = {each.name for each, _ in demo_options(kind)}
    assert offered == {
        each.name
        for each in dataclasses.fields(KINDS[kind])
        if each.name not in ("rows_at_once", "unmask_schedule", "length_drift")
    }
    used = options_of(kind, {}, 1).arguments()
    assert {name: used[name] for name in DEFAULTS[kind]} == DEFAULTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_text_means_what_it_means_on_the_command_line(kind):
    """Random values of every option that a text box holds; an empty box is a flag left out."""
    parser = argparse.ArgumentParser()
    add_model_flags(parser)
    (add_flexmdm_flags if kind == "flexmdm" else add_llada_flags)(parser)
    boxes = {
        "flexmdm": ["steps", "max_length", "temperature", "alpha", "cache_refresh"],
        "llada": ["gen_length", "cfg_scale", "steps", "max_length", "temperature"],
    }[kind]
    fields = {each.name: each for each, _ in demo_options(kind)}
    for _ in range(10):
        given = {name: str(random.randint(1, 99)) for name in boxes if random.random() < 0.7}
        given["temperature"] = random.choice(["0.25", "1e-2"])
        if kind == "flexmdm":
            given |= {"sampler": "tau_leaping", "insertion_schedule": "power:2.5"}
        line = [word for name, value in given.items() for word in (flag_of(fields[name]), value)]
        args = parser.parse_args(["--checkpoint_path", "C", "--seed", "1", *line])
        wanted = options_from(args, KINDS[kind], default_steps=256)
        got = options_of(kind, dict.fromkeys(fields, "") | given, 1)
        assert got.settings() == wanted.settings()


@pytest.mark.parametrize(
    "kind, values, said",
    [
        ("flexmdm", {"alpha": "x"}, "--alpha x: must be a number"),
        ("flexmdm", {"alpha": "nan"}, "--alpha nan: must be a finite number"),
        ("flexmdm", {"max_window": "2.5"}, "--max_window 2.5: must be a whole number"),
        ("flexmdm", {"steps": "5000"}, "--diffusion_steps 5000: must be at most 4096"),
        ("flexmdm", {"insertion_schedule": "cubic"}, "--insertion_schedule cubic"),
        ("flexmdm", {"sampler": "tau_leaping", "events_per_evaluation": "2"}, "--events_per_eval"),
        ("flexmdm", {"sampler": "count_first"}, "--sampler count_first: /"),
        ("flexmdm", {"max_length": "1025"}, "--max_length 1025: the model takes 1024"),
        ("llada", {"gen_length": "41"}, "--block_length 8: must be a divisor"),
        ("llada", {"gen_length": "99999992"}, "--prompt: your text takes"),
        ("llada", {"llada_length": "counted", "gen_length": ""}, "--llada_length counted"),
        ("llada", {"max_length": "513"}, "--max_length 513: the model takes 512"),
    ],
)
def test_bad_options_are_refused_by_their_flag(models, kind, values, said):
    with pytest.raises(InputError, match=re.escape(said)):
        answer(models[kind], Request(prompt="Tom has 14 apples."), **values)


@pytest.mark.parametrize(
    "request_, seed, said",
    [
        (Request(prompt="a " * 600), 1, "--prompt: your text takes"),
        (
            Request(prefix="a " * 300, suffix="b " * 300),
            1,
            "--prefix and --suffix: your text takes",
        ),
        (Request(prompt="a <|mdm_mask|>"), 1, "holds the mask token"),
        (Request(prompt="a<|endoftext|> b"), 1, "holds the padding token"),
        (Request(prompt="a"), None, "--seed: is empty"),
        (Request(prompt="a"), -1, "--seed -1"),
    ],
)
def test_bad_input_is_refused(models, request_, seed, said):
    for model in models.values():
        with pytest.raises(InputError, match=re.escape(said)):
            answer(model, request_, seed, max_length="512")


# ---- answers -------------------------------------------------------------------------------------


REQUESTS = [
    Request(prompt="Tom has 14 apples."),
    Request(prompt="A box has 5 pens. How many pens are in the box?", math=True),
    Request(prefix="def add(a, b):\n    return", suffix="\n"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=["text", "math", "infill"])
def test_answers_are_those_of_the_library_and_every_state_is_shown(models, request_):
    """The same tokens, evaluations and number of states as the samplers with the same seed."""
    tokenizer, seed = load_tokenizer(BASE), random.randrange(1000)
    ids = dict(mask_id=tokenizer.mask_token_id, pad_id=tokenizer.pad_token_id)
    settings = dict(
        num_tokens=len(tokenizer),
        seeds=torch.tensor([item_seed(seed, 0, 0)]),
        temperature=1.0,
        return_trace=True,
        **ids,
    )
    text = request_.prompt
    if text is None:
        before, after = flexmdm_infill_ids(tokenizer, request_.prefix, request_.suffix)
        prompt = llada_infill_prompt(tokenizer, request_.prefix, request_.suffix)
    else:
        text = math_prompt(tokenizer, text) if request_.math else text
        before, after = text_ids(tokenizer, text), []
        prompt = before
    results = {
        "flexmdm": generate_flexmdm_infilling(
            models["flexmdm"].model,
            [before],
            [after],
            sampler="event_driven",
            unmasking="confidence",
            confidence_method="top_prob",
            max_length=300,
            **settings,
        ),
        "llada": generate_mdm(
            models["llada"].model,
            [prompt],
            steps=None,
            gen_length=24,
            block_length=8,
            **settings,
        ),
    }
    values = {"flexmdm": {"max_length": "300"}, "llada": {"gen_length": "24"}}
    for kind, result in results.items():
        shown = answer(models[kind], request_, seed, temperature="1", **values[kind])
        (trace,) = result.trace
        assert len(shown) == len(trace) + 1  # the last once more, when it has ended
        assert shown[-1].numbers.startswith(f"{int(result.evaluations[0])} evaluations, ")
        assert all(each.panel is None for each in shown[:-1])
        panel = shown[-1].panel
        assert panel["evaluations"] == [frame["evaluations"] for frame in trace]
        written = result.sequences[0, : int(result.lengths[0])].tolist()
        texts = [panel["tokens"][slot[0]][0] for slot in panel["slots"]]
        assert "".join(texts) == tokenizer.decode(written)
        # on the page: what was typed around what was written
        said = words(shown[-1])
        assert said.startswith(request_.prompt or request_.prefix)
        assert said.endswith(request_.suffix)
        assert 'class="given"' in shown[-1].text and "<i " not in shown[-1].text
        masks = [each.text.count("<i ") for each in shown]
        assert masks[:-1] == [frame["ids"].count(ids["mask_id"]) for frame in trace]


def test_visitors_have_their_own_options(models):
    """Two answers of one network at a time, with other options."""
    model, request_ = models["llada"], REQUESTS[0]
    alone = [words(answer(model, request_, seed=2, gen_length=n)[-1]) for n in ("8", "32")]
    pair = [model.answer_live(request_, {"gen_length": n}, 2) for n in ("8", "32")]
    shown = [None, None]
    while any(pair):
        for place, each in enumerate(pair):
            if each is not None:
                try:
                    shown[place] = next(each) or shown[place]
                except StopIteration:
                    pair[place] = None
    assert [words(each) for each in shown] == alone


# ---- checkpoints ---------------------------------------------------------------------------------


def test_a_base_as_flexmdm_says_that_it_is_untrained(models, tmp_path):
    assert "untrained" in models["flexmdm"].notice
    assert "fine-tuned on neither task" in models["llada"].notice
    (tmp_path / "trained").mkdir()
    write_checkpoint(tiny.flexmdm(), tmp_path / "trained", tiny.tokenizer())
    trained = load_demo_model(str(tmp_path / "trained"), "flexmdm", FLAGS, threading.Lock())
    assert not trained.notice and trained.kind == "flexmdm"
    assert answer(trained, Request(prompt="w6 w7"))[-1].panel
    with pytest.raises(InputError, match="--llada_checkpoint: .* is a FlexMDM"):
        load_demo_model(str(tmp_path / "trained"), "llada", FLAGS, threading.Lock())
    with pytest.raises(InputError, match="--flexmdm_checkpoint: .* is no checkpoint"):
        load_demo_model(str(tmp_path), "flexmdm", FLAGS, threading.Lock())
