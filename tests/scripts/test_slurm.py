"""The job scripts on a real Slurm: a controller and four virtual nodes on this machine
(tests/helpers/cluster/up.sh), the scripts unmodified, a tiny model through environment and
arguments.

    bash scripts/test.sh tests/scripts/test_slurm.py
        lint, refusals, and the whole chain through run_all.sh
    bash scripts/test.sh --full tests/scripts/test_slurm.py
        also preemption, dying nodes and processes, time limits

Needs root and slurmctld, slurmd, slurm-client, munge (apt); skipped without.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts"
OURS = (
    "settings",
    "launch",
    "flexmdm_transfer_preprocess",
    "IFT_preprocess",
    "flexmdm_transfer",
    "IFT_math",
    "IFT_code",
    "inference_math",
    "inference_code",
    "results_table",
    "run_all",
)
CLUSTER = ROOT / "tests/helpers/cluster"
TRAINING = "--per_device_train_batch_size 2 --sft_max_length 160 --lora_r 4 --logging_steps 1"
DONE = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)


def bash(command, environment, check=True, timeout=120):
    """The finished process of a bash command run in the repository."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def clean_environment(**changes):
    """This process's environment without what a launcher or another cluster may have left in it."""
    other = r"SLURM|SBATCH|RANK$|WORLD_SIZE$|RUNS_DIR|DATA_CACHE|MODEL_KIND|STRATEGY"
    kept = {name: value for name, value in os.environ.items() if not re.match(other, name)}
    return kept | {
        "FLEXMDM_PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **changes,
    }


# ---- without Slurm -------------------------------------------------------------------------------


def test_scripts_are_clean():
    files = [f"scripts/{name}.sh" for name in OURS] + [
        f"tests/helpers/cluster/{path.name}" for path in CLUSTER.glob("*.sh")
    ]
    for file in files:
        bash(f"bash -n {file}", clean_environment())
    if not shutil.which("shellcheck"):
        pytest.skip("bash -n passed; shellcheck is not installed")
    bash(f"shellcheck -x {' '.join(files)}", clean_environment())


