"""accelerate: a DataLoader over the dataset, which it shards among the processes.

accelerate launch docs/examples/train_accelerate.py
"""

import accelerate
import torch
from torch import nn

import flowpairs as fp


class Velocity(nn.Sequential):
    """Layers on the pixels and the time."""

    def forward(self, t, x):
        return super().forward(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)


accelerator = accelerate.Accelerator()
model = Velocity(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64))
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
data = torch.utils.data.DataLoader(fp.PairDataset("out/digits"), batch_size=256, shuffle=True)
model, optimiser, data = accelerator.prepare(model, optimiser, data)
for epoch in range(5):
    for batch in data:
        loss = fp.flow_matching_loss(model, batch)
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
    accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")
