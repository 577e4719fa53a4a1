"""A run that is killed at any moment and started again ends with the weights of one that was not,
bit for bit; what is broken is named.

Run: pytest tests/training/test_training_kills.py        (2 kills; --full: 20)
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from training_helpers import (
    SCRIPTS,
    assert_same_weights,
    environment,
    make_base,
    run_flags,
    write_data,
)

from training.checkpoints import checkpoints, damage_of

STEPS = 24


class Forks:
    """tests/helpers/forked_runs.py, and a way to disturb its runs."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/helpers/forked_runs.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def run(self, words, output, disturb=None, **job):
        """Exit code of a run; disturb(pid) is called once it is started."""
        request = {
            "script": SCRIPTS["transfer"],
            "words": [str(word) for word in words],
            "output": str(output),
            **job,
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        pid = int(self.server.stdout.readline())
        if disturb:
            disturb(pid)
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def forks():
    server = Forks()
    yield server
    server.server.stdin.close()
    server.server.wait(timeout=60)


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """(folder with base and data, an undisturbed run's output)."""
    folder = tmp_path_factory.mktemp("kills")
    make_base(folder / "base"), write_data(folder / "data")
    assert forks.run(words_of(folder, folder / "whole"), folder / "whole.txt") == 0, (
        folder / "whole.txt"
    ).read_text()
    return folder, folder / "whole"


def words_of(folder, output, **changes):
    return run_flags(
        folder / "base",
        folder / "data",
        output,
        **{
            "variable_length": True,
            "max_steps": STEPS,
            "save_steps": 2,
            "resume_from_checkpoint": "auto",
            **changes,
        },
    )


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)


def lines_of(output):
    log = output / "train_log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def written(output):
    """When a run's start last wrote its settings."""
    settings = output / "settings.json"
    return settings.stat().st_mtime_ns if settings.exists() else None


def killed_at_random(forks, words, output, printed, kills):
    """Run to the end with that many signals, two of three of them SIGKILL, every other one while a
    checkpoint is being written. Returns [(signal, exit code, newest checkpoint after it)] and how
    many fell into a save."""
    history, during = [], 0
    while not (output / "final").exists():
        assert len(history) < kills + 3, history
        sent, before = [], written(output)

        def disturb(pid):
            nonlocal during
            if len(history) >= kills:
                return
            kind = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
            until = (checkpoints(output)[0][0] if checkpoints(output) else 0) + random.randint(1, 8)
            # by then the log has lost the lines of steps that are repeated
            wait_for(lambda: written(output) != before, 120)
            wait_for(lambda: lines_of(output) >= until, 120)
            if len(history) % 2:
                wait_for((output / ".saving").exists, 10)
            time.sleep(random.random() * 0.03)
            during += (output / ".saving").exists()
            sent.append(kind)
            os.kill(pid, kind)

        code = forks.run(words, printed, disturb)
        # minus: killed outright, or before it listens to signals.read_text()[-3000:]
        assert code in (0, *(-number for number in sent)), printed
        for _, checkpoint in checkpoints(output):
            assert damage_of(checkpoint) is None
        if sent:
            history.append(
                (sent[0].name, code, checkpoints(output)[0][0] if checkpoints(output) else 0)
            )
    return history, during


