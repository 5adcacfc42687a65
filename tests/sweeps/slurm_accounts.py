"""Accounts for the private Slurm: slurmdbd over a MariaDB of its own, so that sacct answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import suppress
from getpass import getuser

from tests.sweeps.slurm_cluster import SEARCH, Cluster, free_ports

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sacct", "sacctmgr")
DATABASE = """\
create database accounts;
create user slurm@'127.0.0.1' identified by 'slurm';
grant all on accounts.* to slurm@'127.0.0.1';
"""
CONFIG = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/run/munge.socket"""


def missing() -> str:
    """Why no accounts can be kept here; "" if they can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
    hint = "apt-get install slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core"
    return f"no {', '.join(absent)} on this machine ({hint})" if absent else ""


def keep_accounts(cluster: Cluster) -> str:
    """Start the database and slurmdbd; returns the lines that slurm.conf needs."""
    folder, port = cluster.folder, free_ports(2)
    data, listening = folder / "database", folder / "run" / "mariadb.socket"
    data.mkdir()
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    quick = ["--innodb-flush-method=nosync", "--innodb-file-per-table=0", "--innodb-log-file-size=8M"]
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *quick, *as_root]
    install.append("--auth-root-authentication-method=normal")
    subprocess.run(install, env=cluster.environment, check=True, capture_output=True, timeout=60)
    where = [f"--datadir={data}", f"--socket={listening}", f"--port={port + 1}", "--bind-address=127.0.0.1"]
    lasting = ["--innodb-lock-wait-timeout=900", "--innodb-buffer-pool-size=64M", "--skip-name-resolve"]
    cluster.start("mariadbd", "--no-defaults", *where, *quick, *lasting, *as_root)
    client = ["mariadb", "--no-defaults", f"--socket={listening}", "--user=root", "--execute"]

    def answers(*command: str) -> bool:
        with suppress(subprocess.SubprocessError):
            cluster.call(*command, seconds=2.0)
            return True
        return False

    cluster.wait_until(lambda: answers(*client, "select 1"), "the database did not come up")
    cluster.call(*client, DATABASE)
    config = folder / "etc" / "slurmdbd.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, database=port + 1, user=getuser()))
    config.chmod(0o600)
    lines = ACCOUNTING.format(folder=folder, port=port)
    # slurmdbd and sacctmgr read a slurm.conf that is complete only later.
    host = socket.gethostname().partition(".")[0]
    (folder / "etc" / "slurm.conf").write_text(
        f"ClusterName=t\nSlurmctldHost={host}(127.0.0.1)\nAuthInfo=socket={folder}/run/munge.socket\n{lines}\n"
    )
    cluster.start("slurmdbd", "-D")
    cluster.wait_until(lambda: answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd did not come up")
    cluster.call("sacctmgr", "-i", "-Q", "add", "cluster", "t")
    return lines
