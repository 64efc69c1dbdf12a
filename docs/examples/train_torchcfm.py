"""torchcfm: stored pairs in the place of its couplings within a batch.

python docs/examples/train_torchcfm.py
"""

import torch
from torch import nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

import flowpairs as fp


class Velocity(nn.Sequential):
    """Layers on the pixels and the time."""

    def forward(self, t, x):
        return super().forward(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)


matcher = ConditionalFlowMatcher(sigma=0.0)
model = Velocity(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64))
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
loader = fp.PairLoader("out/digits", batch_size=256)
for epoch in range(5):
    for batch in loader:
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(batch["x0"], batch["x1"])
        loss = (model(t, x_t) - velocity).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
