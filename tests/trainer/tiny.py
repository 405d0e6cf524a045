"""A profile small enough to train within a test."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.encoder.mel import LogMel, MelConfig
from trainer.encoder.profiles import LabelRecipe, Profile

MEL = MelConfig(n_fft=512, hop_length=256, n_mels=32)


class TinyEncoder(nn.Module):
    """Log-mel, two convolutions, one linear layer."""

    def __init__(self, n_labels: int, mel: MelConfig) -> None:
        """Build it."""
        super().__init__()
        self.log_mel = LogMel(mel)
        self.normalise = nn.BatchNorm2d(1)
        self.blocks = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 128, 3, stride=2), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(512, n_labels)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, embedding, log-mel."""
        mel = self.mel_of(waveform)
        logits, embedding = self.heard_in(mel)
        return logits, embedding, mel

    def mel_of(self, waveform: Tensor) -> Tensor:
        """Return the log-mel."""
        mel: Tensor = self.log_mel(waveform)
        return mel

    def heard_in(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding."""
        embedding = self.pool(self.blocks(self.normalise(mel.unsqueeze(1)))).flatten(1)
        return self.head(embedding), embedding


TINY = Profile(
    name="tiny",
    mel=MEL,
    samples_per_window=22_050,
    build=TinyEncoder,
    recipe=LabelRecipe(negative_share=0.25),
    epochs=6,
    batch_size=4,
    learning_rate=1e-2,
)
