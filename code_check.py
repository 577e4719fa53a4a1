"""What runs inside the sandbox: one program, its test, and a verdict that the program cannot forge. Standard library only.

code_sandbox.py starts a fresh interpreter on the text of this file for every program (`python -I -S -c TEXT`), with the job on
standard input and the verdict's pipe as descriptor 3. The verdict is worth something because

* it begins with a secret that lives in the variables of `main` alone, read from a pipe that is closed before the program starts;
* it is written after `check` returned, by the process that was started and not by a fork of it; a program that leaves early in any
  way (sys.exit, os._exit, a crash, a kill) leaves without it, and nothing that it prints counts;
* the test runs in its own name space, with the builtins as they were before the program, and the modules it imports are put
  back after every call: a program that replaces `abs`, `sum`, `check` or `math.isclose` is tested with the real ones.

What is out of reach here: a program that walks interpreter frames or the garbage collector, or uses ctypes, can find the secret.
Such words in a completion are flagged by code_runner.suspicious_text.
"""
COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__len__", "__contains__", "__iter__", "__hash__",
               "__sub__", "__rsub__", "__add__", "__radd__", "__abs__", "__float__", "__int__", "__round__", "__getitem__")
VERDICT = 3                                            # descriptor of the pipe that code_sandbox.py reads


def official_program(program, test, entry_point):
    """The one text that the official scorer runs: program, newline, test, newline, check(entry_point)."""
    return f"{program}\n{test}\ncheck({entry_point})"


def imported_modules(tree):
    """Names of the modules that a test imports."""
    import ast
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def strange(value, depth=0):
    """Whether a returned value could fool a comparison: it equals a brand-new object, or its class defines comparisons in the program."""
    kind = type(value)
    if kind in (int, float, str, bool, complex, bytes, type(None), range):
        return False
    if kind in (list, tuple, set, frozenset, dict):
        if depth > 6:
            return False
        inside = list(value.items()) if kind is dict else list(value)
        return any(strange(item, depth + 1) for item in inside[:1000])
    try:
        new = object()
        if value == new or not value != new:
            return True
    except BaseException:                              # a comparison that raises fools nobody
        pass
    wrapper, function = type(object.__eq__), type(strange)
    for base in type.__dict__["__mro__"].__get__(kind):
        for name in COMPARISONS:
            method = type.__dict__["__dict__"].__get__(base).get(name)
            file = method.__code__.co_filename if isinstance(method, function) else ""
            if file.startswith("<") and not file.startswith("<frozen"):
                return True                            # written in the program (or in a text that it ran)
            if method is not None and not isinstance(method, (function, wrapper, type(str.upper))):
                return True                            # something callable that is no method at all
    return False


def run_program(program, test, entry_point):
    """Run the program, then its test. Returns whether what happened looks like cheating; raises whatever the program or test raised."""
    import builtins
    import importlib
    import sys
    program_code = compile(program, "<program>", "exec")
    test_code = compile(test, "<test>", "exec")
    compile(official_program(program, test, entry_point), "<official>", "exec")      # must hold together as one text too
    real_builtins = dict(vars(builtins))
    # the test's modules are loaded before the program can touch them
    import ast
    saved = {}
    for name in imported_modules(ast.parse(test)):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue                                   # the test will say so itself
        saved[name] = (module, dict(vars(module)))
    modules, odd = sys.modules, []

    def put_back():
        for name, (module, content) in saved.items():
            now = vars(module)
            if modules.get(name) is not module or any(now.get(key) is not value for key, value in content.items()):
                odd.append(f"changed module {name}")
                modules[name] = module
                now.update(content)

    space = {}                                         # the official scorer's: empty globals
    settrace, setprofile = sys.settrace, sys.setprofile
    exec(program_code, space)
    settrace(None)
    setprofile(None)
    put_back()
    if any(vars(builtins).get(name) is not value for name, value in real_builtins.items()):
        odd.append("changed builtins")
    test_space = {name: value for name, value in space.items() if name == entry_point or name not in real_builtins}
    test_space["__builtins__"] = real_builtins
    exec(test_code, test_space)
    function = test_space[entry_point]

    def watched(*arguments, **named):
        result = function(*arguments, **named)
        put_back()
        if not odd and strange(result):
            odd.append("a result that could fool a comparison")
        return result

    test_space["check"](watched)
    return odd[0] if odd else ""


def main():
    import marshal
    import os
    import sys
    import time
    secret, program, test, entry_point, timeout = marshal.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)                                # the pipe with the secret is gone
    os.close(nothing)
    write, leave, getpid, dumps, clock = os.write, os._exit, os.getpid, marshal.dumps, time.monotonic
    streams = sys.stdout, sys.stderr
    me, started = getpid(), clock()
    try:
        odd = run_program(program, test, entry_point)
        verdict = ("passed", "", odd)
    except BaseException as error:                     # SystemExit and KeyboardInterrupt are failures like any other
        try:
            verdict = ("failed", f"{type(error).__name__}: {error}"[:500], "")
        except BaseException:
            verdict = ("failed", "an exception that cannot be shown", "")
    for stream in streams:                             # what it printed lies in buffers that os._exit would drop
        try:
            stream.flush()
        except BaseException:
            pass
    if clock() - started > timeout:
        verdict = ("timed out", f"took more than {timeout:g} s", "")
    if getpid() == me:                                 # a fork that got here has no say
        write(VERDICT, secret + dumps(verdict, 4))
    leave(0)


if __name__ == "__main__":
    main()
