"""The paper's sound encoder (Toleubekova et al. 2025), with the mel front end inside.

Three 5×5 valid convolutions, each with ReLU, batch norm and 2×2 max-pooling, take the
128×128 log-mel map to 12×12×128; fully connected layers of 256, 128 and n follow, with dropout
0.5 between. Where the text leaves something open, this is what was chosen:

- channels of the first two convolutions: 16 and 32. With 32 and 64 a training step took 2.2
  times as long on two cores;
- the map is the middle 128 of a 3 s window's 130 frames;
- a batch norm on the log-mel map is its only normalisation: constants once trained.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.encoder.mel import LogMel, MelConfig

N_FRAMES = 128
CHANNELS = (16, 32, 128)
HIDDEN = (256, 128)
DROPOUT = 0.5
MAP_SIDE = 12
"""128 -> 62 -> 29 -> 12 through convolution (-4) and pooling (/2)"""


class PaperEncoder(nn.Module):
    """Waveform float32 [batch, 66150] -> (logits, embedding, log-mel).

    logits float32 [batch, labels]; embedding float32 [batch, 512], the last map's 128 channels
    average-pooled to 2×2, channels slowest; log-mel float32 [batch, 128, 128].
    """

    def __init__(self, n_labels: int, mel: MelConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.log_mel = LogMel(mel)
        self.normalise = nn.BatchNorm2d(1)
        widths = (1, *CHANNELS)
        self.blocks = nn.Sequential(*(_block(a, b) for a, b in pairwise(widths)))
        self.pool = nn.AvgPool2d(MAP_SIDE // 2)
        self.head = _head(CHANNELS[-1] * MAP_SIDE**2, n_labels)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, embedding and log-mel; see the class."""
        mel = self.mel_of(waveform)
        logits, embedding = self.heard_in(mel)
        return logits, embedding, mel

    def mel_of(self, waveform: Tensor) -> Tensor:
        """Return the log-mel map float32 [batch, 128, 128]; nothing in it is learnt."""
        mel: Tensor = self.log_mel(waveform, N_FRAMES)
        return mel

    def heard_in(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding of log-mel maps."""
        last_map = self.blocks(self.normalise(mel.unsqueeze(1)))
        return self.head(torch.flatten(last_map, 1)), torch.flatten(self.pool(last_map), 1)


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel_size=5), nn.ReLU(), nn.BatchNorm2d(n_out), nn.MaxPool2d(2)
    )


def _head(n_in: int, n_labels: int) -> nn.Sequential:
    first, second = HIDDEN
    return nn.Sequential(
        *(nn.Linear(n_in, first), nn.ReLU(), nn.Dropout(DROPOUT)),
        *(nn.Linear(first, second), nn.ReLU(), nn.Dropout(DROPOUT)),
        nn.Linear(second, n_labels),
    )
