"""Samplers: reveal counts, known tokens, guidance, draws, noise, and that every setting changes the samples."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.generators.maskmamba import MaskMamba
from lightning_modules.samplers.config import SAMPLERS, HaltonConfig, MaskGITConfig
from lightning_modules.samplers.draw import draw_tokens, filter_logits
from lightning_modules.samplers.guidance import Guided, guidance_scale
from lightning_modules.samplers.halton import halton_order
from lightning_modules.samplers.noise import Noise
from lightning_modules.samplers.schedule import masked_counts, masked_share

CONFIG = MaskMambaConfig(vocab_size=32, grid_size=4, num_classes=3, width=32, depth=2, heads=4, dropout=0.0)


@pytest.fixture(scope="module")
def generator() -> MaskMamba:
    torch.manual_seed(0)
    model = MaskMamba(CONFIG).eval()
    torch.nn.init.normal_(model.token_embedding.weight, std=1.0)  # decided logits: settings must show in the draws
    return model


def _sample(generator: MaskMamba, config, seed: int = 0, indices=range(6), tokens=None) -> torch.Tensor:
    labels = torch.tensor([i % 3 for i in indices])
    return SAMPLERS.build(config)(generator, labels, Noise(seed, torch.tensor(list(indices))), tokens)


# The published step sizes of MaskGIT's cosine schedule for 256 tokens.
T20 = [1, 3, 4, 5, 7, 8, 10, 11, 13, 13, 15, 16, 17, 17, 19, 18, 20, 19, 20, 20]
T25 = [1, 2, 2, 4, 4, 5, 7, 7, 8, 9]


def test_reveal_counts_of_maskgit() -> None:
    def revealed(steps: int) -> list[int]:
        return [a - b for a, b in pairwise([256, *masked_counts("cosine", steps, 256)])]

    assert revealed(20) == T20
    assert revealed(25)[:10] == T25 and revealed(25)[-1] == 16


@pytest.mark.parametrize("schedule", ["cosine", "linear", "arccos"])
@pytest.mark.parametrize(("steps", "masked"), [(1, 16), (7, 16), (16, 16), (40, 16), (5, 1), (5, 0)])
def test_counts_fall_to_zero(schedule: str, steps: int, masked: int) -> None:
    counts = [masked, *masked_counts(schedule, steps, masked)]
    assert len(counts) == steps + 1 and counts[-1] == 0
    assert all(a >= b >= 0 for a, b in pairwise(counts))
    assert masked_share(schedule, 0.0) == 1 and masked_share(schedule, 1.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "config", [MaskGITConfig(steps=5), HaltonConfig(steps=5), MaskGITConfig(steps=40), HaltonConfig(steps=40)]
)
def test_known_tokens_stay_and_all_masks_go(generator: MaskMamba, config) -> None:
    tokens = torch.full((6, 16), generator.mask_token)
    tokens[:, 3:9] = torch.arange(6) + 20
    done = _sample(generator, config, tokens=tokens)
    assert torch.equal(done[:, 3:9], tokens[:, 3:9])
    assert done.max() < CONFIG.vocab_size and done.min() >= 0
    assert torch.equal(_sample(generator, config, tokens=done), done)  # nothing left to draw


@pytest.mark.parametrize(("masked", "passes"), [(1, 1), (3, 3), (16, 12)])
def test_steps_that_reveal_nothing_are_skipped(
    generator: MaskMamba, masked: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the last step draws from the same random numbers as if they had not been."""
    config, labels, calls = MaskGITConfig(steps=12), torch.arange(6) % 3, []
    tokens = torch.arange(16).repeat(6, 1)
    tokens[:, 5 : 5 + masked] = generator.mask_token
    if masked == 16:
        tokens[:] = generator.mask_token
    forward = generator.forward

    def counted(seen: torch.Tensor, context: object) -> torch.Tensor:
        calls.append(seen[:6].clone())
        return forward(seen, context)

    monkeypatch.setattr(generator, "forward", counted)
    done = _sample(generator, config, tokens=tokens)
    assert len(calls) == passes
    noise = Noise(0, torch.arange(6))
    for _ in range(2 * 11):
        noise.uniform(1)
    with torch.inference_mode():
        logits = Guided(generator, labels, noise, True, calls[-1]).logits(config.guidance)
    drawn, _ = draw_tokens(logits, noise.uniform(16))
    assert torch.equal(done, torch.where(calls[-1] == generator.mask_token, drawn, calls[-1]))


