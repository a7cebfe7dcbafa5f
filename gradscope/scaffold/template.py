"""The subject file that ``gradscope init`` writes without a model."""

from __future__ import annotations

__all__ = ["TEMPLATE"]

TEMPLATE = '''\
"""What gradscope examines: a model, its batches, its loss, its optimizer.

It works as it stands, on a small model and data that were made up. Replace what is marked
REPLACE, one after the other, and run `gradscope scan` on this file after each.
"""

import torch
from torch import nn
from torch.nn import functional as F


# REPLACE by your model: `from my_package import MyModel` above, `return MyModel()` here. It is
# built anew for each training, so build it inside of the function, with fresh weights.
def build_model():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))


# REPLACE by your data: a list of batches, or a DataLoader. It is gone through again and again, so
# an iterator that is spent after one pass will not do. A batch may be
#   a tensor x                      the model is called as model(x)
#   a pair (inputs, targets)        model(inputs)
#   a mapping {"x": x, "mask": m}   model(x=x, mask=m)
# For anything else write step(model, batch) in place of loss: it calls the model as you do, and
# returns the loss.
def build_data():
    inputs = torch.randn(2048, 20)
    targets = (inputs.sum(dim=1) > 0).long()
    return list(zip(inputs.split(32), targets.split(32)))


# REPLACE by your loss. It gets what the model returned and the whole batch, and returns a scalar
# tensor that backward() can be called on: reduced, and without .item().
def loss(output, batch):
    return F.cross_entropy(output, batch[1])


# REPLACE by your optimizer. What is a fault depends on it: Adam divides a small gradient by its
# own size and learns all the same, where SGD stands still. Use the parameters that are given.
def build_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


# REPLACE, or leave out: what `gradscope fix` judges repairs by; without it the loss is. The first
# number counts, best measured on data that is not trained on. The model is in eval mode here,
# without gradients.
def evaluate(model):
    inputs = torch.randn(1000, 20)
    right = model(inputs).argmax(dim=1) == (inputs.sum(dim=1) > 0)
    return {"accuracy": right.float().mean().item()}


# Whether more of that number is better. It may be left out where the name tells, as loss, error
# and perplexity do.
HIGHER_IS_BETTER = True
'''