@pytest.mark.parametrize(
    "script, given, missing",
    [
        ("flexmdm_transfer_preprocess", {}, "DATA_CACHE"),
        ("IFT_preprocess", {"DATA_CACHE": "x"}, "TASK"),
        ("IFT_preprocess", {"TASK": "math"}, "DATA_CACHE"),
        ("flexmdm_transfer", {"RUNS_DIR": "x"}, "DATA_CACHE"),
        ("flexmdm_transfer", {"DATA_CACHE": "x"}, "RUNS_DIR"),
        ("IFT_math", {"RUNS_DIR": "x"}, "DATA_CACHE"),
        ("IFT_code", {"DATA_CACHE": "x"}, "RUNS_DIR"),
        ("inference_math", {}, "RUNS_DIR"),
        ("inference_code", {}, "RUNS_DIR"),
        ("results_table", {}, "RUNS_DIR"),
        ("run_all", {"DATA_CACHE": "x"}, "RUNS_DIR"),
        ("run_all", {"RUNS_DIR": "x"}, "DATA_CACHE"),
    ],
)
def test_a_missing_variable_is_a_one_line_error(script, given, missing):
    done = bash(f"bash scripts/{script}.sh", clean_environment(**given), check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(f"error: {missing}: .+\n", done.stderr)


def test_no_setting_is_refused_by_bash_itself():
    """Whose ${NAME:?words} ends a script with exit code 1."""
    for path in SCRIPTS.glob("*.sh"):
        assert not re.search(r"\$\{\w+:?\?", path.read_text()), path


def test_no_user_account_or_local_path_in_the_scripts():
    for name in OURS:
        text = (SCRIPTS / f"{name}.sh").read_text()
        assert not re.search(
            r"^#SBATCH.*(mail|account|partition|reservation|constraint)", text, re.M
        ), name
        assert not re.search(r"[\w.]+@[\w.]+\.\w+|/home/|/work/|/root/", text), name


def test_dry_run_prints_the_whole_plan(tmp_path):
    environment = clean_environment(
        RUNS_DIR=str(tmp_path / "runs"), DATA_CACHE=str(tmp_path / "data")
    )
    plan = bash("bash scripts/run_all.sh --dry_run", environment).stdout
    assert "29 jobs to submit" in plan and not (tmp_path / "runs").exists()
    assert (
        len(
            re.findall(
                r"inference_(?:math|code)_(?:flexmdm|llada)_(?:128|256|512|1024|4096) +MODEL", plan
            )
        )
        == 20
    )
    (tmp_path / "runs/transfer_flexmdm/final").mkdir(parents=True)
    plan = bash("STEPS=128 bash scripts/run_all.sh --dry_run", environment).stdout
    assert "12 jobs to submit" in plan and re.search(r"finished +transfer ", plan)
    refused = bash("bash scripts/run_all.sh --sbatch", environment, check=False)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


def test_an_unknown_strategy_is_a_one_line_error(tmp_path):
    done = bash(
        "bash scripts/flexmdm_transfer.sh",
        clean_environment(RUNS_DIR=str(tmp_path), DATA_CACHE="x", STRATEGY="zero4"),
        check=False,
    )
    assert (
        done.returncode == 2
        and done.stdout == ""
        and re.fullmatch(r"error: STRATEGY: zero4 .*\n", done.stderr)
    )


@pytest.fixture
def shown(tmp_path):
    """shown(script and flags, **variables): the words that python is called with, one a line;
    python and the repository lie in folders with blanks.
    """
    place = tmp_path / "my  files"
    repository = place / "re po"
    repository.mkdir(parents=True)
    for name in ("scripts", "requirements.txt"):
        (repository / name).symlink_to(ROOT / name)
    (repository / "eval.jsonl").write_text("")  # what a pattern would find
    python = place / "py thon"
    python.write_text("#!/bin/bash\nprintf '<%s>\\n' \"$@\"\n")
    python.chmod(0o755)

    def call(command, **variables):
        given = {"RUNS_DIR": str(place / "runs"), "DATA_CACHE": "d", "PROCESSES_PER_NODE": "2"}
        environment = clean_environment(FLEXMDM_PYTHON=str(python), **given | variables)
        done = bash(f"cd '{repository}' && {command}", environment)
        return re.findall("^<(.*)>$", done.stdout, re.M)

    return call


@pytest.mark.parametrize(
    "words, alone",
    [
        ("--label 'with --score_only file'", False),
        ("--label ' --check_references '", False),
        ("--score_only_not x", False),
        ("--score_only rows.jsonl", True),
        ("--score_only=rows.jsonl --label 'a b'", True),
        ("--check_references", True),
    ],
)
def test_flags_are_matched_as_whole_arguments(shown, words, alone):
    called = shown(f"bash scripts/inference_math.sh {words}")
    assert (called[0] == "eval_gsm8k.py") == alone and ("torch.distributed.run" in called) != alone
    assert [word for word in called if "label" in word] == ["--label"] * ("--label" in words)
    if "'" in words:
        assert words.split("'")[1] in called  # as one argument


@pytest.mark.parametrize(
    "words, on",
    [
        ("--dry_run", True),
        ("--dry_run --max_steps 3", True),
        ("--dry_run=True", True),
        ("--dry_run no", False),
        ("--dry_run=false", False),
        ("--dry_run --dry_run False", False),
        ("--run_name 'a --dry_run b'", False),
    ],
)
def test_a_boolean_flag_is_read_as_python_reads_it(shown, words, on):
    called = shown(f"bash scripts/flexmdm_transfer.sh {words}")
    assert (called[0] == "flexmdm_transfer_openwebtext.py") == on


def test_one_process_needs_no_launcher(shown):
    called = shown("bash scripts/IFT_math.sh --max_steps 3", PROCESSES_PER_NODE="1")
    assert called[0] == "instruction_finetuning.py" and called[-2:] == ["--max_steps", "3"]


def test_settings_are_not_expanded_as_file_patterns(shown, tmp_path):
    plan = bash(
        "bash scripts/run_all.sh --dry_run",
        clean_environment(
            RUNS_DIR=str(tmp_path / "r"),
            DATA_CACHE="d",
            STEPS="4",
            TRANSFER_PREPROCESS_ARGS="--data_path scripts/*.sh [a-z]*",
            INFERENCE_OPTIONS="--exclude=node[1-3] *",
        ),
    ).stdout
    assert "--data_path scripts/*.sh [a-z]*" in plan and "--exclude=node[1-3] * " in plan
    wrapped = shown("bash scripts/results_table.sh '*'", FLEXMDM_WRAP="env *=1")
    assert wrapped[-1] == "*"


# ---- the virtual cluster -------------------------------------------------------------------------


def free_ports(count):
    """The first of `count` neighbouring TCP ports that nobody listens on."""
    for base in range(17000 + os.getpid() % 200 * 50, 32000, 50):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    pytest.skip("no free ports for a virtual cluster")


class Cluster:
    """Commands on the virtual cluster, and what became of jobs."""

    def __init__(self, folder):
        self.folder, self.data, self.jobs = folder, folder / "inputs", []
        self.environment = clean_environment(
            SLURM_CONF=str(folder / "slurm.conf"),
            RUNS_DIR=str(folder / "runs"),
            DATA_CACHE=str(folder / "data"),
            BASE_MODEL=str(self.data / "base"),
            GLOBAL_BATCH="8",
        )

    def run(self, command, check=True, timeout=120, **variables):
        return bash(command, self.environment | variables, check, timeout).stdout.strip()

    def submit(self, command, **variables):
        job = self.run(f"sbatch --parsable {command}", **variables)
        self.jobs.append(job)
        return job

    def field(self, job, name):
        found = re.search(rf"\b{name}=(\S*)", self.run(f"scontrol show job --oneliner {job}"))
        return found and found.group(1)

    def wait(self, *jobs, seconds=300, until=None):
        """The jobs' states once all have ended (or `until()` is true). A requeued job, which waits
        for two minutes, starts after 3 s.
        """
        deadline, requeued = time.monotonic() + seconds, {}
        while True:
            states = [self.field(job, "JobState") for job in jobs]
            if until() if until else all(state in DONE for state in states):
                return states
            for job, state in zip(jobs, states):
                if state != "PENDING" or self.field(job, "Reason") != "BeginTime":
                    requeued.pop(job, None)
                elif time.monotonic() - requeued.setdefault(job, time.monotonic()) > 3:
                    # at once, a node would refuse it:
                    # "credential revoked", and it fails
                    self.run(f"scontrol update JobId={job} StartTime=now", check=False)
            assert time.monotonic() < deadline, "\n".join(
                [f"after {seconds} s: {states}", *map(self.log, jobs)]
            )
            time.sleep(0.5)

    def log(self, job):
        return "".join(
            path.read_text(errors="replace") for path in (ROOT / "slurm_logs").glob(f"*-{job}.out")
        )

    def daemon_of(self, node):
        return int((self.folder / f"pids/slurmd.{node}.pid").read_text())

    def processes_on(self, node):
        """Everything that runs on a virtual node: each has a host name of its own, so a namespace
        of its own.
        """

        def namespace(process):
            try:
                return os.readlink(f"/proc/{process}/ns/uts")
            except OSError:
                return None

        wanted = namespace(self.daemon_of(node))
        return [
            int(name)
            for name in os.listdir("/proc")
            if name.isdigit() and namespace(name) == wanted
        ]

    def steps(self, output):
        """Steps in a run's log so far, in the order they were made."""
        path = self.folder / "runs" / output / "train_log.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row["step"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [
        name
        for name in ("slurmctld", "slurmd", "sbatch", "munged", "unshare")
        if not shutil.which(name)
    ]
    if missing:
        pytest.skip(
            f"not installed: {', '.join(missing)} (apt-get install slurmctld slurmd slurm-client"
            " munge)"
        )
    if os.geteuid() != 0:
        pytest.skip("virtual nodes need root")
    if subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not allow namespaces, which virtual nodes need")
    folder = tmp_path_factory.mktemp("slurm")
    environment = clean_environment(
        RUN=str(folder),
        NNODES="4",
        PREFIX=f"v{os.getpid()}n",
        BASE_PORT=str(free_ports(5)),
        OWNER=str(os.getpid()),
    )
    made = Cluster(folder)
    try:
        with open(folder / "up.log", "w") as log:  # not a pipe: the daemons would hold it open
            code = subprocess.run(
                ["bash", str(CLUSTER / "up.sh")],
                env=environment,
                stdout=log,
                stderr=log,
                timeout=60,
            ).returncode
        assert code == 0, (folder / "up.log").read_text()
        yield made
    finally:
        subprocess.run(
            ["bash", str(CLUSTER / "down.sh")], env=clean_environment(RUN=str(folder)), timeout=60
        )
        for job in made.jobs:  # the logs of a failed test are in its message
            for path in (ROOT / "slurm_logs").glob(f"*-{job}.out"):
                path.unlink()


