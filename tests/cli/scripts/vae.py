"""The model is never called: the loop uses its methods."""

import torch
from torch import nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 8))

    def encode(self, x):
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, z):
        return self.decoder(z)


torch.manual_seed(5)
vae = VAE()
optimizer = torch.optim.RMSprop(vae.parameters(), lr=1e-3)
for _ in range(25):
    x = torch.randn(16, 8)
    mean, log_variance = vae.encode(x)
    y = vae.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
    loss = (y - x).square().sum() + divergence
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss)
torch.save([vae.state_dict(), torch.get_rng_state()], "weights.pt")
