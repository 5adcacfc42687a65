"""One of two processes that train every generator whole and sharded, and note how far the two come apart.

Arguments: rank, port, file for the result of rank 0 (JSON: preset -> largest difference between weights, relative
to the largest weight change).
"""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from experiments.config import load_config
from lightning_modules.conditions import condition_of
from lightning_modules.config import OBJECTIVES
from lightning_modules.generators.config import GENERATORS
from lightning_modules.sharding import is_sharded, load_whole_state, shard, whole, whole_network, whole_state
from tests.sweeps.test_liveness import random_batch

TINY = {"width": 32, "heads": 2, "depth": 2, "dropout": 0.0}
PRESETS = ("maskmamba/demo", "aim/demo", "aim/llamagen-demo", "dimba/demo", "mmamba/demo", "mmamba/uvit-demo")


def train(preset: str, mesh: object) -> float:
    """Two steps of training whole and sharded, the second of them after writing and reading the sharded weights, and a
    step of sampling, sharded and by a whole copy."""
    fields = load_config(preset).generator.__dict__.keys()
    config = load_config(preset, {f"generator.{key}": TINY[key] for key in TINY.keys() & fields})
    torch.manual_seed(0)
    plain = GENERATORS.build(config.generator)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # zeros would hide gradients that do not arrive
    start = copy.deepcopy(plain)
    sharded = copy.deepcopy(plain)
    shard(sharded, mesh)
    batch = random_batch(config)
    for _ in range(2):
        for model in (plain, sharded):
            step(model, config, batch)
        load_whole_state(sharded, broadcast(whole_state(sharded)))
    assert is_sharded(sharded)
    sampled = sampling_step(sharded, batch)
    copied = whole_network(sharded, lambda: GENERATORS.build(config.generator), torch.device("cpu"))
    if copied is None:
        assert dist.get_rank() == 1
        return 0.0
    torch.testing.assert_close(sampled, sampling_step(copied, batch))
    return largest_difference(plain, copied) / largest_difference(plain, start)


def largest_difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Of all weights; NaN where one is."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return torch.stack([(p - q).detach().abs().max() for p, q in pairs]).max().item()


def step(model: torch.nn.Module, config: object, batch: dict) -> None:
    """One gradient step, on the same batch in both processes."""
    objective = config.objective
    module = OBJECTIVES.target(objective.name)(objective, model, config.optim, max_steps=2, ema_decay=0.0, seed=0)
    module.log_dict = lambda *args, **kwargs: None
    torch.manual_seed(1)
    module.training_step(batch, 0).backward()
    norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    assert norm > 0
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.zero_grad()


@torch.inference_mode()
def sampling_step(model: torch.nn.Module, batch: dict) -> Tensor:
    """What a network gives under the context that samplers compute once and use in every step."""
    inputs = batch["tokens"] if "tokens" in batch else batch["latents"]
    context = model.sampling_context(condition_of(batch), torch.arange(len(inputs)) % 2 == 0)
    times = () if "tokens" in batch else (torch.linspace(0, 999, len(inputs)),)
    return model(inputs, context, *times)


def broadcast(state: dict) -> dict:
    """What rank 0 has."""
    box = [state]
    dist.broadcast_object_list(box)
    return box[0]


if __name__ == "__main__":
    rank, port, path = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {preset: train(preset, init_device_mesh("cpu", (2,))) for preset in PRESETS}
    if rank == 0:
        path.write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # without the ends of gloo's threads, which now and then abort a process that has done its work
