"""The local launcher and the commands around it, with a worker that needs no torch."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from experiments.config import save_config
from experiments.errors import UserError
from experiments.status import Status
from experiments.store import RunStore
from sweeps import actions, views
from sweeps.definition import read_sweep
from sweeps.local import LocalLauncher, _signals_as_interrupt, local_slots
from sweeps.logs import log_path
from sweeps.planner import Plan, plan
from sweeps.progress import Progress
from sweeps.registry import begun, needed_elsewhere
from sweeps.state import CellState
from tests.sweeps.conftest import WORKER
from tests.sweeps.steps import run, states

Make = Callable[..., str]
GUIDED = [
    {"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v1", "serial_v2"]},
    {"name": "guidance", "key": "sampler.guidance", "values": [1.0, 3.0]},
]
LAUNCH = "import sys; from sweeps import actions; sys.exit(actions.run(sys.argv[1], jobs=2, worker=sys.argv[2:]))"


def launcher(path: str) -> subprocess.Popen[str]:
    """`ablate run` in a process of its own, which heeds Ctrl-C even if a script began the tests in its background."""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, path, *WORKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def worker_pids(tmp_path: Path) -> list[int]:
    return [int(line.split()[1]) for line in (tmp_path / "trainings.txt").read_text().splitlines()]


def test_a_sweep_whose_data_are_not_named_starts_nothing(make_sweep: Make, trainings: Callable[[], list[str]]) -> None:
    path = make_sweep()
    with pytest.raises(UserError, match="data.name=imagenet needs data.root=FOLDER"):
        run(path, overrides=["data.name=imagenet"])
    assert trainings() == [] and actions.run(path, overrides=["data.name=imagenet"], dry_run=True) == 0


def test_a_sweep_that_could_not_be_measured_starts_nothing(
    make_sweep: Make, trainings: Callable[[], list[str]], tmp_path: Path
) -> None:
    captions = {"data.condition": "caption", "generator.condition": "text", "text_encoder.name": "minilm"}
    prompts = [{"label": "own"}, {"label": "coco", "set": {"evaluation.dataset": "coco"}}]
    path = make_sweep(
        scales={"demo": {"preset": str(tmp_path / "preset.yaml"), "overrides": captions}},
        axes=[{"name": "prompts", "values": prompts}],
        report={},
    )
    with pytest.raises(UserError, match=r"evaluation\.dataset=coco needs evaluation\.dataset_root=FOLDER"):
        run(path)
    assert trainings() == []


def gone(pid: int) -> bool:
    from experiments.claims import process_start

    return process_start(pid) == ""


def test_a_sweep_runs_once_and_then_has_nothing_to_do(
    make_sweep: Make, trainings: Callable, root: Path, capsys
) -> None:
    path = make_sweep(axes=GUIDED, report={})
    assert run(path) == 0
    assert set(states(path).values()) == {"done"}
    assert sorted(trainings()) == ["serial_v1", "serial_v2"]
    assert "4 of 4 cells done." in capsys.readouterr().out
    assert run(path) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert len(trainings()) == 2
    assert [record["sweep"] for record in begun(root)] == ["tiny"]
    planned = plan(path)
    result = json.loads(
        (root / "runs" / planned.cells[1].run_id / "evaluations" / planned.cells[1].eval_id / "result.json").read_text()
    )
    assert result["metrics"]["fd_efflite0"] == 3.0


def test_cells_that_other_code_made_are_named(
    make_sweep: Make, root: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_sweep()
    assert run(path) == 0
    runs = [root / "runs" / cell.run_id for cell in plan(path).cells]
    files = [runs[0] / "result.json", runs[1] / "result.json", next(runs[1].glob("evaluations/*/result.json"))]
    for file, letter in zip(files, "aab", strict=True):
        file.write_text(json.dumps({**json.loads(file.read_text()), "provenance": {"git_commit": 40 * letter}}))
    capsys.readouterr()
    monkeypatch.setattr("experiments.provenance.code_version", lambda: {"git_commit": 40 * "b"})
    assert run(path) == 0
    said = capsys.readouterr().out
    assert "Nothing to do" in said and "2 of 3 cells were trained or measured before by other code" in said
    assert "(2 by commit aaaaaaaaaa)" in said and "name another folder of outputs with --root" in said
    monkeypatch.setattr("experiments.provenance.code_version", lambda: {"git_commit": None})
    assert run(path) == 0 and "other code" not in capsys.readouterr().out


def test_a_dry_run_starts_nothing(make_sweep: Make, trainings: Callable, root: Path, capsys) -> None:
    assert run(make_sweep(), dry_run=True) == 0
    assert capsys.readouterr().out.count("would start") == 3
    assert not trainings() and not (root / "sweeps").exists()
    with pytest.raises(UserError, match="--jobs -1 must be positive"):
        run(make_sweep(), dry_run=True, jobs=-1)


def test_what_was_just_started_is_not_called_missing(make_sweep: Make, root: Path) -> None:
    """A worker needs seconds before its run says that it is at work."""
    planned = plan(make_sweep())
    first, second, _ = planned.groups()
    told = io.StringIO()
    progress = Progress(planned, Console(file=told, width=200))
    progress.started(first)
    progress.update({first.id}, {second.id})
    assert "scheme=group_v1: starting\n" in told.getvalue()
    assert "0 of 3 cells done, 1 starting, 1 queued, 1 missing." in told.getvalue()
    run = RunStore(root).prepare(first.cells[0].config)
    with run.claim():
        run.update(phase="train", step=4, max_steps=10)
        found = progress._states({first.id}, {second.id})
        assert [state.describe() for state in found.values()] == ["running 40 %", "queued", "missing"]
    found = progress._states({first.id}, {second.id})
    assert found["scheme=group_v1"].describe() == "starting at 40 %"


def test_what_another_process_is_at_work_on_is_named_once(make_sweep: Make, root: Path) -> None:
    """In a log nothing else tells that the command waits."""
    planned, told = plan(make_sweep()), io.StringIO()
    launcher = LocalLauncher(planned, local_slots(planned, 1), Progress(planned, Console(file=told, width=200)))
    run = RunStore(root).prepare(planned.cells[0].config)
    with run.claim():
        launcher._sort(planned.groups())
        launcher._look_elsewhere()
    assert [group.name for group in launcher.elsewhere] == ["scheme=group_v1"]
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert told.getvalue() == f"scheme=group_v1 is waited for: {owner} is at work on it.\n"


def test_finding_nothing_to_do_loads_no_torch(make_sweep: Make) -> None:
    path = make_sweep()
    assert run(path) == 0
    code = LAUNCH.replace("sys.exit(", "code = ").rstrip(")") + "); sys.exit(code or 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code, path, *WORKER], capture_output=True, text=True)
    assert answer.returncode == 0 and "Nothing to do" in answer.stdout, answer.stderr


def test_a_failed_cell_does_not_stop_the_others_and_can_be_retried(
    make_sweep: Make, behave: Callable, trainings: Callable, capsys
) -> None:
    path = make_sweep()
    behave(serial_v1="fail")
    assert run(path, jobs=1) == 1
    found = states(path)
    assert found["scheme=serial_v1"] == "failed: MemoryError: out of memory: tried to allocate 3 GiB"
    assert found["scheme=group_v1"] == found["scheme=serial_v2"] == "done"
    assert "out of memory (oom): 1" in capsys.readouterr().out
    assert run(path) == 1 and len(trainings()) == 3, "a lasting failure waits for retry"
    assert views.status(path, as_json=True) == 1
    capsys.readouterr()
    behave()
    assert actions.retry(path, where=["cause=nan"], worker=WORKER) == 0
    assert len(trainings()) == 3
    assert actions.retry(path, where=["cause=oom", "scheme=serial_v1"], worker=WORKER) == 0
    assert trainings()[3:] == ["serial_v1"] and set(states(path).values()) == {"done"}


def test_a_worker_that_dies_without_a_word_is_named_and_continued(
    make_sweep: Make, behave: Callable, trainings: Callable, root: Path
) -> None:
    path = make_sweep()
    behave(serial_v1="die", serial_v2="crash")
    assert run(path) == 1
    found = states(path)
    assert found["scheme=serial_v1"].startswith("failed: killed by SIGKILL")
    assert found["scheme=serial_v2"] == "failed: ImportError: no module named spam"
    behave(serial_v2="crash")
    assert run(path) == 1
    assert states(path)["scheme=serial_v1"] == "done", "killed from outside: goes on without being asked"
    lines = (root / "runs" / plan(path).cells[1].run_id / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 11))


def test_a_failed_evaluation_leaves_the_others_of_its_run(
    make_sweep: Make, behave: Callable, trainings: Callable
) -> None:
    axes = [GUIDED[0], {**GUIDED[1], "values": [3.0, 1.0, 2.0]}]
    path = make_sweep(axes=axes, report={})
    behave(serial_v1="fail_evaluation")
    assert run(path) == 1
    found = states(path)
    assert found["scheme=serial_v1,guidance=3.0"] == "failed: The samples are not finite."
    assert sorted(found.values()) == ["done"] * 5 + ["failed: The samples are not finite."]
    assert len(trainings()) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_the_launcher_stops_its_workers_and_loses_nothing(
    make_sweep: Make, behave: Callable, trainings: Callable, tmp_path: Path, number: signal.Signals
) -> None:
    path = make_sweep()
    behave(steps=0.3)
    process = launcher(path)
    wait_for(lambda: len(trainings()) == 2)
    wait_for(lambda: any("running" in state for state in states(path).values()))
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    wait_for(lambda: all(gone(pid) for pid in worker_pids(tmp_path)))
    assert not any("running" in state or "failed" in state for state in states(path).values()), states(path)
    behave()
    assert run(path) == 0
    assert set(states(path).values()) == {"done"}


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_stops_the_launcher_unless_nohup_began_it(ignored: bool) -> None:
    inherited, stopped = signal.SIG_IGN if ignored else signal.SIG_DFL, False
    before = signal.signal(signal.SIGHUP, inherited)
    try:
        with _signals_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        stopped = True
    finally:
        after = signal.signal(signal.SIGHUP, before)
    assert stopped is not ignored and after == inherited


def test_two_launchers_at_once_train_everything_once(make_sweep: Make, behave: Callable, trainings: Callable) -> None:
    path = make_sweep()
    behave(steps=0.1)
    both = [launcher(path), launcher(path)]
    for process in both:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert sorted(trainings()) == ["group_v1", "serial_v1", "serial_v2"]


def test_workers_have_their_own_gpus(
    make_sweep: Make, behave: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,9")
    path = make_sweep(scales={"demo": {"preset": "", "overrides": {"runtime.devices": 2, "runtime.device": "cuda"}}})
    behave(steps=0.1)
    assert run(path, jobs=0) == 0
    assert set(states(path).values()) == {"done"}
    lines = (tmp_path / "trainings.txt").read_text().splitlines()
    given = [line.split()[2] for line in lines]
    assert sorted(given[:2]) == ["4,5", "6,7"] and given[2] in given[:2], "the third waits for a pair of GPUs"
    with pytest.raises(UserError, match=r"A run wants 8 GPU\(s\) .* this machine offers 5"):
        run(path, overrides=["runtime.devices=8", "trainer.batch_size=8"])


def test_cancel_asks_stops_and_spares_what_another_sweep_needs(
    make_sweep: Make, behave: Callable, trainings: Callable, capsys, root: Path
) -> None:
    shared = [{**GUIDED[0], "values": ["serial_v2"]}]
    path, other = make_sweep(), make_sweep("other", axes=shared, report={})
    assert actions.cancel(path) == 0 and "Nothing to stop" in capsys.readouterr().out
    from sweeps.registry import register

    register(plan(other))
    assert list(needed_elsewhere(plan(path)).values()) == ["other --scale demo"]
    damaged = plan(other).cells[0].works(RunStore(root))[-1].result_path
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")  # which has to be made again
    assert list(needed_elsewhere(plan(path)).values()) == ["other --scale demo"]
    damaged.unlink()
    behave(steps=0.3)
    process = subprocess.Popen([sys.executable, "-c", LAUNCH.replace("jobs=2", "jobs=3"), path, *WORKER])
    wait_for(lambda: len(trainings()) == 3)
    wait_for(lambda: sum("running" in state for state in states(path).values()) == 3)
    assert actions.cancel(path) == 2
    questions: list[str] = []
    assert actions.cancel(path, confirm=lambda q: not questions.append(q)) == 0
    assert questions == [f"Stop 2 running or queued training(s) of {path} --scale demo?"]
    assert "scheme=serial_v2 goes on: other --scale demo needs it." in capsys.readouterr().out
    assert process.wait(timeout=60) == 1
    found = states(path)
    assert found.pop("scheme=serial_v2") == "done"
    assert all(state.startswith("stopped") for state in found.values()), found


def test_cancel_names_what_no_launcher_of_the_sweep_began(make_sweep: Make, behave: Callable, capsys) -> None:
    """A training by itself hears of no request; it must not be counted as asked."""
    path = make_sweep(axes=[{**GUIDED[0], "values": ["serial_v2"]}], report={})
    cell = plan(path).cells[0]
    config = plan(path).root / "own.yaml"
    save_config(cell.config, config)
    behave(steps=5.0)
    process = subprocess.Popen([*WORKER, str(config)])
    try:
        wait_for(lambda: states(path)[cell.name].startswith("running"))
        for options in ({"dry_run": True}, {"confirm": lambda question: True}):
            assert actions.cancel(path, **options) == 1
            said = " ".join(capsys.readouterr().out.split())
            owner = f"no launcher of this sweep began it, but process {process.pid} on {socket.gethostname()};"
            assert f"scheme=serial_v2 goes on: {owner} stop it with kill -INT {process.pid} there." in said
            assert "Nothing else to stop" in said and "Asked" not in said
        assert not (plan(path).folder / "cancel.json").exists()
    finally:
        process.kill()
        process.wait()


def test_logs_and_status(make_sweep: Make, behave: Callable, capsys) -> None:
    path = make_sweep()
    with pytest.raises(UserError, match="has no log"):
        views.logs(path, "group")
    behave(serial_v1="crash")
    run(path)
    capsys.readouterr()
    assert views.logs(path, "serial_v1", lines=1) == 0
    assert capsys.readouterr().out == "ImportError: no module named spam\n"
    with pytest.raises(UserError, match="fits 2 cells"):
        views.logs(path, "serial")
    assert views.status(path) == 1
    shown = capsys.readouterr().out
    assert "scheme=group_v1" in shown and "other (other): 1" in shown
    assert views.status(path, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in answer["cells"]] == ["done", "failed", "done"]
    assert answer["failures"] == {"other": {"ImportError: no module named spam": ["scheme=serial_v1"]}}


def test_logs_after_a_retry_are_of_that_cell(make_sweep: Make, behave: Callable, capsys) -> None:
    """A worker of a later launch may have other cells than the first, and prints to the same file."""
    path = make_sweep(axes=[GUIDED[0], {**GUIDED[1], "values": [1.0, 3.0]}], report={})
    behave(serial_v1="fail_evaluation")
    run(path)
    cell = "scheme=serial_v1,guidance=3.0"
    assert actions.retry(path, worker=WORKER) == 1
    capsys.readouterr()
    views.logs(path, cell)
    shown = capsys.readouterr().out
    assert shown.count("FloatingPointError: The samples are not finite.") == 2, shown
    views.logs(path, "scheme=serial_v1,guidance=1.0")
    assert capsys.readouterr().out == shown, "they share a training, and so a worker"


def test_followed_logs_end_with_the_last_line(make_sweep: Make, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_sweep()
    planned = plan(path)
    log = log_path(planned, planned.cells[0].group)
    log.parent.mkdir(parents=True)
    log.write_text("first\n")
    answers = [CellState(Status(state), "training") for state in ("running", "done")]

    def look(self: Plan) -> dict[str, CellState]:
        with open(log, "a") as file:
            file.write("more\n")
        return {cell.name: answers[0] if len(answers) == 1 else answers.pop(0) for cell in planned.cells[:1]}

    monkeypatch.setattr(Plan, "states", look)
    monkeypatch.setattr(views.time, "sleep", lambda seconds: None)
    views.logs(path, "group", follow=True)
    assert capsys.readouterr().out == "first\nmore\nmore\n"


def test_a_worker_that_does_not_heed_a_cancel_is_killed_and_not_called_dead(
    make_sweep: Make, behave: Callable, trainings: Callable, tmp_path: Path, capsys
) -> None:
    path = make_sweep(axes=[{**GUIDED[0], "values": ["serial_v2"]}], report={})
    behave(steps=5.0, deaf=True)
    code = LAUNCH.replace("from sweeps import actions;", "from sweeps import actions, local; local.PATIENCE = 0.5;")
    process = subprocess.Popen([sys.executable, "-c", code, path, *WORKER])
    wait_for(lambda: len(trainings()) == 1)
    assert actions.cancel(path, confirm=lambda question: True) == 0
    assert process.wait(timeout=60) == 1
    wait_for(lambda: all(gone(pid) for pid in worker_pids(tmp_path)))
    assert states(path) == {"scheme=serial_v2": "interrupted 0 %"}


def test_list_names_sweeps_and_what_was_begun(capsys, root: Path) -> None:
    assert views.list_sweeps(root, as_json=True) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["maskmamba-hybrid-schemes"]["cells"]["demo"] == 4
    assert views.list_sweeps(root) == 0
    assert "not begun" in capsys.readouterr().out


def test_unknown_launcher_and_silly_jobs(make_sweep: Make) -> None:
    with pytest.raises(UserError, match="Unknown launcher"):
        run(make_sweep(), launcher="loacl")
    with pytest.raises(UserError, match="--jobs"):
        run(make_sweep(), jobs=-1)


def test_damaged_result_is_a_failed_cell_with_that_sentence(make_sweep: Make, root: Path, trainings: Callable) -> None:
    path = make_sweep()
    assert run(path) == 0
    cell = plan(path).cells[0]
    file = root / "runs" / cell.run_id / "evaluations" / cell.eval_id / "result.json"
    file.write_text(file.read_text()[:10])
    assert "result.json is damaged" in states(path)[cell.name]
    assert actions.retry(path, worker=WORKER) == 0
    assert set(states(path).values()) == {"done"} and len(trainings()) == 3
    assert os.path.getsize(file) > 10
    read_sweep.cache_clear()
