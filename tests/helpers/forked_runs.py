"""Training runs as forks of one process that has imported everything, so that a test may start and
kill many.

One JSON object a line on stdin: {"script", "words", "output", "file_limit"} -> the run's process id
on stdout, then, when it has ended, its exit code (minus the signal's number when it was killed).
`output` receives what the run prints; file_limit: largest file it may write.
"""

import importlib
import json
import os
import resource
import sys
from pathlib import Path

# what a training imports: once, before the processes are forked
IMPORTED = (
    "peft",
    "flexmdm_trainer",
    "flexmdm_transfer_openwebtext",
    "instruction_finetuning",
    "llada_trainer",
)
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main():
    for name in IMPORTED:
        importlib.import_module(name)
    from common.errors import run

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1), os.dup2(output, 2)
            if job.get("file_limit"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))
            sys.argv = [f"{job['script']}.py", *job["words"]]
            code = 1
            try:
                run(importlib.import_module(job["script"]).main)
            except SystemExit as end:
                code = end.code
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
