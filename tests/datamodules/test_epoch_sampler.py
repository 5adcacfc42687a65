"""Order, sharding and resumption of the samplers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.sampler import EpochSampler, SequentialSampler


def draw(sampler: EpochSampler, batches: int) -> list[np.ndarray]:
    """The next batches, counting them as consumed, over the ends of epochs."""
    result: list[np.ndarray] = []
    while len(result) < batches:
        for batch in itertools.islice(sampler, batches - len(result)):
            sampler.advance()
            result.append(batch)
    return result


def test_an_epoch_is_a_permutation_and_epochs_differ():
    sampler = EpochSampler(96, 8, seed=3)
    first, second = np.concatenate(draw(sampler, 12)), np.concatenate(draw(sampler, 12))
    assert sorted(first) == sorted(second) == list(range(96))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.concatenate(draw(EpochSampler(96, 8, seed=4), 12)))
    assert abs(np.corrcoef(first, np.arange(96))[0, 1]) < 0.3


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(12, 60),
    batch=st.integers(1, 4),
    world=st.integers(1, 3),
    accumulate=st.integers(1, 3),
    stop=st.integers(0, 40),
)
def test_resumption_is_exact(count, batch, world, accumulate, stop):
    """Stopping after any number of batches and loading the state elsewhere changes nothing: not in the middle of an
    epoch; in the middle of a step, whose gradient no checkpoint holds, it goes back to the beginning of the step."""
    count *= accumulate
    uninterrupted = draw(EpochSampler(count, batch, 1, 2, 0, world, accumulate), stop + 9)
    stopped = EpochSampler(count, batch, 1, 2, 0, world, accumulate)
    start = draw(stopped, stop)
    resumed = EpochSampler(count, batch, 1, 2, 0, world, accumulate)
    resumed.load_state_dict(stopped.state_dict())
    whole = start[: stop - stop % accumulate]
    np.testing.assert_array_equal(np.stack(whole + draw(resumed, 9 + stop - len(whole))), np.stack(uninterrupted))
    np.testing.assert_array_equal(np.stack(start + draw(stopped, 9)), np.stack(uninterrupted))


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6])
def test_a_step_is_of_the_same_samples_however_it_is_divided(parts):
    """Into batches of any size, one after the other or on several processes; all epochs are of whole steps."""
    undivided = draw(EpochSampler(62, 12, 1, 2), 11)
    assert len(EpochSampler(62, 12 // parts, 1, 2, accumulate=parts)) == 5 * parts
    steps = np.stack(draw(EpochSampler(62, 12 // parts, 1, 2, accumulate=parts), 11 * parts))
    np.testing.assert_array_equal(steps.reshape(11, 12), np.stack(undivided))
    if parts % 2 == 0:
        ranks = [draw(EpochSampler(62, 12 // parts, 1, 2, rank, 2, parts // 2), 11 * parts // 2) for rank in range(2)]
        np.testing.assert_array_equal(np.stack(ranks, 1).reshape(11, 12), np.stack(undivided))


@pytest.mark.parametrize("stop", [0, 1, 5, 7, 8, 11])
def test_resumption_on_another_number_of_processes(stop):
    """The global batches are the same on 1, 2 or 4 processes, also when the number changes in mid-epoch."""

    def steps(world: int, batches: int, state=None):
        samplers = [EpochSampler(70, 8 // world, 5, 1, rank, world) for rank in range(world)]
        for sampler in samplers:
            if state:
                sampler.load_state_dict(state)
        parts = [draw(sampler, batches) for sampler in samplers]
        states = [sampler.state_dict() for sampler in samplers]
        assert all(other == states[0] for other in states)
        return [np.concatenate(batch) for batch in zip(*parts, strict=True)], states[0]

    whole, _ = steps(1, 20)
    for before, after in itertools.product((1, 2, 4), repeat=2):
        first, state = steps(before, stop)
        rest, _ = steps(after, 20 - stop, state)
        np.testing.assert_array_equal(np.stack(first + rest), np.stack(whole))


def test_position_survives_another_batch_size():
    sampler = EpochSampler(40, 4, seed=0)
    seen = draw(sampler, 3)
    other = EpochSampler(40, 7, seed=0)
    other.load_state_dict(sampler.state_dict())
    assert not set(np.concatenate(seen)) & set(np.concatenate(draw(other, 4)))


def test_ranks_share_nothing_and_have_equal_lengths():
    samplers = [EpochSampler(50, 4, 0, 1, rank, 3) for rank in range(3)]
    epochs = [np.concatenate(list(sampler)) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [4, 4, 4]
    assert len(set(np.concatenate(epochs))) == 48


def test_one_view_of_each_sample_drawn_per_epoch():
    sampler = EpochSampler(1000, 10, seed=0, views=2)
    first, second = np.concatenate(draw(sampler, 100)), np.concatenate(draw(sampler, 100))
    assert sorted(first // 2) == list(range(1000))
    assert 400 < (first % 2).sum() < 600
    views = np.stack([epoch[np.argsort(epoch // 2)] % 2 for epoch in (first, second)])
    assert 400 < (views[0] != views[1]).sum() < 600


def test_iterating_does_not_move_the_position():
    sampler = EpochSampler(32, 4, seed=0)
    ahead = iter(sampler)
    before = [next(ahead) for _ in range(3)]
    assert sampler.state_dict()["consumed"] == 0
    np.testing.assert_array_equal(list(itertools.islice(sampler, 3)), before)


def test_foreign_state_and_small_data_are_refused():
    sampler = EpochSampler(32, 4, seed=0)
    for other in (EpochSampler(33, 4, seed=0), EpochSampler(32, 4, seed=1)):
        with pytest.raises(ValueError, match="resume with the configuration"):
            sampler.load_state_dict(other.state_dict())
    with pytest.raises(
        ValueError, match="the 7 there are; set trainer.batch_size=6 or less and a multiple of 2, or take"
    ):
        EpochSampler(7, 4, seed=0, world_size=2)
    with pytest.raises(ValueError, match="3 there are; set runtime.devices x trainer.accumulate=3 or less"):
        EpochSampler(3, 1, seed=0, world_size=4)
    with pytest.raises(ValueError, match="batch_size=12 needs .* the 10 there are; set trainer.batch_size=8 or less"):
        EpochSampler(10, 3, seed=0, world_size=2, accumulate=2)


@pytest.mark.parametrize("count,batch,world", [(10, 4, 1), (10, 4, 3), (2, 4, 3), (12, 4, 3)])
def test_sequential_covers_everything_in_equal_lengths(count, batch, world):
    shards = [list(SequentialSampler(count, batch, 2, rank, world)) for rank in range(world)]
    assert len({tuple(map(len, shard)) for shard in shards}) == 1
    rows = np.concatenate([np.concatenate(shard) for shard in shards])
    assert set(rows) == set(range(0, 2 * count, 2))
    if world == 1:
        np.testing.assert_array_equal(rows, np.arange(0, 2 * count, 2))
