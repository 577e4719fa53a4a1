"""The page that plays a generation, in a real headless Chromium from file://; the curves as a
picture; the text in a terminal.

Run: python -m pytest tests/sampling/test_trace_page.py        (about 20 s)
Without a Chromium the page's own tests are skipped. On Debian: apt-get install chromium.
FLEXMDM_CHROMIUM names another program.
"""

import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from chromium import Chromium, find_chromium
from conftest import ROOT

from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.llada import generate_mdm
from sampling.shown_text import MASK_SIGN, screen_lines
from sampling.terminal import terminal_watcher
from sampling.trace_page import read_panels, write_panels, write_trace, write_trace_page
from sampling.trace_panel import curves, make_panel

MASK = 0
HOSTILE = {
    1: "</script><img src=x onerror=alert(1)>",
    2: "<b>&amp;</b>",
    3: "line\nbreak",
    4: " \"quoted\" 'text'",
    5: "\u2028\x1b[31m",
    6: "plain ",
    7: "<|end|>",
    8: "é",
}


def decode(ids):
    return "".join(HOSTILE[token] for token in ids)


class Words:
    """What the terminal and write_trace ask of a tokenizer."""

    all_special_ids = [7]
    decode = staticmethod(decode)


def insertion_trace(length, given=0, evaluations=None):
    """Frames of a random generation: tokens are inserted and unmasked at random times, the first
    `given` are there from the start.
    """
    steps = evaluations or 3 * length
    tokens = [random.choice([1, 2, 3, 4, 5, 6, 7, 8]) for _ in range(length)]
    came = [-1 if i < given else random.randint(1, steps - 1) for i in range(length)]
    shown = [-1 if i < given else random.randint(came[i] + 1, steps) for i in range(length)]
    births = sorted(range(length), key=lambda i: (came[i], i))
    slot = {position: number for number, position in enumerate(births)}
    return [
        {
            "t": step / steps,
            "evaluations": step,
            "ids": [
                tokens[i] if shown[i] <= step else MASK for i in range(length) if came[i] <= step
            ],
            "slots": [slot[i] for i in range(length) if came[i] <= step],
        }
        for step in range(steps + 1)
    ]


def corrected_trace(length, given=0, rounds=3):
    """An insertion trace and what correctors do next: in each round some tokens are removed or
    replaced by a new mask, which is unmasked in the next frame.
    """
    trace = insertion_trace(length, given)
    born = length
    for number in range(1, rounds + 1):
        last = trace[-1]
        ids, slots = [], []
        for token, slot in zip(last["ids"], last["slots"]):
            kind = "kept" if slot < given else random.choice(["kept", "removed", "masked"])
            if kind == "masked":
                token, slot, born = MASK, born, born + 1
            if kind != "removed":
                ids, slots = [*ids, token], [*slots, slot]
        step = last["evaluations"] + 1
        trace.append({"t": 0.5, "evaluations": step, "ids": ids, "slots": slots})
        ids = [random.randint(1, 8) if token == MASK else token for token in ids]
        at = random.randint(given, len(ids))  # one more is inserted, and stays a mask for now
        ids, slots, born = ids[:at] + [MASK] + ids[at:], slots[:at] + [born] + slots[at:], born + 1
        trace.append({"t": 1.0, "evaluations": step + 1, "ids": ids, "slots": slots})
    ids = [random.randint(1, 8) if token == MASK else token for token in ids]
    trace.append({"t": 1.0, "evaluations": step + 2, "ids": ids, "slots": slots})
    return trace


