"""TensorBoard on exactly a sweep's runs, under readable names.

board/<labels> seed<n>          -> the run's own tb/ folder, live while it trains
board/final/<labels> seed<n>    hyper-parameters and final metrics of a finished cell
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from experiments.errors import UserError
from experiments.runs import made_with, run_records
from experiments.store import RunStore
from reports.events import write_experiment, write_hparams
from reports.formats import to_markdown
from reports.quantities import quantity
from reports.records import Record, named
from reports.subject import Subject

LONGEST = 120
"""Letters of what a run was made with in its name."""
SAME_COLOUR = r"([^/]+) seed\d+"
"""Of the names of runs: those in which the group reads the same get the same colour."""


def link_board(subject: Subject, folder: Path) -> list[str]:
    """Make the folder that TensorBoard is pointed at; an older one of that name is replaced.

    Returns:
        The names of the runs it shows.

    Raises:
        UserError: no run of the sweep has begun yet, or the folder cannot be written.
    """
    groups: dict[str, list[Record]] = {}
    for record in subject.records:
        if record.run is not None and record.run.tensorboard.is_dir():
            groups.setdefault(record.run_id, []).append(record)
    if not groups:
        raise UserError(f"No run of {subject.name} has begun yet; start them with: {subject.command}")
    links = {_run_name(records): records[0] for records in groups.values()}
    with _new(folder) as new:
        for name, record in links.items():
            assert record.run is not None
            (new / name).symlink_to(record.run.tensorboard.resolve(), target_is_directory=True)
        columns = {column.metric: column for column in subject.layout.columns}
        finished = [record for record in subject.records if record.metrics]
        for record in finished:
            write_hparams(
                new / "final" / _file_name(record.name),
                record.name,
                {**record.labels, "seed": record.seed},
                {name: record.metrics[name] * known.scale for name, known in columns.items() if name in record.metrics},
                int(record.run_result.get("step", 0)),
            )
        axes = dict.fromkeys(axis for record in subject.records for axis in record.labels)
        values = {axis: list(dict.fromkeys(r.labels.get(axis, "") for r in subject.records)) for axis in axes}
        seeds = sorted({record.seed for record in subject.records})
        labels = {name: known.label for name, known in columns.items()}
        write_experiment(new, {**values, "seed": seeds}, labels, to_markdown(subject.table))
    return list(links)


def link_all_runs(root: Path, folder: Path) -> list[str]:
    """Make a folder that shows every run under a root, by what it was made with and its id, and the final metrics of
    those that are done. Raises UserError if there is none."""
    store = RunStore(root)
    records = [record for record in run_records(root) if store.run(record["run"]).tensorboard.is_dir()]
    if not records:
        raise UserError(f"There are no runs with TensorBoard data in {root}.")
    names: list[str] = []
    values: dict[str, dict[str, None]] = {}
    labels: dict[str, str] = {}
    with _new(folder) as new:
        for record in records:
            name = _file_name(f"{made_with(record)[:LONGEST]} ({record['run']})".lstrip())
            names.append(name)
            (new / name).symlink_to(store.run(record["run"]).tensorboard.resolve(), target_is_directory=True)
            words = [word.partition("=")[::2] for word in record["overrides"] if not word.startswith("runtime.")]
            made = {"preset": record["preset"], **dict(words)}
            known = {
                metric: quantity(metric)
                for metric, value in record["metrics"].items()
                if isinstance(value, int | float)
            }
            for key, value in made.items():
                values.setdefault(key, {})[value] = None
            labels |= {metric: how.label for metric, how in known.items()}
            if record["state"] == "done":
                final = {metric: record["metrics"][metric] * how.scale for metric, how in known.items()}
                write_hparams(new / "final" / name, name, made, final, record["step"] or 0)
        listed = "\n".join(["| run | made with |", "|---|---|", *(f"| {r['run']} | {made_with(r)} |" for r in records)])
        write_experiment(new, {key: list(found) for key, found in values.items()}, labels, listed)
    return names


def address(port: int) -> str:
    """Where TensorBoard answers, with one colour for all seeds of a row and for its final metrics."""
    return f"http://localhost:{port}/?runColorGroup={quote(f'regex:{SAME_COLOUR}')}#timeseries"


def serve(folder: Path, port: int) -> None:
    """Become TensorBoard: this process ends when it does. Raises UserError where the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free
        try:
            probe.bind(("localhost", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"Port {port} cannot be had, perhaps by another board; name one with --port.") from error
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


def _run_name(records: Sequence[Record]) -> str:
    """The labels that all cells of one run share, and the seed."""
    first = records[0]
    shared = [named(a, label) for a, label in first.labels.items() if all(r.labels.get(a) == label for r in records)]
    return _file_name(" ".join([*shared, f"seed{first.seed}"]))


def _file_name(name: str) -> str:
    return re.sub(r"[/\\\0]+", "-", name)


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder that is to be filled in the block and then takes the place of `folder`. Links are removed, never what
    they point to. Raises UserError where it cannot be written; nothing of it is left then."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory("", f".{folder.name}.", folder.parent, ignore_cleanup_errors=True) as name:
            yield Path(name)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(name, folder)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error.strerror}.") from error
