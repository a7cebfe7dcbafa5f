"""Trains for a while and ends in the way that its argument says."""

import os
import signal
import sys

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        if len(x) == 3:
            raise ValueError("a batch of three")
        return self.layer(x)


def end(how):
    if how == "raises":
        try:
            model(torch.randn(3, 4))
        except ValueError as error:
            raise RuntimeError("the training has failed") from error
    if how == "backward":
        model(torch.randn(5, 4)).backward()
    if how == "exits":
        sys.exit(3)
    if how == "says":
        sys.exit("enough")
    if how == "interrupted":
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()


torch.manual_seed(13)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
torch.save([model.state_dict(), torch.get_rng_state()], "weights.pt")
print("trained")
end(sys.argv[1])
