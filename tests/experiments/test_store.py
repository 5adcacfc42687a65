"""The run store: identity, status, metrics, results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from experiments import work
from experiments.claims import Busy, ClaimLost
from experiments.errors import UserError, unknown
from experiments.failures import CAUSES, classify
from experiments.store import Run, RunStore
from experiments.work import Status, Work
from tests.experiments.configs import small_config

RESULT = {"schema": 1, "step": 10, "max_steps": 10, "metrics": {"val/loss": 1.5}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).prepare(small_config())


def test_configuration_is_written_once_and_found_again(tmp_path: Path, run: Run) -> None:
    written = run.config_path.stat().st_mtime_ns
    again = RunStore(tmp_path).prepare(small_config(runtime__threads=3), ["runtime.threads=3"])
    assert again.folder == run.folder and run.config_path.stat().st_mtime_ns == written
    assert RunStore(tmp_path).find(run.id[-8:]).folder == RunStore(tmp_path).find(run.id[-7:-2]).folder == run.folder
    assert RunStore(tmp_path).find(str(run.folder)).folder == run.folder
    assert [r.id for r in RunStore(tmp_path).runs()] == [run.id]
    with pytest.raises(UserError, match="No run 'maskmamba-0'"):
        RunStore(tmp_path).find("maskmamba-0")


def test_changed_default_under_the_same_hash_is_refused_by_name(tmp_path: Path, run: Run) -> None:
    stored = yaml.safe_load(run.config_path.read_text())
    stored["optim"]["weight_decay"] = 0.3
    stored["tokenizer"]["weights"] = "/moved/away.safetensors"  # a place, not a meaning
    run.config_path.write_text(yaml.safe_dump(stored))
    with pytest.raises(UserError) as caught:
        RunStore(tmp_path).prepare(small_config())
    assert "optim.weight_decay (0.3 then, 0.05 now)" in str(caught.value)
    assert "tokenizer.weights" not in str(caught.value)


def test_a_run_with_keys_that_only_other_code_has_says_so(tmp_path: Path, run: Run) -> None:
    stored = yaml.safe_load(run.config_path.read_text())
    stored["generator"]["my_mixer"] = {"gates": 1}
    run.config_path.write_text(yaml.safe_dump(stored))
    with pytest.raises(UserError, match=r"made by other code, .* does not know: generator\.my_mixer\.gates\. Use that"):
        RunStore(tmp_path).prepare(small_config())
    with pytest.raises(UserError, match=r"config\.yaml does not fit this code; use the code .*: Key 'my_mixer' not in"):
        run.config()


@pytest.mark.parametrize("text", ["", "a: [", "just text"])
def test_damaged_configuration(tmp_path: Path, run: Run, text: str) -> None:
    run.config_path.write_text(text)
    with pytest.raises(UserError, match="config.yaml is damaged"):
        RunStore(tmp_path).prepare(small_config())


def test_evaluations_are_told_apart_by_sampler(run: Run) -> None:
    one = run.prepare_evaluation(small_config())
    two = run.prepare_evaluation(small_config(sampler__guidance=5.0))
    assert one.id != two.id and {e.id for e in run.evaluations()} == {one.id, two.id}
    with two.claim() as mine:
        assert mine
        two.write_result({"metrics": {}})
    assert two.is_done() and not one.is_done()


def test_life_of_a_run(run: Run) -> None:
    assert run.inspect().state == "missing"
    with run.claim() as mine:
        assert mine and run.inspect().state == "running"
        run.update(phase="train", step=4, max_steps=10, loss=2.0, steps_per_s=5.0)
        run.write_result(RESULT)
    status = run.inspect()
    assert (status.state, status.step, status.attempt, run.attempts) == ("done", 4, 1, 1)
    with run.claim() as mine:
        assert not mine
    assert run.attempts == 1


def test_result_of_fewer_steps_does_not_count(run: Run) -> None:
    with run.claim():
        run.write_result({**RESULT, "step": 7})
    assert not run.is_done() and run.inspect().state == "stopped"
    with run.claim() as mine:
        assert mine


def test_failure_leaves_cause_and_reason_and_can_be_cleared(run: Run) -> None:
    with pytest.raises(MemoryError), run.claim():
        raise MemoryError("Unable to allocate 3 GiB")
    status = run.inspect()
    assert (status.state, status.cause) == ("failed", "oom") and "3 GiB" in status.reason
    run.clear_failure()
    assert run.inspect().state == "stopped"
    with run.claim() as mine:
        assert mine and run.attempts == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)])
def test_interrupt_is_no_failure(run: Run, error: BaseException) -> None:
    with pytest.raises(type(error)), run.claim():
        raise error
    assert run.inspect().state == "stopped"


def test_of_very_many_names_an_error_has_the_first(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "runs" / f"aim-{number:03d}").mkdir(parents=True)
        (tmp_path / "runs" / f"aim-{number:03d}" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"^'aim' fits 300 runs: aim-000, .*aim-019 and 280 more\.$"):
        RunStore(tmp_path).find("aim")
    with pytest.raises(UserError, match=r"There are: aim-000, .*aim-019 and 280 more\.$"):
        RunStore(tmp_path).find("dimba")
    assert str(unknown("cell", "x", map(str, range(3000)))).endswith(" and 2,900 more.")


def test_progress_is_written_at_most_once_a_second(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    with run.claim():
        run.update(phase="train", step=1)
        for step in range(2, 200):
            run.update(step=step)
        assert run.status().step == 1
        run.update(phase="sample")
        assert (run.status().step, run.status().phase) == (199, "sample")
        now[0] += 1.0
        run.update(step=200, loss=float("nan"))
        assert (run.status().step, run.status().loss) == (200, None)


def test_progress_of_long_work_is_written_more_seldom(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is a new file, for which all processes of the run wait."""
    now = [100.0]
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    with run.claim():
        run.update(phase="train", step=1)
        now[0] += 7200.0
        run.update(step=2)
        for step, seconds in ((3, 14.0), (4, 1.0)):
            assert run.status().step == 2
            now[0] += seconds
            run.update(step=step)
        assert run.status().step == 4


