"""flexmdm_inference.py and llada_inference.py show what was generated as text in its context: what
it adds to the text before it. SentencePiece-like tokenizers decode the same ids by themselves to
another text, without the space they begin with.

pytest tests/sampling/test_shown_text.py                               seconds
"""

import random
import sys
from types import SimpleNamespace

import pytest
import torch
from foreign_tokenizers import sentencepiece, write_llama
from new_base import import_llama

import flexmdm_inference
import llada_inference
import sampling.flexmdm
import sampling.llada
from data.tokenizer import load_tokenizer, text_ids
from llada_utils import new_flexmdm, write_checkpoint

COMMANDS = {
    "flexmdm": (flexmdm_inference, sampling.flexmdm, "generate_flexmdm_infilling"),
    "llada": (llada_inference, sampling.llada, "generate_mdm_infilling"),
}
MODES = [
    ("flexmdm", "prompt"),
    ("flexmdm", "infill"),
    ("llada", "prompt"),
    ("llada", "infill"),
    ("llada", "masks in place"),
]
PIECES = [
    "def",
    "return",
    " ",
    "  ",
    "    ",
    "\n",
    "x",
    " x",
    " xa",
    " = 1",
    ":",
    "(a)",
    "é",
    " 日",
]


@pytest.fixture(scope="module", params=["legacy", "metaspace first", "metaspace always"])
def checkpoints(request, tmp_path_factory):
    work = tmp_path_factory.mktemp("checkpoints")
    import_llama(str(write_llama(work / "llama", sentencepiece(request.param))), work / "llada")
    (work / "flexmdm").mkdir()
    model = new_flexmdm(str(work / "llada"), lora=None)
    with torch.no_grad():  # some tokens are missing in every gap
        model.scalar_length_head.proj2.bias.fill_(1.0)
    write_checkpoint(model, work / "flexmdm", load_tokenizer(work / "llada"))
    return work


def decode(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def random_split(tokenizer):
    """(text before, ids of it, ids of the middle, text behind), cut between tokens; the ids of the
    text before are those that the whole text begins with.
    """
    while True:
        text = random.choice(["def", "x", "(a)"]) + "".join(random.choices(PIECES, k=9))
        ids = text_ids(tokenizer, text)
        start, end = sorted(random.sample(range(1, len(ids)), 2))
        before, behind = decode(tokenizer, ids[:start]), decode(tokenizer, ids[:end])
        if (
            "\ufffd" not in before + behind
            and text_ids(tokenizer, before) == ids[:start]
            and text.startswith(behind)
        ):
            return before, ids[:start], ids[start:end], text[len(behind) :]


def show(checkpoints, kind, mode, before, behind, monkeypatch, capsys, sampler):
    """What the command prints, and the ids between what is given, up to LLaDA's end of text."""
    script, module, name = COMMANDS[kind]
    real, made = getattr(module, name), []

    def sample(model, first, last, **settings):
        made.append((len(first[0]), len(last[0]), sampler(real, model, first, last, settings)))
        return made[-1][-1]

    monkeypatch.setattr(module, name, sample)
    flags = ["--prompt", before] if mode == "prompt" else ["--prefix", before, "--suffix", behind]
    flags += ["--middle_length", "6"] if mode == "masks in place" else []
    flags += ["--gen_length", "8"] if kind == "llada" and mode != "masks in place" else []
    flags += ["--diffusion_steps", "6" if mode == "masks in place" else "8"]
    flags += ["--temperature", "1", "--seed", str(random.randrange(2**31)), "--max_length", "400"]
    monkeypatch.setattr(
        sys, "argv", [script.__name__, "--checkpoint_path", str(checkpoints / kind), *flags]
    )
    script.main()
    ((first, last, result),) = made
    monkeypatch.setattr(module, name, real)
    shown = capsys.readouterr().out
    assert shown.endswith("\n")
    ids = result.sequences[0, first : int(result.lengths[0]) - last].tolist()
    return shown[:-1], ids


@pytest.mark.parametrize("kind, mode", MODES)
def test_the_text_of_a_known_middle_is_shown(checkpoints, kind, mode, monkeypatch, capsys):
    tokenizer = load_tokenizer(checkpoints / kind)
    lost = 0
    for _ in range(8):
        before, start, middle, behind = random_split(tokenizer)

        def oracle(real, model, first, last, settings):
            row = torch.tensor([[*first[0], *middle, *last[0]]])
            none = torch.zeros(1, dtype=torch.long)
            return SimpleNamespace(
                sequences=row,
                lengths=torch.tensor([row.shape[1]]),
                evaluations=none,
                truncated=none,
                dropped_insertions=none,
                rate_bound_violations=none,
                positions=None,
            )

        shown, _ = show(checkpoints, kind, mode, before, behind, monkeypatch, capsys, oracle)
        assert shown == decode(tokenizer, start + middle)[len(before) :], (before, middle, behind)
        lost += shown != decode(tokenizer, middle)
    print(f"{lost} of 8 middles are another text by themselves")


@pytest.mark.parametrize("kind, mode", MODES)
def test_the_text_that_the_network_writes_is_shown(checkpoints, kind, mode, monkeypatch, capsys):
    tokenizer, compared = load_tokenizer(checkpoints / kind), 0
    ends = {tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")}
    for _ in range(4):
        before, start, _, behind = random_split(tokenizer)
        shown, ids = show(
            checkpoints,
            kind,
            mode,
            before,
            behind,
            monkeypatch,
            capsys,
            lambda real, model, first, last, settings: real(model, first, last, **settings),
        )
        if kind == "llada":
            ids = ids[: next((place for place, token in enumerate(ids) if token in ends), None)]
        whole = decode(tokenizer, start + ids)
        if whole.startswith(before):  # else half a character joins the text before it
            assert shown == whole[len(before) :]
            compared += bool(ids)
    assert compared
