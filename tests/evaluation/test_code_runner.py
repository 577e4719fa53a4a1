"""evaluation/sandbox: right programs pass, wrong and hostile ones do not, and nothing of them is
left.

FLEXMDM_DATA=... pytest tests/evaluation/test_code_runner.py
About a minute on two cores; --full runs all 8,652 reference solutions.
"""

import glob
import gzip
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hostile_programs import PLAIN_TEST, RIGHT, read_programs
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from evaluation.sandbox.judge import Unplain, pack, unpack
from evaluation.sandbox.runner import CodeRunner, rebound_name, suspicious_text, test_with_helpers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
# items, empty: pass
SETS = {
    "SingleLine": (1033, 27),
    "MultiLine": (5815, None),
    "RandomSpan": (1640, 30),
    "RandomSpanLight": (164, 0),
}
HOSTILE, FOOLS = read_programs()
OUTSIDE = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/usr", "/etc", "/")


@pytest.fixture(scope="module")
def runner():
    with CodeRunner() as made:
        yield made


def read_set(data_dir, name):
    file_name = name.replace("Light", "InfillingLight") if "Light" in name else f"{name}Infilling"
    with gzip.open(data_dir / "humaneval" / f"HumanEval-{file_name}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def job(item, middle):
    return item["prompt"] + middle + item["suffix"], item["test"], item["entry_point"]


def failures(items, results):
    return [
        (item["task_id"], result)
        for item, result in zip(items, results)
        if result["status"] != "passed"
    ]


# ---- reference solutions, empty and `pass` ones --------------------------------------------------


def test_every_canonical_solution_of_single_line_passes_unsuspected_in_time(data_dir, runner):
    items, began = read_set(data_dir, "SingleLine"), time.monotonic()
    results = runner.run_all([job(item, item["canonical_solution"]) for item in items])
    assert len(items) == 1033 and failures(items, results) == []
    # what a quiet machine needs
    processor_seconds = sum(result["cpu_seconds"] for result in results) / runner.workers
    assert min(time.monotonic() - began, processor_seconds) < 90
    assert [result for result in results if result["suspicious"]] == []


@pytest.mark.parametrize("name", ["MultiLine", "RandomSpan", "RandomSpanLight"])
def test_canonical_solutions_of_the_other_sets_pass(data_dir, runner, request, name):
    items = read_set(data_dir, name)
    assert len(items) == SETS[name][0]
    if not request.config.getoption("--full"):
        items = random.sample(items, min(300, len(items)))
    results = runner.run_all([job(item, item["canonical_solution"]) for item in items])
    assert failures(items, results) == []
    assert [result for result in results if result["suspicious"]] == []


@pytest.mark.full
@pytest.mark.parametrize("name", ["SingleLine", "RandomSpan", "RandomSpanLight"])
def test_empty_completions_pass_exactly_where_they_are_right(data_dir, runner, name):
    items = read_set(data_dir, name)
    assert (
        sum(
            result["status"] == "passed"
            for result in runner.run_all([job(item, "") for item in items])
        )
        == SETS[name][1]
    )


def test_empty_completions_of_the_light_set_fail(data_dir, runner):
    items = read_set(data_dir, "RandomSpanLight")[::4]
    assert not any(
        result["status"] == "passed" for result in runner.run_all([job(item, "") for item in items])
    )


def test_functions_whose_body_is_pass_fail(data_dir, runner):
    with gzip.open(data_dir / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        items = [json.loads(line) for line in file]
    results = runner.run_all(
        [(item["prompt"] + "    pass\n", item["test"], item["entry_point"]) for item in items]
    )
    assert [
        item["task_id"] for item, result in zip(items, results) if result["status"] == "passed"
    ] == []


# ---- hostile programs ----------------------------------------------------------------------------


def other_python():
    """An interpreter that every user may run, or None: the tests' own may live in a folder of
    root.
    """
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        parents = [Path(path), *Path(path).parents]
        if all(
            parent.exists() and parent.stat().st_mode & 0o005 for parent in parents[1:]
        ) and os.access(path, os.X_OK):
            return path
    return None


def running_as(uid):
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if os.stat(path).st_uid == uid:
                found.append(
                    (
                        path,
                        open(path + "/cmdline").read()[:200],
                        open(path + "/stat").read().split()[2],
                    )
                )
        except OSError:
            pass
    return found


@pytest.fixture
def place():
    """A folder that every user may enter, with the code, and a canary folder in it that every user
    may write.
    """
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.chmod(0o755)
    for name in ("common", "evaluation/sandbox"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "evaluation/__init__.py",
        "tests/helpers/hostile_programs.py",
        "tests/helpers/hostile_programs.txt",
    ):
        shutil.copy(ROOT / name, folder / (name if name.startswith("evaluation") else ""))
    canary = folder / "canary"
    canary.mkdir()
    canary.chmod(0o777)
    (canary / "precious.txt").write_text("precious")
    (canary / "precious.txt").chmod(0o666)
    yield folder
    shutil.rmtree(folder)


LEVELS = {
    "root, namespaces": ("namespaces", None),
    "user, namespaces": ("namespaces", 54321),
    "root, landlock": ("landlock", None),
    "user, landlock": ("landlock", 54322),
    "root, plain": ("plain", None),
}
# What a level does not promise (evaluation/sandbox/sandbox.py says so, and so does every result):
# there the user's rights are the only bound
NOT_PROMISED = {
    "plain": {"write outside", "network", "delete files", "overwrite a file", "read a file"}
}


@pytest.mark.parametrize(
    "how",
    [
        (
            how
            if how in ("root, namespaces", "user, landlock")
            else pytest.param(how, marks=pytest.mark.full)
        )
        for how in LEVELS
    ],
)
def test_no_hostile_program_passes_does_harm_or_keeps_running(how, place):
    level, uid = LEVELS[how]
    assert len(HOSTILE) >= 25
    if os.getuid() != 0 and how.startswith("root"):
        pytest.skip("needs root")
    if os.getuid() != 0:
        uid = None
    python = sys.executable if level == "namespaces" and uid is None else other_python()
    if python is None:
        pytest.skip("no interpreter here that other users may run")
    mark, timeout = f"{os.getpid()}-{level}", 0.5
    canary = place / "canary"
    if level == "plain":  # files are guarded by the user's rights alone there
        canary.chmod(0o755)
        (canary / "precious.txt").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [
            python,
            str(place / "hostile_programs.py"),
            level,
            str(canary),
            str(server.getsockname()[1]),
            mark,
            python,
            str(timeout),
        ]
        user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        environment = {
            **os.environ,
            "CODE": str(place),
            "TOKEN": "SECRET",
            "TMPDIR": tempfile.gettempdir(),
        }
        before = set(glob.glob(os.path.join(tempfile.gettempdir(), "code_sandbox-*")))
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=place, env=environment, **user
        )
    if "no safe way" in done.stderr:
        pytest.skip(f"this machine does not allow it: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    results, isolation = report["results"], report["isolation"]
    # what a program says can always be written down
    json.dumps(report, ensure_ascii=False).encode()
    left_out = NOT_PROMISED.get(level, set())
    assert {
        name: result
        for name, result in results.items()
        if result["status"] == "passed" and name not in left_out
    } == {}
    assert {
        name: result for name, result in results.items() if result["status"] == "sandbox error"
    } == {}
    assert {
        name: result["seconds"]
        for name, result in results.items()
        if result["seconds"] > timeout + 3
    } == {}
    assert all(len(result["output"]) <= 4000 for result in results.values())
    assert report["honest"]["status"] == "passed"  # the machine still works
    assert (canary / "precious.txt").read_text() == "precious"
    if level != "plain":
        assert [
            folder
            for folder in (*OUTSIDE, str(place))
            if os.path.exists(f"{folder}/hostile-{mark}")
        ] == []
    for folder in OUTSIDE:
        Path(f"{folder}/hostile-{mark}").unlink(missing_ok=True)
    assert not os.path.exists("/root-was-here")
    theirs = (
        uid
        if uid is not None
        else int(isolation["user"].split()[-1])
        if "uid" in isolation["user"]
        else None
    )
    if theirs is not None:
        assert running_as(theirs) == []
    assert set(glob.glob(os.path.join(tempfile.gettempdir(), "code_sandbox-*"))) - before == set()
    if level == "plain":
        assert "NOT" in isolation["files"] and "NOT" in isolation["network"]


def test_cheating_programs_fool_a_judge_that_trusts_the_exit_code():
    """Negative control: a judge that trusts the exit code of the composed program is fooled by many
    of them.
    """
    cheats = [
        "sys.exit",
        "os._exit",
        "sys.exit when called",
        "os._exit when called",
        "os._exit at exit",
        "hook on exceptions",
    ]
    cheats += [name for name, (_, test) in HOSTILE.items() if test != PLAIN_TEST]
    fooled = []
    for name in cheats:
        program, test = HOSTILE[name]
        done = subprocess.run(
            [sys.executable, "-c", f"exec({f'{program}{chr(10)}{test}{chr(10)}check(f)'!r}, {{}})"],
            capture_output=True,
        )
        fooled += [name] if done.returncode == 0 else []
    assert len(fooled) >= 10, fooled


@pytest.mark.parametrize("name", FOOLS)
def test_return_values_that_equal_everything_are_flagged(name, runner):
    result = runner.run(*FOOLS[name], "f")
    assert result["status"] == "passed" and result["suspicious"]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=4)
    | st.complex_numbers(allow_nan=False),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.lists(inside, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inside, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_data_passes_between_program_and_judge_unchanged(value):
    back = unpack(pack(value))
    assert (
        back == value
        and repr(type(back)) == repr(type(value))
        and (isinstance(value, (set, dict)) or repr(back) == repr(value) or "{" in repr(value))
    )


class Liar(list):
    def __eq__(self, other):
        return True


@pytest.mark.parametrize(
    "value",
    [
        Liar(),
        [[[[[[[[[Liar()]]]]]]]]],
        {"a": Liar()},
        (object(),),
        map(str, []),
        len,
        ValueError(),
        type,
        [0] * 1_000_001,
    ],
)
def test_only_plain_data_is_serialised(value):
    with pytest.raises(Unplain):
        pack(value)
    endless = []
    endless.append(endless)
    with pytest.raises(Unplain):
        pack(endless)


@given(st.lists(st.integers() | st.text()))
def test_equal_sets_are_equal_messages(items):
    assert pack({*items}) == pack({*reversed(items)})


def of(tag, number, content=b""):
    return tag + number.to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"i",
        of(b"x", 0),
        of(b"i", 1, b"x"),
        of(b"i", 9, b"1"),
        of(b"n", 0, b"more"),
        of(b"l", 1 << 60, of(b"n", 0)),
        of(b"d", 1, of(b"n", 0)) + b"x",
        of(b"s", 1, of(b"l", 0)),
        of(b"d", 2, of(b"l", 0) + of(b"n", 0)),
        of(b"f", 3, b"1,5"),
        of(b"r", 5, b"1 1 0"),
        of(b"u", 1, b"\xff"),
        of(b"l", 1) * 100_000 + of(b"n", 0),
    ],
)
def test_malformed_messages_from_the_program_are_rejected(message):
    with pytest.raises(ValueError, match="no message"):
        unpack(message)


