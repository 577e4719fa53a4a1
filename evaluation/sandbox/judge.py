"""What runs inside the sandbox: one program, its test, and a verdict that the program cannot forge.
Standard library only.

sandbox.py starts a fresh interpreter on the compiled code of this file for every program, with code
and job as its standard input and the verdict's pipe as descriptor 3. That process forks before it
has read the job, and the two never trade places:

the program's process   closes job and verdict, gets the program through a pipe, runs it, and calls
                        its functions when asked to
the judge               reads the job, runs the test, and asks the other for every call; arguments
                        and results pass as plain data

So the test meets exact numbers, texts, lists, tuples, sets and dicts, made by the judge itself from
a message: no lying class, patched builtin, changed module or replaced `check` is where the test
runs, and the secret that a verdict begins with is not in the memory of the program's process (which
may not trace the judge either). A program that leaves early, in any way, leaves without a verdict.

What cannot be judged like that (a result or exception of a class, an argument that the function
changed and the test looks at) is judged as the official scorer does, inside the program's process,
and flagged as suspicious where it passes.
"""

TYPE_CHECKING = False  # nothing is imported here for types' sake
if TYPE_CHECKING:
    # Quoted below. No `from __future__ import annotations`: compile() would hand it to the program.
    from collections.abc import Callable
    from types import CodeType
    from typing import Any, NoReturn

VERDICT = 3  # descriptor of the pipe that sandbox.py reads
MOST_ITEMS, DEEPEST, LARGEST = 1_000_000, 200, 1 << 25  # of one message: values, nesting, bytes
APART = "not judged apart from the program: "


class Unplain(Exception):
    """A value that is no plain data, or too much of it."""


def official_program(program: str, test: str, entry_point: str) -> str:
    """The one text that the official scorer runs: program, newline, test, newline,
    check(entry_point).
    """
    return f"{program}\n{test}\ncheck({entry_point})"


# ---- messages ------------------------------------------------------------------------------------
# A value is a tag, a number of 8 bytes, and its content: of a container that many packed values, of
# anything else that many bytes. json would do, but it imports `re`, a quarter of a program's time;
# marshal trusts what it reads.

CONTAINERS: "dict[Any, bytes]" = {
    list: b"l",
    tuple: b"t",
    set: b"s",
    frozenset: b"z",
    dict: b"d",
}
MADE = {tag: kind for kind, tag in CONTAINERS.items()}
# type: (tag, its bytes, the value of such bytes)
SCALARS: "dict[Any, tuple[bytes, Callable[[Any], bytes], Callable[[bytes], Any]]]" = {
    type(None): (b"n", lambda value: b"", lambda content: None),
    bool: (b"o", lambda value: b"1" if value else b"", bool),
    int: (b"i", lambda value: hex(value).encode(), lambda content: int(content, 16)),
    float: (
        b"f",
        lambda value: value.hex().encode(),
        lambda content: float.fromhex(content.decode()),
    ),
    complex: (
        b"c",
        lambda value: f"{value.real.hex()} {value.imag.hex()}".encode(),
        lambda content: complex(*map(float.fromhex, content.decode().split())),
    ),
    range: (
        b"r",
        lambda value: f"{value.start:x} {value.stop:x} {value.step:x}".encode(),
        lambda content: range(*(int(part, 16) for part in content.split())),
    ),
    str: (
        b"u",
        lambda value: value.encode("utf-8", "surrogatepass"),
        lambda content: content.decode("utf-8", "surrogatepass"),
    ),
    bytes: (b"b", bytes, bytes),
}
READ = {tag: read for tag, _, read in SCALARS.values()}


def pack(value: "Any", count: list[int] | None = None, depth: int = 0) -> bytes:
    """A value of exact plain types as bytes, equal for equal sets. Raises Unplain. count: [values
    so far].
    """
    count = count or [0]
    count[0] += 1
    kind = type(value)
    if count[0] > MOST_ITEMS or depth > DEEPEST:
        raise Unplain("too large")
    if kind in CONTAINERS:
        inside = [part for pair in value.items() for part in pair] if kind is dict else value
        items = [pack(item, count, depth + 1) for item in inside]
        if kind in (set, frozenset):
            items.sort()
        return CONTAINERS[kind] + len(items).to_bytes(8, "little") + b"".join(items)
    if kind not in SCALARS:
        raise Unplain(f"a {kind.__name__}")
    tag, write, _ = SCALARS[kind]
    content = write(value)
    return tag + len(content).to_bytes(8, "little") + content


