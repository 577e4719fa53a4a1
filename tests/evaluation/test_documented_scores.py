"""The example of docs/evaluation.md that scores another program's completions, as it stands there.

pytest tests/evaluation/test_documented_scores.py                                    seconds
"""

import re
import shlex
import subprocess
import sys

from conftest import ROOT


def test_the_documented_files_and_command_give_the_documented_scores(tmp_path):
    text = (ROOT / "docs/evaluation.md").read_text()
    items, completions = re.findall(r"```jsonl\n(.*?)```", text, re.S)
    command = re.search(
        r"    python (eval_humaneval_infill\.py --score_only completions.*?)\n\n", text, re.S
    )
    shown = re.search(r"prints\n\n```text\n(.*?)```", text, re.S)[1]
    (tmp_path / "infills.jsonl").write_text(items)
    (tmp_path / "completions.jsonl").write_text(completions)
    script, *words = shlex.split(command[1].replace("\\\n", " "))
    done = subprocess.run(
        [sys.executable, ROOT / script, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown), done.stdout
