"""The oldest and the newest Python and torch that requirements.txt names run the network, the
losses and the samplers.

Run: pytest --full tests/scripts/test_versions.py
Ten minutes: two environments are installed.
"""

import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

TRIED = [
    "tests/network/test_network.py",
    "tests/network/test_losses.py",
    "tests/network/test_masked_cross_entropy.py",
    "tests/network/test_devices.py",
    "tests/sampling/test_prefix_cache.py",
    "tests/sampling/test_llada_sampler.py",
]


def ranges():
    """{"Python": (oldest, newest), "torch": (oldest, newest)}, as requirements.txt states them."""
    found = re.findall(
        r"(Python|torch) ([\d.]+\d) to ([\d.]+\d)", (ROOT / "requirements.txt").read_text()
    )
    return {name: (oldest, newest) for name, oldest, newest in found}


def test_version_ranges_agree_between_files():
    said = (ROOT / "scripts/environment.sh").read_text()
    oldest, newest = ranges()["Python"]
    assert f"Python {oldest} to {newest} is needed" in said
    pinned = re.search(r"^torch==(.*)$", (ROOT / "requirements.txt").read_text(), re.M)[1]
    assert (
        pinned == ranges()["torch"][1]
        and f"({oldest.replace('.', ', ')}) <= sys.version_info" in said
    )


@pytest.mark.full
@pytest.mark.parametrize("which", [0, 1], ids=["oldest", "newest"])
def test_oldest_and_newest(tmp_path, which):
    python, torch = (ranges()[name][which] for name in ("Python", "torch"))
    there = shutil.which(f"python{python}")
    if not there or subprocess.run([there, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no python{python} here")
    wanted = re.sub(
        r"^torch==.*$", f"torch=={torch}", (ROOT / "requirements.txt").read_text(), flags=re.M
    )
    (tmp_path / "requirements.txt").write_text(wanted)
    subprocess.run([there, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run(
        [
            *(tmp_path / "venv/bin/pip", "install", "--quiet"),
            *("-r", tmp_path / "requirements.txt", "-r", ROOT / "requirements-test.txt"),
        ],
        check=True,
        timeout=1200,
    )
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-m", "pytest", "-q", *TRIED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    print(f"Python {python}, torch {torch}: {done.stdout.strip().splitlines()[-1]}")