@pytest.fixture(scope="module")
def real():
    """({title: trace}, tokenizer) of two samplers, an infill, a corrector and LLaDA, with random
    networks.
    """
    network, baseline, tokenizer = tiny.flexmdm(), tiny.llada(), tiny.tokenizer()
    prompt = torch.tensor([[5, 6, 7]])
    settings = dict(mask_id=tiny.MASK, pad_id=tiny.PAD, num_tokens=58, return_trace=True)
    traces = {
        "FlexMDM": generate_flexmdm(
            network, prompt, steps=24, max_length=24, temperature=1.0, **settings
        ),
        "exact": generate_flexmdm(
            network, prompt, sampler="event_driven", max_length=24, temperature=1.0, **settings
        ),
        "infill": generate_flexmdm_infilling(
            network, prompt, torch.tensor([[9, 8]]), steps=24, max_length=24, **settings
        ),
        "corrected": generate_flexmdm(
            network,
            prompt,
            steps=24,
            max_length=24,
            temperature=1.0,
            corrector_time=0.5,
            corrector_rounds=2,
            **settings,
        ),
        "LLaDA": generate_mdm(baseline, prompt, steps=8, gen_length=16, cfg_scale=0.5, **settings),
    }
    return {title: result.trace[0] for title, result in traces.items()}, tokenizer


# ---- what a page holds


def test_a_panel_holds_the_whole_trace(real):
    """Every frame's ids and slots can be rebuilt from a panel, and the curves count them."""
    traces, tokenizer = real
    for trace in [
        *traces.values(),
        insertion_trace(30, given=4),
        corrected_trace(20, given=3),
        insertion_trace(0, evaluations=3),
    ]:
        mask_id = tiny.MASK if trace in traces.values() else MASK
        panel = make_panel("a", tokenizer.decode if mask_id else decode, trace, mask_id)
        length, clean = curves(panel)
        given = sum(slot[3] for slot in panel["slots"])
        for number, frame in enumerate(trace):
            there = [
                (shown != -1 and shown <= number)
                for _, first, shown, _, *removed in panel["slots"]
                if first <= number and not (removed and removed[0] <= number)
            ]
            assert there == [token != mask_id for token in frame["ids"]]
            assert (length[number], clean[number]) == (len(there) - given, sum(there) - given)
        assert panel["evaluations"] == [frame["evaluations"] for frame in trace]


def test_impossible_traces_are_refused():
    frame = {"t": 0.0, "evaluations": 0, "ids": [1, MASK], "slots": [0, 1]}
    for second in (
        {"ids": [2, MASK], "slots": [0, 1]},
        {"ids": [MASK, 1], "slots": [1, 0]},
    ):
        with pytest.raises(ValueError, match="frame [01]"):
            make_panel("a", decode, [frame, {**frame, **second}], MASK)
    with pytest.raises(ValueError, match="come back in frame 2"):
        make_panel("a", decode, [frame, {**frame, "ids": [1], "slots": [0]}, frame], MASK)
    with pytest.raises(ValueError, match="empty"):
        make_panel("a", decode, [], MASK)


def test_a_character_of_several_tokens_appears_when_complete():
    halves = {1: b"a", 2: b"\xc3", 3: b"\xa9", 4: b"\xff"}
    bytewise = lambda ids: b"".join(halves[token] for token in ids).decode(errors="replace")
    ids, when = [1, 2, 3, 1, 4], [1, 3, 2, 1, 1]
    trace = [
        {
            "t": k / 3,
            "evaluations": k,
            "ids": [token if w <= k else MASK for token, w in zip(ids, when)],
            "slots": list(range(5)),
        }
        for k in range(4)
    ]
    panel = make_panel("a", bytewise, trace, MASK)
    assert [panel["tokens"][slot[0]][0] for slot in panel["slots"]] == ["a", "é", "", "a", "\ufffd"]


def test_pages_can_be_read_back_and_joined(tmp_path):
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    panels = [
        make_panel(title, decode, insertion_trace(12), MASK)
        for title in ("FlexMDM </script>", "LLaDA")
    ]
    for page, panel in zip(pages, panels):
        write_trace_page(page, [panel])

    def run(*flags):
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts/trace_page.py"), *map(str, flags)],
            capture_output=True,
            text=True,
        )

    assert run(*pages, "--output", tmp_path / "both.html", "--titles", "one", "two").returncode == 0
    assert read_panels(tmp_path / "both.html") == [
        {**panels[0], "title": "one"},
        {**panels[1], "title": "two"},
    ]
    (tmp_path / "other.html").write_text("<html></html>")
    for flags, message in (
        ([tmp_path / "none.html", "--output", "x.html"], "none.html"),
        ([tmp_path / "other.html", "--output", "x.png"], "other.html"),
        ([pages[0], "--output", "x.pdf"], "--output"),
        ([pages[0], "--output", "x.html", "--titles", "a", "b"], "--titles"),
    ):
        done = run(*flags)
        assert (
            done.returncode == 2
            and message in done.stderr
            and "Traceback" not in done.stderr
            and done.stderr.count("\n") == 1
        )