@pytest.fixture(scope="module")
def inputs(cluster):
    """Data of every kind, a tokenizer and a tiny LLaDA, by the scripts' own commands, in one
    process: imports are what takes the time.
    """
    data = cluster.data
    commands = [
        f"scripts/builtin_data.py math --split train --n 48 --output {data}/math_train.jsonl",
        f"scripts/builtin_data.py math --split test --n 6 --output {data}/math_test.jsonl",
        f"scripts/builtin_data.py code --split train --n 48 --output {data}/code_train.jsonl",
        f"scripts/builtin_data.py code_infill --split test --n 6 --output {data}/code_test.jsonl",
        f"scripts/builtin_data.py text --split train --n 200 --output {data}/text.jsonl",
        f"scripts/builtin_data.py tokenizer --output_dir {data}/tokenizer",
        (
            f"scripts/new_base.py random --tokenizer {data}/tokenizer --d_model 32 --n_layers 2"
            f" --n_heads 4 --output_dir {data}/base"
        ),
    ]
    program = f"""
import runpy, sys
sys.path.insert(0, ".")
for command in {commands!r}:
    sys.argv = command.split()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, command
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


# ---- launch.sh alone, with a stand-in for python that needs no computing -------------------------


def stand_in(cluster, output, options="--nodes=2 --gpus-per-node=2", arguments="", **variables):
    return cluster.submit(
        f"{options} --mem=1G scripts/flexmdm_transfer.sh --per_device_train_batch_size 2"
        f" {arguments}",
        FLEXMDM_PYTHON=str(CLUSTER / "stand_in.py"),
        OUTPUT_DIR=str(cluster.folder / "runs" / output),
        **variables,
    )


def warn_when(cluster, job, text):
    """The scheduler's warning to the batch script, once `text` is in its log."""
    cluster.wait(job, until=lambda: text in cluster.log(job))
    time.sleep(1)
    cluster.run(f"scancel --batch --signal=USR1 {job}")


