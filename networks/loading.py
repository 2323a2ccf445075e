"""Starting a network from the weights of another that has most of its parts."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

SECOND_LEVEL = ("embedding.target_mlp.", "embedding.join.")
"""Beginnings of the keys of a network's second level, which starts without effect."""


def load_parts(
    network: nn.Module, state: Mapping[str, Tensor], what: str, own: Sequence[str] = (), other: Sequence[str] = ()
) -> None:
    """Load all weights that `network` shares with another network; the rest stay as they are.

    Args:
        network: to load into.
        state: the other network's state dict.
        what: what the other network is, for the message.
        own: beginnings of the keys of `network` that stay as they are.
        other: beginnings of the keys that are left out of `state`.

    Raises:
        ValueError: beside these, keys or shapes differ.
    """
    mine = {key: value for key, value in network.state_dict().items() if not key.startswith(tuple(own))}
    given = {key: value for key, value in state.items() if not key.startswith(tuple(other))}
    faults = {
        "missing": set(mine) - set(given),
        "unexpected": set(given) - set(mine),
        "of another shape": {key for key in set(mine) & set(given) if mine[key].shape != given[key].shape},
    }
    said = [f"{fault}: {', '.join(sorted(keys)[:4])}" for fault, keys in faults.items() if keys]
    if said:
        raise ValueError(f"the {what} weights do not fit this network; {'; '.join(said)}")
    network.load_state_dict(given, strict=False)
