"""Tracks have no order: which go with which of another set, such as labels or the answers of another window."""

from collections.abc import Callable
from itertools import permutations

import torch
from torch import nn


NUM_TRACKS = 3


def pairwise(loss: Callable, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean loss between each track and each label slot: two of (batch, frames, 3, …) to (batch, frames, 3, 3)."""
    prediction, target = torch.broadcast_tensors(prediction.unsqueeze(3), target.unsqueeze(2))
    return loss(prediction, target, reduction="none").flatten(4).mean(-1)


@torch.no_grad()
def best_order(cost: torch.Tensor) -> torch.Tensor:
    """The label slot for each track (batch, frames, 3) that costs least, of a cost for each track and slot."""
    orders = torch.tensor(list(permutations(range(NUM_TRACKS))), device=cost.device)
    # A column an order: 1 where a track has a slot in it.
    chosen = nn.functional.one_hot(orders, NUM_TRACKS).flatten(1).T.to(cost.dtype)
    return orders[(cost.flatten(2) @ chosen).argmin(-1)]


def in_order(cost: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Mean cost when each track predicts its label slot in `order`."""
    return cost.gather(3, order.unsqueeze(3)).mean()


def nearest_order(tracks: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Which of `tracks` stands for each track of `reference`, (batch, frames, 3), so that they differ least in square.

    Every frame has its own order, as in training, where the loss is free to choose one for each frame.

    Args:
        tracks, reference: vectors (batch, frames, 3, numbers).
    """
    # Of (a - b)² only -2ab is not the same for every order.
    return best_order(-(reference.unsqueeze(3) * tracks.unsqueeze(2)).sum(-1))
