"""The images' definitions in containers/: both install the same, from the pins, and name files that
exist. There is no container runtime in CI: the steps are run in a folder instead of an image.

pytest tests/scripts/test_containers.py                                              seconds
pytest --full tests/scripts/test_containers.py           minutes: installs everything, runs a model
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest
from conftest import ROOT

IMAGES = ["flexmdm.def", "Dockerfile"]


class Image(NamedTuple):
    base: str
    files: dict  # in the repository: in the image
    steps: list  # shell commands that the build runs
    environment: dict


def read_image(name):
    """What a definition says; any line that is not understood fails."""
    text = (ROOT / "containers" / name).read_text()
    text = re.sub(r"^ *#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return read_docker(text) if name == "Dockerfile" else read_apptainer(text)


def read_docker(text):
    base, files, steps, environment = None, {}, [], {}
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base = rest
        elif word == "COPY":
            source, target = rest.split()
            files[source] = target
        elif word == "RUN":
            steps.append(rest)
        elif word == "ENV":
            environment |= dict(each.split("=") for each in rest.split())
        else:
            assert word == "WORKDIR", line
    return Image(base, files, steps, environment)


def read_apptainer(text):
    head, *parts = re.split(r"^%(\w+)\n", text, flags=re.M)
    sections = dict(zip(parts[::2], parts[1::2]))
    assert set(sections) == {"files", "post", "environment", "test", "runscript"}
    assert re.search(r"^Bootstrap: docker$", head, re.M)
    lines = {
        name: [line.strip() for line in section.splitlines() if line.strip()]
        for name, section in sections.items()
    }
    exports = [line.removeprefix("export ").split("=") for line in lines["environment"]]
    base = re.search(r"^From: (\S+)$", head, re.M)[1]
    files = dict(line.split() for line in lines["files"])
    return Image(base, files, lines["post"] + lines["test"], dict(exports))


def build(image, root, python, environment=()):
    """Run an image's steps with /opt and the interpreter at `root` and `python`."""
    for source, target in image.files.items():
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, place)
    for step in image.steps:
        step = step.replace("/opt/", f"{root}/opt/")
        subprocess.run(
            ["bash", "-e", "-c", re.sub(r"^python3 ", f"{python} ", step)],
            cwd=root,
            check=True,
            env={
                **os.environ,
                "PYTHONPATH": "",
                "FLEXMDM_PYTHON": str(python),
                **dict(environment),
            },
        )


def test_both_images_have_the_same_content():
    one, other = map(read_image, IMAGES)
    assert one.base == other.base and one.files == other.files and one.steps == other.steps
    assert one.environment.items() <= other.environment.items()
    version = re.fullmatch(r"python:(3\.\d+)-slim-bookworm", one.base)[1]
    oldest, newest = re.search(
        r"Python ([\d.]+) to ([\d.]+\d)", (ROOT / "requirements.txt").read_text()
    ).groups()
    number = lambda text: int(text.split(".")[1])
    assert number(oldest) <= number(version) <= number(newest)


@pytest.mark.parametrize("name", IMAGES)
def test_every_step_runs_files_that_the_image_gets(name, tmp_path):
    """With an interpreter that only notes what it is asked for."""
    image = read_image(name)
    noted = tmp_path / "noted"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\necho "$PWD" "$DS_BUILD_OPS" "$@" >> {noted}\n')
    python.chmod(0o755)
    (tmp_path / "g++").symlink_to("/bin/true")  # else root would install it
    build(image, tmp_path, python, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}.items())
    folder = tmp_path / "opt/flexmdm"
    calls = [line.split() for line in noted.read_text().splitlines()]
    installed = [call[call.index("-r") + 1] for call in calls if "-r" in call]
    assert installed == ["requirements.txt", "requirements-cluster.txt"]
    for requirements in installed:
        assert (folder / requirements).read_text() == (ROOT / requirements).read_text()
    assert all(call[0] == str(folder) for call in calls if "-r" in call)
    assert [call[1] for call in calls if "requirements-cluster.txt" in call] == ["0"]
    assert calls[-1][-2:] == ["torch,", "transformers"]


def test_docker_is_given_the_files_it_copies_and_no_others():
    lines = (ROOT / "containers/Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules[1:]} == set(read_image("Dockerfile").files)


def test_the_install_script_is_clean():
    script = ROOT / "containers/install.sh"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_job_scripts_run_python_in_the_image_as_documented(tmp_path):
    """The documented settings, with an apptainer that leaves out the image."""
    text = (ROOT / "scripts/README.md").read_text()
    exports = re.findall(r"^    export (FLEXMDM_\w+=.*)$", text, re.M)
    settings = dict(word.split("=", 1) for line in exports for word in shlex.split(line))
    assert set(settings) >= {"FLEXMDM_WRAP", "FLEXMDM_PYTHON"}
    apptainer = tmp_path / "apptainer"
    apptainer.write_text(
        "#!/bin/bash\n"
        '[ "$1 $2 $3" = "exec --nv --bind" ] && [[ $5 == *.sif ]] || exit 9\n'
        f'shift 5\n[ "$1" = python3 ] && shift && exec {sys.executable} "$@"\n'
    )
    apptainer.chmod(0o755)
    environment = {
        **{name: os.environ[name] for name in os.environ if not name.startswith("FLEXMDM_")},
        **settings,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RUNS_DIR": str(tmp_path / "runs"),
        "PROCESSES_PER_NODE": "1",
    }
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "q", "generations": "\\\\boxed{1}", "ground_truth": 1}\n'
    )
    done = subprocess.run(
        ["bash", ROOT / "scripts/inference_math.sh", "--score_only", tmp_path / "rows.jsonl"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1" in done.stdout


@pytest.mark.full
@pytest.mark.parametrize("name", IMAGES[:1])  # the other one's steps are the same
def test_the_steps_install_an_environment_in_which_a_model_runs(name, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    build(read_image(name), tmp_path, python)
    done = subprocess.run(
        [python, "llada_inference.py", "--checkpoint_path", "LLaDA-tiny-Base"]
        + ["--prompt", "def ", "--gen_length", "4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0 and "4 tokens" in done.stdout + done.stderr, done.stderr
