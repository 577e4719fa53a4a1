"""What a script shows while it works: bars in a terminal, plain lines in a log, nothing with
--quiet; and its last three lines.

Run: pytest tests/scripts/test_progress.py                                           (seconds)
"""

import json
import os
import pty
import random
import re
import subprocess
import sys
import termios

import pytest
from command_lines import parser_of, parsers_in
from conftest import ROOT

from common.errors import AUTO_RESUMES, SAME_COMMAND_RESUMES, run
from common.progress import command, ending

BARS = """
import sys
sys.path.insert(0, sys.argv[1])
from common.errors import run
from common.progress import silence_progress

def main():
    from datasets import Dataset
    from tqdm.auto import tqdm

    if "quiet" in sys.argv:
        silence_progress()
    n = int(sys.argv[2])
    Dataset.from_list([{"a": i} for i in range(n)]).map(lambda row: {"b": row["a"]}, desc="theirs")
    with tqdm(total=n, desc="ours", unit="row") as bar:
        for number in range(n):
            with tqdm(range(2), desc="inner", leave=False) as inner:
                list(inner)
            bar.set_postfix_str(f"right {number}", refresh=False)
            bar.update()
    late = tqdm(total=3, desc="short", delay=60)
    late.update(3)
    late.close()
    unknown = tqdm(desc="unknown")
    unknown.update(n)
    unknown.close()
    print("the result")

run(main)
"""


def in_a_pipe(*words):
    done = subprocess.run(
        [sys.executable, "-c", BARS, str(ROOT), *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "the result\n", done.stderr
    return done.stderr


def test_a_log_gets_lines_without_carriage_returns():
    n = random.randrange(50, 300)
    text = in_a_pipe(n)
    assert not re.search("[\r\x1b]", text)
    ours = [line for line in text.splitlines() if line.startswith("ours: ")]
    assert len(ours) == 2  # its beginning and its end: it takes less than half a minute
    assert ours[0].startswith(f"ours: 0 of {n}, ") and ours[1].startswith(f"ours: {n} of {n}, ")
    assert ours[1].endswith(f"right {n - 1}") and "short" not in text
    assert [line for line in text.splitlines() if line.startswith(f"theirs: {n} of {n}, ")]
    unknown = [line for line in text.splitlines() if line.startswith("unknown: ")]
    assert unknown[-1].startswith(f"unknown: {n}, ") and " left" not in unknown[-1]


def test_quiet_shows_none_of_them():
    assert in_a_pipe(20, "quiet") == ""


def test_a_terminal_gets_bars():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    child = subprocess.Popen(
        [sys.executable, "-c", BARS, str(ROOT), "40"], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    assert child.wait() == 0 and b"\rours:" in shown and "█".encode() in shown
    os.close(ours)


def test_a_refusal_is_the_reason_that_torchrun_gives(tmp_path):
    """torchrun reads it from the file that it names, and prints it last."""
    file = tmp_path / "error.json"
    done = subprocess.run(
        [sys.executable, "eval_gsm8k.py", "--checkpoint_path", "no where"],
        cwd=ROOT,
        env={**os.environ, "TORCHELASTIC_ERROR_FILE": str(file)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    told = json.loads(file.read_text())["message"]
    assert told["message"] == told["extraInfo"]["py_callstack"] == done.stderr.strip()


@pytest.mark.parametrize("how", [None, SAME_COMMAND_RESUMES, AUTO_RESUMES])
def test_ctrl_c_is_one_line_that_promises_only_what_is_kept(how, monkeypatch, capsys):
    def main():
        raise KeyboardInterrupt

    monkeypatch.setattr("common.errors.plain_progress", lambda: None)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as end:
        run(main, how)
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert said == f"script.py: interrupted; {how}\n" if how else said == "script.py: interrupted\n"


def test_the_last_three_lines(capsys):
    where = f"a folder/{random.randrange(1000)}"
    ending("3 rows", where, command("eval_gsm8k.py", "--checkpoint_path", where))
    made, there, following = capsys.readouterr().out.splitlines()
    assert (made, there) == ("made:  3 rows", f"where: {where}")
    assert following == f"next:  python eval_gsm8k.py --checkpoint_path '{where}'"


@pytest.mark.parametrize(
    "script",
    [
        "flexmdm_transfer_preprocess.py",
        "flexmdm_transfer_openwebtext.py",
        "preprocess_math.py",
        "preprocess_code_infilling.py",
        "instruction_finetuning.py",
        "flexmdm_inference.py",
        "llada_inference.py",
        "eval_gsm8k.py",
        "eval_humaneval_infill.py",
        "scripts/count_study.py",
        "scripts/fit_length_distribution.py",
        "scripts/lm_evaluation.py",
    ],
)
def test_every_script_that_shows_progress_can_be_quiet(script):
    (parser,) = parsers_in(parser_of(script))
    assert "--quiet" in parser._option_string_actions