def test_ranks_ports_and_shapes(cluster):
    jobs = [
        stand_in(cluster, "shape1"),
        stand_in(cluster, "shape2", "--nodes=1 --ntasks-per-node=4"),
        stand_in(cluster, "shape3", "--nodes=4 --gpus-per-node=4", PROCESSES_PER_NODE="1"),
    ]
    assert cluster.wait(*jobs) == ["COMPLETED"] * 3, "".join(map(cluster.log, jobs))
    ports = set()
    for job, nodes, local in zip(jobs, (2, 1, 4), (2, 4, 1)):
        lines = re.findall(
            r"rank (\d+) of (\d+), local (\d+) of (\d+), from step 0, (\S+):(\d+)", cluster.log(job)
        )
        assert sorted((int(a), int(b), int(c), int(d)) for a, b, c, d, _, _ in lines) == [
            (rank, nodes * local, rank % local, local) for rank in range(nodes * local)
        ]
        assert len({line[4:] for line in lines}) == 1
        ports.add(lines[0][5])
    assert len(ports) == 3


def test_a_warned_job_requeues_itself_and_what_follows_waits(cluster):
    job = stand_in(cluster, "warned_once")
    after = cluster.submit(
        f"--dependency=afterok:{job} --kill-on-invalid-dep=yes --output=slurm_logs/%x-%j.out "
        f"--wrap 'ls {cluster.folder}/runs/warned_once/final'"
    )
    warn_when(cluster, job, "rank 3 ")
    assert cluster.wait(job, after) == ["COMPLETED"] * 2, cluster.log(job)
    assert cluster.field(job, "Restarts") == "1" and re.search(
        r"start 2, [1-9]\d* saved", cluster.log(job)
    )
    again = stand_in(cluster, "warned_once", STAND_IN_DIES="0")
    assert cluster.wait(again) == ["FAILED"], (
        "final from an earlier job does not make a failed one a success"
    )