@given(PLAIN, st.data())
def test_a_damaged_message_is_rejected_or_plain(value, data):
    message = bytearray(pack(value))
    place = data.draw(st.integers(0, len(message) - 1))
    message[place] = data.draw(st.integers(0, 255))
    try:
        pack(unpack(bytes(message[: data.draw(st.integers(0, len(message)))])))
    except ValueError:
        pass


# what an honest program may do with its test, and the official scorer lets pass: it passes; flagged
# where it had to be judged by itself
HONEST = [
    ("def f(x):\n    x.sort()\n    return x\n", "assert candidate([2, 1]) == [1, 2]", False),
    ("def f(x):\n    x.sort()\n", "y = [2, 1]\n    candidate(y)\n    assert y == [1, 2]", True),
    (
        "def f(x):\n    raise ValueError('no')\n",
        (
            "try:\n        candidate(1)\n        assert False\n    except ValueError as e:\n       "
            " assert str(e) == 'no'"
        ),
        False,
    ),
    (
        "class E(Exception):\n    pass\ndef f(x):\n    raise E()\n",
        "try:\n        candidate(1)\n        assert False\n    except E:\n        pass",
        True,
    ),
    ("def f(x):\n    return map(abs, x)\n", "assert list(candidate([-1, 2])) == [1, 2]", True),
    (
        "from collections import Counter\ndef f(x):\n    return Counter(x)\n",
        "assert candidate('aab') == {'a': 2, 'b': 1}",
        True,
    ),
    (
        "def f(x):\n    return {1: (x, {2.5, 'a'}, None, True, b'x', range(3), 1j, 10 ** 400)}\n",
        (
            "assert candidate(float('inf')) == {1: (float('inf'), {2.5, 'a'}, None, True, b'x',"
            " range(3), 1j, 10 ** 400)}"
        ),
        False,
    ),
    ("def f(x):\n    return x(2)\n", "assert candidate(lambda y: y + 1) == 3", True),
    (
        "import math\ndef g(x):\n    return x\ndef f(x):\n    return x\n",
        "assert candidate(g(1)) == 1 and math.isclose(candidate(0.5), 0.5)",
        False,
    ),
    ("def f(x, *, y=0):\n    return x + y\n", "assert candidate(1, y=2) == 3", False),
    (
        "COUNT = [0]\ndef f(x):\n    COUNT[0] += 1\n    return COUNT[0]\n",
        "assert [candidate(0), candidate(0)] == [1, 2]",
        False,
    ),
]