def unpack(message: bytes) -> "Any":
    """The value of a message, made of exact plain types whoever sent it. Raises ValueError for
    anything else.
    """
    place = 0

    def take():
        nonlocal place
        tag, size = message[place : place + 1], message[place + 1 : place + 9]
        place, number = place + 9, int.from_bytes(size, "little")
        if tag in MADE:
            items = [take() for _ in range(number)]
            return dict(zip(items[::2], items[1::2])) if tag == b"d" else MADE[tag](items)
        content = message[place : place + number]
        place += number
        return READ[tag](content)

    try:
        value = take()
    except Exception:  # a tag or number that cannot be, a key that is a list, too deep
        raise ValueError("no message") from None
    if place != len(message):
        raise ValueError("no message")
    return value


def sender(descriptor: int) -> "Callable[[Any], None]":
    """A function that sends one value; everything it uses is bound now."""
    import os

    write = os.write

    def send(value):
        content = pack(value)
        content = len(content).to_bytes(8, "little") + content
        while content:
            content = content[write(descriptor, content) :]

    return send


def receiver(descriptor: int, ready: "Callable[[], None] | None" = None) -> "Callable[[], Any]":
    """A function that receives one value, None at the end. ready(): called before each read, may
    raise.
    """
    import os

    read = os.read

    def exactly(size):
        content = b""
        while len(content) < size:
            if ready:
                ready()
            more = read(descriptor, min(size - len(content), 1 << 20))
            if not more:
                return None
            content += more
        return content

    def receive():
        head = exactly(8)
        size = int.from_bytes(head or b"", "little")
        if size > LARGEST:
            raise ValueError("a message too large")
        content = head and exactly(size)
        return unpack(content) if content else None

    return receive


# ---- the program's process -----------------------------------------------------------------------


def shown(error: BaseException) -> str:
    """An exception as one text of at most 500 characters, whatever its class does."""
    try:
        return f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace").decode()
    except BaseException:
        return "an exception that cannot be shown"