def test_plot_of_the_curves(tmp_path):
    write_panels(
        tmp_path / "new" / "curves.png",
        [make_panel(f"{n}", decode, insertion_trace(20), MASK) for n in range(3)],
    )
    content = (tmp_path / "new" / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 5000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curves.png"]


# ---- the page in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium found (Debian: apt-get install chromium)")
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def open_page(
    browser,
    path,
    traces,
    width=1280,
    height=800,
    scheme="light",
    mask_id=MASK,
    decoder=decode,
    special=(7,),
):
    write_trace_page(
        path,
        [make_panel(title, decoder, trace, mask_id, special) for title, trace in traces.items()],
        "A <title> & more",
    )
    browser.problems.clear()
    browser.requests.clear()
    browser.look(width, height, scheme)
    browser.open(path.as_uri())
    return path.as_uri()


def visible(browser, number=0):
    """A panel's text as the page shows it now: every mask as one sign, line-break signs left
    out.
    """
    return browser.run(
        f"""[...document.querySelectorAll('.text')[{number}].children].filter(span => !span.hidden)
        .map(span => span.className.startsWith('mask') ? '{MASK_SIGN}'
                     : [...span.childNodes].filter(node => node.nodeName !== 'I')
                       .map(node => node.textContent).join('')).join('')"""
    )


def expected(frame):
    text = "".join(MASK_SIGN if token == MASK else HOSTILE[token] for token in frame["ids"])
    return text.replace("\x1b", "\ufffd")


def test_page_plays_to_the_end_without_console_messages(browser, tmp_path):
    """Side by side, from file://: space starts it, it ends in the results, nothing else is
    requested and nothing is complained about.
    """
    traces = {"FlexMDM <i>": insertion_trace(40, given=5), "LLaDA": insertion_trace(25, given=3)}
    url = open_page(browser, tmp_path / "page.html", traces)
    assert browser.run("document.title") == "A <title> & more"
    assert [visible(browser, n) for n in (0, 1)] == [
        expected(trace[-1]) for trace in traces.values()
    ]  # a page opens with the results
    browser.key("Home")
    assert [visible(browser, n) for n in (0, 1)] == [
        expected(trace[0]) for trace in traces.values()
    ]
    browser.run("document.getElementById('speed').value = '4'")
    browser.key(" ")
    browser.wait("document.documentElement.dataset.state === 'playing' && position > 0")
    browser.key(" ")
    browser.wait("document.documentElement.dataset.state === 'paused'")
    browser.run("document.getElementById('play').click()")
    browser.wait("document.documentElement.dataset.state === 'ended'")
    assert [visible(browser, n) for n in (0, 1)] == [
        expected(trace[-1]) for trace in traces.values()
    ]
    assert browser.run("document.getElementById('where').textContent") == "120 of 120"
    assert browser.problems == [] and browser.requests == [url]


def test_every_frame_is_shown_as_it_was(browser, tmp_path):
    """Step by step with the arrow keys, forward and back, over evaluations and over t."""
    trace = insertion_trace(12, given=2, evaluations=20)
    open_page(browser, tmp_path / "page.html", {"a": trace})
    browser.key("Home")
    for frame in trace[1:]:
        browser.key("ArrowRight")
        assert visible(browser) == expected(frame)
    browser.key("ArrowLeft")
    assert visible(browser) == expected(trace[-2])
    browser.key("Home")
    assert visible(browser) == expected(trace[0])
    browser.key("ArrowRight", modifiers=8)
    assert visible(browser) == expected(trace[10])
    browser.key("t")
    assert browser.run("document.querySelector('input[value=t]').checked") and visible(
        browser
    ) == expected(trace[10])
    browser.key("ArrowRight")
    assert visible(browser) == expected(trace[11])
    browser.key("End")
    assert visible(browser) == expected(trace[-1])
    box = browser.run(
        "(b => [b.left, b.top, b.width,"
        " b.height])(document.querySelector('svg').getBoundingClientRect())"
    )
    x = box[0] + 44 + (box[2] - 44 - 12) * 0.52  # a click on the curves goes there
    for kind in ("mousePressed", "mouseReleased"):
        browser.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=box[1] + 60,
            button="left",
            clickCount=1,
            buttons=1,
        )
    assert visible(browser) == expected(trace[10])
    assert browser.problems == []