@pytest.mark.parametrize("program, test, flagged", HONEST)
def test_honest_programs_pass_as_with_the_official_scorer(runner, program, test, flagged):
    test = f"def check(candidate):\n    {test}\n"
    space = {}
    exec(f"{program}\n{test}\ncheck(f)", space)  # as the official scorer does
    result = runner.run(program, test, "f")
    assert result["status"] == "passed" and bool(result["suspicious"]) == flagged, result


CHEATS = {
    "main": (
        "def f(x):\n    import __main__\n    for name in list(vars(__main__)):\n       "
        " setattr(__main__, name, lambda *a, **k: ('passed', '', ''))\n    return 0\n"
    ),
    "offers len": "import json, os\ndef f(x):\n    return 0\nlen = abs = sorted = f\n",
    "every descriptor": (
        "import os\nfor d in range(3, 64):\n    try:\n        os.write(d, b'passed' * 9)\n   "
        " except OSError:\n        pass\ndef f(x):\n    return 0\n"
    ),
    "writes answers": (
        f"import os\ndef f(x):\n    m = {pack(['passed', ''])!r}\n    for d in"
        " range(3, 64):\n        try:\n            os.write(d, len(m).to_bytes(8, 'little') + m)\n "
        "       except OSError:\n            pass\n    return 0\n"
    ),
    "kills the judge": (
        "import os, signal\ndef f(x):\n    for p in range(os.getpid(), os.getpid() + 50):\n       "
        " if p != os.getpid():\n            try:\n                os.kill(p, 9)\n            except"
        " OSError:\n                pass\n    return 0\n"
    ),
    "job again": "import os\ndef f(x):\n    os.lseek(0, 0, 0)\n    return len(os.read(0, 9)) + 1\n",
    "huge answer": "def f(x):\n    return 'x' * (1 << 26)\n",
    "int subclass": (
        "def f(x):\n    return type('I', (int,), {'__e' + 'q__': lambda s, o: True})(7)\n"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes_unflagged(runner, name):
    test = (
        "def check(candidate):\n    assert candidate(1) == 2\n    assert len([1, 2]) == 2 and"
        " abs(-1) == 1 and sorted([2, 1]) == [1, 2]\n"
    )
    result = runner.run(CHEATS[name], test, "f")
    assert result["status"] in ("failed", "timed out") or result["suspicious"], result


def test_tests_use_the_prompts_own_helper_functions():
    reference = "import math\ndef poly(x):\n    return math.floor(x)\ndef f(x):\n    return 1.5\n"
    test = "def check(candidate):\n    assert poly(candidate(0)) == 1\n"
    cheat = reference.replace("return 1.5", "return 9") + "def poly(x):\n    return 1\n"
    space = {}
    exec(f"{cheat}\n{test}\ncheck(f)", space)  # passes with the official scorer
    with CodeRunner(workers=1) as one:
        helped = test_with_helpers(reference, test, "f")
        assert (
            one.run(reference, helped, "f")["status"] == "passed"
            and one.run(cheat, helped, "f")["status"] == "failed"
        )
    assert rebound_name(cheat, reference) == "poly" and rebound_name(reference, reference) == ""
    for line in (
        "    global poly\n",
        "    pass\npoly = len\n",
        "    pass\nfrom math import floor as poly\n",
        "    pass\ndel poly\n",
        "    pass\nfor poly in []: pass\n",
        "    pass\nclass poly: pass\n",
    ):
        assert rebound_name(reference + line, reference) == "poly", line


def test_changed_builtins_are_flagged_even_where_the_program_is_right(runner):
    result = runner.run(
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x):\n    return 1\n", PLAIN_TEST, "f"
    )
    assert result["status"] == "passed" and "builtins" in result["suspicious"]


def test_suspicious_text_is_found_unless_the_reference_contains_it():
    assert suspicious_text("return type('A', (), {'__eq__': 1})()") == "__eq__"
    assert suspicious_text("import sys; sys.exit(0)") == "sys.exit"
    assert suspicious_text("    return sum(x for x in numbers if abs(x) > 1)\n") == ""
    assert suspicious_text("eval(x)", reference="return eval(expression)") == ""


# ---- refusing, reporting, lasting ----------------------------------------------------------------


def test_isolation_level_is_reported(runner):
    assert runner.isolation["level"] in ("namespaces", "landlock", "plain")
    assert set(runner.isolation) >= {
        "user",
        "files",
        "network",
        "processes",
        "limits",
        "refused_levels",
    }


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare"
)
def test_root_that_cannot_drop_privileges_is_refused_unless_allowed():
    """A root that has only itself (one mapped uid, no more user namespaces): limits would not bind
    it.
    """
    script = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from evaluation.sandbox.runner import CodeRunner\n"
        "from common.errors import InputError\n"
        "try:\n    CodeRunner(levels=('landlock', 'plain'))\n    print('made')\n"
        "except InputError as error:\n    print(error)\n"
        "with CodeRunner(levels=('plain',), unsafe_as_root=True) as runner:\n"
        "    print(runner.isolation['user'])\n"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.stderr.startswith("unshare:"):
        pytest.skip(f"no user namespaces here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    refused, unsafe = done.stdout.splitlines()
    assert "no safe way" in refused and "--unsafe_as_root" in refused
    assert unsafe.startswith("ROOT")


def test_a_machine_without_any_allowed_level_is_refused():
    with pytest.raises(InputError, match="--allow_code_execution"):
        CodeRunner(levels=())


def test_a_killed_sandbox_is_replaced(runner):
    runner.run(RIGHT, PLAIN_TEST, "f")
    runner.sandboxes[0].process.kill()
    assert runner.run(RIGHT, PLAIN_TEST, "f")["status"] == "passed"


def test_a_sandbox_that_cannot_be_replaced_is_one_result_and_closes(monkeypatch):
    def no_more(*arguments):
        raise OSError("no process left")

    with CodeRunner(workers=1) as one:
        one.sandboxes[0].process.kill()
        one.sandboxes[0].process.wait()
        monkeypatch.setattr("evaluation.sandbox.runner.Sandbox", no_more)
        result = one.run("def f(): return 1\n", "def check(f): assert f() == 1", "f")
        assert result["status"] == "sandbox error" and "no process left" in result["error"]
    assert not one.sandboxes


def test_a_killed_scorer_leaves_nothing(tmp_path):
    """The sandbox ends by itself when its scorer is gone, also in the middle of a program."""
    script = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from evaluation.sandbox.runner import CodeRunner\n"
        "runner = CodeRunner(timeout=1)\nprint(runner.isolation['user'],"
        " runner.sandboxes[0].process.pid, flush=True)\nrunner.run('while True: pass', '', 'f')\n"
    )
    scorer = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    sandbox = int(scorer.stdout.readline().split()[-1])
    time.sleep(0.3)
    scorer.kill()
    scorer.wait()
    for _ in range(200):
        if not os.path.exists(f"/proc/{sandbox}"):
            break
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{sandbox}") and list(tmp_path.iterdir()) == []


DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
time.sleep(0.2)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_daemons_do_not_outlive_a_killed_supervisor(place):
    """Where neither namespaces nor Landlock guard it, a program may kill what watches over it."""
    uid, python = 54_000 + os.getpid() % 300, other_python()
    if python is None:
        pytest.skip("no interpreter here that other users may run")
    script = (
        f"import sys\nsys.path.insert(0, {str(place)!r})\nfrom evaluation.sandbox.runner import"
        f" CodeRunner\nwith CodeRunner(levels=('plain',), timeout=1) as runner:\n"
        f"    print(runner.run({DAEMON!r}, '', 'f')['error'], flush=True)\n    input()\n"
    )
    folder = place / "tmp"
    folder.mkdir()
    folder.chmod(0o777)
    scorer = subprocess.Popen(
        [python, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(folder)},
        user=uid,
        group=uid,
        extra_groups=[],
    )
    assert "supervising process died" in scorer.stdout.readline()
    left = running_as(uid)
    assert len(left) == 2, left  # the scorer and its sandbox
    assert [list(base.iterdir()) for base in folder.iterdir()] == [[]]
    scorer.communicate("\n", timeout=30)
    assert running_as(uid) == [] and list(folder.iterdir()) == []


def test_what_a_program_prints_is_kept(runner):
    test = "def check(candidate):\n    candidate(0)\n"
    assert (
        runner.run(
            "import sys\ndef f(x):\n    print('seen')\n    sys.stderr.write('also')\n", test, "f"
        )["output"]
        == "seen\nalso"
    )
    failed = runner.run(
        "def f(x):\n    print('before it fails')\n    raise ValueError\n", test, "f"
    )
    assert failed["status"] == "failed" and "before it fails" in failed["output"]
    assert len(runner.run("def f(x):\n    print('x' * 10 ** 6)\n", test, "f")["output"]) == 4000


