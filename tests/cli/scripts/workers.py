"""Batches come from processes that are forked, or started anew."""

import multiprocessing
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Squares(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        x = torch.tensor([index / 64, 1.0])
        return x, x[:1] ** 2


def main(method):
    torch.manual_seed(12)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        Squares(), batch_size=8, shuffle=True, num_workers=1, multiprocessing_context=context
    )
    for x, y in loader:
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(method, loss.item())
    torch.save([model.state_dict(), torch.get_rng_state()], "weights.pt")


if __name__ == "__main__":
    main(sys.argv[1])
