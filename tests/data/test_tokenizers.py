"""Text cut and put together again, for the kinds of tokenizer that scripts/new_base.py takes:
SentencePiece-like ones mark a document's beginning with a space of their own.

pytest tests/data/test_tokenizers.py                               seconds
"""

from argparse import Namespace

import pytest
import tiny
import torch
from conftest import ROOT, _folder
from foreign_tokenizers import sentencepiece, write_llama
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from new_base import import_llama

from data.infills import (
    flexmdm_infill_ids,
    format_flexmdm_infill,
    format_llada_infill,
    infill_boundary_ids,
    llada_infill_layout,
    llada_infill_prompt,
)
from data.tokenizer import decode_after, inner_ids, load_tokenizer, text_ids
from eval_humaneval_infill import Infilling
from evaluation.model import EvaluatedModel
from sampling.results import GenerationResult

CODE = st.lists(
    st.sampled_from(
        ["def", "return", " ", "  ", "    ", "\n", "\n\n", "x", "xa", "= 1", ":", "(a)", "é", "日"]
    ),
    max_size=14,
).map("".join)
KINDS = [
    "legacy",
    "metaspace first",
    "metaspace always",
    "metaspace never",
    "bytes",
    "bytes with a prefix space",
]


@pytest.fixture(scope="module", params=[*KINDS, "stories260K", "LLaDA-tiny-Base"])
def tokenizer(request, tmp_path_factory):
    """One of each kind as new_base.py writes it, and the tiny base's own."""
    work = tmp_path_factory.mktemp("llama")
    if request.param == "LLaDA-tiny-Base":
        return load_tokenizer(ROOT / request.param)
    if request.param == "stories260K":
        source = _folder("FLEXMDM_DATA") / "stories260K"
    else:
        made = (
            tiny.byte_level("prefix" in request.param)
            if request.param.startswith("bytes")
            else sentencepiece(request.param)
        )
        source = write_llama(work / "llama", made)
    import_llama(str(source), work / "base")
    return load_tokenizer(work / "base")


def whole_characters(tokenizer, ids):
    return "\ufffd" not in tokenizer.decode(ids)


@settings(max_examples=60, deadline=None)
@given(text=CODE, cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_splitting_a_text_between_tokens_and_joining_it_gives_it_back(tokenizer, text, cuts):
    ids = text_ids(tokenizer, text)
    first, second = sorted(round(cut * len(ids)) for cut in cuts)
    assume(whole_characters(tokenizer, ids[:first]) and whole_characters(tokenizer, ids[:second]))
    parts = [
        decode_after(tokenizer, ids[:start], ids[start:end])
        for start, end in ((0, first), (first, second), (second, len(ids)))
    ]
    assert "".join(parts) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if not text.startswith(" "):  # Metaspace reads "x" and " x" alike
        assert "".join(parts).removeprefix(" ") == text


@settings(max_examples=60, deadline=None)
@given(prefix=CODE, middle=CODE, suffix=CODE)
def test_an_infill_is_formatted_at_inference_as_in_training(tokenizer, prefix, middle, suffix):
    """Wherever the three parts' tokens are those of the whole text, cut there."""
    ids = text_ids(tokenizer, prefix + middle + suffix)
    start, end = (len(text_ids(tokenizer, text)) for text in (prefix, prefix + middle))
    assume(prefix and text_ids(tokenizer, prefix) == ids[:start])
    assume(text_ids(tokenizer, prefix + middle) == ids[:end])
    boundary, layout = infill_boundary_ids(tokenizer), llada_infill_layout(tokenizer)
    framed, _, _ = format_flexmdm_infill(ids[:start], ids[start:end], ids[end:], boundary)
    before, after = flexmdm_infill_ids(tokenizer, prefix, suffix)
    assert before + ids[start:end] + after == framed.tolist()
    framed, length = format_llada_infill(ids[:start], ids[start:end], ids[end:], layout)
    assert llada_infill_prompt(tokenizer, prefix, suffix) == framed[:length].tolist()
    assert inner_ids(tokenizer, middle + suffix) == ids[start:]
    assert decode_after(tokenizer, ids[:start], ids[start:end]) == middle


@settings(max_examples=30, deadline=None)
@given(prefix=CODE, middle=CODE, suffix=CODE)
@pytest.mark.parametrize("layout", ["flexmdm", "paper", "oracle", "fixed"])
def test_an_evaluated_middle_is_read_as_the_text_it_stands_in(
    tokenizer, layout, prefix, middle, suffix
):
    """The model answers with the tokens that the middle has in the whole text, also at its start,
    where a SentencePiece-like tokenizer drops a space.
    """
    ids = text_ids(tokenizer, prefix + middle + suffix)
    start, end = (len(text_ids(tokenizer, text)) for text in (prefix, prefix + middle))
    assume(text_ids(tokenizer, prefix) == ids[:start])
    assume(text_ids(tokenizer, prefix + middle) == ids[:end])
    model = EvaluatedModel.__new__(EvaluatedModel)
    model.kind = "flexmdm" if layout == "flexmdm" else "llada"
    model.tokenizer, model.finds_lengths, model.stop_ids = tokenizer, False, set()
    model.arguments = {"llada_length": "given"}
    evaluation = Infilling(Namespace(llada_infill=layout, gen_length=3))
    evaluation.items = [{"prompt": prefix, "suffix": suffix, "canonical_solution": middle}]
    asked = evaluation.encode(model)
    before, after = asked.prefixes[0], (asked.suffixes or [[]])[0]
    row = torch.tensor([[*before, *ids[start:end], *after]])
    result = GenerationResult(
        sequences=row,
        lengths=torch.tensor([row.shape[1]]),
        evaluations=torch.tensor([1]),
        truncated=torch.tensor([False]),
    )
    ((text, _),) = model.answers_of(result, [len(before)], [len(after)], asked.texts)
    first, whole = (
        tokenizer.decode(part, clean_up_tokenization_spaces=False)
        for part in (ids[:start], ids[:end])
    )
    assert first + text == whole


def test_incomplete_utf_8_is_still_decoded(tokenizer):
    """A model may put half a character after any text."""
    half = text_ids(tokenizer, "日")[-1:]
    assert decode_after(tokenizer, text_ids(tokenizer, "x\n"), half) == "\ufffd"