def test_deep_folders_without_permissions_are_removed(tmp_path):
    from evaluation.sandbox.sandbox import remove_folder

    (tmp_path / "kept").write_text("kept")
    (tmp_path / "top" / "side").mkdir(parents=True)
    (tmp_path / "top" / "link").symlink_to(tmp_path)
    place = os.open(tmp_path / "top", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.fchmod(inner, 0o700)
        os.close(place)
        place = inner
    os.close(place)
    for name in ("d", "side"):
        (tmp_path / "top" / name).chmod(0)
    remove_folder(tmp_path / "top")
    remove_folder(tmp_path / "top")  # not there any more: nothing is raised
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_concurrent_programs_do_not_mix_their_results():
    with CodeRunner(workers=4) as several:
        jobs = [
            (
                f"def f(x):\n    return {n}\n",
                f"def check(f):\n    assert f(0) == {n if n % 3 else n + 1}\n",
                "f",
            )
            for n in range(60)
        ]
        assert [result["status"] == "passed" for result in several.run_all(jobs)] == [
            bool(n % 3) for n in range(60)
        ]


def test_a_program_sees_only_an_empty_folder_and_a_minimal_environment(runner):
    program = (
        "import os\nassert set(os.environ) <= {'PATH', 'LANG', 'LC_CTYPE', 'HOME', 'TMPDIR',"
        " 'LD_LIBRARY_PATH'}\nassert os.listdir('.') == []\nassert os.getuid() != 0\nassert"
        " os.getsid(0) == os.getpid()\nassert __name__ == 'builtins'\ndef f(x):\n    return 1\n"
    )
    result = runner.run(program, PLAIN_TEST, "f")
    assert result["status"] == "passed", result
