"""Accumulation over four batches, bf16 autocast, a GradScaler that skips a step, clipping."""

import torch
from torch import nn

torch.manual_seed(3)
model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
for batch in range(100):
    x = torch.randn(16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean() / 4
    if batch == 50:
        loss = loss * float("inf")
    scaler.scale(loss).backward()
    if batch % 4 == 3:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
print(loss.item(), scaler.get_scale())
torch.save([model.state_dict(), torch.get_rng_state()], "weights.pt")
