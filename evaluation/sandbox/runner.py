"""Run model-written programs and report which pass their test: never in this process, and only on
request.

    with CodeRunner() as runner:
        # one dict each: status, error, suspicious, seconds, ...
        results = runner.run_all([(program, test, entry_point), ...])
        runner.isolation    # what isolates the programs from this machine

Each program is run as in the official HumanEval scorer (program, newline, test, newline,
check(entry_point); 3 s), in a fresh interpreter inside the sandbox of sandbox.py, and its verdict
comes from judge.py in a way the program cannot forge.

Threat model: careless code, and code that cheats or does damage (deleting files, endless processes,
forged verdicts, patched builtins). Out of scope: kernel vulnerabilities and timing side channels.
If the machine does not allow namespaces, the isolation is weaker; `isolation` and every
results.json say so.

Only the standard library can be imported by the programs. Needs Linux for isolation; runs on macOS
with limits alone.
"""

import ast
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from common.errors import InputError
from evaluation.sandbox.sandbox import receive, remove_folder, sandbox_error, send

# (program, test, entry_point)
Job: TypeAlias = tuple[str, str, str]
# what CodeRunner.run returns
Result: TypeAlias = dict[str, Any]
LEVELS = ("namespaces", "landlock", "plain")
TIMEOUT = 3.0  # seconds, the official scorer's
SANDBOX = Path(__file__).resolve().with_name("sandbox.py")
SELF_TEST = (
    "def f(x):\n    return [x]\n",
    "def check(candidate):\n    assert candidate(1) == [1]\n",
    "f",
)
# words that an honest middle of a function does not contain; passing completions with such words
# are flagged for a human to read
SUSPICIOUS = re.compile(
    r"__(eq|ne|lt|le|gt|ge|bool|hash|sub|rsub|abs|float|getattribute|getattr|class|subclasses"
    r"|builtins|globals|code|dict|mro|import|instancecheck)__"
    r"|\b(sys\.modules|builtins|_getframe|ctypes|inspect|gc|mock|globals\(\)|setattr|"
    r"os\.fork|os\._exit|sys\.exit|exec\(|eval\(|check\b|assert\b|AssertionError)"
)


def suspicious_text(completion: str, reference: str = "") -> str:
    """The first word in a completion that hints at cheating and is not in the reference solution;
    "" if there is none.
    """
    for match in SUSPICIOUS.finditer(completion):
        if match.group() not in reference:
            return match.group()
    return ""


def bound_names(program: str) -> Counter[str]:
    """Counter of the names that a program binds at its top level, and of those that its functions
    declare global. Raises SyntaxError or the like for what is no program.
    """
    names: Counter[str] = Counter()
    tree = ast.parse(program)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names[node.name] += 1
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        else:
            names.update(
                part.id
                for part in ast.walk(node)
                if isinstance(part, ast.Name) and isinstance(part.ctx, (ast.Store, ast.Del))
            )
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            names.update(inner.names)
    return names


