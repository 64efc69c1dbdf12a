"""Lightning: it saves where the loader is with each checkpoint, and restores it.

python docs/examples/train_lightning.py
"""

import lightning
import torch
from torch import nn

import flowpairs as fp


class Flow(lightning.LightningModule):
    """A velocity and how it is trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, t, x):
        return self.layers(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)

    def training_step(self, batch):
        loss = fp.flow_matching_loss(self, batch)
        self.log("loss", loss, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


trainer = lightning.Trainer(max_epochs=5, default_root_dir="out/lightning")
trainer.fit(Flow(), fp.PairLoader("out/digits", batch_size=256))
print(f"loss {trainer.callback_metrics['loss_epoch']:.3f} after {trainer.global_step} steps")
