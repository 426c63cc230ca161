"""The cluster scripts, with a Slurm and a Python that only take notes. tests/distributed/ has them with torchrun."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_pz.config.parse import load_yaml

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(path.name for path in (ROOT / "slurm").glob("pz_*.sh"))

# Stands for the interpreter. As torchrun it has one worker, which notes a SIGUSR1 and ends with code 3, and itself ends
# as torchrun does when a worker fails, with code 1. RUN is what the worker does: succeed, fail, wait for
# a signal, or take long to heed it.
PYTHON = """
import os, signal, subprocess, sys
def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\\n")
def stop(number, frame):
    note("worker got " + signal.Signals(number).name)
    if os.environ["RUN"] == "wait" or number != signal.SIGUSR1:
        sys.exit(3)
if sys.argv[1:2] == ["worker"]:
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if os.environ["RUN"] in ("wait", "long"):
        note("worker ready")
        while True:
            signal.pause()
    sys.exit(os.environ["RUN"] == "fail")
note(os.environ.get("SLURM_NODEID", "-") + " python " + repr(sys.argv[1:]))
if "megatron_pz.config.parse" in sys.argv:
    sys.exit(int(os.environ.get("CHECK", "0")))
sys.exit(subprocess.call([sys.executable, "-IS", __file__, "worker"]) != 0)
"""

# Starts its command once for every node and hands signals on to all of them, as Slurm does.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: [node.send_signal(number) for node in nodes])
nodes = [
    subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(number)})
    for number in range(int(os.environ["SLURM_NNODES"]))
]
sys.exit(max(node.wait() for node in nodes))
"""

SCONTROL = """
import os, sys
with open(os.environ["NOTES"], "a") as notes:
    notes.write("scontrol " + " ".join(sys.argv[1:]) + "\\n")
if sys.argv[1:3] == ["show", "hostnames"]:
    print("n1", "n2", sep="\\n")
elif sys.argv[1:3] == ["show", "node"]:
    print("NodeName=%s Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=n1" % sys.argv[-1])
"""


