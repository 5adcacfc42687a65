"""Keys that are read only beside certain values of another key.

A preset may hold them all the same, and so may a sweep whose axes change the other key. Typed for a run that does not
read it, a key would change the run's name and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter

from experiments.errors import UserError
from experiments.run_config import RunConfig

READ_BESIDE: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "generator.adaln_groups": ("generator.adaln", ("group",)),
    "generator.adaln_layout": ("generator.adaln", ("group",)),
    "generator.caption_prefix": ("generator.condition", ("text",)),
    "generator.null_mask": ("generator.condition", ("text",)),
    "generator.mask_padding": ("generator.condition", ("text",)),
    "generator.group_match": ("generator.hybrid_scheme", ("group_v1", "group_v2")),
    "generator.bi_mamba_v2": ("generator.mixer", ("bi_mamba_v2",)),
    "generator.bi_mamba": ("generator.mixer", ("bi_mamba",)),
    "objective.mask_ratio_low": ("objective.mask_ratio", ("mage", "uniform")),
    "objective.mask_ratio_high": ("objective.mask_ratio", ("mage", "uniform")),
    "objective.mask_ratio_mean": ("objective.mask_ratio", ("mage",)),
    "objective.mask_ratio_std": ("objective.mask_ratio", ("mage",)),
    "objective.variance_weight": ("generator.learned_variance", (True,)),
}
"""Key, or section -> another key and the values of it beside which it is read. A generator without that other key reads
it always."""


def unread(config: RunConfig, keys: Iterable[str]) -> dict[str, str]:
    """Those of `keys` that the run does not read, with a sentence on why."""
    found = {}
    for key in keys:
        own = next((own for own in READ_BESIDE if key == own or key.startswith(f"{own}.")), None)
        if own is None:
            continue
        other, values = READ_BESIDE[own]
        try:
            value = attrgetter(other)(config)
        except AttributeError:
            continue
        if value not in values:
            wanted = " or ".join(f"{other}={_word(value)}" for value in values)
            found[key] = f"{key} is not read beside {other}={_word(value)}; leave it out, or set {wanted}."
    return found


def refuse_changes(idle: Mapping[str, str], config: RunConfig, without: RunConfig) -> None:
    """Raise UserError for the first key that is not read and has another value than if it had not been typed.

    Args:
        idle: as `unread` returns it.
        without: the configuration without these keys.
    """
    for key, sentence in idle.items():
        if attrgetter(key)(config) != attrgetter(key)(without):
            raise UserError(sentence)


def _word(value: object) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)