def test_rows_must_hide_equally_many(generator: MaskMamba) -> None:
    tokens = torch.full((2, 16), generator.mask_token)
    tokens[0, 0] = 1
    with pytest.raises(ValueError, match="same number of masked tokens"):
        _sample(generator, MaskGITConfig(), indices=range(2), tokens=tokens)


@pytest.mark.parametrize("noise", [-3.0, math.nan])
def test_noise_below_zero_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match=f"sampler.confidence_noise={noise} must be at least 0"):
        MaskGITConfig(confidence_noise=noise)


@pytest.mark.parametrize("key", ["guidance", "temperature", "confidence_noise"])
def test_infinite_settings_are_refused(key: str) -> None:
    """They would end in logits that are no numbers, or in ranks that go by the place of a token."""
    with pytest.raises(ValueError, match=f"sampler.{key}=inf must be a finite number"):
        MaskGITConfig(**{key: math.inf})


@pytest.mark.parametrize("base", [MaskGITConfig(steps=1), HaltonConfig(steps=1)])
def test_a_single_step_is_guided_in_full(generator: MaskMamba, base) -> None:
    rising = _sample(generator, replace(base, guidance_schedule="linear"), indices=range(24))
    assert torch.equal(rising, _sample(generator, base, indices=range(24)))
    assert not torch.equal(rising, _sample(generator, replace(base, guidance=1.0), indices=range(24)))


def test_guidance_reaches_its_end_where_steps_are_more_than_tokens(generator: MaskMamba) -> None:
    config = HaltonConfig(steps=16, guidance=6.0, guidance_schedule="linear")
    most = _sample(generator, config, indices=range(24))
    assert torch.equal(most, _sample(generator, replace(config, steps=300), indices=range(24)))
    assert not torch.equal(most, _sample(generator, replace(config, guidance=1.0), indices=range(24)))


@pytest.mark.parametrize("config", [MaskGITConfig(steps=6), HaltonConfig(steps=6, roll=True)])
def test_a_sample_depends_on_seed_and_index_alone(generator: MaskMamba, config) -> None:
    together = _sample(generator, config)
    apart = torch.cat([_sample(generator, config, indices=[i]) for i in range(6)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, _sample(generator, config, seed=1))


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (
            MaskGITConfig(steps=6),
            [
                {"steps": 3},
                {"guidance": 1.0},
                {"guidance": 6.0},
                {"guidance_schedule": "linear"},
                {"guidance_schedule": "cosine"},
                {"temperature": 0.3},
                {"temperature": 0.0},
                {"top_k": 2},
                {"top_p": 0.3},
                {"schedule": "linear"},
                {"schedule": "arccos"},
                {"confidence_noise": 0.0},
            ],
        ),
        (HaltonConfig(steps=6), [{"roll": True}, {"schedule": "cosine"}, {"guidance": 6.0}, {"steps": 3}]),
    ],
    ids=["maskgit", "halton"],
)
def test_every_setting_changes_the_samples(generator: MaskMamba, base, changes: list[dict]) -> None:
    reference = _sample(generator, base, indices=range(24))
    for change in changes:
        assert not torch.equal(reference, _sample(generator, replace(base, **change), indices=range(24))), change


