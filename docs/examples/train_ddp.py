"""Plain torch on two processes.

torchrun --nproc-per-node 2 docs/examples/train_ddp.py
"""

import torch
import torch.distributed as dist
from torch import nn

import flowpairs as fp


class Velocity(nn.Sequential):
    """Layers on the pixels and the time."""

    def forward(self, t, x):
        return super().forward(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)


dist.init_process_group("gloo")
loader = fp.PairLoader("out/digits", batch_size=256)  # rank and world are those of torch.distributed
model = nn.parallel.DistributedDataParallel(Velocity(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64)))
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(5):
    for batch in loader:
        loss = fp.flow_matching_loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: loss {loss.item():.3f}")
dist.destroy_process_group()