def test_a_job_warned_before_its_first_step_says_so(cluster):
    job = stand_in(cluster, "early", STAND_IN_IMPORTS="30")
    warn_when(cluster, job, "start 1, 0 saved")
    assert cluster.wait(job) == ["FAILED"] and cluster.field(job, "Restarts") == "0"
    assert "signalled before its first new step: not requeued" in cluster.log(job)


@pytest.mark.full
def test_a_job_that_cannot_stop_in_time_says_so(cluster):
    """A real time limit, and a step that is longer than the warning."""
    job = stand_in(
        cluster,
        "slow",
        "--nodes=2 --gpus-per-node=2 --time=1 --signal=B:USR1@40",
        STAND_IN_STEP="600",
    )
    assert cluster.wait(job, seconds=150) == ["FAILED"], cluster.log(job)
    assert "signalled before its first new step: not requeued" in cluster.log(job)


def test_dry_run_and_evaluate_only_are_never_requeued(cluster):
    """--dry_run is one process; --evaluate_only all of them, judged by the exit code."""
    jobs = [stand_in(cluster, "none", arguments=flag) for flag in ("--dry_run", "--evaluate_only")]
    assert cluster.wait(*jobs) == ["COMPLETED"] * 2, "".join(map(cluster.log, jobs))
    assert [re.findall(r"no run: (\w+)", cluster.log(job)) for job in jobs] == [["None"], ["4"] * 4]


def test_one_dead_process_ends_the_job_at_once(cluster):
    job = stand_in(cluster, "dead", STAND_IN_DIES="3")
    assert cluster.wait(job, seconds=60) == [
        "FAILED"
    ] and "not finished: the processes ended with" in cluster.log(job)


# ---- the chain -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps, shape",
    [
        ("4", "--nodes=1 --gpus-per-node=1"),
        pytest.param("4 8", "--nodes=2 --gpus-per-node=2", marks=pytest.mark.full),
    ],
    ids=["tiny", "full"],
)
def test_the_whole_chain(cluster, inputs, steps, shape):
    """Everything through run_all.sh's dependencies; transfer on 2 nodes x 2 processes. Given again
    it submits nothing.
    """
    data, sampler = cluster.data, "--max_length 160 --gen_length 8 --block_length 8 --batch_size 3"
    runs, name = cluster.folder / f"chain_{len(steps)}", f"inference_math_llada_{steps[0]}"
    variables = dict(
        STEPS=steps,
        RUNS_DIR=str(runs),
        DATA_CACHE=str(runs / "data"),
        TRANSFER_OPTIONS="--nodes=2 --gpus-per-node=2",
        IFT_OPTIONS=shape,
        INFERENCE_OPTIONS=shape,
        TRANSFER_PREPROCESS_ARGS=f"--data_path {data}/text.jsonl --num_proc 1 --max_length 96",
        MATH_PREPROCESS_ARGS=f"--data_path {data}/math_train.jsonl --num_proc 1",
        CODE_PREPROCESS_ARGS=f"--data_path {data}/code_train.jsonl --num_proc 1",
        TRANSFER_ARGS=f"--max_steps 3 {TRAINING}",
        IFT_MATH_ARGS=f"--max_steps 3 {TRAINING}",
        IFT_CODE_ARGS=f"--max_steps 3 {TRAINING}",
        INFERENCE_MATH_ARGS=f"--data_path {data}/math_test.jsonl {sampler}",
        INFERENCE_CODE_ARGS=f"--data_path {data}/code_test.jsonl {sampler}",
    )
    command = "bash scripts/run_all.sh --allow_code_execution"
    submitted = cluster.run(command, **variables)
    jobs = dict(
        reversed(line.split()[:2])
        for line in submitted.splitlines()
        if re.match(r"\d+ ", line) and " jobs " not in line
    )
    cluster.jobs += jobs.values()
    count = 9 + 4 * len(steps.split())
    assert f"{count} jobs submitted" in submitted and len(jobs) == count
    again = cluster.run(command, **variables)
    assert (
        "nothing to submit" in again
        and again.count("already queued") + again.count("finished ") == count
    )
    states = cluster.wait(*jobs.values(), seconds=900)
    assert dict(zip(jobs, states)) == dict.fromkeys(jobs, "COMPLETED"), "\n".join(
        map(cluster.log, jobs.values())
    )

    assert cluster.field(
        jobs["transfer"], "NumNodes"
    ) == "2" and "2 nodes x 2 processes" in cluster.log(jobs["transfer"])
    assert cluster.steps(runs / "transfer_flexmdm") == [1, 2, 3]
    for task in ("math", "code"):
        for kind, label in (("flexmdm", "FlexMDM"), ("llada", "LLaDA")):
            for number in steps.split():
                result = json.loads(
                    (runs / f"inference_{task}_{kind}_{number}/results.json").read_text()
                )
                assert (
                    result["label"] == label
                    and result["rows"] == result["metrics"]["pass@1"]["n"] == 6
                )
                assert result["processes"] == (1 if "=1" in shape else 4)
    table = (runs / "tables/table.md").read_text()
    assert table.count("| FlexMDM |") == table.count("| LLaDA |") == 2 * len(steps.split())
    assert "nothing to submit" in cluster.run(command, **variables)
    shutil.rmtree(runs / name)
    more = cluster.run(command + " --dry_run", **variables)
    assert re.findall(r"^to submit +(\S+)", more, re.M) == [name, "results_table"]


