"""Learning that one answer is better than another, beside learning the better one by heart."""

from dataclasses import dataclass

import torch
from pydantic import with_config
from torch.nn.functional import logsigmoid

from fourfold.assistant.training.packing import Batch
from fourfold.assistant.validation import FORBID_UNKNOWN


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class Preference:
    """The preference term of the loss: Direct Preference Optimization.

    -log sigmoid(beta * ((log p(y+) - log p(y-)) - (log p0(y+) - log p0(y-)))), the mean over the pairs of a batch;
    y+ is the better and y- the rejected answer, p the model and p0 the model before training (Rafailov et al. 2023,
    equation 7). p0's difference is the pair's margin, computed once. The term is added to the ordinary loss on y+,
    without which both answers may become less likely (Pang et al. 2024, section 2).
    """

    weight: float = 1.0  # of the term, beside 1 for the ordinary loss
    beta: float = 0.1  # how far the model may go from p0 before the pair counts as learnt; smaller means further

    def loss(self, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The term of a batch that has pairs, of its (targets,) cross-entropies, which carry their gradient."""
        return -self.weight * logsigmoid(self.beta * (differences(tokens, batch) - batch.margins)).mean()


def differences(tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(pairs,) log p(y+) - log p(y-) in nats, each summed over the answer's tokens with its end of turn."""
    belongs = (batch.turns[None, None] == batch.pairs[:, :, None]).to(tokens.dtype)  # (pairs, 2, targets)
    better, worse = (belongs @ -tokens).unbind(1)
    return better - worse
