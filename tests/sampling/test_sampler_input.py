"""What users hand to the samplers: impossible values of flags, mask tokens in prompts and damaged
trace pages are refused in one line.

pytest tests/sampling/test_sampler_input.py                              seconds
"""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.command_line import ArgumentParser
from common.errors import InputError
from sampling.flags import add_flexmdm_flags, add_llada_flags, add_model_flags, options_from
from sampling.given import refuse_mask_tokens, refuse_padding
from sampling.options import LLaDAOptions, SamplerOptions

# ---- values of flags -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--insertion_schedule", "geometric:inf,1"],
        ["--insertion_schedule", "power:inf"],
        ["--insertion_schedule", "power:nan"],
        ["--insertion_schedule", "power:1e999"],
        ["--insertion_schedule", "geometric:1,-inf"],
        ["--temperature", "nan"],
        ["--unmasking", "confidence", "--confidence_threshold", "nan"],
        ["--unmasking", "confidence", "--confidence_threshold", "-inf"],
        ["--alpha", "inf"],
    ],
)
def test_flexmdm_values_that_are_not_finite_are_refused_by_flag(words):
    parser = ArgumentParser()
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    with pytest.raises(InputError, match=words[-2]):
        options_from(parser.parse_args(words), SamplerOptions)


@pytest.mark.parametrize("value", ["1e39", "nan", "inf", "-1"])
def test_guidance_that_is_not_finite_in_fp32_or_negative_is_refused(value):
    parser = ArgumentParser()
    add_model_flags(parser, checkpoint_required=False)
    add_llada_flags(parser)
    with pytest.raises(InputError, match="--cfg_scale"):
        options_from(parser.parse_args(["--cfg_scale", value]), LLaDAOptions)


def test_mask_tokens_in_a_prompt_or_suffix_are_refused():
    refuse_mask_tokens(([1, 2], []), 7, "--prompt")
    with pytest.raises(InputError, match="--prompt: holds the mask token 7"):
        refuse_mask_tokens(([1], [2, 7]), 7, "--prompt")


ROW = st.lists(st.integers(0, 6), max_size=6)  # 7 is padding


@given(st.lists(ROW, min_size=1, max_size=3), st.data())
def test_padding_anywhere_among_given_tokens_is_refused(rows, data):
    refuse_padding(rows, 7, "--prompt", data.draw(st.sampled_from([None, 1, 7])))
    row = data.draw(st.sampled_from(rows))
    row.insert(data.draw(st.integers(0, len(row))), 7)
    start = data.draw(st.sampled_from([None, 1]))
    with pytest.raises(InputError, match="--prompt: holds the padding token 7"):
        refuse_padding(rows, 7, "--prompt", start)


@given(ROW.filter(len), st.integers(1, 6))
def test_a_start_token_that_is_padding_as_well_may_only_start(row, place):
    refuse_padding([[7, *row]], 7, "--prompt", start_id=7)
    for wrong in ([7], [7, *row[:place], 7, *row[place:]]):
        with pytest.raises(InputError, match="--prompt: holds the padding token 7"):
            refuse_padding([row, wrong], 7, "--prompt", start_id=7)


# ---- pages of generations ------------------------------------------------------------------------

PANEL = {
    "title": "_$x$",
    "t": [0.0, 1.0],
    "evaluations": [0, 3],
    "tokens": [["a", 0], ["b", 0]],
    "slots": [[0, 0, 0, 1], [1, 1, 1, 0]],
}


@pytest.mark.parametrize(
    "field, value",
    [
        ("slots", [[2, 0, 0, 0]]),
        ("slots", [[0, 2, 1, 0]]),
        ("slots", [[0, 0, 2, 0]]),
        ("slots", [[0, 0, -2, 0]]),
        ("slots", [[-1, 0, 0, 0]]),
        ("slots", [[0, 0, 0]]),
        ("slots", [3]),
        ("slots", 3),
        ("slots", None),
        ("slots", [[0, 0.5, 1, 0]]),
        ("t", []),
        ("t", 3),
        ("t", [0, "1"]),
        ("t", [0, float("nan")]),
        ("evaluations", [0]),
        ("evaluations", None),
        ("tokens", [["a"]]),
        ("tokens", {}),
        ("title", None),
    ],
)
@pytest.mark.parametrize("ending", ["png", "html"])
def test_a_trace_page_with_a_damaged_panel_is_refused_and_nothing_is_written(
    tmp_path, monkeypatch, ending, field, value
):
    import trace_page as command

    from sampling import trace_page

    trace_page.write_trace_page(tmp_path / "page.html", [PANEL, {**PANEL, field: value}])
    monkeypatch.setattr(
        sys, "argv", ["x", str(tmp_path / "page.html"), "--output", str(tmp_path / f"out.{ending}")]
    )
    with pytest.raises(InputError, match="page.html is not a page .* of panel 2"):
        command.main()
    assert not (tmp_path / f"out.{ending}").exists()


def test_a_complete_panel_is_plotted_and_an_unwritable_plot_file_is_a_one_line_error(tmp_path):
    from sampling import trace_page

    trace_page.write_trace_page(tmp_path / "page.html", [PANEL])
    panels = trace_page.read_panels(tmp_path / "page.html")
    trace_page.write_panels(tmp_path / "out.png", panels)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot write"):
        trace_page.write_panels(tmp_path / "page.html" / "out.png", panels)
