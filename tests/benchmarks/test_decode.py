"""Decoding is timed in the middle of a sequence."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.decode import LAYER_BY_LAYER, MIDDLE, Decoder, _build


@pytest.mark.parametrize("forced", ["", LAYER_BY_LAYER])
@pytest.mark.parametrize("preset", ["aim/demo", "aim/llamagen-demo"])
def test_tokens_of_the_middle_are_fed_over_and_over(preset: str, forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many calls as a GPU is given would leave the sequence."""
    decoder = Decoder(preset, _build(preset, torch.device("cpu")), 2, "fp32", forced)
    decoder()
    monkeypatch.setattr(Decoder, "restart", lambda self: pytest.fail("the condition is no part of a token"))
    decoder.stay_in_the_middle()
    middle, fed = decoder.length // 2, []
    for _ in range(5 * MIDDLE):
        decoder()
        fed.append(decoder.done - 1)
        assert int(decoder.position) == decoder.done
        if preset == "aim/llamagen-demo":  # the cache is as full as in the middle
            prefix = decoder.context.embedding.shape[1]
            assert int(decoder.state.cursor) == prefix + decoder.done
            assert (decoder.state.visible.sum(-1) == prefix + decoder.done).all()
    assert fed == [*range(middle - MIDDLE, middle + MIDDLE)] * 2 + [*range(middle - MIDDLE, middle)]
