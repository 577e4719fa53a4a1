"""The demo's page (demo.py): in a real headless Chromium, and what it shows without gradio.

Run: python -m pytest tests/scripts/test_demo_page.py        (about 30 s; --full: a minute)
The page's own tests are skipped without gradio (pip install gradio==6.31.0) or without a Chromium
(Debian: apt-get install chromium).
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from chromium import Chromium, find_chromium
from conftest import ROOT
from training_helpers import free_port

import demo
from common.errors import InputError
from evaluation.demo_model import Shown

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
LEFT = "AbortError|Connection errored out"
PANEL = {"title": "a", "t": [0.0], "evaluations": [0], "tokens": [], "slots": []}


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def start(*flags, **more):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "demo.py"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )


# ---- without gradio ------------------------------------------------------------------------------


def test_without_gradio_one_line_says_how_to_install_it(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('no such module')")
    process = start("--port", str(free_port()), PYTHONPATH=str(tmp_path))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and output == ""
    assert errors.count("\n") == 1 and "pip install gradio==" in errors


@pytest.mark.parametrize("name", ["pyproject.toml", "demo.py", "docs/demo.md", ".ci/run"])
def test_one_version_of_gradio_is_named(name):
    named = re.findall(r"gradio[=<>~][^ \"\n]*", (ROOT / name).read_text())
    assert named and set(named) == {demo.GRADIO}


@pytest.mark.parametrize("kind", [InputError, ValueError])
def test_columns_are_shown_together_state_by_state(kind):
    """Each column its next state at every tick, bad input in its own column, the other goes on."""

    def states(count, error=None):
        for number in range(count):
            yield Shown(f"<b>{number}</b>", f"{number} < {count}")
            yield None  # no new state at this tick
        if error:
            raise kind(error)
        yield Shown("end", "ended", PANEL)

    columns = [demo.column(states(3)), demo.column(states(1, "--flag <x>: wrong"))]
    seen = [(list(pages), list(panels)) for pages, panels in demo.side_by_side(columns, 1000)]
    waiting = demo.column_html("", "waiting for other generations")
    assert seen[0] == ([waiting, waiting], [None, None])
    left = [pages[0] for pages, _ in seen]
    shown = [demo.column_html(f"<b>{number}</b>", f"{number} < 3") for number in range(3)]
    assert list(dict.fromkeys(left)) == [waiting, *shown, demo.column_html("end", "ended")]
    assert "0 &lt; 3" in shown[0]
    pages, panels = seen[-1]
    assert pages[1] == demo.column_html("<b>0</b>", "", "--flag <x>: wrong")
    assert "--flag &lt;x&gt;: wrong" in pages[1] and panels == [PANEL, None]


def test_states_are_not_shown_faster_than_asked_for():
    def states():
        for _ in range(10):
            yield Shown("", "")

    began = time.monotonic()
    assert len(list(demo.side_by_side([demo.column(states())], 50))) == 11
    assert 10 / 50 < time.monotonic() - began < 5


def test_closing_the_page_closes_every_column():
    closed = []

    def states(name):
        try:
            while True:
                yield None
        finally:
            closed.append(name)

    shown = demo.side_by_side([demo.column(states("a")), demo.column(states("b"))], 1000)
    next(shown)
    next(shown)  # after a second without anything new
    shown.close()
    assert sorted(closed) == ["a", "b"]


def test_the_replay_is_the_trace_page_of_what_has_ended():
    assert "nothing to replay" in demo.replay_html(None)
    assert "nothing to replay" in demo.replay_html([None, None])
    shown = demo.replay_html([PANEL, None])
    assert shown.count("<iframe") == 1 and "&quot;title&quot;:&quot;a&quot;" in shown
    assert "<script" not in shown  # the page is inside an attribute


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served():
    """(address, models) of the page on the shipped models, served from this process."""
    pytest.importorskip("gradio", reason="gradio is not installed (pip install gradio==6.31.0)")
    models, port = demo.load_models(demo.make_parser().parse_args(["--device", "cpu"])), free_port()
    page = demo.serve(models, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}/", models
    page.close(verbose=False)


@pytest.fixture
def browsers(tmp_path, served):
    """browsers() opens the page in another Chromium."""
    program, opened = find_chromium(), []
    if program is None:
        pytest.skip("no Chromium found (Debian: apt-get install chromium)")

    def another():
        opened.append(Chromium(program, tmp_path / f"profile{len(opened)}"))
        load(opened[-1], served[0])
        return opened[-1]

    yield another
    for browser in opened:
        problems, requests = browser.problems, browser.requests
        browser.close()
        assert not problems
        assert requests and all(
            url.startswith((served[0], "data:", "about:")) for url in requests
        ), "the page asks for something from elsewhere"


def wait_for(browser, expression):
    browser.wait(expression, 90)  # seconds; a machine under load is slow


def load(browser, address):
    browser.open(address)
    # what gradio's page says when it is left during a generation
    browser.problems = [text for text in browser.problems if not re.search(LEFT, text)]
    wait_for(browser, "document.querySelectorAll('.answer').length == 2")


BUTTON = "[...document.querySelectorAll('button')].filter(b => b.innerText.trim().startsWith({!r}))"


def click(browser, words):
    """Press a button, a tab or an accordion by what is on it."""
    wait_for(browser, f"{BUTTON.format(words)}.length > 0")
    browser.run(f"{BUTTON.format(words)}.forEach(b => b.click())")


def fill(browser, label, text):
    """Type into the box with this label."""
    find = (
        "[...document.querySelectorAll('label')].find(l => l.querySelector('textarea, input')"
        f" && l.innerText.split('\\n')[0].trim() == {label!r})?.querySelector('textarea, input')"
    )
    wait_for(browser, f"!!({find})")
    browser.run(
        f"(() => {{ const box = {find}; box.value = {text!r};"
        " box.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def text_of(browser, kind):
    return browser.run(f"document.querySelector('#{kind} .answer').textContent")


def ended(kind):
    return f"/evaluations\\/s/.test(document.querySelector('#{kind}').textContent)"


def states_until_the_end(browser, kinds=("flexmdm", "llada"), seconds=90):
    """{kind: distinct (masks, line) that were seen until all columns had ended}."""
    seen, end = {kind: {} for kind in kinds}, time.monotonic() + seconds
    while True:
        done = all(browser.run(ended(kind)) for kind in kinds)
        for kind in kinds:
            state = browser.run(
                f"[document.querySelectorAll('#{kind} .answer i').length,"
                f" document.querySelector('#{kind} .numbers').textContent]"
            )
            seen[kind][tuple(state)] = None
        if done:
            return {kind: list(states) for kind, states in seen.items()}
        assert time.monotonic() < end, seen
        time.sleep(0.02)


def test_both_columns_stream_their_answers(browsers):
    """Loads, generates, streams; a second press, the other tab and the replay work as well."""
    browser = browsers()
    click(browser, "Generate")
    for _ in range(2):
        for kind, states in states_until_the_end(browser).items():
            assert sum(masks > 0 for masks, _ in states) > 3, (kind, states)
            assert states[-1][0] == 0 and "tokens/s" in states[-1][1]
        assert text_of(browser, "llada").startswith("A bus has 62 people.")
        click(browser, "Replay step by step")
        wait_for(browser, "document.querySelectorAll('iframe.replay').length == 1")
        click(browser, "Generate")
        wait_for(browser, "document.querySelectorAll('iframe.replay').length == 0")
        wait_for(browser, "document.querySelectorAll('.answer i').length > 0")
    states_until_the_end(browser)
    click(browser, "Infill")
    click(browser, "Fill the gap")
    wait_for(browser, "document.querySelector('#llada .answer').textContent.startsWith('# Count')")
    states_until_the_end(browser)
    for kind in ("flexmdm", "llada"):
        assert text_of(browser, kind).endswith("return result\n")


def test_what_is_typed_is_text_and_bad_options_are_named(browsers):
    browser = browsers()
    typed = "<img src=x onerror=console.error(1)> {{7*7}} ${7*7} &amp; <b>x</b>"
    fill(browser, "prompt", typed)
    click(browser, "Sampler options of LLaDA")
    fill(browser, "gen_length", "41")
    click(browser, "Generate")
    wait_for(
        browser, "/--block_length 8/.test(document.querySelector('#llada .problem')?.textContent)"
    )
    wait_for(browser, ended("flexmdm"))
    assert text_of(browser, "flexmdm").startswith(typed)
    fill(browser, "gen_length", "16")
    click(browser, "Generate")
    wait_for(browser, f"!document.querySelector('.problem') && {ended('llada')}")
    assert text_of(browser, "llada").startswith(typed)


@pytest.mark.full
def test_two_visitors_and_a_reload(browsers, served):
    """A reload ends the generation that nobody watches any more, and with it what others wait
    for.
    """
    address, models = served
    network, lock = models["llada"][0].model, models["llada"][0].lock
    first, second = browsers(), browsers()
    for browser in (first, second):
        click(browser, "Generate")
    for browser in (first, second):
        for states in states_until_the_end(browser).values():
            assert states[-1][0] == 0
    assert text_of(first, "llada") == text_of(second, "llada")
    slow = network.register_forward_pre_hook(lambda *_: time.sleep(0.2))  # 80 s for 400 tokens
    try:
        click(first, "Sampler options of LLaDA")
        fill(first, "gen_length", "400")
        click(first, "Generate")
        wait_for(first, "document.querySelectorAll('#llada .answer i').length > 300")
        load(first, address)
        wait_until(lambda: not lock.locked(), 20)
        click(first, "Sampler options of LLaDA")
        fill(first, "gen_length", "400")
        click(first, "Generate")
        wait_for(first, "document.querySelectorAll('#llada .answer i').length > 300")
        click(first, "Stop")
        wait_until(lambda: not lock.locked(), 20)
    finally:
        slow.remove()
    click(second, "Generate")
    states_until_the_end(second)
    assert threading.active_count() < 100


@pytest.mark.full
def test_the_page_fits_wide_and_narrow_light_and_dark_screens(browsers):
    browser = browsers()
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            browser.look(width, 1000, scheme)
            load(browser, browser.run("location.href"))
            click(browser, "Generate")
            wait_for(browser, "document.querySelectorAll('#llada .answer i').length > 20")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            right, left = (
                browser.run(f"document.querySelector('#{kind}').getBoundingClientRect().{side}")
                for kind, side in (("flexmdm", "right"), ("llada", "left"))
            )
            assert (right <= left) == (width > 800)  # side by side, or one below the other
            light = (
                "getComputedStyle(document.querySelector('.answer')).{}"
                ".match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
            )
            ink, paper = (browser.run(light.format(each)) for each in ("color", "backgroundColor"))
            assert ink - paper > 400 if scheme == "dark" else paper - ink > 400


def test_an_address_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start("--port", str(port))
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and output == "" and f"--port {port}" in errors
    assert errors.count("\n") == 1


@pytest.mark.full
def test_the_command_serves_until_ctrl_c():
    pytest.importorskip("gradio", reason="gradio is not installed (pip install gradio==6.31.0)")
    process = start("--port", str(free_port()))
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and errors == ""