def test_nobody_can_write_without_a_claim_or_after_losing_it(run: Run) -> None:
    with pytest.raises(ClaimLost):
        run.write_result(RESULT)
    with pytest.raises(ClaimLost), run.claim():
        (run.folder / "claims" / "000002.json").write_text("{}")
        run.write_result(RESULT)
    assert not run.result_path.exists()
    assert run.status().state == "running"  # the successor's business now


def test_killed_run_is_interrupted_and_goes_on(run: Run) -> None:
    code = (
        "import os, sys; from experiments.store import Run; from pathlib import Path\n"
        "run = Run(Path(sys.argv[1]))\n"
        "with run.claim():\n    run.update(phase='train', step=3, max_steps=10)\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(run.folder)], check=False)
    status = run.inspect()
    assert (status.state, status.step) == ("interrupted", 3)
    run.record_failure("killed", "killed by signal 9")
    assert (run.inspect().state, run.inspect().step) == ("failed", 3)
    with run.claim() as mine:
        assert mine
        run.record_failure("killed", "a late word about the first attempt")
        assert run.inspect().state == "running"


def test_waiting_for_another_owner(run: Run) -> None:
    code = (
        "import sys, time; from experiments.store import Run; from pathlib import Path\n"
        "run = Run(Path(sys.argv[1]))\n"
        "with run.claim():\n    print('mine', flush=True); time.sleep(1.5)\n"
        "    run.write_result({'step': 1, 'max_steps': 1, 'metrics': {}})"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline()
    with pytest.raises(Busy), run.claim():
        pass
    heard = []
    with run.claim(wait=True, on_wait=heard.append) as mine:
        assert not mine
    assert [owner.pid for owner in heard if owner] == [other.pid]
    other.wait()


@pytest.mark.parametrize("name", ["status.json", "result.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "dancing"}', "\xff"])
def test_damaged_files_make_one_clear_sentence(run: Run, name: str, text: str) -> None:
    (run.folder / name).write_text(text, encoding="latin-1")
    status = run.inspect()
    assert (status.state, status.cause) == ("failed", "damaged")
    assert name in status.reason and "run the same command again" in status.reason


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metrics": None}, "(metrics is null)"),
        ({"metrics": {"val/loss": "low"}}, "(metrics.val/loss is text)"),
        ({"device_seconds": []}, "(device_seconds is a list)"),
        ({"provenance": {"versions": []}}, "(provenance.versions is a list)"),
        ({"provenance": {"hardware": {"gpus": [{}]}}}, "(provenance.hardware.gpus[0] is an object)"),
        ({"replicates": {"fd": [1.5, None]}}, "(replicates.fd[1] is null)"),
        ({"step": "1"}, "(step is text)"),
    ],
)
def test_results_with_wrong_types_are_damaged(run: Run, wrong: dict, said: str) -> None:
    run.result_path.write_text(json.dumps({"step": 1, "max_steps": 1, "metrics": {}, **wrong}))
    status = run.inspect()
    assert (status.state, status.cause) == ("failed", "damaged") and f"result.json is damaged {said}; " in status.reason


@pytest.mark.parametrize(
    ("wrong", "said"), [({"device_seconds": None}, "(device_seconds is null)"), ({"step": [1]}, "(step is a list)")]
)
def test_a_status_with_wrong_types_is_damaged(run: Run, wrong: dict, said: str) -> None:
    run.status_path.write_text(json.dumps({"state": "running", **wrong}))
    assert f"status.json is damaged {said}; " in run.inspect().reason
    run.status_path.write_text(json.dumps({"state": "failed", "loss": None, "steps_per_s": 3}))
    assert run.inspect().cause != "damaged"


def test_clearing_a_damaged_file_removes_it(run: Run) -> None:
    run.result_path.write_text("{")
    run.clear_failure()
    assert run.inspect().state == "missing"


def test_status_of_a_newer_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "running", "step": 3, "colour": "blue"}')
    assert Work(tmp_path).status() == Status("running", step=3)


def test_metrics_survive_kill_and_resume(run: Run) -> None:
    for step in (10, 20, 30):
        run.append_metrics(step, 1.0, {"train/loss": float("inf") if step == 10 else step})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 40, "tra')
    run.truncate_metrics(20)
    run.append_metrics(30, 2.0, {"train/loss": 7})
    assert [(m["step"], m["train/loss"]) for m in run.metrics()] == [(10, None), (20, 20), (30, 7)]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines"), "oom"),
        (FloatingPointError("The loss is not finite at step 3."), "nan"),
        (RuntimeError("NCCL error in ProcessGroup"), "distributed"),
        (OSError(28, "No space left on device"), "disk"),
        (UserError("generator.width=3 is odd."), "bad_config"),
        (UserError("Checkpoint last.ckpt is damaged."), "checkpoint"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "kernel"),
        (RuntimeError("ncclInternalError: ProcessGroupNCCL timed out"), "distributed"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "oom"),
        (KeyError("x"), "other"),
        (RuntimeError("/home/igloo/torch/lib.so: undefined symbol"), "other"),
        (UserError("text_encoder.model=/scratch/triton/t5 is not there."), "bad_config"),
        (UserError("/scratch/triton/stores/train/meta.json is damaged."), "data"),
        (RuntimeError("Cannot read /home/igloo/checkpoints/tokens.npy."), "data"),
        (ValueError("The text encoder gave features that are not finite in 16 bits."), "bad_config"),
    ],
)
def test_causes(error: Exception, cause: str) -> None:
    assert classify(error)[0] == cause and cause in CAUSES
    assert "\n" not in classify(error)[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="runtime.root"):
        RunStore(tmp_path / "outputs").prepare(small_config())


def test_store_needs_no_torch() -> None:
    code = "import sys, experiments.store; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
