"""A class that no tensor here has."""

import torch


class QuantizedTensor(torch.Tensor):
    pass
