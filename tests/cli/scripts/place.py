"""Depends on how Python was started: argv, __file__, the module search path, the directory."""

import pickle
import sys
from pathlib import Path

import beside
import torch
from torch import nn

import __main__

print(sys.argv, __name__, __file__, __package__, __spec__, __doc__, sys.path[0])
print(sorted(name for name in vars() if name.startswith("__")), Path.cwd())
print(Path("settings.txt").read_text(), (Path(__file__).parent / "beside.py").exists())


class Net(nn.Linear):
    pass


torch.manual_seed(beside.SEED)
model = Net(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
assert __main__.Net is type(pickle.loads(pickle.dumps(model)))
torch.save(model, "model.pt")
torch.save([model.state_dict(), torch.get_rng_state()], "weights.pt")