def rebound_name(program: str, reference_program: str) -> str:
    """A top-level name of the reference program that this one binds more often (a helper of its
    prompt, say); "" if there is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            here, there = bound_names(program), bound_names(reference_program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""  # it cannot have passed
    return next((name for name in there if here[name] > there[name]), "")


def test_with_helpers(reference_program: str, test: str, entry_point: str) -> str:
    """The test, preceded by the helpers of the prompt that it uses, so that it uses the prompt's
    own versions whatever the program made of them.
    """
    try:
        tree = ast.parse(reference_program)
        used = {node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return test
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if not any(
        isinstance(node, functions) and node.name in used - {entry_point} for node in tree.body
    ):
        return test
    kept: list[ast.stmt] = [
        node
        for node in tree.body
        if isinstance(node, (*functions, ast.Import, ast.ImportFrom))
        and getattr(node, "name", None) != entry_point
    ]
    return f"{ast.unparse(ast.Module(kept, []))}\n{test}"


test_with_helpers.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def available_cores() -> int:
    """Cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Sandbox:
    """One sandbox.py process of one level; raises OSError with the reason if this machine does not
    allow that level.
    """

    def __init__(self, level: str, unsafe_as_root: bool, python: str) -> None:
        """level: one of LEVELS; unsafe_as_root, python: as CodeRunner's."""
        self.base = tempfile.mkdtemp(prefix="code_sandbox-")
        os.chmod(self.base, 0o711)
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        command = [
            python,
            "-I",
            "-S",
            "-B",
            str(SANDBOX),
            level,
            str(int(unsafe_as_root)),
            self.base,
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdout is not None  # a pipe, like stdin
        try:
            self.isolation = receive(self.process.stdout) or {
                "refused": "the sandbox process died at its start"
            }
            if "refused" in self.isolation:
                raise OSError(self.isolation["refused"])
            # it has its own root by now: nothing is left should we be killed
            if level == "namespaces":
                remove_folder(self.base)
            test = self.run(*SELF_TEST, 10.0)
            if test["status"] != "passed":
                raise OSError(f"a trivial program does not pass: {test['error']} {test['output']}")
        except BaseException:
            self.close()
            raise

    def run(self, program: str, test: str, entry_point: str, timeout: float) -> Result:
        """The result of one program, a dict. Raises OSError when the sandbox process itself is
        gone.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        send(self.process.stdin, (program, test, entry_point, timeout))
        result = receive(self.process.stdout)
        if result is None:
            raise OSError("the sandbox process died")
        return result

    def close(self) -> None:
        """End the process and remove its folder."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()  # its sign to end
        except BrokenPipeError:  # it has ended already, with a job still in the pipe
            pass
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        remove_folder(self.base)


class CodeRunner:
    """Sandboxes for several programs at once. A context manager: closing it ends every process and
    removes every folder it made.

    workers: programs at once (None: one per core); timeout: seconds per program; unsafe_as_root:
    let root run programs as root if it cannot become another user; levels: which of LEVELS may be
    used; python: interpreter of the programs. Raises InputError if no allowed level works, with the
    reasons.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout: float = TIMEOUT,
        unsafe_as_root: bool = False,
        levels: Sequence[str] = LEVELS,
        python: str = sys.executable,
    ) -> None:
        self.timeout, self.unsafe_as_root, self.python = timeout, unsafe_as_root, python
        self.workers = workers or available_cores()
        self.sandboxes: list[Any] = []  # each a Sandbox, or None: not started, or lost
        refusals: list[str] = []
        for level in levels:
            try:
                self.sandboxes.append(Sandbox(level, unsafe_as_root, python))
                break
            except OSError as error:
                refusals.append(f"{level}: {error}")
        if not self.sandboxes:
            advice = (
                ". Run as another user, in a container that allows namespaces, or with"
                " --unsafe_as_root"
                if os.getuid() == 0
                else ""
            )
            raise InputError(
                "--allow_code_execution: no safe way to run programs here"
                f" ({'; '.join(refusals)}){advice}"
            )
        self.level = level
        self.isolation = dict(self.sandboxes[0].isolation, refused_levels=refusals)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every sandbox."""
        while self.sandboxes:
            sandbox = self.sandboxes.pop()
            if sandbox is not None:  # it died, and none could be started in its place
                sandbox.close()

    def _run_one(self, slot: int, job: Job) -> Result:
        for _ in range(2):
            try:
                if self.sandboxes[slot] is None:
                    self.sandboxes[slot] = Sandbox(self.level, self.unsafe_as_root, self.python)
                return self.sandboxes[slot].run(*job, self.timeout)
            except (OSError, ValueError) as error:
                # the sandbox is gone: start a new one and run the program again
                reason = str(error)
                if self.sandboxes[slot] is not None:
                    self.sandboxes[slot].close()
                    self.sandboxes[slot] = None
        return sandbox_error(reason)

    def run(self, program: str, test: str, entry_point: str) -> Result:
        """Result of one program: {"status": "passed" | "failed" | "timed out" | "sandbox error",
        "error", "suspicious" (a reason or ""), "output" (first 4,000 bytes), "seconds",
        "cpu_seconds"}. Passed is the verdict; suspicious says that a human should look.
        """
        return self._run_one(0, (program, test, entry_point))

    def run_all(
        self, jobs: Iterable[Job], progress: Callable[[int, Result], object] | None = None
    ) -> list[Result]:
        """Results of many (program, test, entry_point), in order. progress: called with each job's
        number and result as it comes, by one thread at a time; an exception in it ends the run.

        A program that timed out with little CPU time (a busy machine) is run once more, alone.
        """
        results: list[Any]
        waiting: queue.SimpleQueue[int]
        jobs, results, waiting = list(jobs), [None] * len(jobs), queue.SimpleQueue()
        for number in range(len(jobs)):
            waiting.put(number)
        while len(self.sandboxes) < min(self.workers, len(jobs)):
            self.sandboxes.append(None)  # started by its own thread
        errors: list[BaseException]
        errors, one_at_a_time = [], threading.Lock()

        def work(slot):
            try:
                while not errors:
                    number = waiting.get_nowait()
                    results[number] = self._run_one(slot, jobs[number])
                    if progress is not None:
                        with one_at_a_time:
                            progress(number, results[number])
            except queue.Empty:
                pass
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=work, args=(slot,), daemon=True)
            for slot in range(min(self.workers, len(jobs)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        for number, result in enumerate(results):
            if result["status"] == "timed out" and result["cpu_seconds"] < 0.7 * self.timeout:
                results[number] = self._run_one(0, jobs[number])
        return results
