"""Unfreezes what is frozen."""

from __future__ import annotations

from torch import nn

from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Undo

__all__ = ["Thaw"]


class Thaw(Remedy):
    """Train the parameters that are frozen too."""

    name = "thaw"
    changes = (Change.TRAINING,)
    treats = ("EXA101",)

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        return [self.prescription(finding, "They may be frozen by mistake.")]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        frozen = [entry for entry in model.parameters() if not entry.requires_grad]
        for entry in frozen:
            entry.requires_grad_(True)

        def undo() -> None:
            for entry in frozen:
                entry.requires_grad_(False)

        return undo
