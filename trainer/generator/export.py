"""From a trained generator to the files of a bundle that paints."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

OPSET = 18
SIDE = 64


def export_denoiser(denoiser: nn.Module, path: Path) -> None:
    """Write a denoiser as ONNX, (x, sigma, condition) -> denoised, preconditioning inside; fp32."""
    # A batch of one would be frozen into the graph without a word; so would len(x) in a forward.
    example = (torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 5.0]), torch.randn(2, 512))
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            denoiser.cpu().float().eval(),
            example,
            path,
            input_names=["x", "sigma", "condition"],
            output_names=["denoised"],
            dynamic_shapes={name: {0: batch} for name in ("x", "sigma", "condition")},
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
