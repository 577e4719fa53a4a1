"""The picture that plays a generation: what each frame shows, when, and that text stays text.

pytest tests/sampling/test_trace_svg.py                               seconds
"""

import random
import xml.etree.ElementTree as ElementTree

import pytest
from test_trace_page import HOSTILE, MASK, decode, insertion_trace

from common.errors import InputError
from sampling.shown_text import MASK_SIGN
from sampling.trace_panel import make_panel
from sampling.trace_svg import COLUMNS, MOST_FRAMES, SECONDS_AT_END, write_trace_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(path):
    """[(begin, end, text, styles)] of the groups of a picture, begin and end as shares of its
    length; that everything in it is text.
    """
    found = []
    root = ElementTree.parse(path).getroot()
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "style", "rect", "g", "animate", "text", "tspan"}
    for group in root.iter(SVG + "g"):
        animate = group.find(SVG + "animate")
        values = animate.get("values").split(";")
        times = [*map(float, animate.get("keyTimes").split(";")), 1.0]
        (shown,) = [place for place, value in enumerate(values) if value == "visible"]
        lines = ["".join(text.itertext()) for text in group.findall(SVG + "text")]
        assert all(len(line) <= COLUMNS for line in lines)
        styles = [span.get("class") for span in group.iter(SVG + "tspan")]
        found.append((times[shown], times[shown + 1], "".join(lines[1:]), styles))
    return found


@pytest.mark.parametrize("steps", [1, 5, 3 * MOST_FRAMES])
def test_frames_follow_one_another_and_end_with_the_result(tmp_path, steps):
    trace = insertion_trace(random.randint(1, 30), evaluations=max(2, steps))
    write_trace_svg(tmp_path / "a.svg", [make_panel("<b>", decode, trace, MASK)])
    frames = drawn(tmp_path / "a.svg")
    assert len(frames) == min(len(trace), MOST_FRAMES)
    assert frames[0][0] == 0 and frames[-1][1] == 1
    for (_, end, _, _), (begin, _, _, _) in zip(frames, frames[1:]):
        assert end == begin
    assert frames[-1][1] - frames[-1][0] > frames[0][1] - frames[0][0]
    assert SECONDS_AT_END > 0
    assert MASK_SIGN not in frames[-1][2]
    shown = [HOSTILE[token] for token in trace[-1]["ids"]]
    plain = "".join(shown).replace("\n", "").replace("\x1b", "\ufffd")
    assert frames[-1][2] == plain
    # as many masks as the first and the middle frame of a short trace have
    if len(trace) <= MOST_FRAMES:
        for frame, (_, _, text, _) in zip(trace, frames):
            assert text.count(MASK_SIGN) == frame["ids"].count(MASK)


def test_what_is_given_is_its_last_line_and_special_tokens_are_left_out(tmp_path):
    ids = [6, 3, 6, 7, 8, 7]  # "plain line\nbreakplain <|end|>é<|end|>", the first three given
    first = {"t": 0.0, "evaluations": 0, "ids": ids[:3], "slots": [0, 1, 2]}
    last = {"t": 1.0, "evaluations": 4, "ids": ids, "slots": list(range(6))}
    panel = make_panel("p", decode, [first, last], MASK, special={7})
    write_trace_svg(tmp_path / "a.svg", [panel, panel])
    frames = drawn(tmp_path / "a.svg")
    assert [text for _, _, text, _ in frames] == ["breakplain", "breakplainé"] * 2
    assert frames[1][3] == ["note", "given", "new"]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    panel = make_panel("p", decode, insertion_trace(3), MASK)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        write_trace_svg(tmp_path / "file" / "a.svg", [panel])
