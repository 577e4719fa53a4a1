"""How a script refuses bad input: raise `InputError` with one sentence that names the flag or file;
`run` prints it as one line and exits with code 2. Nothing here imports torch.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from common.progress import plain_progress

# what `run` says after Ctrl-C, where that is true of a script
SAME_COMMAND_RESUMES = "finished work is on disk, the same command resumes from there"
AUTO_RESUMES = "--resume_from_checkpoint auto resumes from the last checkpoint, if there is one"


class InputError(Exception):
    """Bad input from the command line. The message names the flag or file and says what would be
    right.
    """


def run(main: Callable[[], object], interrupted: str | None = None) -> NoReturn:
    """Call main() and exit: 0, 2 with one line for an InputError, 130 with one line for Ctrl-C, 1
    if the output pipe was closed. interrupted: how to resume after Ctrl-C; None if nothing of an
    interrupted run is kept.
    """
    script = Path(sys.argv[0]).name
    plain_progress()
    try:
        _check_transformers()
        main()
        sys.stdout.flush()
    except InputError as error:
        line = f"{script}: error: {' '.join(str(error).split())}"
        print(line, file=sys.stderr)
        _tell_torchrun(line)
        sys.exit(2)
    except KeyboardInterrupt:
        print("; ".join(filter(None, [f"{script}: interrupted", interrupted])), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # ... | head -1
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def _check_transformers() -> None:
    """Older versions fail at their imports, with a traceback. Raises InputError."""
    try:
        found = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return  # a script that needs it says so
    if int(found.partition(".")[0]) < 5:
        raise InputError(
            f"transformers {found} is installed, 5 or newer is needed: pip install -r"
            " requirements.txt"
        )


def _tell_torchrun(line: str) -> None:
    """torchrun ends with a traceback of its own, whose last lines say what this file holds."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        reason = {
            "message": line,
            "extraInfo": {"py_callstack": line, "timestamp": int(time.time())},
        }
        Path(file).write_text(json.dumps({"message": reason}), encoding="utf-8")