# ---- jobs that are disturbed (--full) ------------------------------------------------------------

STEPS = 40
SHAPE = "--nodes=2 --gpus-per-node=2"


def transfer(cluster, output, options="", arguments="", **variables):
    """Submit a transfer of STEPS steps; returns its job."""
    return cluster.submit(
        f"{SHAPE} {options} scripts/flexmdm_transfer.sh --max_steps {STEPS} {TRAINING} {arguments}",
        OUTPUT_DIR=str(cluster.folder / "runs" / output),
        **variables,
    )


@pytest.fixture(scope="module")
def text_data(cluster, inputs):
    if not (cluster.folder / "data/transfer").exists():
        job = cluster.submit(
            f"scripts/flexmdm_transfer_preprocess.sh --data_path {cluster.data}/text.jsonl"
            " --num_proc 1 --max_length 96"
        )
        assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)


@pytest.fixture(scope="module")
def undisturbed(cluster, text_data):
    """Final weights of a transfer that nobody disturbed."""
    from safetensors.torch import load_file

    job = transfer(cluster, "undisturbed")
    assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)
    return load_file(cluster.folder / "runs/undisturbed/final/model.safetensors")


def assert_same_end(cluster, output, job, undisturbed):
    """Ended as the undisturbed run: the same weights up to the order of sums over processes, every
    step in the log once.
    """
    from safetensors.torch import load_file

    weights = load_file(cluster.folder / "runs" / output / "final/model.safetensors")
    assert weights.keys() == undisturbed.keys()
    for name in weights:
        assert (weights[name] - undisturbed[name]).abs().max() < 1e-6, name
    assert cluster.steps(output) == list(range(1, STEPS + 1))


@pytest.mark.full
def test_fsdp2_ends_with_the_same_weights(cluster, undisturbed):
    """STRATEGY=fsdp2 on 2 nodes x 2 processes."""
    from safetensors.torch import load_file

    job = transfer(cluster, "sharded", STRATEGY="fsdp2")
    assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)
    assert "--fully_shard" in cluster.log(job)
    weights = load_file(cluster.folder / "runs/sharded/final/model.safetensors")
    assert weights.keys() == undisturbed.keys() and all(
        (weights[name] - undisturbed[name]).abs().max() < 1e-3 for name in weights
    )


