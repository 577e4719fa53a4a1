"""The quickstart's short form: every stage runs, the table is printed, a second run reuses
everything.

Run: pytest tests/scripts/test_quickstart.py (two to four minutes on 2 cores)
"""

import os
import subprocess
import sys
import time

from conftest import ROOT


def test_short_quickstart_and_a_second_run(tmp_path):
    environment = {
        **os.environ,
        "SHORT": "1",
        "WORK": str(tmp_path / "work"),
        "FLEXMDM_PYTHON": sys.executable,
    }

    def once():
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "scripts/quickstart.sh"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout, time.monotonic() - begun

    first, seconds = once()
    assert "| task | n | FlexMDM | evaluations | FlexMDM, count first | evaluations |" in first
    assert first.count("95 %") >= 1 and (tmp_path / "work/table.md").read_text() in first
    for kind in ("flexmdm", "llada"):
        assert (tmp_path / f"work/results/math_{kind}/results.json").exists()
        assert (tmp_path / f"work/{kind}_code/final/config.json").exists()
    rows = {
        file: file.read_bytes() for file in (tmp_path / "work/results").rglob("generations-*.jsonl")
    }
    second, again = once()
    second_chain = (tmp_path / "work/other.log").read_text()
    assert (second + second_chain).count(
        "final exists: this run is finished"
    ) == 5 and again < seconds
    assert {
        file: file.read_bytes() for file in (tmp_path / "work/results").rglob("generations-*.jsonl")
    } == rows
    assert first.split("| task |")[1] == second.split("| task |")[1]
