"""What stands in the place of a model where operators alone are asked for: dimensions, and who computes."""

from __future__ import annotations

from typing import NoReturn

import torch

from harness.contract.operators import Operators
from harness.contract.runner import EngineRequest, Runner, State


def without_model(request: EngineRequest) -> Runner:
    """An engine factory that loads no weights."""
    return NoModel(request)


class NoModel(Runner):
    """Knows the config and the kernel set of a variant; whatever needs weights is an error."""

    def __init__(self, request: EngineRequest) -> None:
        self.config = request.config
        self.device = request.device
        self._operators = request.parts.get("kernels")

    def resolved(self) -> dict[str, str]:
        """See `Runner.resolved`: the slots of the kernel set."""
        return self._operators.resolved() if isinstance(self._operators, Operators) else {}

    def new_state(self, batch: int, max_len: int) -> State:
        """There is none."""
        self._refuse()

    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """There is none."""
        self._refuse()

    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        """There is none."""
        self._refuse()

    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """There are none."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuntimeError("this worker was started without a model: its table has operators and kernels alone")
