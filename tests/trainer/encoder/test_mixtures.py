"""Mixtures are the sounds they say they are, at any rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.recordings import RATE, tone  # noqa: E402
from trainer.encoder.mixtures import (  # noqa: E402
    DEFAULT_MIXING,
    STRANGE_STRETCHES,
    STRETCHES,
    Mixer,
    Sound,
    heard_at,
    level,
)

N = 3 * RATE


def sound(*recordings: np.ndarray) -> Sound:
    """Return recordings end to end."""
    return Sound(torch.from_numpy(np.concatenate(recordings)), RATE, N)


def spectrum(of: Sound, first: int, begin: int, end: int, n_in: int = N) -> torch.Tensor:
    """Return the spectrum of one window."""
    return of.spectra(*(torch.tensor([place]) for place in (first, begin, end)), n_in)


def loudest_hz(waveform: torch.Tensor, rate: int) -> float:
    """Return the frequency of a waveform's highest line."""
    power = torch.fft.rfft(waveform).abs()
    return float(power.argmax()) * rate / len(waveform)


def test_a_window_that_nothing_happened_to_comes_back() -> None:
    """Cut, and heard at its own rate, it is the recording's own samples."""
    recording = tone(3000, 4)
    of = sound(recording)
    heard = heard_at(spectrum(of, 5000, 0, len(recording)), N, N)[0]
    np.testing.assert_allclose(heard, recording[5000 : 5000 + N], atol=1e-6)


def test_a_teacher_hears_the_same_tone_at_its_own_rate() -> None:
    """As high, as loud, three seconds long."""
    of = sound(tone(3000, 3))
    heard = heard_at(spectrum(of, 0, 0, N), N, 144_000)[0]
    assert loudest_hz(heard, 48_000) == pytest.approx(3000, abs=1)
    assert float(heard.square().mean()) == pytest.approx(0.045, rel=0.02)


@pytest.mark.parametrize(("n_in", "pitch"), [(60_025, 907.4), (72_000, 1088.4)])
def test_stretching_moves_the_pitch(n_in: int, pitch: float) -> None:
    """More samples in a window: faster and higher, by as much, and as loud."""
    of = sound(tone(1000, 4))
    heard = heard_at(spectrum(of, 0, 0, 4 * RATE, n_in), N, N)[0]
    assert loudest_hz(heard, RATE) == pytest.approx(pitch, abs=1)
    assert float(heard.square().mean()) == pytest.approx(0.045, rel=0.02)


@pytest.mark.parametrize("n_in", STRETCHES + STRANGE_STRETCHES)
def test_every_stretch_is_as_long_and_as_loud_as_a_window(n_in: int) -> None:
    """However many samples become one; what rises above half the rate would be lost."""
    of = sound(tone(1000, 5))
    heard = heard_at(spectrum(of, 0, 0, 5 * RATE, n_in), N, N)[0]
    assert loudest_hz(heard, RATE) == pytest.approx(1000 * n_in / N, abs=1)
    assert float(heard.square().mean()) == pytest.approx(0.045, rel=0.02)


def test_moved_sounds_keep_their_intervals_in_hertz() -> None:
    """Two tones 1,000 Hz apart stay so, each window elsewhere, none lost to the ends."""
    of = sound(tone(3000, 3) + tone(4000, 3, level=0.1))
    mixer = Mixer(of, DEFAULT_MIXING)
    both = spectrum(of, 0, 0, N).expand(6, -1)
    moved = mixer.moved(both, torch.Generator().manual_seed(0))
    lines = moved.abs().topk(2, dim=1).indices.sort(dim=1).values
    assert (lines[:, 1] - lines[:, 0]).tolist() == [3 * 1000] * 6
    shift = lines[:, 0] / 3 - 3000
    assert shift.abs().max() <= DEFAULT_MIXING.strange_shift_hz
    assert len(shift.unique()) > 1