def when_step(cluster, job, output, step):
    cluster.wait(job, until=lambda: step in cluster.steps(output))


@pytest.mark.full
@pytest.mark.parametrize("partition", ["gpu_requeue", "gpu_grace"])
def test_a_preempted_job_is_saved_requeued_and_resumed(cluster, undisturbed, partition):
    """Thrown out by a job of a better partition: saved, requeued, resumed, and what waits for it
    starts after its real end.
    """
    output = f"preempted_{partition}"
    job = transfer(cluster, output, f"--partition={partition}")
    after = cluster.submit(
        f"--dependency=afterok:{job} --kill-on-invalid-dep=yes --output=slurm_logs/%x-%j.out "
        f"--wrap 'ls {cluster.folder}/runs/{output}/final'"
    )
    when_step(cluster, job, output, 3)
    urgent = cluster.submit(
        "--nodes=4 --exclusive --output=slurm_logs/%x-%j.out --wrap 'srun sleep 2'"
    )
    assert cluster.wait(job, after, urgent) == ["COMPLETED"] * 3, cluster.log(job)
    assert cluster.field(job, "Restarts") == "1"
    assert_same_end(cluster, output, job, undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("how", ["set down", "silent"])
def test_a_job_that_loses_a_node_is_requeued_and_resumed(cluster, undisturbed, how):
    """Set down by an administrator, or lost without a word, as when its power fails: nobody waits
    for ever. Slurm requeues the job, which goes on from its last checkpoint on other nodes."""
    output = f"node_{how[:3]}"
    job = transfer(cluster, output, arguments="--save_steps 5")
    when_step(cluster, job, output, 12)
    node = cluster.run(f"scontrol show hostnames {cluster.field(job, 'NodeList')}").splitlines()[1]
    if how == "silent":
        for process in cluster.processes_on(node):
            os.kill(process, signal.SIGSTOP)
    else:
        cluster.run(f"scontrol update NodeName={node} State=DOWN Reason=test")
    try:
        cluster.wait(job, until=lambda: cluster.field(job, "Restarts") == "1")
        assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)
        assert (
            node
            not in cluster.run(f"scontrol show hostnames {cluster.field(job, 'NodeList')}").split()
        )
    finally:
        if how == "silent":
            daemon = cluster.daemon_of(node)
            for process in cluster.processes_on(node):
                os.kill(process, signal.SIGCONT if process == daemon else signal.SIGKILL)
        cluster.run(f"scontrol update NodeName={node} State=RESUME", check=False)
    assert_same_end(cluster, output, job, undisturbed)


@pytest.mark.full
def test_a_job_with_a_dead_process_fails_and_resumes_when_submitted_again(cluster, text_data):
    """The job fails at once and says so; submitted again it goes on."""
    job = transfer(cluster, "dead_process", arguments="--save_steps 5")
    when_step(cluster, job, "dead_process", 12)
    os.kill(process_of(job, rank=3), signal.SIGKILL)
    began = time.monotonic()
    assert cluster.wait(job, seconds=60) == ["FAILED"], cluster.log(job)
    assert (
        time.monotonic() - began < 45
        and "not finished: the processes ended with" in cluster.log(job)
    )
    job = transfer(cluster, "dead_process", arguments="--save_steps 5")
    assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)
    assert cluster.steps("dead_process")[-1] == STEPS and re.search(
        r"start 1, (10|15|20) saved", cluster.log(job)
    )