def serve(requests: int, answers: int) -> "NoReturn":
    """Run the program, then answer the judge: ["names", names], ["call", name, arguments, named]
    and ["check"]. Never returns.
    """
    import builtins
    import os
    import sys

    receive, send, leave, getpid = receiver(requests), sender(answers), os._exit, os.getpid
    me = getpid()
    before, streams = dict(vars(builtins)), (sys.stdout, sys.stderr)
    known = {
        id(kind)
        for kind in before.values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    module = type(sys)
    settrace, setprofile = sys.settrace, sys.setprofile

    def answer(value):
        if getpid() != me:  # a fork that got here has no say
            leave(0)
        for stream in streams:  # what was printed lies in buffers that os._exit would drop
            try:
                stream.flush()
            except BaseException:
                pass
        send(value)

    program, test, entry_point = receive()
    space: dict[str, Any] = {}  # the official scorer's: empty globals
    try:
        exec(compile(program, "<program>", "exec"), space)
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures like any other
        answer(["failed", shown(error)])
        leave(0)
    settrace(None)
    setprofile(None)
    odd = any(vars(builtins).get(name) is not value for name, value in before.items())
    answer(["loaded", "changed builtins" if odd else ""])
    while (request := receive()) is not None:
        if request[0] == "names":
            found: dict[str, list[Any]] = {}
            for name in request[1]:
                value = space.get(name)
                if type(value) is module:
                    found[name] = ["module", value.__name__]
                elif callable(value):
                    found[name] = ["function", None]
                elif name in space:
                    try:
                        found[name] = ["value", pack(value)]
                    except Unplain:
                        found[name] = ["unplain", None]
            answer(found)
        elif request[0] == "call":
            _, name, arguments, named = request
            arguments, named = unpack(arguments), unpack(named)
            try:
                result = space[name](*arguments, **named)
            except BaseException as error:
                plain = id(type(error)) in known
                answer(
                    [
                        "raised",
                        type(error).__name__ if plain else "",
                        shown(error).partition(": ")[2],
                        None,
                    ]
                )
                continue
            try:
                answer(["value", pack(result), pack(arguments)])
            except Unplain as error:
                answer(["unplain", f"its result is {error}"])
        else:
            try:
                exec(compile(test, "<test>", "exec"), space)
                space["check"](space[entry_point])
                answer(["passed", ""])
            except BaseException as error:
                answer(["failed", shown(error)])
    leave(0)


# ---- the judge -----------------------------------------------------------------------------------


class Left(BaseException):
    """The program's process is gone, or sends nonsense. No test can catch it by `except
    Exception`.
    """


class Late(BaseException):
    """The time is over."""


def used_names(code: "CodeType") -> set[str]:
    """Names that some code and the code within it look up globally or as attributes."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            names |= used_names(constant)
    return names


def judge(
    ask: "Callable[[Any], Any]", program: str, test: str, entry_point: str
) -> tuple[str, str, str]:
    """(status, error, suspicious). ask(request) -> the answer of the program's process."""
    import builtins
    import importlib
    import sys

    try:
        compile(program, "<program>", "exec")
        test_code = compile(test, "<test>", "exec")
        # must hold together as one text too
        compile(official_program(program, test, entry_point), "<official>", "exec")
    except BaseException as error:
        return "failed", shown(error), ""
    status, odd = ask([program, test, entry_point])
    if status == "failed":
        return "failed", str(odd), ""
    # why the test may have met something else than it would in the program's process
    unclear: list[str] = []
    ended: list[BaseException] = []

    def ask_or_end(request):
        if ended:
            raise ended[0]
        try:
            return ask(request)
        except (Left, Late) as error:
            ended.append(error)
            raise

    def remote(name):
        def candidate(*arguments, **named):
            try:
                sent = pack(arguments), pack(named)
            except Unplain as error:
                unclear.append(f"an argument is {error}")
                raise
            kind, value, *more = ask_or_end(["call", name, *sent])
            changed = more[-1] if more else None
            if changed is not None and changed != sent[0]:
                unclear.append("it changes its argument")
            if kind == "value":
                return unpack(value)
            if kind == "raised":
                known = vars(builtins).get(value)
                if isinstance(known, type) and issubclass(known, BaseException):
                    raise known(str(more[0]))
                unclear.append("it raises an exception of its own")
                raise RuntimeError(str(more[0]))
            unclear.append(str(value)[:200])
            raise Unplain(value)

        return candidate

    space = {}
    wanted = sorted({entry_point, *used_names(test_code)} - set(vars(builtins)))
    found = ask_or_end(["names", wanted])
    for name in wanted:  # these alone: a program that offers a `len` of its own offers it to nobody
        kind, value = found.get(name, ("absent", None))
        if kind == "function":
            space[name] = remote(name)
        elif kind == "module" and value.partition(".")[0] in sys.stdlib_module_names:
            space[name] = importlib.import_module(value)
        elif kind == "value":
            space[name] = unpack(value)
        elif kind == "unplain":
            unclear.append(f"{name} is no plain data")
    try:
        exec(test_code, space)
        space["check"](space[entry_point])
        wrong = ""
    except BaseException as error:
        wrong = shown(error)
    if ended:
        raise ended[0]
    if not wrong and not unclear:
        return "passed", "", odd
    if wrong and not unclear:
        return "failed", wrong, ""
    if not wrong and set(unclear) == {"it changes its argument"}:
        return "passed", "", odd  # the test does not look at it
    status, wrong = ask_or_end(["check"])
    return ("passed", "", APART + unclear[0]) if status == "passed" else ("failed", str(wrong), "")


def main(job: int) -> "NoReturn":
    """Fork, then judge the job of standard input, at that offset, and write the verdict. Never
    returns.
    """
    import os

    requests, ask_end = os.pipe()
    answer_end, answers = os.pipe()
    if os.fork():
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)  # the job with the secret
        for descriptor in (nothing, VERDICT, ask_end, answer_end):
            os.close(descriptor)
        serve(requests, answers)
    os.close(requests)
    os.close(answers)
    import marshal
    import select
    import time

    secret, program, test, entry_point, timeout, traceable = marshal.loads(
        os.pread(0, os.fstat(0).st_size, job)
    )
    if traceable:
        import ctypes

        # PR_SET_DUMPABLE: nobody may trace the judge or open its descriptors
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    deadline = time.monotonic() + timeout

    def ready():
        if not select.select([answer_end], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise Late

    send, receive = sender(ask_end), receiver(answer_end, ready)

    def ask(request):
        try:
            if select.select([answer_end], [], [], 0)[0]:
                raise Left  # it answers before it is asked, or it has ended
            send(request)
            answer = receive()
        except (OSError, ValueError, RecursionError):
            raise Left from None
        if answer is None:
            raise Left
        return answer

    try:
        verdict = judge(ask, program, test, entry_point)
        if time.monotonic() > deadline:
            raise Late
    except Late:
        verdict = ("timed out", f"took more than {timeout:g} s", "")
    except Left:  # sandbox.py says how it ended
        time.sleep(0.2)
        verdict = ("failed", "left before its test was over, or answered with nonsense", "")
    except BaseException as error:  # an answer of the wrong shape
        verdict = ("failed", shown(error), "")
    os.write(VERDICT, secret + marshal.dumps(verdict, 4))
    os._exit(0)


if __name__ == "__main__":
    main(JOB)  # type: ignore[name-defined]  # noqa: F821  # sandbox.py sets it