def test_what_is_moved_beyond_either_end_does_not_come_back_at_the_other() -> None:
    """A spectrum is no ring."""
    of = sound(tone(50, 3) + tone(10_990, 3))
    mixer = Mixer(of, replace(DEFAULT_MIXING, strange_shift_hz=400.0))
    both = spectrum(of, 0, 0, N).expand(8, -1)
    moved = mixer.moved(both, torch.Generator().manual_seed(0))
    lines = moved.abs().argmax(dim=1) / 3
    assert bool(((lines < 500) | (lines > 10_500)).all())
    middle = moved[:, 3 * 1000 : 3 * 10_000].abs().max()
    assert float(middle) < 0.01 * float(both.abs().max())


def test_some_are_heard_backwards() -> None:
    """What begins early ends late; nothing else about it changes."""
    early = np.concatenate([tone(3000, 1), np.zeros(2 * RATE, np.float32)])
    of = sound(early)
    mixer = Mixer(of, replace(DEFAULT_MIXING, backward_share=0.5))
    turned = mixer.turned(spectrum(of, 0, 0, N).expand(20, -1), torch.Generator().manual_seed(0))
    heard = heard_at(turned, N, N)
    is_late = heard[:, 2 * RATE :].abs().amax(dim=1) > 0.1
    assert 2 < int(is_late.sum()) < 18
    # A circle's mirror keeps its first sample: one sample later than the array's.
    backwards = np.roll(early[::-1], 1)
    for late, waveform in zip(is_late, heard, strict=True):
        np.testing.assert_allclose(waveform, backwards if late else early, atol=1e-5)


def test_pieces_of_several_windows_follow_each_other() -> None:
    """The first third of the one, the second of the other, and no click between them."""
    recording = np.concatenate([tone(pitch, 3) for pitch in (1000, 3000, 6000)])
    of = sound(recording)
    first = torch.tensor([[6 * RATE, 0, 3 * RATE]])
    cut = of.spectra(first, torch.tensor([0]), torch.tensor([9 * RATE]), N)
    heard = heard_at(cut, N, N)[0]
    pieces = heard.view(3, RATE)
    assert [loudest_hz(piece, RATE) for piece in pieces] == pytest.approx([6000, 1000, 3000], abs=1)
    np.testing.assert_allclose(heard[:1000], recording[6 * RATE : 6 * RATE + 1000], atol=1e-5)
    assert float(heard[RATE - 1 : RATE + 2].abs().max()) < 0.02


def test_nothing_is_heard_of_other_recordings() -> None:
    """Before a recording's beginning and behind its end stands silence."""
    of = sound(tone(1000, 1), tone(5000, 1), tone(9000, 1))
    heard = heard_at(spectrum(of, RATE // 2, RATE, 2 * RATE), N, N)[0]
    assert not heard[: RATE // 2 - 1].abs().gt(1e-5).any()
    assert loudest_hz(heard, RATE) == pytest.approx(5000, abs=1)
    assert not heard[3 * RATE // 2 + 1 :].abs().gt(1e-5).any()


def test_a_second_sound_lies_as_far_below_as_asked() -> None:
    """Whatever level both had before."""
    of = sound(tone(1000, 3), tone(5000, 3, level=0.001))
    mixer = Mixer(of, DEFAULT_MIXING)
    one, other = spectrum(of, 0, 0, N), spectrum(of, N, N, 2 * N)
    both = mixer.laid_over(one, other, torch.tensor([-20.0]))
    added = level(both - one, mixer.frequencies) / level(one, mixer.frequencies)
    assert float(10 * torch.log10(added)) == pytest.approx(-20, abs=0.01)


def test_silence_under_silence_stays_silent() -> None:
    """No level, no division by nothing."""
    of = sound(np.zeros(N, np.float32))
    mixer = Mixer(of, DEFAULT_MIXING)
    nothing = spectrum(of, 0, 0, N)
    both = mixer.laid_over(nothing, nothing, torch.tensor([6.0]))
    assert not heard_at(both, N, N).any()


def test_the_equaliser_s_gains_add_up_to_one_at_every_frequency() -> None:
    """The same gain at all points is that gain, everywhere."""
    mixer = Mixer(sound(tone(1000, 3)), DEFAULT_MIXING)
    np.testing.assert_allclose(mixer.equaliser.sum(dim=0), 1, atol=1e-5)
