"""U-Nets that clean a noisy image, told how noisy it is and what was heard.

The layout was chosen for two cores: the image enters as 12 channels at half the resolution
(pixel-unshuffle), so that no convolution works at 64×64, and everything is ordinary dense
convolutions, which bf16 tile units (AMX) and onnxruntime run fastest: `bench/generator_step.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_TOKENS = 4
TOKEN_WIDTH = 128
N_CONDITION = N_TOKENS * TOKEN_WIDTH
N_AUGMENT = 4
"""Values that say how an image was augmented; all zero at sampling"""
CHANNELS_PER_GROUP = 16
CHANNELS_PER_HEAD = 64


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """The shape of a U-Net."""

    widths: tuple[int, ...]
    """Channels at each resolution, the input's half first"""
    n_blocks: int
    """Per resolution on the way down; one more on the way up"""
    n_attending: int
    """Lowest resolutions with attention"""
    n_embedding: int = 256
    dropout: float = 0.0
    learnt_resampling: bool = False
    """Strided and interpolated convolutions (MinImagen) instead of averages and copies"""
    unshuffle: int = 2


class UNet(nn.Module):
    """Noisy image float32 [batch, 3, 64, 64] -> an image of the same shape.

    What that image means (noise, or a mixture of noise and image) is for `diffusion` to say.
    """

    def __init__(self, config: UNetConfig) -> None:
        """Build the network with random weights; its output begins as zero."""
        super().__init__()
        self.config = config
        widths, n_pixels = config.widths, 3 * config.unshuffle**2
        self.describe = Describe(config.n_embedding)
        self.first = nn.Conv2d(n_pixels, widths[0], 3, padding=1)
        self.down, kept = _way_down(config)
        self.middle = Block(widths[-1], widths[-1], config, attends=config.n_attending > 0)
        self.up = _way_up(config, kept)
        self.last_norm = _norm(widths[0])
        self.last = nn.Conv2d(widths[0], n_pixels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(
        self, image: Tensor, level: Tensor, condition: Tensor, augment: Tensor | None = None
    ) -> Tensor:
        """Return the network's answer.

        Args:
            level: noise level, as the preconditioning gives it, [batch].
            condition: [batch, 512].
            augment: how the image was augmented, [batch, 4]; None means not at all.
        """
        embedding = self.describe(level, condition, augment)
        tokens = tokens_of(condition)
        x = self.first(F.pixel_unshuffle(image, self.config.unshuffle))
        kept = [x]
        for layer in self.down:
            x = layer(x, embedding, tokens)
            kept.append(x)
        x = self.middle(x, embedding, tokens)
        for layer in self.up:
            if isinstance(layer, Block):
                x = torch.cat([x, kept.pop()], dim=1)
            x = layer(x, embedding, tokens)
        return F.pixel_shuffle(self.last(F.silu(self.last_norm(x))), self.config.unshuffle)


class Describe(nn.Module):
    """Noise level, pooled condition and augmentation -> one vector [batch, n]."""

    def __init__(self, n: int) -> None:
        """Build it."""
        super().__init__()
        self.n_waves = n // 2
        self.level = nn.Linear(n, n)
        self.condition = nn.Linear(N_CONDITION, n)
        self.augment = nn.Linear(N_AUGMENT, n, bias=False)
        self.mix = nn.Linear(n, n)

    def forward(self, level: Tensor, condition: Tensor, augment: Tensor | None) -> Tensor:
        """Return the vector that every block is modulated with."""
        x = self.level(waves(level, self.n_waves)) + self.condition(condition)
        if augment is not None:
            x = x + self.augment(augment)
        return F.silu(self.mix(F.silu(x)))


class Block(nn.Module):
    """Two convolutions around a modulated norm, and attention where asked for."""

    def __init__(self, n_in: int, n_out: int, config: UNetConfig, *, attends: bool) -> None:
        """Build it; as a residual it begins at nothing."""
        super().__init__()
        self.norm1 = _norm(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.modulate = nn.Linear(config.n_embedding, 2 * n_out)
        self.norm2 = _norm(n_out)
        self.dropout = CheapDropout(config.dropout)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.attention = Attention(n_out) if attends else None

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Return [batch, n_out, side, side]."""
        inner = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = F.silu(self.norm2(inner) * (1 + scale) + shift)
        x = self.skip(x) + self.conv2(self.dropout(inner))
        return x if self.attention is None else self.attention(x, tokens)


class Attention(nn.Module):
    """Every place looks at every place and at the tokens of the condition."""

    def __init__(self, n: int) -> None:
        """Build it; as a residual it begins at nothing."""
        super().__init__()
        self.n_heads = max(1, n // CHANNELS_PER_HEAD)
        self.norm = _norm(n)
        self.ask = nn.Linear(n, 3 * n)
        self.heard = nn.Linear(TOKEN_WIDTH, 2 * n)
        self.answer = nn.Linear(n, n)
        nn.init.zeros_(self.answer.weight)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return [batch, n, side, side]."""
        n, side = x.shape[1], x.shape[2]
        query, key, value = self.ask(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=2)
        heard_key, heard_value = self.heard(tokens).chunk(2, dim=2)
        key = self._heads(torch.cat([key, heard_key], dim=1))
        value = self._heads(torch.cat([value, heard_value], dim=1))
        seen = attended(self._heads(query), key, value)
        seen = self.answer(seen.transpose(1, 2).flatten(2))
        added: Tensor = x + seen.transpose(1, 2).reshape(-1, n, side, side)
        return added

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.n_heads, -1).transpose(1, 2)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √n) v of [batch, heads, places, n].

    Written out on a CPU: torch's fused one takes twice to three times as long there, in bfloat16
    with 64 places, and it was an eighth of a training step.
    """
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    seen: Tensor = scores.softmax(dim=3).to(value.dtype) @ value
    return seen


class CheapDropout(nn.Module):
    """Dropout whose random numbers are bytes: torch's own was a tenth of a step on a CPU."""

    def __init__(self, share: float) -> None:
        """Drop a share of the values, rounded to 256ths."""
        super().__init__()
        self.n_dropped = round(share * 256)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, channels, height, width] with values missing, in training."""
        if not self.training or not self.n_dropped:
            return x
        if x.is_cuda:
            return F.dropout(x, self.n_dropped / 256)
        n, channels, height, width = x.shape
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        drawn = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()]
        kept = (drawn >= self.n_dropped).view(n, height, width, channels).permute(0, 3, 1, 2)
        return x * (kept.to(x.dtype) * (256 / (256 - self.n_dropped)))


class Down(nn.Module):
    """Half the resolution."""

    def __init__(self, n: int, *, learnt: bool) -> None:
        """Build it."""
        super().__init__()
        self.conv = nn.Conv2d(n, n, 3, stride=2, padding=1) if learnt else nn.AvgPool2d(2)

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Return [batch, n, side / 2, side / 2]."""
        halved: Tensor = self.conv(x)
        return halved