@pytest.mark.parametrize("config", [MaskGITConfig(steps=4), HaltonConfig(steps=4), MaskGITConfig(steps=4, guidance=1)])
def test_every_step_works_in_the_same_buffer(generator: MaskMamba, config, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, places = generator.forward, []

    def watched(seen: torch.Tensor, context: object) -> torch.Tensor:
        halves = seen.view(-1, 6, 16)
        assert torch.equal(halves[0], halves[-1]) and len(halves) == (1 if config.guidance == 1 else 2)
        places.append(seen.data_ptr())
        return forward(seen, context)

    monkeypatch.setattr(generator, "forward", watched)
    tokens = _sample(generator, config)
    assert len(places) == 4 and {tokens.data_ptr()} == set(places)
    known = torch.full((6, 16), generator.mask_token)
    assert torch.equal(_sample(generator, config, tokens=known), tokens)
    assert (known == generator.mask_token).all()  # the caller's own stay as they are


def test_guidance_is_the_papers_formula(generator: MaskMamba, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.full((3, 16), generator.mask_token)
    labels, on = torch.arange(3), torch.ones(3, dtype=torch.bool)
    conditional = generator(tokens, generator.embed_condition(labels, ~on))
    unconditional = generator(tokens, generator.embed_condition(labels, on))
    guided = Guided(generator, labels, Noise(0, labels), True).logits(3.0)
    torch.testing.assert_close(guided, (1 - 3.0) * unconditional + 3.0 * conditional, rtol=1e-4, atol=1e-5)
    forward = generator.forward
    monkeypatch.setattr(generator, "forward", lambda *inputs: forward(*inputs).bfloat16())
    half = Guided(generator, labels, Noise(0, labels), True).logits(3.0)
    assert torch.equal(half, torch.lerp(unconditional.bfloat16().float(), conditional.bfloat16().float(), 3.0))
    assert [guidance_scale(3, s, 0.0) for s in ("constant", "linear", "cosine")] == [3, 1, 1]
    assert [guidance_scale(3, s, 1.0) for s in ("constant", "linear", "cosine")] == pytest.approx([3, 3, 3])
    assert [guidance_scale(3, s, 1 / 3) for s in ("constant", "linear", "cosine")] == pytest.approx([3, 5 / 3, 1.5])


@pytest.mark.parametrize(
    ("base", "left"), [(MaskGITConfig(), [16, 15, 12, 9, 4]), (HaltonConfig(), [16, 14, 12, 10, 7])]
)
def test_masks_fall_and_guidance_rises_step_by_step(
    generator: MaskMamba, base, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """floor(16 cos(pi/2 i/5)) masks are left, or 16 - floor(16 (1 - 2/pi arccos(i/5)))."""
    seen, logits = [], Guided.logits

    def watched(guided: Guided, scale: float) -> torch.Tensor:
        seen.append(((guided.tokens == generator.mask_token).sum(1).tolist(), scale))
        return logits(guided, scale)

    monkeypatch.setattr(Guided, "logits", watched)
    _sample(generator, replace(base, steps=5, guidance=3.0, guidance_schedule="linear"))
    assert seen == [([count] * 6, scale) for count, scale in zip(left, (1, 1.5, 2, 2.5, 3), strict=True)]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(1, 4000, 4)
    uniform = (torch.arange(4000)[None] + 0.5) / 4000
    tokens, log_p = draw_tokens(logits, uniform)
    assert torch.bincount(tokens[0]).tolist() == [400, 800, 1200, 1600]
    torch.testing.assert_close(log_p[0, 0], torch.tensor(math.log(0.1)))
    assert set(draw_tokens(logits, uniform, top_k=2)[0].unique().tolist()) == {2, 3}
    assert set(draw_tokens(logits, uniform, top_p=0.65)[0].unique().tolist()) == {2, 3}
    assert set(draw_tokens(logits, uniform, temperature=0.0)[0].unique().tolist()) == {3}
    half = logits.bfloat16()  # as under autocast
    assert all(map(torch.equal, draw_tokens(half, uniform), draw_tokens(half.float(), uniform)))
    tokens, log_p = draw_tokens(logits, uniform, temperature=0.5)
    assert torch.bincount(tokens[0]).tolist() == pytest.approx([x * 4000 / 30 for x in (1, 4, 9, 16)], abs=1)
    torch.testing.assert_close(log_p[0, -1], torch.tensor(math.log(16 / 30)))
    # The temperature comes first: of p^2 more than half is in the best token, of p less.
    assert set(draw_tokens(logits, uniform, temperature=0.5, top_p=0.5)[0].unique().tolist()) == {3}


def test_extreme_uniforms_never_draw_a_forbidden_token() -> None:
    logits = filter_logits(torch.tensor([[[5.0, 1.0, 4.0, 0.0]]]), top_k=2)
    for u in (1e-9, 0.5, 1 - 1e-9):
        token, log_p = draw_tokens(logits, torch.tensor([[u]]))
        assert token.item() in (0, 2) and torch.isfinite(log_p).all()


def test_top_k_keeps_ties_and_top_p_the_best() -> None:
    kept = filter_logits(torch.tensor([1.0, 2.0, 2.0, 2.0]), top_k=2)
    assert torch.isfinite(kept).tolist() == [False, True, True, True]
    kept = filter_logits(torch.tensor([1.0, 2.0, 9.0]), top_p=1e-6)
    assert torch.isfinite(kept).tolist() == [False, False, True]


def test_noise_is_uniform_and_independent() -> None:
    noise = Noise(7, torch.arange(64))
    first, second = noise.uniform(4096), noise.uniform(4096)
    for draw in (first, second):
        assert 0 < draw.min() and draw.max() < 1
        assert draw.mean().item() == pytest.approx(0.5, abs=0.003)
        assert draw.var().item() == pytest.approx(1 / 12, rel=0.01)
    stacked = torch.stack([first.flatten(), second.flatten()])
    assert abs(torch.corrcoef(stacked)[0, 1].item()) < 0.01
    assert abs(torch.corrcoef(first[:2])[0, 1].item()) < 0.06
    assert torch.equal(first[5:9], Noise(7, torch.arange(5, 9)).uniform(4096))
    assert noise.gumbel(4096).mean().item() == pytest.approx(0.5772, abs=0.01)


def test_noise_is_the_published_hash_of_seed_sample_draw_and_element() -> None:
    """splitmix64 (Steele et al. 2014) in integers without a sign; another rule would change every stored result."""

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden, seed = 0x9E3779B97F4A7C15, 41
    noise = Noise(seed, torch.tensor([0, 17]))
    noise.uniform(3), noise.skip(2)
    keys = [mix((mix(index + 1) + seed * golden) % 2**64) for index in (0, 17)]
    bits = [[mix((key + (element + (4 << 32)) * golden) % 2**64) >> 41 for element in (1, 2)] for key in keys]
    assert torch.equal(noise.uniform(2), (torch.tensor(bits) + 0.5) / 2**23)


@pytest.mark.parametrize("side", [4, 8, 16, 24])
def test_halton_order_is_a_spread_out_permutation(side: int) -> None:
    order = halton_order(side)
    assert sorted(order) == list(range(side * side))
    quarters = [(i // side * 2 // side, i % side * 2 // side) for i in order[:8]]
    assert len(set(quarters)) == 4  # the first eight already visit every quarter


def test_halton_points_on_the_edge_of_a_cell_belong_behind_it() -> None:
    """Ninths times 18 are whole numbers, which sums of their digits in floating point fall short of."""

    def mirrored(i: int, base: int) -> Fraction:
        return Fraction(0) if i == 0 else (i % base + mirrored(i // base, base)) / base

    places = [(int(mirrored(i, 2) * 18), int(mirrored(i, 3) * 18)) for i in range(1, 2000)]
    order = list(dict.fromkeys(18 * row + column for row, column in places))
    assert halton_order(18)[:200] == order[:200]
