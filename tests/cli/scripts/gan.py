"""Two models that an optimizer each trains in turn, in the manner of the DCGAN tutorial."""

import torch
from torch import nn

torch.manual_seed(2)
netG = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
netD = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
criterion = nn.BCEWithLogitsLoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=1e-3)
optimizerG = torch.optim.Adam(netG.parameters(), lr=1e-3)
for _ in range(25):
    netD.zero_grad()
    real = torch.randn(16, 2) + 3
    errD_real = criterion(netD(real), torch.ones(16, 1))
    errD_real.backward()
    fake = netG(torch.randn(16, 4))
    errD_fake = criterion(netD(fake.detach()), torch.zeros(16, 1))
    errD_fake.backward()
    optimizerD.step()
    netG.zero_grad()
    errG = criterion(netD(fake), torch.ones(16, 1))
    errG.backward()
    optimizerG.step()
print(errG.item())
torch.save([netG.state_dict(), netD.state_dict(), torch.get_rng_state()], "weights.pt")
