"""A SLURM of two nodes on this machine, in one private folder: `python tests/mini_slurm.py FOLDER`.

Needs root and the packages slurmctld, slurmd, slurm-client and munge; no systemd, no cgroups,
nothing under /etc. The nodes have two processors and a pretended GPU each. Partition `high`
preempts `low`.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo", "scancel")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")
CONF = """
ClusterName=mini
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=15
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmdSpoolDir={folder}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=15
MinJobAge=86400
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs=2 RealMemory=8000 Gres=gpu:1
PartitionName=low Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 State=UP GraceTime=15
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str | None:
    """Say what keeps this machine from running a SLURM, None where nothing does."""
    if os.geteuid() != 0:
        return "a SLURM of several nodes on one machine needs root"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"{', '.join(absent)} not installed: {' '.join(PACKAGES)}" if absent else None


def install() -> None:
    """Let apt install what is missing, as root on Debian or Ubuntu; elsewhere nothing happens."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _turn("install"):
        for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            if missing():
                subprocess.run(["apt-get", "-q", *words], env=environment, timeout=300, check=False)


class Cluster:
    """The daemons, started by `start` and ended by their pids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"),
            "PATH": os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]),
        }

    def start(self) -> None:
        for name in ("etc", "run", "log", "state", "spool/n1", "spool/n2"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with _turn("start"):  # until its ports are taken
            self._configure()
            self._start_munge()
            self._daemon("slurmctld")
            for node in NODES:
                self.start_node(node)
        self.wait_for_nodes("idle")

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node)

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("scancel", "--state=PENDING")
            self.run("scancel", "--signal=KILL", "--full", "-u", "root")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Return the processes of the daemons, and those of their jobs."""
        daemons = [int(path.read_text()) for path in (self.folder / "run").glob("*.pid")]
        return [*daemons, *(pid for node in NODES for pid in self.job_pids(node))]

    def lose_node(self, node: str) -> None:
        """Let a node fall silent, with all that runs on it."""
        path = self.folder / "run" / f"slurmd.{node}.pid"
        jobs = self.job_pids(node)
        keepers = {keeper for pid in jobs if (keeper := _keeper(pid))}
        for pid in [int(path.read_text()), *keepers, *jobs]:  # those first that would tell
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def job_pids(self, node: str) -> list[int]:
        """Return the processes of the jobs on a node: they were started with its name."""
        mark, found = f"SLURMD_NODENAME={node}".encode(), []
        conf = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = path.read_bytes().split(b"\0")
                if mark in variables and conf in variables:
                    found.append(int(path.parent.name))
        return found

    def wait_for_nodes(self, state: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while (found := set(self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split())) != {
            state
        }:
            if time.monotonic() > deadline:
                raise AssertionError(f"nodes are {found}, not {state}")
            time.sleep(0.2)

    def run(self, *words: str) -> str:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def _configure(self) -> None:
        port = _free_ports()
        values = {"port": port, "first": port + 1, "last": port + 2}
        host = socket.gethostname().partition(".")[0]
        text = CONF.format(folder=self.folder, host=host, **values)
        (self.folder / "etc" / "slurm.conf").write_text(text)
        (self.folder / "etc" / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/null\n")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)
        run = self.folder / "run"
        places = {
            "key-file": key,
            "socket": run / "munge.socket",
            "pid-file": run / "munged.pid",
            "log-file": self.folder / "log" / "munged.log",
            "seed-file": self.folder / "munge.seed",
        }
        for path in (self.folder, run, self.folder / "log"):
            path.chmod(0o755)
        self._daemon("munged", "--force", *(f"--{name}={path}" for name, path in places.items()))

    def _daemon(self, *words: str) -> None:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: {done.stderr}{done.stdout}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@contextlib.contextmanager
def _turn(name: str) -> Iterator[None]:
    """Wait until no other test process does the same."""
    with (Path(tempfile.gettempdir()) / f"mini-slurm.{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _keeper(pid: int) -> int | None:
    """Return the slurmstepd that started a process, None for one that another process started."""
    with contextlib.suppress(OSError):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
            return parent
    return None


def _free_ports() -> int:
    """Return the first of three neighbouring free ports."""
    for port in range(26817, 28000, 10):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for i in range(3):
                made = stack.enter_context(socket.socket())
                made.bind(("127.0.0.1", port + i))
            return port
    raise AssertionError("no free ports")


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell's & lets the first be ignored
        signal.signal(signum, signal.default_int_handler)
    with running(Path(sys.argv[1])) as started:
        print(f"export SLURM_CONF={started.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
