"""A patient teacher: it hears every window that the student hears, mixed and filtered as it is.

After Beyer et al. 2022, Knowledge distillation: a good teacher is patient and consistent. Answers
about 8,500 fixed windows are learnt by heart; a teacher on the same GPU answers about new ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.encoder.field import FieldEncoder
from trainer.encoder.memory import Memory
from trainer.encoder.mixtures import PIECES, STRANGE_STRETCHES, STRETCHES, Mixer, between, heard_at
from trainer.encoder.targets import CERTAIN

Ints = NDArray[np.int64]

MOST_BY_LABEL = math.log(CERTAIN / (1 - CERTAIN))
"""Logit to which a label may raise an answer"""
HEARD_FIRST = 20
"""Batches that the memory holds before any is shown again: the first would be learnt by heart"""


class BatchTeacher(Protocol):
    """A teacher whose answers never leave the device."""

    def hear_batch(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [batch, names] and embeddings [batch, values] of waveforms."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """How a teacher's answers are compared with the student's."""

    teacher: BatchTeacher
    n_samples: int
    """Of the teacher's windows"""
    columns: tuple[Tensor, ...]
    """The teacher's names that speak for each label"""
    species: Tensor
    """Labels that are species, not `unknown bird`"""
    centre: Tensor
    """Of its embedding over the training's windows, [values]"""
    spread: Tensor
    head_weight: Tensor
    """From its embedding to the logits of the names it ever heard here, [values, heard]"""
    head_offset: Tensor
    heard: Tensor
    """Those names"""

    def of_labels(self, logits: Tensor) -> Tensor:
        """Return the teacher's logit of each label, [batch, labels]."""
        return torch.stack([logits[:, c].amax(dim=1) for c in self.columns], dim=1)

    def disorder(self, said: Tensor, ranks: Tensor) -> Tensor:
        """Return how far the order of the species is from the teacher's logits of the labels.

        The cross-entropy of softmaxes, after Hinton et al. 2015: where nothing is likely, every
        sigmoid's loss is small, whichever species is the likeliest; this one is not. `unknown
        bird` would drown them: of 6,500 names one is mostly likelier.
        """
        wanted = torch.softmax(ranks[:, self.species], dim=1)
        return nn.functional.cross_entropy(said[:, self.species], wanted)

    def distance(self, guess: Tensor, embedding: Tensor) -> Tensor:
        """Return the mean squared distance of standardised embeddings."""
        wanted = (embedding - self.centre) / self.spread
        return (guess - wanted).square().mean()

    def disagreement(self, guess: Tensor, names: Tensor) -> Tensor:
        """Return the cross-entropy of what the teacher's own head makes of the guess."""
        said = (guess * self.spread + self.centre) @ self.head_weight + self.head_offset
        entropy = nn.functional.binary_cross_entropy_with_logits(said, names, reduction="sum")
        return entropy / len(guess)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where windows lie in the samples, and what they are; tensors [windows]."""

    first: Tensor
    begin: Tensor
    """Of the window's recording"""
    end: Tensor
    correction: Tensor
    """What the recordings' labels add to the teacher's logits of clean windows, [windows, labels],
    at least 0: to some recordings it is deaf"""
    is_background: Tensor


class Heard(NamedTuple):
    """A batch as the student hears it, and what it should say; float32."""

    mel: Tensor
    """[batch, n_mels, frames]"""
    target: Tensor
    """Probabilities [batch, labels]"""
    ranks: Tensor
    """Their logits before background is told to be none, [batch, labels]"""
    names: Tensor
    """The teacher's probabilities of all names it ever heard, [batch, heard]"""
    embedding: Tensor
    """The teacher's, [batch, values]"""


