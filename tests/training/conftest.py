"""Small tensors only: a second thread costs more than it brings, most of all beside other work."""

import torch

torch.set_num_threads(1)
