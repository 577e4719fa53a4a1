"""Every limit that docs/evaluation.md promises of a sandboxed program, at every level that this
machine allows.

pytest tests/evaluation/test_sandbox_limits.py                           half a minute
"""

import platform
import random
import sys

import pytest
from conftest import ROOT
from hostile_programs import PLAIN_TEST
from test_code_runner import other_python

from common.errors import InputError
from evaluation.sandbox.runner import LEVELS, CodeRunner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
# each returns 1 where the limit holds; SIZE is drawn within it, OVER behind it
HOLDS = {
    "memory of a process": """
def f(x):
    kept = bytearray(SIZE << 20)
    try:
        return len(bytearray(OVER << 20))
    except MemoryError:
        return 1
""",
    "memory of a child": """
import os
def f(x):
    pid = os.fork()
    if not pid:
        try:
            bytearray(OVER << 20)
        except MemoryError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
""",
    "mapped memory": """
import mmap
def f(x):
    try:
        mmap.mmap(-1, OVER << 20)
    except (OSError, MemoryError):
        return 1
""",
    "memory files": """
import os
def f(x):
    try:
        os.memfd_create("a")
    except PermissionError:
        return 1
""",
    "System V shared memory": """
import ctypes
def f(x):
    return -ctypes.CDLL(None, use_errno=True).shmget(0, OVER << 10, 0o1600)
""",
    "the judge's memory": """
import ctypes, os
class Part(ctypes.Structure):
    _fields_ = [("place", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def f(x):
    library, judge = ctypes.CDLL(None), os.getppid()
    here = Part(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
    there = Part(id(None), 8)  # where the judge has its own
    read = library.process_vm_readv(judge, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    traced = library.ptrace(16, judge, None, None)  # PTRACE_ATTACH
    try:
        open(f"/proc/{judge}/mem", "rb")
    except OSError:
        return int(read == traced == -1)
""",
    "processes": """
import os, time
def f(x):
    for made in range(30):
        try:
            if not os.fork():
                time.sleep(9)
                os._exit(0)
        except OSError:
            return int(made < 16)
""",
    "threads": """
import threading, time
def f(x):
    for made in range(30):
        try:
            threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
        except RuntimeError:
            return int(made < 16)
""",
    "one file": """
import signal
def f(x):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("small", "wb") as file:
        file.write(bytes(3 << 20))
    try:
        with open("large", "wb") as file:
            file.write(bytes(OVER << 13))
    except OSError:
        return 1
""",
    "open files": """
def f(x):
    kept = []
    try:
        while len(kept) < 200:
            kept.append(open("/dev/null"))
    except OSError:
        return int(10 < len(kept) < 64)
""",
}
# each is ended before it passes
ENDED = {
    "all its files": (
        """
import time
def f(x):
    for number in range(9):
        try:
            with open(str(number), "wb") as file:
                file.write(bytes(3 << 20))
        except OSError:
            return 0
    time.sleep(99)
""",
        "failed",
    ),
    "names": (
        """
import time
def f(x):
    for number in range(1200):
        try:
            open(str(number), "w").close()
        except OSError:
            return 0
    time.sleep(99)
""",
        "failed",
    ),
    "time": ("import time\ndef f(x):\n    time.sleep(TIMEOUT + 1.5)\n    return 1\n", "timed out"),
    "processor time": (
        """
import resource
def f(x):
    return int(resource.getrlimit(resource.RLIMIT_CPU)[1] > TIMEOUT + 2)
""",
        "failed",
    ),
}
TIMEOUT = 2.0  # where time is what is measured; elsewhere a crowded machine has more


@pytest.fixture(scope="module", params=LEVELS)
def runner(request):
    python = sys.executable if request.param == "namespaces" else other_python()
    if python is None:
        pytest.skip("no interpreter here that other users may run")
    try:
        made = CodeRunner(workers=1, timeout=15.0, levels=(request.param,), python=python)
    except InputError as error:
        pytest.skip(str(error))
    with made:
        yield made


def drawn(program):
    program = program.replace("TIMEOUT", str(TIMEOUT))
    program = program.replace("SIZE", str(random.randrange(100, 300)))
    return program.replace("OVER", str(random.randrange(520, 4000)))


@pytest.mark.parametrize("name", HOLDS)
def test_a_limit_holds(runner, name):
    if name in ("memory files", "System V shared memory"):
        if platform.machine() not in ("x86_64", "aarch64"):
            pytest.skip("promised for x86-64 and ARM64")
        assert "System V shared memory forbidden" in runner.isolation["limits"]
    result = runner.run(drawn(HOLDS[name]), PLAIN_TEST, "f")
    assert result["status"] == "passed", result
    assert runner.run("def f(x):\n    return 1\n", PLAIN_TEST, "f")["status"] == "passed"


@pytest.mark.parametrize("name", ENDED)
def test_what_passes_a_limit_is_ended(runner, name, monkeypatch):
    program, status = ENDED[name]
    if "time" in name:
        monkeypatch.setattr(runner, "timeout", TIMEOUT)
    result = runner.run(drawn(program), PLAIN_TEST, "f")
    assert result["status"] == status, result
    assert result["seconds"] < runner.timeout + 3


def test_output_is_kept_up_to_its_limit(runner):
    program = f"def f(x):\n    print('x' * {random.randrange(4001, 10**6)})\n    return 1\n"
    result = runner.run(program, PLAIN_TEST, "f")
    assert result["status"] == "passed" and result["output"] == "x" * 4000


def test_no_limit_on_the_sum_is_promised(runner):
    """Two processes together may have more than one: what the table and every result say."""
    program = """
import mmap, os
def f(x):
    kept = mmap.mmap(-1, 300 << 20)
    pid = os.fork()
    if not pid:
        kept.close()
        os._exit(len(mmap.mmap(-1, 300 << 20)) == 300 << 20)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
    assert runner.run(program, PLAIN_TEST, "f")["status"] == "passed"
    assert "512 MiB memory a process" in runner.isolation["limits"]
    table = (ROOT / "docs/evaluation.md").read_text()
    assert "16 times 512 MiB" in table and "4 MiB" in table and "16 MiB, 1,000 names" in table
