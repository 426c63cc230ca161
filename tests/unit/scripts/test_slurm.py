"""The cluster scripts, with recording imitations of Slurm and Python. tests/system/test_slurm.py has the real ones."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(path.name for pattern in ("pz_*.sh", "rlvr_*.sh") for path in (ROOT / "slurm").glob(pattern))

# Replaces the interpreter: records its commands. As the launcher it ends as RUN specifies: succeed, fail, refuse, or
# wait for a signal and then stop after a checkpoint of iteration STOPS_AT; if it takes long, only for a second one.
PYTHON = """
import os, signal, sys
def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\\n")
def checkpoint(iteration):
    if iteration:
        os.makedirs(os.environ["SAVE"], exist_ok=True)
        with open(os.environ["SAVE"] + "/latest_checkpointed_iteration.txt", "w") as tracker:
            tracker.write(iteration)
def stop(number, frame):
    note("launcher got " + signal.Signals(number).name)
    if os.environ["RUN"] == "wait" or not first:
        checkpoint(os.environ.get("STOPS_AT"))
        os._exit(3)
    checkpoint(os.environ.get("SAVES_MEANWHILE"))
    first.clear()
first = [True]
module, words = sys.argv[2], sys.argv[3:]
note(os.environ.get("SLURM_NODEID", "-") + " python " + repr([module, *words]))
if module == "megatron_pz.cluster.local_node":
    print(os.environ.get("NPROC_PER_NODE", "1"), 1)
elif module == "megatron_pz.cluster.job_settings":
    given = words[words.index("--") + 1 :]
    fields = [os.environ["SAVE"], "21234", "--config", os.environ["CONFIG"], *given]
    sys.stdout.write("".join(field + chr(0) for field in fields))
    sys.exit(int(os.environ.get("CHECK", "0")))
elif module == "megatron_pz.launch":
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if os.environ["RUN"] in ("wait", "long"):
        note("launcher ready")
        while True:
            signal.pause()
    if os.environ["RUN"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit({"succeed": 0, "fail": 1, "refuse": 2, "stop": 3}[os.environ["RUN"]])
"""

# Like the real srun: starts its command once per node, forwards SIGUSR1 to all of them, answers SIGTERM by killing
# them immediately, and ends with the highest of their codes.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[1:]
flags = []
while command[0].startswith("--"):
    flags.append(command.pop(0))
nodes = []
def hand_on(number, frame):
    for node in nodes:
        node.send_signal(number)
def end(number, frame):
    for node in nodes:
        node.kill()
    sys.exit(143)
signal.signal(signal.SIGUSR1, hand_on)
signal.signal(signal.SIGTERM, end)
for number in range(1 if "--nodes=1" in flags else int(os.environ["SLURM_NNODES"])):
    nodes.append(subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(number)}))
codes = [node.wait() for node in nodes]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""

SCONTROL = """
echo "scontrol $*" >>"$NOTES"
case "$1 $2" in
  "show hostnames") printf 'n1\\nn2\\n' ;;
  "show node") echo "NodeName=$3 Arch=x86_64 ${NODE_ADDR-NodeAddr=10.0.0.7} NodeHostName=n1" ;;
  "show job")
    echo "JobId=4711234 JobName=pz PreemptEligibleTime=2026-11-29T10:00:00 PreemptTime=$PREEMPTED" ;;
