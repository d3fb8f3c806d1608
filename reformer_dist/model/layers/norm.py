"""The norm that every layer of a model begins with: LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019).

In: a stream [..., E] and the layer's parameters by name. Out: the stream, normalised over its width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from reformer_dist.config import ModelConfig


def norm_parameters(config: ModelConfig, width: int) -> dict[str, nn.Parameter]:
    """What a layer of this width must have for `normalise`, by name."""
    parameters = {"norm_weight": nn.Parameter(torch.ones(width))}
    if config.norm == "layer":
        parameters["norm_bias"] = nn.Parameter(torch.zeros(width))
    return parameters


def normalise(x: Tensor, parameters: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    """The stream under the configured norm."""
    weight, eps = parameters["norm_weight"], config.layer_norm_eps
    if config.norm == "rms":
        return rms_norm(x, weight.shape, weight, eps)
    return layer_norm(x, weight.shape, weight, parameters["norm_bias"], eps)