def test_a_corrector_is_shown_in_every_frame(browser, tmp_path):
    trace = corrected_trace(8, given=2)
    open_page(browser, tmp_path / "page.html", {"a": trace})
    browser.key("Home")
    for frame in trace[1:]:
        browser.key("ArrowRight")
        assert visible(browser) == expected(frame)
    for frame in trace[-2::-1]:
        browser.key("ArrowLeft")
        assert visible(browser) == expected(frame)
    browser.key("t")
    browser.key("End")
    assert visible(browser) == expected(trace[-1])
    assert browser.problems == []


def test_real_samplers_can_be_played(browser, tmp_path, real):
    """Traces of both samplers, an infill, a corrector and LLaDA with guidance: five panels end in
    their results.
    """
    traces, tokenizer = real
    open_page(browser, tmp_path / "page.html", traces, mask_id=tiny.MASK, decoder=tokenizer.decode)
    browser.key("End")
    for number, trace in enumerate(traces.values()):
        assert visible(browser, number) == "".join(
            tokenizer.decode([token]) for token in trace[-1]["ids"]
        )
        assert MASK_SIGN not in visible(browser, number)
    assert browser.run("document.querySelectorAll('svg path.length').length") == 5
    assert browser.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_page_fits_wide_narrow_light_and_dark_screens(browser, tmp_path, width, scheme):
    """No sideways scrolling, panels beside or below each other, and text that stands out from its
    background by at least 4.5 to 1.
    """
    traces = {
        "FlexMDM": insertion_trace(300, given=40, evaluations=64),
        "LLaDA": insertion_trace(150, evaluations=64),
    }
    open_page(browser, tmp_path / "page.html", traces, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    tops = browser.run(
        "[...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) == (width > 1000)
    browser.key("End")
    assert browser.run("document.documentElement.scrollWidth") <= width
    contrast = browser.run("""(() => {
      const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
        .getContext('2d', {willReadFrequently: true});
      const luminance = colours => {
        context.clearRect(0, 0, 1, 1);
        for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
        const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const page = getComputedStyle(document.querySelector('section')).backgroundColor;
      const shown = '.text .given:not(.part, .quiet), .text .shown:not(.part, .quiet), h2, '
        + '.numbers, #play, .hint, fieldset label';
      const nodes = [...document.querySelectorAll(shown)].filter(node => node.offsetParent);
      return Math.min(...nodes.map(node => {
        const style = getComputedStyle(node), own = [page, style.backgroundColor];
        const [a, b] = [luminance(own), luminance([...own, style.color])].sort((a, b) => b - a);
        const unchecked = node.tagName === 'LABEL' && !node.matches(':has(:checked)');
        return unchecked ? 21 : (a + .05) / (b + .05);
      }));
    })()""")
    assert contrast >= 4.5
    assert browser.problems == []
    if folder := os.environ.get("FLEXMDM_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"trace_{scheme}_{width}.png")


def test_every_control_has_a_name(browser, tmp_path):
    open_page(browser, tmp_path / "page.html", {"FlexMDM": insertion_trace(10)})
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if "role" in node and not node.get("ignored")
    ]
    for role in ("button", "slider", "radio", "combobox", "heading", "region", "group"):
        names = [name for kind, name in named if kind == role]
        assert names and all(names), (role, names)
    assert any(
        kind in ("image", "img", "graphics-document") and "tokens written" in name
        for kind, name in named
    )


# ---- the terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_terminal_redraws_in_place(monkeypatch):
    """The last thing on the screen is the result; what a token spells cannot steer the terminal; a
    long text is cut to the window.
    """
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "12")
    trace, stream = insertion_trace(60, given=3), Terminal()
    show = terminal_watcher(Words, MASK, stream)
    for frame in trace:
        show(0, frame)
        show(1, frame)  # another row: not shown
    last = re.split(r"\x1b\[\d+F\x1b\[J", stream.getvalue())[-1]
    assert not re.search("\x1b(?!\\[(2m|0m|1;32m))", last)  # only its own colours
    lines = re.sub("\x1b\\[[0-9;]*m", "", last).split("\n")
    assert (
        lines[0].startswith(f"evaluation {trace[-1]['evaluations']}  t 1.000  60 tokens, 0 masks")
        and len(lines) <= 11
    )
    text = re.sub(
        r"(<\|end\|>){2,}", lambda run: f"<|end|>×{len(run[0]) // 7}", expected(trace[-1])
    )
    whole = screen_lines([(text, "old")], 60)
    assert lines[1:-1] == ["".join(c for c, _ in line) for line in whole[-9:]]
    assert all(len(line) <= 60 for line in lines)


def test_output_that_is_not_a_terminal_gets_a_few_lines():
    trace, stream = insertion_trace(400, evaluations=1000), io.StringIO()
    show = terminal_watcher(Words, MASK, stream)
    for frame in trace:
        show(0, frame)
    lines = stream.getvalue().splitlines()
    assert 5 < len(lines) < 80 and "\x1b" not in stream.getvalue()
    assert "evaluation 1000" in lines[-1] and MASK_SIGN not in lines[-1]
    stream = io.StringIO()
    show = terminal_watcher(Words, MASK, stream)
    # the given tokens around are left out
    for ids in ([6, MASK, MASK, MASK, 8], [6, 8, MASK, 7, 8], [6, 8, 7, 7, 8]):
        show(0, {"t": 0.5, "evaluations": 1, "ids": ids, "slots": [0, 1, 2, 3, 4]})
    assert [line.split("masks  ")[1] for line in stream.getvalue().splitlines()] == [
        repr(MASK_SIGN * 3),
        repr("é<|end|>×2"),
    ]


def test_words_stay_whole_where_they_fit():
    words = ["".join(random.choices("abcd", k=random.randrange(1, 12))) for _ in range(60)]
    text = " ".join(words)
    lines = ["".join(c for c, _ in line) for line in screen_lines([(text, "old")], 20)]
    assert "".join(lines) == text and max(map(len, lines)) <= 20 and len(lines) > 3
    assert all(line.endswith(" ") for line in lines[:-1])
    long = ["".join(c for c, _ in line) for line in screen_lines([("a" * 45, "old")], 20)]
    assert list(map(len, long)) == [20, 20, 5]


def test_wide_characters_take_two_cells():
    lines = screen_lines([("ab\u6570\u5b66c", "old"), ("\n", "new"), ("x", "mask")], 4)
    assert ["".join(c for c, _ in line) for line in lines] == ["ab\u6570", "\u5b66c", "x"]


# ---- the commands


def test_command_writes_a_trace_page_and_prints_progress(tmp_path):
    """llada_inference.py --trace and --watch on a tiny checkpoint."""
    checkpoint = tiny.write_llada(tmp_path / "llada")
    command = [
        sys.executable,
        str(ROOT / "llada_inference.py"),
        "--checkpoint_path",
        str(checkpoint),
        "--prompt",
        "w6 w7",
        "--gen_length",
        "8",
        "--watch",
        "--trace",
        str(tmp_path / "page.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (panel,) = read_panels(tmp_path / "page.html")
    assert (
        panel["title"] == "LLaDA"
        and panel["evaluations"] == list(range(9))
        and len(panel["slots"]) == 10
    )
    assert (
        "evaluation 0  t 0.000  10 tokens, 8 masks" in done.stderr
        and "evaluation 8  t 1.000" in done.stderr
    )
    trace = [insertion_trace(5), insertion_trace(6)]
    write_trace(tmp_path / "two.html", trace, Words, MASK)
    assert [panel["title"] for panel in read_panels(tmp_path / "two.html")] == [
        "FlexMDM, sample 1",
        "FlexMDM, sample 2",
    ]