@pytest.mark.parametrize(
    "kills, steps", [(2, STEPS), pytest.param(20, 160, marks=pytest.mark.full)]
)
def test_killed_and_restarted_runs_end_with_the_same_weights(kills, steps, forks, whole, tmp_path):
    folder, undisturbed = whole
    if steps != STEPS:
        undisturbed = tmp_path / "whole"
        assert (
            forks.run(words_of(folder, undisturbed, max_steps=steps), tmp_path / "whole.txt") == 0
        )
    history, during = killed_at_random(
        forks,
        words_of(folder, tmp_path / "run", max_steps=steps),
        tmp_path / "run",
        tmp_path / "out.txt",
        kills,
    )
    assert len(history) == kills
    assert_same_weights(undisturbed / "final", tmp_path / "run/final")
    assert [step for *_, step in history] == sorted(step for *_, step in history)
    logged = [
        json.loads(line)["step"]
        for line in (tmp_path / "run/train_log.jsonl").read_text().splitlines()
    ]
    # every step, whatever was repeated
    assert logged == sorted(logged) and set(logged) == set(range(1, steps + 1))
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []
    print(f"{kills} signals, {during} of them while a checkpoint was being written: {history}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_save_and_stop(number, forks, whole, tmp_path):
    """The step ends, is saved under its own number, the process ends with 0 and says how to go
    on.
    """
    folder, undisturbed = whole

    def disturb(pid):
        wait_for((tmp_path / "run/train_log.jsonl").exists, 120)
        os.kill(pid, number)
        os.kill(pid, number)  # schedulers repeat themselves

    words = words_of(folder, tmp_path / "run", save_steps=1000)
    assert forks.run(words, tmp_path / "out.txt", disturb) == 0
    ((step, _),) = checkpoints(tmp_path / "run")
    assert (
        f"stopped by {signal.Signals(number).name} at step {step} of {STEPS}"
        in (tmp_path / "out.txt").read_text()
    )
    assert forks.run(words, tmp_path / "out.txt") == 0
    assert_same_weights(undisturbed / "final", tmp_path / "run/final")


def copy_unfinished(undisturbed, output):
    """The run as it was before its end: three checkpoints, no final."""
    shutil.copytree(undisturbed, output)
    shutil.rmtree(output / "final")
    return output


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(forks, whole, tmp_path):
    folder, undisturbed = whole
    for case, damage in {
        "cut": lambda newest: os.truncate(newest / "optimizer.pt", 1000),
        "missing": lambda newest: (newest / "scheduler.pt").unlink(),
        "list": lambda newest: os.truncate(newest / "complete.json", 30),
    }.items():
        output = copy_unfinished(undisturbed, tmp_path / case)
        (step, newest), (before, _), *_ = checkpoints(output)
        damage(newest)
        assert forks.run(words_of(folder, output), tmp_path / f"{case}.txt") == 0
        printed = (tmp_path / f"{case}.txt").read_text()
        assert f"{newest} is damaged" in printed and f"resuming from checkpoint-{before}" in printed
        assert (output / f"damaged-checkpoint-{step}").is_dir()
        assert_same_weights(undisturbed / "final", output / "final")


def one_line(text):
    """The refusal in a run's output, without transformers' chatter; asserts that there is no
    traceback.
    """
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1, text
    return lines[0]


def test_unusable_checkpoints_never_cause_a_silent_restart(forks, whole, tmp_path):
    """All checkpoints damaged, a damaged one named by hand, one of another engine: refused, and
    nothing is touched.
    """
    folder, undisturbed = whole
    output = copy_unfinished(undisturbed, tmp_path / "run")
    newest = checkpoints(output)[0][1]
    content = json.loads((newest / "complete.json").read_text())
    (newest / "complete.json").write_text(
        json.dumps({**content, "engine": "zero-2", "processes": 2})
    )
    assert forks.run(words_of(folder, output), tmp_path / "engine.txt") == 2
    assert "was written with optimizer state zero-2" in one_line(
        (tmp_path / "engine.txt").read_text()
    )
    (newest / "complete.json").write_text(json.dumps(content))
    for _, checkpoint in checkpoints(output):
        os.truncate(checkpoint / "model.safetensors", 500)
    named = words_of(folder, output, resume_from_checkpoint=newest)
    assert forks.run(named, tmp_path / "named.txt") == 2
    assert "model.safetensors has 500 bytes instead of" in one_line(
        (tmp_path / "named.txt").read_text()
    )
    assert forks.run(words_of(folder, output), tmp_path / "all.txt") == 2
    line = one_line((tmp_path / "all.txt").read_text())
    assert "every checkpoint" in line and "--overwrite" in line and len(checkpoints(output)) == 3


def test_an_older_checkpoint_without_a_manifest_is_read_and_a_broken_file_in_it_named(
    forks, whole, tmp_path
):
    folder, undisturbed = whole
    output = copy_unfinished(undisturbed, tmp_path / "run")
    for _, checkpoint in checkpoints(output):
        (checkpoint / "complete.json").unlink()
    shutil.rmtree(checkpoints(output)[0][1])  # the newest one is at the last step
    assert forks.run(words_of(folder, output), tmp_path / "out.txt") == 0
    assert_same_weights(undisturbed / "final", output / "final")
    for name in ("optimizer.pt", "model.safetensors"):
        broken = copy_unfinished(undisturbed, tmp_path / f"broken-{name}")
        newest = checkpoints(broken)[0][1]
        (newest / "complete.json").unlink()
        os.truncate(newest / name, 700)
        assert forks.run(words_of(folder, broken), tmp_path / "broken.txt") == 2
        assert str(newest) in one_line((tmp_path / "broken.txt").read_text())
        (tmp_path / "broken.txt").unlink()


@pytest.mark.parametrize("limit", [30_000, 90_000], ids=["weights", "optimizer"])
def test_a_full_disk_is_a_one_line_error_and_complete_checkpoints_stay(
    limit, forks, whole, tmp_path
):
    """Files may not grow beyond a limit (the nearest thing to a full disk that needs no rights):
    the checkpoint is not there at all.
    """
    folder, undisturbed = whole
    output = copy_unfinished(undisturbed, tmp_path / "run")
    shutil.rmtree(checkpoints(output)[0][1])
    kept = checkpoints(output)
    assert forks.run(words_of(folder, output), tmp_path / "out.txt", file_limit=limit) == 2
    line = one_line((tmp_path / "out.txt").read_text())
    assert f"cannot write {output / f'checkpoint-{STEPS}'}" in line
    assert (
        checkpoints(output) == kept
        and not (output / ".saving").exists()
        and not (output / "final").exists()
    )
    assert forks.run(words_of(folder, output), tmp_path / "out.txt") == 0
    assert_same_weights(undisturbed / "final", output / "final")