esac
"""

SQUEUE = """
[ "$ENDS" != unanswered ] || exit 1
echo "${ENDS:-N/A}"
"""


class Cluster:
    """Runs a recipe with the recording programs first on the path, and returns their records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.touch()
        # -IS: without the site-packages of the environment, which would be searched at each of some hundred starts.
        python, shell = f"{sys.executable} -IS", "/bin/sh"
        programs = {"python": (python, PYTHON), "srun": (python, SRUN), "scontrol": (shell, SCONTROL)}
        for name, (interpreter, source) in (programs | {"squeue": (shell, SQUEUE)}).items():
            (folder / name).write_text(f"#!{interpreter}\n{source}")
            (folder / name).chmod(0o755)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "NPROC", "MASTER_", "NODE_", "RANK", "LOCAL_", "WORLD_SIZE"))
        }
        self.env = {
            **kept,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "NOTES": str(self.notes),
            "PYTHON": str(folder / "python"),
            "ACTIVATE": str(folder / "activate"),
            "SAVE": str(folder / "run"),
            "LOGS": str(folder / "logs"),
            "PREEMPTED": "None",
            "RUN": "succeed",
        }
        (folder / "activate").touch()

    def slurm(self, nodes: int = 2, **variables: str) -> Cluster:
        job = {"SLURM_JOB_ID": "4711234", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": str(ROOT)}
        job["SLURM_JOB_NAME"] = "pz"
        self.env |= job | {"SLURM_NNODES": str(nodes), "SLURM_CPUS_ON_NODE": "16"} | variables
        return self

    def start(self, recipe: str, *flags: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", ROOT / "slurm" / recipe, *flags],
            cwd=self.folder,
            env=self.env | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, recipe: str, *flags: str, **variables: str) -> tuple[int, str]:
        process = self.start(recipe, *flags, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def noted(self, pattern: str) -> list[str]:
        return [line for line in self.notes.read_text().splitlines() if re.search(pattern, line)]

    def wait_for(self, pattern: str, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.noted(pattern)) < count:
            assert time.monotonic() < deadline, f"{pattern!r} was not noted: {self.notes.read_text()}"
            time.sleep(0.01)

    def launches(self) -> list[list[str]]:
        """Return the arguments of each start of the launcher."""
        return [ast.literal_eval(line[line.index("[") :])[1:] for line in self.noted("'megatron_pz.launch'")]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_print_shows_exactly_what_runs(cluster: Cluster, recipe: str) -> None:
    flags = ("--train-iters", "2", "--wandb-project", "two words")
    code, shown = cluster.run(recipe, *flags, "--print", NPROC_PER_NODE="3")
    assert code == 0, shown
    assert cluster.launches() == [], "--print starts nothing"

    assert cluster.run(recipe, *flags, NPROC_PER_NODE="3")[0] == 0
    (launch,) = cluster.launches()
    assert shlex.split(shown.splitlines()[-1])[3:] == launch
    module = "megatron_pz.rlvr" if recipe.startswith("rlvr") else "megatron_pz.train"
    assert launch[:2] == ["--nproc-per-node=3", module]
    assert launch[-4:] == list(flags)


def test_a_flag_that_is_refused_starts_no_process(cluster: Cluster) -> None:
    assert cluster.run("pz_qwen3_4b.sh", "--no-such-flag", CHECK="2")[0] == 2
    assert cluster.slurm().run("pz_qwen3_4b.sh", "--no-such-flag", CHECK="2")[0] == 2
    assert cluster.launches() == []


def test_help_is_the_head_of_the_file(cluster: Cluster) -> None:
    code, output = cluster.run("pz_qwen3_4b.sh", "--help")
    assert code == 0
    assert all(f"\n  {name}" in output for name in ("SAVE", "ACTIVATE", "NODE_PREFIX", "SIGNAL_LEAD"))
    assert cluster.notes.read_text() == ""


def test_a_python_that_is_not_there_is_one_clear_line(cluster: Cluster) -> None:
    code, output = cluster.run("pz_qwen3_4b.sh", PYTHON="/no/python")
    assert (code, output.count("\n")) == (2, 1)
    assert "PYTHON=/no/python: no such command" in output


def test_an_environment_that_is_not_there_is_one_clear_line(cluster: Cluster) -> None:
    assert cluster.run("pz_qwen3_4b.sh", ACTIVATE="/no/activate") == (2, "error: ACTIVATE=/no/activate: no such file\n")
    assert cluster.notes.read_text() == "", "nothing was started"


@pytest.mark.parametrize(
    ("variables", "sourced"),
    [
        ({}, ".venv/bin/activate"),
        ({"ACTIVATE": "none"}, "none"),
        ({"NODE_PREFIX": "env"}, "none"),
        ({"SRUN_FLAGS": "--container-image=nvcr.io#nvidia/pytorch:26.06-py3"}, "none"),
        ({"NODE_PREFIX": "env", "ACTIVATE": "mine"}, "mine"),
    ],
)
def test_a_container_keeps_its_own_python(cluster: Cluster, variables: dict[str, str], sourced: str) -> None:
    checkout = cluster.folder / "checkout"
    shutil.copytree(ROOT / "slurm", checkout / "slurm")
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/activate").touch()
    (checkout / "mine").touch()
    del cluster.env["ACTIVATE"]
    script = str(checkout / "slurm/launch.sh")
    code, output = cluster.run(script, "--print", CONFIG="config.yaml", **variables)
    assert code == 0, output
    assert f"node setup  {sourced}\n" in output


def test_a_job_from_another_folder_than_the_checkout_is_one_clear_line(cluster: Cluster) -> None:
    code, output = cluster.slurm(SLURM_SUBMIT_DIR=str(cluster.folder)).run("pz_qwen3_4b.sh")
    assert (code, output.count("\n")) == (2, 1)
    assert f"{cluster.folder} is not the checkout" in output


def test_every_node_of_a_job_joins_at_the_head_nodes_address(cluster: Cluster) -> None:
    code, output = cluster.slurm(nodes=2, NPROC_PER_NODE="8").run("pz_qwen3_4b.sh", "--train-iters", "7")
    assert code == 0, output
    launches = cluster.launches()
    assert sorted(next(word for word in launch if "node-rank" in word) for launch in launches) == [
        "--node-rank=0",
        "--node-rank=1",
    ]
    logs = cluster.folder / "logs/pz-4711234/attempt-0"
    for launch in launches:
        assert {"--nnodes=2", "--nproc-per-node=8", "--master-addr=10.0.0.7", "--master-port=21234"} <= set(launch)
        assert f"--log={logs}/node-{launch[2].removeprefix('--node-rank=')}.log" in launch
        assert launch[-2:] == ["--train-iters", "7"]
    assert len(cluster.noted("job_settings")) == 1, "the configuration is checked once, on the head node"
    assert not cluster.noted("requeue")


def signalled(cluster: Cluster, number: signal.Signals, **variables: str) -> tuple[int, str]:
    """Signal a job of two nodes once both launchers run; return its exit code and output."""
    process = cluster.slurm(nodes=2).start("pz_qwen3_4b.sh", **{"RUN": "wait"} | variables)
    cluster.wait_for("launcher ready", 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_sigusr1_reaches_every_launcher_and_the_job_goes_back_into_the_queue(cluster: Cluster) -> None:
    _, output = signalled(cluster, signal.SIGUSR1, STOPS_AT="7")
    assert len(cluster.noted("launcher got SIGUSR1")) == 2
    assert cluster.noted("requeue") == ["scontrol requeue 4711234"], output


def test_a_job_without_progress_does_not_go_back_into_the_queue(cluster: Cluster) -> None:
    save = Path(cluster.env["SAVE"])
    save.mkdir()
    (save / "latest_checkpointed_iteration.txt").write_text("7")
    code, output = signalled(cluster, signal.SIGUSR1, STOPS_AT="7")
    assert code == 1
    assert not cluster.noted("requeue")
    assert "error: no checkpoint since this attempt began at iteration 7: not requeued" in output


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_request_to_stop_is_no_request_to_come_back(cluster: Cluster, number: signal.Signals) -> None:
    """The real srun would kill its tasks at once for a SIGTERM."""
    assert signalled(cluster, number, STOPS_AT="7")[0] == 3
    assert cluster.noted("launcher got") == ["launcher got SIGUSR1"] * 2
    assert not cluster.noted("requeue")


@pytest.mark.parametrize("run", ["stop", "fail"])
def test_a_preempted_job_goes_back_into_the_queue(cluster: Cluster, run: str) -> None:
    """Slurm signals only the steps; a job preempted during its start has nothing to save."""
    cluster.slurm(nodes=2).run("pz_qwen3_4b.sh", RUN=run, PREEMPTED="2026-11-29T12:00:00")
    assert cluster.noted("requeue") == ["scontrol requeue 4711234"]


@pytest.mark.parametrize(("meanwhile", "requeued"), [("8", 1), ("", 0)])
def test_a_step_that_takes_too_long_does_not_end_the_run_at_the_time_limit(
    cluster: Cluster, meanwhile: str, requeued: int
) -> None:
    """Slurm does not requeue a job that has reached its limit, but it ends a requeued one."""
    (cluster.folder / "date").write_text('#!/bin/sh\n[ "$1" = -d ] && echo 1000061 || echo 1000000')
    (cluster.folder / "date").chmod(0o755)
    process = cluster.slurm(ENDS="2026-11-29T12:00:00").start(
        "pz_qwen3_4b.sh", RUN="long", SIGNAL_LEAD="30", SAVES_MEANWHILE=meanwhile
    )
    cluster.wait_for("launcher ready", 2)
    process.send_signal(signal.SIGUSR1)
    lines = iter(process.stdout or ())
    said = next(line for line in lines if "the time" in line)
    assert process.poll() is None, "the minute is the workers'"
    assert len(cluster.noted("launcher got SIGUSR1")) == 2
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert bool(cluster.noted("requeue")) == bool(requeued)
    assert ("not requeued" in said) == (not requeued)


def test_a_time_limit_shorter_than_the_lead_of_the_signal_is_refused(cluster: Cluster) -> None:
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 300))
    code, output = cluster.slurm(ENDS=ends).run("pz_qwen3_4b.sh")
    assert (code, output.count("\n")) == (2, 1), output
    assert "5 minutes are left to the time limit, and Slurm asks for a checkpoint 600 seconds before it" in output
    assert cluster.run("pz_qwen3_4b.sh", ENDS=ends, SIGNAL_LEAD="60")[0] == 0


@pytest.mark.parametrize(("lead", "seconds", "code"), [("0900", 900, 2), ("0600", 600, 2), ("0090", 90, 0)])
def test_a_lead_with_leading_zeros_is_decimal(cluster: Cluster, lead: str, seconds: int, code: int) -> None:
    """The shell's arithmetic takes 0600 for octal 384, and refuses 0900."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 500))
    result, output = cluster.slurm(ENDS=ends).run("pz_qwen3_4b.sh", SIGNAL_LEAD=lead)
    assert result == code, output
    assert code == 0 or f"a checkpoint {seconds} seconds before it" in output


@pytest.mark.parametrize("lead", ["10m", "-5", "1e3", "99999999999999999999"])
def test_a_lead_that_is_no_number_of_seconds_is_one_clear_line(cluster: Cluster, lead: str) -> None:
    expected = f"error: SIGNAL_LEAD={lead}: give a whole number of seconds\n"
    assert cluster.slurm().run("pz_qwen3_4b.sh", SIGNAL_LEAD=lead) == (2, expected)


def test_a_controller_that_does_not_answer_sets_no_time_limit(cluster: Cluster) -> None:
    """`date` reads an empty text as the past midnight."""
    code, output = cluster.slurm(ENDS="unanswered").run("pz_qwen3_4b.sh")
    assert code == 0, output


def test_a_head_node_without_an_address_is_one_clear_line(cluster: Cluster) -> None:
    code, output = cluster.slurm(NODE_ADDR="").run("pz_qwen3_4b.sh")
    assert (code, output) == (
        2,
        "error: scontrol does not tell the address of the first node of SLURM_JOB_NODELIST=n[1-2]\n",
    )


def test_flags_of_srun_on_several_lines_are_all_given(cluster: Cluster) -> None:
    code, shown = cluster.run("pz_qwen3_4b.sh", "--print", SRUN_FLAGS="--mpi=none\n  --label\n")
    assert code == 0, shown
    assert "--mpi=none --label " in shown


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_without_slurm_the_launcher_gets_the_signal_itself(cluster: Cluster, number: signal.Signals) -> None:
    process = cluster.start("pz_qwen3_4b.sh", RUN="wait")
    cluster.wait_for("launcher ready", 1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert cluster.noted("launcher got") == [f"launcher got {number.name}"], output
    assert process.returncode == 3
    assert not cluster.noted("requeue")


@pytest.mark.parametrize(("run", "code"), [("fail", 1), ("die", 1), ("refuse", 2), ("stop", 3)])
def test_the_jobs_code_is_the_launchers_and_no_reason_to_come_back(cluster: Cluster, run: str, code: int) -> None:
    assert cluster.slurm().run("pz_qwen3_4b.sh", RUN=run)[0] == code
    assert not cluster.noted("requeue")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_asks_slurm_for_what_the_launcher_needs(recipe: str) -> None:
    header = re.findall(r"^#SBATCH (\S+)$", (ROOT / "slurm" / recipe).read_text(), re.M)
    assert {"--ntasks-per-node=1", "--requeue", "--open-mode=append"} <= set(header)
    assert any(re.fullmatch(r"--signal=B:USR1@\d+", line) for line in header), "to the batch shell, before the limit"
