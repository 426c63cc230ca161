"""Run a real Slurm on this machine: munged, slurmctld and several slurmd on the loopback interface, without systemd.

This needs root and Debian's packages ``slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from megatron_pz.cluster.worker import die_with_the_launcher
from tests.support.torchrun import shell_environment

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
FirstJobId={first_job}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
SwitchType=switch/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=5
MinJobAge=600
SlurmdParameters=config_overrides
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing() -> str:
    """Return the reason why Slurm cannot be started; empty if it can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    absent = [name for name in PROGRAMS if _program(name) is None]
    return f"no {', '.join(absent)} here (tests/support/slurm_cluster.py names the packages)" if absent else ""


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


class SlurmCluster:
    """A context manager of daemons that die with this process. Nodes n1, n2, … have four cores and four fake GPUs."""

    def __init__(self, folder: Path, nodes: int = 2, settings: tuple[str, ...] = ()) -> None:
        """Name the nodes; ``settings`` are further lines of slurm.conf."""
        self.folder, self.nodes = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self.settings = settings
        self.env = {**shell_environment(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        try:
            self._configure()
            munge = ["--force", f"--socket={self.folder}/munge.sock", f"--key-file={self.folder}/munge.key"]
            munge += [f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munged.seed"]
            self._start("munged", "munged", "--foreground", *munge)
            self._until(lambda: (self.folder / "munge.sock").exists(), "munged did not start")
            self._start("slurmctld", "slurmctld", "-D", "-c")
            for node in self.nodes:
                self.start_node(node)
            self._until(
                lambda: (
                    self.ask("sinfo", "-h", "-p", "normal", "-t", "idle", "-o", "%D").strip() == str(len(self.nodes))
                ),
                "the nodes did not register",
            )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the jobs, then the daemons."""
        self.cancel_all()
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def cancel_all(self) -> None:
        """Cancel the jobs that are left, and wait up to 15 seconds for their ends."""
        deadline = time.monotonic() + 15
        while "slurmctld" in self._daemons and time.monotonic() < deadline:
            jobs = subprocess.run(["squeue", "-h"], env=self.env, check=False, capture_output=True).stdout
            if not jobs.strip():
                break
            subprocess.run(["scancel", "--user=root"], env=self.env, check=False, capture_output=True)
            subprocess.run(["scancel", "--signal=KILL", "--user=root"], env=self.env, check=False, capture_output=True)
            time.sleep(0.5)

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        (self.folder / "state").mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        text = CONFIGURATION.format(host=host, folder=self.folder, port=_free_port(), first_job=_first_job())
        text += "".join(f"{line}\n" for line in self.settings)
        gres = []
        for node in self.nodes:
            (self.folder / f"spool-{node}").mkdir()
            devices = [self.folder / f"{node}-gpu{number}" for number in range(4)]
            for device in devices:
                os.mknod(device, 0o20666, os.makedev(1, 3))
            gres.append(f"NodeName={node} Name=gpu Flags=nvidia_gpu_env File={self.folder}/{node}-gpu[0-3]\n")
            text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} "
            text += "CPUs=4 RealMemory=4000 Gres=gpu:4 State=UNKNOWN\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("".join(gres))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _start(self, name: str, program: str, *flags: str) -> None:
        parent = os.getpid()
        with (self.folder / f"{name}.out").open("wb") as output:
            self._daemons[name] = subprocess.Popen(
                [str(_program(program)), *flags],
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_the_launcher(parent),
            )

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start(node, "slurmd", "-D", "-N", node, "-c")

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all its processes, as a power failure would."""
        daemon = self._daemons.pop(node)
        processes = {daemon.pid}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                text = path.read_bytes()
            except OSError:
                continue
            if f"SLURMD_NODENAME={node}\0".encode() in text and f"SLURM_CONF={self.folder}".encode() in text:
                processes.add(int(path.parent.name))
        steps = _children_named("slurmstepd", node)
        for process in [*processes, *steps]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        daemon.wait()
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def ask(self, *command: str) -> str:
        """Run one of Slurm's commands, which must succeed, and return its output."""
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=60).stdout

    def submit(self, script: Path, *flags: str, sbatch: tuple[str, ...] = (), env: Mapping[str, str]) -> Job:
        """Submit a script from its checkout; its output goes to a file that :class:`Job` reads."""
        output = self.folder / "job-%j.out"
        command = ["sbatch", "--parsable", f"--output={output}", "--chdir", str(script.parents[1]), *sbatch]
        done = subprocess.run(
            [*command, str(script), *flags],
            env=self.env | dict(env),
            cwd=script.parents[1],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return Job(self, int(done.stdout.split(";")[0]))

    def _until(self, condition: Callable[[], bool], problem: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{problem}: {self._logs()}"
            time.sleep(0.05)

    def _logs(self) -> str:
        return "".join(f"\n--- {path.name}\n{path.read_text()[-1500:]}" for path in self.folder.glob("*.log"))


class Job:
    """A submitted job."""

    def __init__(self, cluster: SlurmCluster, number: int) -> None:
        self.cluster, self.number = cluster, number

    @property
    def output(self) -> str:
        """Return the output of the job's script so far."""
        try:
            return (self.cluster.folder / f"job-{self.number}.out").read_text()
        except FileNotFoundError:
            return ""

    def shown(self, field: str) -> str:
        """Return a field of ``scontrol show job``."""
        command = ("scontrol", "show", "job", "--oneliner", str(self.number))
        try:
            text = self.cluster.ask(*command)
        except subprocess.CalledProcessError:  # a busy controller drops a connection now and then
            time.sleep(1.0)
            text = self.cluster.ask(*command)
        return next(word.partition("=")[2] for word in text.split() if word.startswith(f"{field}="))

    @property
    def ended(self) -> bool:
        """Return whether the job is over; a job to be requeued is not."""
        return self.shown("JobState").startswith(ENDED)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 400.0) -> None:
        """Wait until a condition holds, which must happen before the job ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            over = self.ended or time.monotonic() > deadline
            assert not over or condition(), f"{what} did not happen: {self.describe()}"
            time.sleep(0.1)

    def end(self, seconds: float = 400.0) -> tuple[str, int]:
        """Wait for the end; return Slurm's state and the script's exit code."""
        self.wait_for(lambda: self.ended, "the job's end", seconds)
        return self.shown("JobState"), int(self.shown("ExitCode").split(":")[0])

    def describe(self) -> str:
        """Return all information about the job, for the message of a failed assertion."""
        shown = self.cluster.ask("scontrol", "show", "job", "--oneliner", str(self.number))
        return f"{shown}\n{self.output}"


def _first_job() -> int:
    """Return a job number far from those of concurrent clusters, because it determines a job's rendezvous port."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return 1 + 1000 * int(worker.removeprefix("gw"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children_named(name: str, node: str) -> list[int]:
    """Return the process ids of a node's step daemons, by the node's name in their arguments or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name and node in (path.parent / "environ").read_text(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
