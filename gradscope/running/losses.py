"""The loss of a step, from the roots of the backward calls that led to it."""

from __future__ import annotations

from torch import Tensor
from torch.amp.grad_scaler import GradScaler

__all__ = ["Losses"]


class Losses:
    """Adds up roots as gradients add up.

    With accumulation that is the loss that the update follows, and so it is for the two halves of
    a discriminator's batch. Inside an optimizer's step (a closure) only the first counts: those
    after it, of LBFGS, belong to weights that were tried.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._stepping = self._full = False

    def enter_step(self) -> None:
        """An optimizer's step begins."""
        self._stepping, self._full = True, False

    def leave_step(self) -> None:
        """It has ended."""
        self._stepping = False

    def settle(self) -> None:
        """The round goes on. The graph behind it is let go of: it may hold memory."""
        self._sum = None if self._sum is None else self._sum.detach()

    def see(self, root: object, *, keep_graph: bool) -> None:
        """A backward call has ended.

        Args:
            root: what it was called on; anything but a scalar is passed over.
            keep_graph: whether the graph behind the root is free of what the backward needed.
        """
        if not isinstance(root, Tensor) or root.numel() != 1 or (self._stepping and self._full):
            return
        self._full = self._stepping
        root = root if keep_graph else root.detach()
        if self._sum is None:
            self._sum = root
        elif self._sum.device == root.device:
            self._sum = self._sum.detach() + root

    def take(self, scaler: GradScaler | None) -> Tensor | None:
        """The sum of a round that has ended, the loss scale undone; None without a loss."""
        taken = self._sum
        self.clear()
        scale = None if scaler is None else scaler._scale
        return taken if taken is None or scale is None else taken / scale.to(taken.device)

    def clear(self) -> None:
        """A new round begins."""
        self._sum = None
