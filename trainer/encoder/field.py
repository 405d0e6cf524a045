"""The encoder that stations run: a small residual network over a fine mel, with attention in time.

Log-mel 96 bands × 256 frames (n_fft 1024, hop 256, the middle of a 3 s window's 259), without its
level -> a stem that takes 4×4 at a step -> two stages that halve both axes -> 128 channels × 6 ×
16 -> per-frame logits and per-label attention over frames -> logits, one sigmoid a label: several
birds sing at once, and none may.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.encoder.mel import LogMel, MelConfig

N_FRAMES = 256
STEM = 32
STEM_KERNEL, STEM_STRIDE = 7, 4
"""One wide step down at once: narrow maps of many values cost most of the time, in training as
on a station (docs/experiments.md)"""
WIDTHS = (64, 128)
FEATURES = 256
DROPOUT = 0.3
TEACHER_EMBEDDING = 1024
MEL_MEAN, MEL_SCALE = -8.0, 4.0
"""Rough centre and spread of the log-mel of field recordings; the rest the weights learn"""


@dataclass(frozen=True, slots=True)
class FieldShape:
    """What of the network an ablation may leave out."""

    is_levelled: bool = True
    """Whether it sees the log-mel without its level; else as it is"""
    has_attention: bool = True
    """Whether each label weighs the frames; else all count alike"""


DEFAULT_SHAPE = FieldShape()


class FieldEncoder(nn.Module):
    """Waveform float32 [batch, 66150] -> (logits, embedding, log-mel, frame logits).

    logits float32 [batch, labels]; embedding float32 [batch, 512], the last map's 128 channels
    average-pooled to 2×2, channels slowest; log-mel float32 [batch, 96, 256]; frame logits
    float32 [batch, labels, 16], of which each logit is a mean weighed by attention.
    """

    def __init__(self, n_labels: int, mel: MelConfig, shape: FieldShape = DEFAULT_SHAPE) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.shape = shape
        self.log_mel = LogMel(mel)
        n_views = 2 if shape.is_levelled else 1
        padding = STEM_KERNEL // 2
        self.stem = nn.Sequential(
            nn.Conv2d(n_views, STEM, STEM_KERNEL, STEM_STRIDE, padding, bias=False),
            nn.BatchNorm2d(STEM),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            ResidualBlock(STEM, STEM, stride=1),
            *(
                block
                for narrow, wide in pairwise((STEM, *WIDTHS))
                for block in (
                    ResidualBlock(narrow, wide, stride=2),
                    ResidualBlock(wide, wide, stride=1),
                )
            ),
        )
        self.to_features = nn.Sequential(
            nn.Conv1d(2 * WIDTHS[-1], FEATURES, 1), nn.ReLU(), nn.Dropout(DROPOUT)
        )
        self.to_logits = nn.Conv1d(FEATURES, n_labels, 1)
        self.to_attention = nn.Conv1d(FEATURES, n_labels, 1)
        self.to_teacher = nn.Linear(FEATURES, TEACHER_EMBEDDING)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits, embedding, log-mel and frame logits; see the class."""
        mel = self.log_mel(waveform, N_FRAMES)
        last_map = self.last_map(mel)
        features = self.features_of(last_map)
        frame_logits = self.to_logits(features)
        embedding = nn.functional.avg_pool2d(last_map, (3, 8))
        logits = self.attended(frame_logits, features)
        return logits, torch.flatten(embedding, 1), mel, frame_logits

    def last_map(self, mel: Tensor) -> Tensor:
        """Return float32 [batch, 128, 6, 16] of a log-mel [batch, 96, 256]."""
        views = levelled(mel) if self.shape.is_levelled else absolute(mel)
        maps: Tensor = self.stages(self.stem(views))
        return maps

    def features_of(self, last_map: Tensor) -> Tensor:
        """Return float32 [batch, 256, 16], a vector a frame: mean and peak over frequency."""
        pooled = torch.cat([last_map.mean(dim=2), last_map.amax(dim=2)], dim=1)
        features: Tensor = self.to_features(pooled)
        return features

    def logits_of(self, features: Tensor) -> Tensor:
        """Return float32 [batch, labels] of features [batch, 256, 16]."""
        return self.attended(self.to_logits(features), features)

    def attended(self, frame_logits: Tensor, features: Tensor) -> Tensor:
        """Return float32 [batch, labels]: frame logits, weighed by each label's attention."""
        if not self.shape.has_attention:
            return frame_logits.mean(dim=2)
        attention = torch.softmax(self.to_attention(features), dim=2)
        return (attention * frame_logits).sum(dim=2)

    def teacher_view(self, features: Tensor) -> Tensor:
        """Return the guess of the teacher's embedding [batch, 1024]; for training only."""
        guess: Tensor = self.to_teacher(features.mean(dim=2))
        return guess


def levelled(mel: Tensor) -> Tensor:
    """Return a log-mel seen twice, [batch, 2, n_mels, frames]: without its level, and without that
    of each of its bands.

    The first forgets how loud a recording is, the second also its microphone, its distance and
    every steady noise: what a recording's gain and filters add to a log-mel is constant in time.
    """
    level = mel.mean(dim=(1, 2), keepdim=True)
    band_level = mel.mean(dim=2, keepdim=True)
    return torch.stack([mel - level, mel - band_level], dim=1) / MEL_SCALE


def absolute(mel: Tensor) -> Tensor:
    """Return a log-mel roughly centred, [batch, 1, n_mels, frames]."""
    return ((mel - MEL_MEAN) / MEL_SCALE).unsqueeze(1)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        """Build the block; a stride or another width gives the shortcut a 1×1 convolution."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, n_out, height/stride, width/stride]."""
        summed: Tensor = self.body(x) + self.shortcut(x)
        return torch.relu(summed)