class Up(nn.Module):
    """Twice the resolution."""

    def __init__(self, n: int, *, learnt: bool) -> None:
        """Build it."""
        super().__init__()
        self.conv = nn.Conv2d(n, n, 3, padding=1) if learnt else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Return [batch, n, side · 2, side · 2]."""
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


def tokens_of(condition: Tensor) -> Tensor:
    """Return a condition [batch, 512] as tokens [batch, 4, 128].

    Value (channel, row, column) of the encoder's last map stands at channel · 4 + row · 2 +
    column; a token is a place (row, column), so by frequency and time.
    """
    return condition.reshape(-1, TOKEN_WIDTH, N_TOKENS).transpose(1, 2)


def waves(level: Tensor, n: int) -> Tensor:
    """Return sines and cosines of a level, [batch, 2 n] (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(n, device=level.device) * (-math.log(10_000) / n))
    angles = level[:, None] * rates[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def count_weights(network: nn.Module) -> int:
    """Return how many numbers a network has learnt."""
    return sum(weights.numel() for weights in network.parameters())


def count_macs(network: nn.Module, *inputs: Tensor) -> int:
    """Return the multiplications of one image's pass through convolutions and linear layers."""
    counts: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        weights = layer.get_parameter("weight")
        n_places = output.numel() // output.shape[0] // weights.shape[0]
        counts.append(n_places * weights.numel())

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _way_down(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """Return the layers, and the channels that each step leaves for the way up."""
    layers, n = nn.ModuleList(), config.widths[0]
    kept = [n]
    for at, width in enumerate(config.widths):
        if at:
            layers.append(Down(n, learnt=config.learnt_resampling))
            kept.append(n)
        for _ in range(config.n_blocks):
            layers.append(Block(n, width, config, attends=_attends(config, at)))
            n = width
            kept.append(n)
    return layers, kept


def _way_up(config: UNetConfig, kept: list[int]) -> nn.ModuleList:
    layers, n, left = nn.ModuleList(), config.widths[-1], list(kept)
    for at, width in reversed(list(enumerate(config.widths))):
        for _ in range(config.n_blocks + 1):
            layers.append(Block(n + left.pop(), width, config, attends=_attends(config, at)))
            n = width
        if at:
            layers.append(Up(n, learnt=config.learnt_resampling))
    return layers


def _attends(config: UNetConfig, at: int) -> bool:
    return at >= len(config.widths) - config.n_attending


def _norm(n: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, n // CHANNELS_PER_GROUP), n)