class Cluster:
    """Runs a recipe with the noting programs first on the path, and tells what they noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.touch()
        for name, source in (("python", PYTHON), ("srun", SRUN), ("scontrol", SCONTROL)):
            # -IS: without the site-packages of the environment, which would be searched at each of some hundred starts.
            (folder / name).write_text(f"#!{sys.executable} -IS\n{source}")
            (folder / name).chmod(0o755)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "NPROC", "MASTER_", "RANK", "LOCAL_", "WORLD_SIZE"))
        }
        self.env = {
            **kept,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "NOTES": str(self.notes),
            "PYTHON": str(folder / "python"),
            "ACTIVATE": str(folder / "activate"),
            "SAVE": str(folder / "run"),
            "RUN": "succeed",
        }
        (folder / "activate").touch()

    def slurm(self, nodes: int = 2, **variables: str) -> Cluster:
        job = {"SLURM_JOB_ID": "4711234", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": str(ROOT)}
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
        """Arguments of each start of torchrun."""
        lines = self.noted("torch.distributed.run")
        return [re.findall(r"'([^']*)'", line) for line in lines]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_print_shows_exactly_what_runs(cluster: Cluster, recipe: str) -> None:
    flags = ("--train-iters", "2", "--wandb-project", "two words")
    code, shown = cluster.run(recipe, *flags, "--print", NPROC_PER_NODE="3")
    assert code == 0, shown
    assert cluster.notes.read_text() == "", "--print starts nothing"

    assert cluster.run(recipe, *flags, NPROC_PER_NODE="3")[0] == 0
    (launch,) = cluster.launches()
    assert shlex.split(shown.splitlines()[-1])[1:] == launch
    assert "--nproc-per-node=3" in launch
    assert launch[-4:] == list(flags)


def test_variables_replace_the_recipe(cluster: Cluster) -> None:
    code, output = cluster.run(
        "pz_qwen3_4b.sh", CONFIG="examples/toy/config.yaml", MODEL="/models/m", DATA_PATH="0.7 a 0.3 b"
    )
    assert code == 0, output
    (launch,) = cluster.launches()
    flags = launch[launch.index("megatron_pz.train") + 1 :]
    assert flags[:2] == ["--config", "examples/toy/config.yaml"]
    assert flags[2:] == [
        "--hf-model",
        "/models/m",
        "--data-path",
        "0.7",
        "a",
        "0.3",
        "b",
        "--save",
        cluster.env["SAVE"],
    ]


def test_a_run_with_a_checkpoint_goes_on_unless_the_flags_say_otherwise(cluster: Cluster) -> None:
    save = cluster.env["SAVE"]
    Path(save).mkdir()
    (Path(save) / "latest_checkpointed_iteration.txt").write_text("40")
    cluster.run("pz_qwen3_4b.sh")
    cluster.run("pz_qwen3_4b.sh", "--load", "elsewhere")
    cluster.run("pz_qwen3_4b.sh", "--save=new")
    resumed, directed, new = cluster.launches()
    assert resumed[-2:] == ["--load", save]
    assert directed.count("--load") == 1
    assert "--load" not in new
    assert save not in new


def test_a_flag_that_is_refused_starts_no_process(cluster: Cluster) -> None:
    assert cluster.run("pz_qwen3_4b.sh", "--no-such-flag", CHECK="2")[0] == 2
    assert cluster.launches() == []


def test_a_missing_recipe_is_one_clear_line(cluster: Cluster) -> None:
    assert cluster.run("pz_qwen3_4b.sh", CONFIG="nowhere.yaml") == (
        2,
        f"error: CONFIG=nowhere.yaml: no such file under {ROOT}\n",
    )


@pytest.mark.parametrize("variable", ["NPROC_PER_NODE", "MASTER_PORT", "OMP_NUM_THREADS"])
def test_a_number_that_is_none_is_one_clear_line(cluster: Cluster, variable: str) -> None:
    said = (2, f"error: {variable}=two: give a whole number of at least 1\n")
    assert cluster.run("pz_qwen3_4b.sh", "--print", **{variable: "two"}) == said


def test_a_python_that_is_not_there_is_one_clear_line(cluster: Cluster) -> None:
    code, output = cluster.run("pz_qwen3_4b.sh", PYTHON="/no/python")
    assert (code, output.count("\n")) == (2, 1)
    assert "PYTHON=/no/python: no such command" in output


def test_an_environment_that_is_not_there_is_one_clear_line(cluster: Cluster) -> None:
    assert cluster.run("pz_qwen3_4b.sh", ACTIVATE="/no/activate") == (2, "error: ACTIVATE=/no/activate: no such file\n")
    assert cluster.notes.read_text() == "", "nothing was started"


def test_a_job_from_another_folder_than_the_checkout_is_one_clear_line(cluster: Cluster) -> None:
    code, output = cluster.slurm(SLURM_SUBMIT_DIR=str(cluster.folder)).run("pz_qwen3_4b.sh")
    assert (code, output.count("\n")) == (2, 1)
    assert f"{cluster.folder} is not the checkout" in output


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("  save: /scratch/run # of mine", "/scratch/run"),
        ('  save: "with space"', "with space"),
        ("  save_interval: 5", None),
        ('  save: ""', None),
    ],
)
def test_the_run_folder_is_the_recipes_where_no_one_says_otherwise(
    cluster: Cluster, line: str, folder: str | None
) -> None:
    recipe = cluster.folder / "mine" / "config.yaml"
    recipe.parent.mkdir()
    recipe.write_text(f"training:\n  train_iters: 3\n{line}\n")
    code, output = cluster.run("launch.sh", "--print", CONFIG=str(recipe), SAVE="")
    assert code == 0, output
    assert f"run folder  {folder or 'runs/mine'}\n" in output


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f2a"}, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_ON_NODE": "8"}, 8),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "NPROC_PER_NODE": "1"}, 1),
    ],
)
def test_a_process_for_each_card_that_may_be_seen(cluster: Cluster, variables: dict[str, str], processes: int) -> None:
    (cluster.folder / "nvidia-smi").write_text("#!/bin/sh\nfor i in 0 1 2 3; do echo GPU $i: NVIDIA H200; done\n")
    (cluster.folder / "nvidia-smi").chmod(0o755)
    cluster.env.pop("CUDA_VISIBLE_DEVICES", None)
    code, output = cluster.run("pz_qwen3_4b.sh", "--print", **variables)
    assert code == 0, output
    assert f"--nproc-per-node={processes} " in output.splitlines()[-1]


def test_every_node_of_a_job_joins_at_the_head_nodes_address(cluster: Cluster) -> None:
    code, output = cluster.slurm(nodes=2, SLURM_GPUS_ON_NODE="8").run("pz_qwen3_4b.sh", "--train-iters", "7")
    assert code == 0, output
    launches = cluster.launches()
    assert sorted(next(word for word in launch if "node-rank" in word) for launch in launches) == [
        "--node-rank=0",
        "--node-rank=1",
    ]
    for launch in launches:
        assert {"--nnodes=2", "--nproc-per-node=8", "--master-addr=10.0.0.7", "--master-port=21234"} <= set(launch)
        assert launch[-2:] == ["--train-iters", "7"]
    assert len(cluster.noted("megatron_pz.config.parse")) == 1, "the configuration is checked once, on the head node"
    assert not cluster.noted("requeue")


def test_sigusr1_reaches_every_worker_and_the_job_goes_back_into_the_queue(cluster: Cluster) -> None:
    process = cluster.slurm(nodes=2).start("pz_qwen3_4b.sh", RUN="wait")
    cluster.wait_for("worker ready", 2)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert len(cluster.noted("worker got SIGUSR1")) == 2
    assert cluster.noted("requeue") == ["scontrol requeue 4711234"], output


def test_a_step_that_takes_too_long_does_not_end_the_run_at_the_time_limit(cluster: Cluster) -> None:
    """Slurm itself puts no job back into the queue that has reached its limit. It ends one that is put back."""
    (cluster.folder / "date").write_text("#!/bin/sh\necho 1000000")
    (cluster.folder / "date").chmod(0o755)
    process = cluster.slurm(SLURM_JOB_END_TIME="1000061").start("pz_qwen3_4b.sh", RUN="long")
    cluster.wait_for("worker ready", 2)
    process.send_signal(signal.SIGUSR1)
    cluster.wait_for("scontrol requeue 4711234", 1)
    assert len(cluster.noted("worker got SIGUSR1")) == 2
    assert process.poll() is None, "the minute is the workers'"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "the time is up" in output


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_without_slurm_the_workers_get_the_signal_too(cluster: Cluster, number: signal.Signals) -> None:
    process = cluster.start("pz_qwen3_4b.sh", RUN="wait")
    cluster.wait_for("worker ready", 1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert cluster.noted("worker got") == [f"worker got {number.name}"], output
    assert process.returncode == 1
    assert not cluster.noted("requeue")


def test_a_failed_job_does_not_go_back_into_the_queue(cluster: Cluster) -> None:
    assert cluster.slurm().run("pz_qwen3_4b.sh", RUN="fail")[0] == 1
    assert not cluster.noted("requeue")


def test_a_requeued_job_without_a_checkpoint_begins_anew_and_keeps_what_there_was(cluster: Cluster) -> None:
    save = Path(cluster.env["SAVE"])
    save.mkdir()
    (save / "metrics.jsonl").write_text("{}")
    assert cluster.slurm(SLURM_RESTART_COUNT="1").run("pz_qwen3_4b.sh")[0] == 0
    assert not save.exists()
    assert (save.parent / "run.attempt-0/metrics.jsonl").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_asks_slurm_for_what_the_launcher_needs(recipe: str) -> None:
    header = re.findall(r"^#SBATCH (\S+)$", (ROOT / "slurm" / recipe).read_text(), re.M)
    assert {"--ntasks-per-node=1", "--requeue", "--open-mode=append"} <= set(header)
    assert any(re.fullmatch(r"--signal=B:USR1@\d+", line) for line in header), "to the batch shell, before the limit"


def test_the_qwen3_recipe_is_the_papers() -> None:
    """The values of the paper's section on settings, as a second list beside the recipe and the defaults."""
    recipe = load_yaml(ROOT / "examples/qwen3_4b/config.yaml")
    assert recipe.training.train_iters == 2000
    assert (recipe.optimizer.lr, recipe.optimizer.lr_decay_style) == (5e-7, "cosine")
    assert (recipe.rollout.max_prompt_length, recipe.rollout.max_response_length) == (1536, 4096)
    game = recipe.game
    masks = game.passages_per_step * game.masks_per_passage
    assert (masks, masks * (1 + game.grpo_group_size)) == (256, 2304), "masks, and responses in a step"
    assert (game.policy_sharing, game.mask_strategy, game.generator_reward) == (
        "shared",
        "active",
        "one_minus_accuracy",
    )
    assert recipe.grpo.grpo_clamp_eps_upper > recipe.grpo.grpo_clamp_eps_lower, "clip-higher"
    assert recipe.grpo.advantage_scale == "group_std"
