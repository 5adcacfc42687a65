"""Stands in for `ablate execute`: claims, "trains" and "evaluates" as the real one does, without torch.

FAKE_WORKER (JSON) says how long a step takes ("steps": seconds) and what happens to a hybrid scheme: one of "fail",
"die", "crash", "fail_evaluation"; after a failure the process lives on for "linger" seconds, and after SIGTERM for
"heedless" seconds; where "deaf" it ignores SIGINT. Every training that begins is noted in the file FAKE_WORKER_LOG. Of
a benchmark it writes a result without measuring.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from experiments.config import read_config
from experiments.run_config import RunConfig
from experiments.store import RunStore


def main() -> None:
    behaviour = json.loads(os.environ.get("FAKE_WORKER", "{}"))
    if seconds := behaviour.get("heedless"):
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(seconds), os._exit(1)))
    if behaviour.get("deaf"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    words = sys.argv[1:]
    part = words.pop(1) if words[0] == "--part" else "all"
    configs = [read_config(Path(path)) for path in words if path != "--part"]
    if configs[0].benchmark.name != "none":
        measure(configs)
        return
    scheme = configs[0].generator.hybrid_scheme
    todo = behaviour.get(scheme, "")
    if todo == "crash":
        print("Traceback (most recent call last):\nImportError: no module named spam")
        sys.exit(1)
    run = RunStore(configs[0].root).prepare(configs[0])
    total = configs[0].trainer.max_steps
    with run.claim(wait=True) as mine:
        if mine:
            assert part != "evaluate", "nothing is trained here"
            with open(os.environ["FAKE_WORKER_LOG"], "a") as log:
                log.write(f"{scheme} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
            start = max((line["step"] for line in run.metrics()), default=0)
            for step in range(start + 1, total + 1):
                time.sleep(behaviour.get("steps", 0.01))
                run.append_metrics(step, time.time(), {"train/loss": 1 / step})
                run.update(phase="train", step=step, max_steps=total, loss=1 / step, steps_per_s=10.0)
                if step == 3 and todo == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if step == 3 and todo == "fail":
                    raise MemoryError("out of memory: tried to allocate 3 GiB")
            run.write_result({"step": total, "max_steps": total, "metrics": {"val/loss": 0.5}})
    for config in configs if part != "train" else ():
        evaluation = run.prepare_evaluation(config)
        with evaluation.claim(wait=True) as mine:
            if mine:
                if todo == "fail_evaluation" and config.sampler.guidance > 2:
                    raise FloatingPointError("The samples are not finite.")
                evaluation.write_result({"metrics": {"fd_efflite0": config.sampler.guidance}})


def measure(configs: list[RunConfig]) -> None:
    """Note which benchmarks were given together, and "measure" each."""
    with open(os.environ["FAKE_WORKER_LOG"], "a") as log:
        log.write(" ".join(f"{config.benchmark.layer}@{config.benchmark.length}" for config in configs) + "\n")
    for config in configs:
        benchmark = RunStore(config.root).prepare_benchmark(config)
        with benchmark.claim(wait=True) as mine:
            if mine:
                hardware = {"cpu": os.environ.get("FAKE_CPU", "some"), "gpus": []}
                result = {"metrics": {"forward_seconds": 1e-6 * config.benchmark.length**2}, "seconds": {}}
                benchmark.write_result({**result, "provenance": {"hardware": hardware}, "protocol": {"threads": 1}})


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        time.sleep(json.loads(os.environ.get("FAKE_WORKER", "{}")).get("linger", 0))
        sys.exit(1)
