"""Muon for the weight matrices of an encoder, AdamW for all else, as one optimizer.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). A new transformer learns what it
learns with AdamW from a third of the examples.
"""

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """Steps the weight matrices of a model with [`torch.optim.Muon`] and its other parameters with AdamW.

    Weight matrices are those of the linear layers but of the heads. Layers whose weights are held fixed are left out.

    Args:
        model: what is trained.
        muon_learning_rate: of the weight matrices.
        learning_rate: of the other parameters.
        weight_decay: of all.

    Raises:
        ValueError: no weight matrix is trained.
    """

    def __init__(self, model: nn.Module, muon_learning_rate: float, learning_rate: float, weight_decay: float):
        matrices = {
            id(module.weight)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and "heads." not in name
        }
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        chosen, others = ([p for p in trained if (id(p) in matrices) is is_matrix] for is_matrix in (True, False))
        if not chosen:
            raise ValueError("Muon is for weight matrices, of which none is trained: leave muon_learning_rate out")
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(chosen, lr=muon_learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Lets both parts work on the groups and the state of the whole, which are those that are saved."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        """One update."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self._parts:
            part.step()
        return loss


def muon_factory() -> type[MuonAdamW]:
    """What [`Trainer`] makes the optimizer with: called with the model, as its own factories are."""
    return MuonAdamW
