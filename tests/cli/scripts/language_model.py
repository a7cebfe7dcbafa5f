"""An LSTM that carries its state from one piece of text to the next."""

import torch
from torch import nn


class LanguageModel(nn.Module):
    def __init__(self, words=20, width=16):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=0.1, batch_first=True)
        self.decoder = nn.Linear(width, words)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens, state):
        output, state = self.lstm(self.embedding(tokens), state)
        return self.decoder(output), state


class Trainer:
    def __init__(self):
        self.model = LanguageModel()
        self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=0.05)

    def fit(self, tokens):
        state = None
        for start in range(0, tokens.shape[1] - 8, 8):
            x, y = tokens[:, start : start + 8], tokens[:, start + 1 : start + 9]
            logits, state = self.model(x, state)
            state = tuple(each.detach() for each in state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        print(f"perplexity {loss.exp().item():.3f}")


torch.manual_seed(4)
trainer = Trainer()
trainer.fit(torch.randint(20, (8, 240)))
torch.save([trainer.model.state_dict(), torch.get_rng_state()], "weights.pt")
