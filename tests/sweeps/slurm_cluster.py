"""A private Slurm on this machine: munged, slurmctld and a few slurmd, with a configuration of their own in one folder.

Needs no systemd, no cgroups and nothing in /etc, so it runs in containers and beside a real cluster's client tools.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from getpass import getuser
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
CONFIG = """\
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for its credential to expire: two minutes by default.
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
{accounting}
SwitchType=switch/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=200
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MaxArraySize={max_array}
MinJobAge={forget}
KillWait=5
ReturnToService=2
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=10 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low Nodes=ALL MaxTime=1-00:00:00 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15 State=UP
PartitionName=high Nodes=ALL MaxTime=1-00:00:00 DefaultTime=10 PriorityTier=100 PreemptMode=OFF State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; "" if one can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
    hint = "apt-get install slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
    return f"no {', '.join(absent)} on this machine ({hint})" if absent else ""


class Cluster:
    """Starts on construction; `stop` ends all of it.

    Args:
        max_array: MaxArraySize.
        forget: seconds after which the controller forgets a job that has ended.
        accounts: keeps the accounts, for sacct; started before the controller.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        max_array: int = 1001,
        forget: int = 600,
        accounts: Callable[[Cluster], str] = lambda cluster: "AccountingStorageType=accounting_storage/none",
    ):
        # Unix socket paths may have 107 bytes.
        assert len(str(folder)) <= 80, f"{folder} is too long for a socket in it"
        self.folder, self.nodes = folder, nodes
        for name in ("etc", "run", "log", "state", "spool", "munge"):
            (folder / name).mkdir(parents=True, mode=0o755)
        (folder / "munge").chmod(0o700)
        self.environment = {
            "PATH": SEARCH,
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._set_up(nodes, max_array, forget, accounts)
        except BaseException:
            self.stop()
            raise

    def _set_up(self, nodes: int, max_array: int, forget: int, accounts: Callable[[Cluster], str]) -> None:
        folder = self.folder
        self._start_munge()
        values = {"host": socket.gethostname().partition(".")[0], "user": getuser(), "folder": folder, "nodes": nodes}
        values |= {"max_array": max_array, "forget": forget, "accounting": accounts(self)}
        port = free_ports(nodes + 1)
        text = CONFIG.format(**values, port=port, first=port + 1, last=port + nodes)
        (folder / "etc" / "slurm.conf").write_text(text)
        (folder / "etc" / "cgroup.conf").write_text("")
        self.start_controller()
        for node in range(1, nodes + 1):
            self.start_node(node)
        self.wait_until(self._is_up, "the nodes did not come up")

    def start_controller(self) -> None:
        """Start slurmctld."""
        self.start("slurmctld", "-D")

    def start_node(self, node: int) -> None:
        """Start the slurmd of a node."""
        (self.folder / "spool" / f"n{node}").mkdir(exist_ok=True)
        self.start("slurmd", "-D", "-N", f"n{node}", name=f"n{node}")

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon: "slurmctld", "n1", ... (A controller that is killed forgets what it has not saved yet.)"""
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        daemon.wait()

    def call(self, *command: str, seconds: float = 60.0) -> str:
        """The output of a Slurm command. Raises SubprocessError if it fails or takes longer."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=seconds
        ).stdout

    def jobs(self) -> dict[str, str]:
        """State of every job and array task."""
        rows = self.call("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").split()
        return dict(row.split("|") for row in rows)

    def wait_until(self, condition: Callable[[], bool], message: str, seconds: float = 240) -> None:
        """Poll; on a timeout, by default longer than a busy machine takes, fail with the tails of the logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = [f"{log.name}:\n{log.read_text(errors='replace')[-1500:]}" for log in self.folder.glob("log/*")]
                raise AssertionError(message + "\n" + "\n".join(logs))
            time.sleep(0.2)

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        with suppress(subprocess.SubprocessError):
            self.call("scancel", "--user", getuser())
            deadline = time.monotonic() + 8.0
            while self.call("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in self._daemons.values():
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons.values():
            try:
                daemon.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_munge(self) -> None:
        key, run = self.folder / "munge" / "key", self.folder / "run"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        options = [f"--key-file={key}", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"]
        options += [f"--log-file={self.folder}/log/munged.log", f"--seed-file={self.folder}/munge/seed"]
        self.start("munged", "--foreground", "--force", *options)
        self.wait_until((run / "munge.socket").exists, "munged did not come up")

    def start(self, program: str, *options: str, name: str = "") -> None:
        """Start a daemon, which must stay in the foreground."""
        path = shutil.which(program, path=SEARCH)
        assert path, f"{program} not found"
        # The daemons must not hold the tests' output, or a pipe behind pytest would never close.
        with open(self.folder / "log" / f"{name or program}.out", "ab") as out:
            self._daemons[name or program] = subprocess.Popen(
                [path, *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _is_up(self) -> bool:
        with suppress(subprocess.SubprocessError):
            states = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()
            return len(states) == self.nodes and all(state in ("idle", "mix", "alloc") for state in states)
        return False


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, from a start that test processes beside this one do not share."""
    for base in range(20000 + os.getpid() % 900 * 40, 60000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, item in enumerate(sockets):
                item.bind(("127.0.0.1", base + offset))
            return base
        except OSError:
            continue
        finally:
            for item in sockets:
                item.close()
    raise AssertionError("no free ports")