@dataclass(frozen=True, slots=True, eq=False)
class PatientCourse:
    """Ever new windows with the teacher's answers about just these."""

    mixer: Mixer
    places: Places
    answers: Answers
    weight: NDArray[np.float64]
    """How often a window is drawn, relative to the others"""
    under: Ints
    """Windows that are laid under others"""
    n_per_epoch: int
    n_frames: int
    embedding_weight: float
    head_weight: float
    rank_weight: float
    again_share: float
    """Of batches, those that were heard before"""
    memory: Memory
    device: torch.device
    is_bf16: bool = False
    """Whether the student computes in bfloat16"""

    def epoch(self, chance: np.random.Generator) -> Ints:
        """Return windows drawn by weight."""
        share = self.weight / self.weight.sum()
        return chance.choice(len(share), self.n_per_epoch, p=share).astype(np.int64)

    def loss(self, network: nn.Module, batch: Ints, chance: np.random.Generator) -> Tensor:
        """Return the distance to the teacher's probabilities, embedding and logits."""
        assert isinstance(network, FieldEncoder)
        heard = self.heard(network, batch, chance)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            features = network.features_of(network.last_map(heard.mel))
            said, guess = network.logits_of(features), network.teacher_view(features)
        loss = (
            nn.functional.binary_cross_entropy_with_logits(said.float(), heard.target)
            * heard.target.shape[1]
        )
        if self.rank_weight:
            loss = loss + self.rank_weight * self.answers.disorder(said.float(), heard.ranks)
        loss = loss + self.embedding_weight * self.answers.distance(guess.float(), heard.embedding)
        if self.head_weight:
            loss = loss + self.head_weight * self.answers.disagreement(guess.float(), heard.names)
        return loss

    def heard(self, network: FieldEncoder, batch: Ints, chance: np.random.Generator) -> Heard:
        """Return new mixtures, which are kept, or as many that were kept before.

        A resumed training begins with none: it is as good as an unbroken one, not the same.
        """
        is_again = chance.random() < self.again_share
        if is_again and len(self.memory) >= HEARD_FIRST * len(batch):
            return Heard(*self.memory.drawn(len(batch), chance))
        heard = self.prepared(network, batch, chance)
        if self.again_share:
            self.memory.keep(heard)
        return heard

    @torch.no_grad()
    def prepared(self, network: FieldEncoder, batch: Ints, chance: np.random.Generator) -> Heard:
        """Return windows mixed, with the teacher's answers about just these mixtures."""
        how, sound = self.mixer.how, self.mixer.sound
        dice = torch.Generator(self.device).manual_seed(int(chance.integers(2**62)))
        is_strange = bool(chance.random() < how.strange_share)
        n_in = int(chance.choice(STRANGE_STRETCHES if is_strange else STRETCHES))
        n_pieces = int(chance.choice(PIECES)) if is_strange else 1
        spectrum, correction, is_quiet = self.mixture(batch, n_in, n_pieces, chance, dice)
        if is_strange:
            spectrum = self.mixer.turned(self.mixer.moved(spectrum, dice), dice)
            correction = torch.zeros_like(correction)
        theirs = heard_at(spectrum, sound.n_samples, self.answers.n_samples)
        logits, embedding = self.answers.teacher.hear_batch(theirs)
        ranks = self.answers.of_labels(logits)
        # A label raises the answer as it raised that about the clean window: the more drowns a
        # call, the less it says.
        ranks = torch.maximum(ranks, (ranks + correction).clamp(max=MOST_BY_LABEL))
        # What is taken to be without a bird stays so, whatever the teacher thinks it hears.
        target = torch.where(is_quiet, 0.0, ranks.sigmoid())
        gain = 10 ** (between(*how.gain_db, len(batch), dice, target) / 20)
        waveform = heard_at(spectrum, sound.n_samples, sound.n_samples) * gain[:, None]
        mel = network.log_mel.by_fft(waveform, self.n_frames)
        return Heard(mel, target, ranks, logits[:, self.answers.heard].sigmoid(), embedding)

    def mixture(
        self,
        batch: Ints,
        n_in: int,
        n_pieces: int,
        chance: np.random.Generator,
        dice: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return spectra, what their labels add, and whether only background is in them [n, 1]."""
        how, n = self.mixer.how, len(batch)
        rows = torch.from_numpy(batch).to(self.device)
        spectrum = self.mixer.filtered(self.cut(rows, n_in, dice, n_pieces), dice)
        correction = self.places.correction[rows]
        partner = torch.randperm(n, generator=dice, device=self.device)
        is_mixed = torch.rand(n, 1, generator=dice, device=self.device) < how.mix_share
        relative = between(-how.mix_db, how.mix_db, n, dice, correction)
        both = self.mixer.laid_over(spectrum, spectrum[partner], relative)
        spectrum = torch.where(is_mixed, both, spectrum)
        of_both = torch.maximum(correction, correction[partner])
        correction = torch.where(is_mixed, of_both, correction)
        is_quiet = self.places.is_background[rows][:, None] & ~is_mixed
        if not len(self.under):
            return spectrum, correction, is_quiet
        under = torch.from_numpy(chance.choice(self.under, n)).to(self.device)
        is_over = torch.rand(n, 1, generator=dice, device=self.device) < how.under_share
        relative = between(*how.under_db, n, dice, correction)
        over = self.mixer.laid_over(
            spectrum, self.mixer.filtered(self.cut(under, n_in, dice), dice), relative
        )
        is_quiet &= ~is_over | self.places.is_background[under][:, None]
        return torch.where(is_over, over, spectrum), correction, is_quiet

    def cut(self, rows: Tensor, n_in: int, dice: torch.Generator, n_pieces: int = 1) -> Tensor:
        """Return spectra of windows that start near where their places do.

        Of several pieces the others are from anywhere in the same recording.
        """
        sound, places = self.mixer.sound, self.places
        reach = self.mixer.how.shift_s * sound.sample_rate
        shift = between(-reach, reach, len(rows), dice, places.correction).long()
        begin, end = places.begin[rows], places.end[rows]
        first = torch.minimum(places.first[rows] + shift, end - n_in)
        first = torch.maximum(first, begin)[:, None]
        if n_pieces > 1:
            share = torch.rand(len(rows), n_pieces - 1, generator=dice, device=self.device)
            latest = (end - n_in - begin).clamp(min=0)
            elsewhere = begin[:, None] + (share * latest[:, None]).long()
            first = torch.cat([first, elsewhere], dim=1)
        return sound.spectra(first, begin, end, n_in)
