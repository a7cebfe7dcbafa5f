"""Short trainings with Lightning, imported by the tests of its callback when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 12


def batches() -> DataLoader[Any]:
    values = torch.randn(BATCHES * 4, 6, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(values, values.sum(1, keepdim=True)), batch_size=4)


class Regression(pl.LightningModule):
    """Keeps the losses that it was trained with; fails at ``fails_at`` with ``failure``."""

    def __init__(self, fails_at: int = -1, failure: type[BaseException] = ValueError) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.fails_at, self.failure = fails_at, failure
        self.losses: list[float] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.body(inputs), targets)
        self.losses.append(loss.item())
        if len(self.losses) - 1 == self.fails_at:
            raise self.failure("on purpose")
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.body(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Adversaries(pl.LightningModule):
    """Two optimizers, stepped by hand in every second batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        self.losses: list[float] = []

    def training_step(self, batch: Any, index: int) -> None:
        inputs, _ = batch
        first, second = self.optimizers()
        critic_loss = (self.critic(self.generator(inputs).detach()) - self.critic(inputs)).mean()
        self.manual_backward(critic_loss)
        loss = self.critic(self.generator(inputs)).pow(2).mean()
        self.manual_backward(loss)
        self.losses.append(critic_loss.item() + loss.item())
        if index % 2:
            for optimizer in (first, second):
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.SGD(self.critic.parameters(), lr=0.01),
            torch.optim.SGD(self.generator.parameters(), lr=0.01),
        )


def fit(
    model: pl.LightningModule,
    callbacks: list[Any],
    folder: Path,
    checkpoint: Path | None = None,
    **options: Any,
) -> pl.Trainer:
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **options}
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=str(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    torch.manual_seed(1)
    validation = batches() if isinstance(model, Regression) else None
    trainer.fit(model, batches(), validation, ckpt_path=checkpoint)
    return trainer
