"""Muon for the weight matrices of an encoder and AdamW for all else, as one optimizer.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). A transformer trained from scratch
needs a third of the examples that it needs with AdamW.
"""

import torch
from torch import nn


# Coefficients of the quintic polynomial that brings singular values near 1, and how often it is applied.
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
MOMENTUM = 0.95


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return roughly U V^T for a matrix U S V^T, with singular values between about 0.7 and 1.2.

    It is computed in bfloat16, but in float32 on CPUs, most of which would take 40 times as long in bfloat16.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if tall else matrix
    result = result.float() if matrix.device.type == "cpu" else result.bfloat16()
    result = result / result.norm().clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), result, beta=first)
    return result.T if tall else result


class Muon(torch.optim.Optimizer):
    """Update matrices by their orthogonalised gradients with Nesterov momentum, as [`torch.optim.Muon`] does.

    Args:
        matrices: the parameters.
        lr: learning rate of square and wide matrices; that of tall ones is multiplied by sqrt(rows / columns).
        weight_decay: decoupled weight decay, as in AdamW.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Perform one update."""
        for group in self.param_groups:
            for matrix in (matrix for matrix in group["params"] if matrix.grad is not None):
                gradient, state = matrix.grad, self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                mean = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(mean, MOMENTUM))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


class MuonAdamW(torch.optim.Optimizer):
    """Update the weight matrices of a model with [`Muon`] and its other parameters with AdamW.

    Weight matrices are those of linear layers outside the heads. Frozen parameters are left out.

    Args:
        model: the model to train.
        muon_learning_rate: learning rate of the weight matrices.
        learning_rate: learning rate of the other parameters.
        weight_decay: weight decay of all parameters.

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
            raise ValueError("muon_learning_rate has no effect, as no weight matrix is trainable: remove it")
        self._parts: list[torch.optim.Optimizer] = [Muon(chosen, lr=muon_learning_rate, weight_decay=weight_decay)]
        # Adapters may be matrices alone.
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Make both parts use the groups and the state of this optimizer, which are the ones that are saved."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        """Perform one update."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self._parts:
            part.step()
        return loss


def muon_factory() -> type[MuonAdamW]:
    """Return the optimizer for [`Trainer`], which calls it with the model, as it does with its own factories."""
    return MuonAdamW