def process_of(job, rank):
    """The process id of a job's process, or None where it is not running."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ") as file:
                if {f"SLURM_JOB_ID={job}", f"RANK={rank}"} <= set(file.read().split("\0")):
                    return int(name)
        except OSError:
            pass
    return None


@pytest.mark.full
def test_a_finished_run_is_not_repeated(cluster, undisturbed):
    steps = cluster.steps("undisturbed")
    job = transfer(cluster, "undisturbed")
    assert cluster.wait(job) == ["COMPLETED"] and "this run is finished" in cluster.log(job)
    assert cluster.steps("undisturbed") == steps


@pytest.mark.full
def test_refused_input_fails_the_job(cluster, undisturbed):
    """Even where an earlier run has finished in the same folder."""
    job = transfer(cluster, "undisturbed", arguments="--learning_rate 1")
    assert cluster.wait(job) == [
        "FAILED"
    ] and "made with other settings: learning_rate" in cluster.log(job)
    job = cluster.submit("--nodes=3 --gpus-per-node=1 scripts/flexmdm_transfer.sh", OUTPUT_DIR="x")
    assert cluster.wait(job) == [
        "FAILED"
    ] and "GLOBAL_BATCH 8 is no multiple of 12 rows" in cluster.log(job)


@pytest.mark.full
def test_a_job_signalled_before_its_first_step_fails_with_a_reason(cluster, text_data):
    """A warning that comes while the processes are starting: there was no progress, so the job ends
    and says why.
    """
    job = transfer(cluster, "too_soon")
    cluster.wait(job, until=lambda: "start 1, 0 saved" in cluster.log(job))
    time.sleep(2)
    cluster.run(f"scancel --batch --signal=USR1 {job}")
    assert cluster.wait(job, seconds=60) == ["FAILED"], cluster.log(job)
    assert "signalled before its first new step: not requeued" in cluster.log(job)
    assert cluster.field(job, "Restarts") == "0"


@pytest.mark.full
def test_a_job_with_a_short_time_limit_requeues_until_done(cluster, undisturbed):
    """A time limit of three minutes, a warning a minute ahead: the job saves, requeues itself and
    goes on, three times, to the same end.

    One of its processes is stopped most of the time, so that a step takes 9 s: the job needs six
    minutes of steps, but no computing.
    """
    job = transfer(cluster, "three_minutes", "--time=3 --signal=B:USR1@60")
    ended = threading.Event()

    def nine_seconds_a_step():
        seen, go_on_at = 0, 0.0
        while not ended.wait(0.05):
            steps = len(cluster.steps("three_minutes"))
            log = cluster.log(job)
            process = process_of(job, rank=3)
            if steps > seen:
                seen, go_on_at = steps, time.monotonic() + 9
            saving = log.count("asking the processes") == log.count("[launch] job ")
            if process and steps:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(
                        process,
                        signal.SIGCONT if saving or time.monotonic() > go_on_at else signal.SIGSTOP,
                    )

    slowness = threading.Thread(target=nine_seconds_a_step, daemon=True)
    slowness.start()
    try:
        cluster.wait(job, seconds=1500)
    finally:
        ended.set()
        slowness.join()
    assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)
    assert int(cluster.field(job, "Restarts")) >= 3 and cluster.log(job).count("requeueing") >= 3
    assert_same_end(cluster, "three_minutes", job, undisturbed)


@pytest.mark.full
def test_a_warned_evaluation_is_requeued_and_resumed(cluster, undisturbed):
    """An evaluation that is warned stops after its batch, is requeued and makes only what is
    missing: the same rows as undisturbed.
    """
    command = (
        "--nodes=1 --gpus-per-node=2 scripts/inference_math.sh --data_path"
        f" {cluster.data}/math_train.jsonl --max_length 160 --batch_size 1 --diffusion_steps 100"
    )
    variables = {"CHECKPOINT_PATH": str(cluster.folder / "runs/undisturbed/final")}
    rows = {}
    for output in ("whole", "warned"):
        folder = cluster.folder / "runs" / output
        job = cluster.submit(command, OUTPUT_DIR=str(folder), **variables)
        if output == "warned":
            cluster.wait(
                job,
                until=lambda: (
                    folder.exists()
                    and any(path.read_text() for path in folder.glob("generations-*"))
                ),
            )
            cluster.run(f"scancel --batch --signal=USR1 {job}")
        assert cluster.wait(job) == ["COMPLETED"], cluster.log(job)
        made = [
            json.loads(line)
            for path in folder.glob("generations-*.jsonl")
            for line in path.read_text().splitlines()
        ]
        rows[output] = {row["item"]: row["generations"] for row in made}
        assert len(made) == len(rows[output]) == 48
    assert cluster.field(job, "Restarts") == "1" and rows["whole"] == rows["warned"]
