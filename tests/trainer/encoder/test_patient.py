"""A patient teacher hears what the student hears, and a student learns from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.recordings import RATE, tone  # noqa: E402
from trainer.data.corpus import Sources  # noqa: E402
from trainer.encoder.field import N_FRAMES, FieldEncoder  # noqa: E402
from trainer.encoder.fitting import EncoderOrder, OrderError, fit_encoder  # noqa: E402
from trainer.encoder.memory import Memory  # noqa: E402
from trainer.encoder.mixtures import DEFAULT_MIXING, Mixer, Sound  # noqa: E402
from trainer.encoder.patient import (  # noqa: E402
    HEARD_FIRST,
    MOST_BY_LABEL,
    Answers,
    Heard,
    PatientCourse,
    Places,
)
from trainer.encoder.profiles import PROFILES  # noqa: E402

CPU = torch.device("cpu")
N = 66_150
LOW, HIGH, HUM = 0, 1, 2
"""Windows of a low bird, of a high one, and of background"""
STILL = replace(
    DEFAULT_MIXING,
    mix_share=0.0,
    under_share=0.0,
    tilt_db=0.0,
    distance_share=0.0,
    strange_share=0.0,
)


@dataclass
class Pitch:
    """A teacher that hears the lower and the upper half of the spectrum, and keeps what it got."""

    given: list[torch.Tensor] = field(default_factory=list)

    def hear_batch(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a logit for low, for high, and for a bird that is no label; and two values."""
        self.given.append(windows)
        power = torch.fft.rfft(windows).abs().square()
        line = 3000 * windows.shape[1] // 48_000
        halves = torch.stack([power[:, :line].sum(dim=1), power[:, line:].sum(dim=1)], dim=1)
        share = halves / halves.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return torch.cat([8 * share - 4, torch.full((len(windows), 1), -6.0)], dim=1), share


def course(how: object = STILL, teacher: Pitch | None = None) -> PatientCourse:
    """Return a course over three recordings of four seconds."""
    recordings = [tone(1000, 4), tone(6000, 4), tone(300, 4)]
    sound = Sound(torch.from_numpy(np.concatenate(recordings)), RATE, N)
    begin = torch.arange(3) * 4 * RATE
    return PatientCourse(
        mixer=Mixer(sound, how),
        places=Places(
            first=begin + RATE // 2,
            begin=begin,
            end=begin + 4 * RATE,
            correction=torch.tensor([[0.2, 0.0], [0.0, 8.0], [0.0, 0.0]]),
            is_background=torch.tensor([False, False, True]),
        ),
        answers=Answers(
            teacher=teacher or Pitch(),
            n_samples=144_000,
            species=torch.tensor([0, 1]),
            columns=(torch.tensor([0]), torch.tensor([1, 2])),
            centre=torch.full((2,), 0.5),
            spread=torch.full((2,), 0.5),
            head_weight=torch.tensor([[8.0], [0.0]]),
            head_offset=torch.tensor([-4.0]),
            heard=torch.tensor([0]),
        ),
        weight=np.array([1.0, 1.0, 1.0]),
        under=np.array([HUM]),
        n_per_epoch=24,
        n_frames=N_FRAMES,
        embedding_weight=1.0,
        head_weight=0.1,
        rank_weight=1.0,
        again_share=0.0,
        memory=Memory(200),
        device=CPU,
    )


def network() -> FieldEncoder:
    """Return a student of two labels whose guess of the embedding has two values."""
    torch.manual_seed(0)
    built = FieldEncoder(2, PROFILES["field"].mel)
    built.to_teacher = torch.nn.Linear(built.to_teacher.in_features, 2)
    return built


def prepared(of: PatientCourse, rows: list[int], seed: int = 0) -> Heard:
    """Return what a batch is made into."""
    return of.prepared(network(), np.array(rows), np.random.default_rng(seed))


def test_teacher_and_student_hear_the_same_three_seconds() -> None:
    """Each at its own rate; the student at any level."""
    teacher = Pitch()
    mel = prepared(course(teacher=teacher), [LOW, HIGH]).mel
    assert teacher.given[0].shape == (2, 144_000)
    assert mel.shape == (2, 96, N_FRAMES)
    low, high = mel.mean(dim=2).argmax(dim=1).tolist()
    assert low < high


def test_label_and_answer_are_both_believed() -> None:
    """What either is sure of is taught; what the teacher hears in background is not."""
    target = prepared(course(), [LOW, HIGH, HUM]).target
    sure = float(torch.tensor(4.0).sigmoid())
    assert target[LOW, 0] == pytest.approx(sure, abs=0.01)
    assert target[HIGH, 1] == pytest.approx(sure, abs=0.01)
    assert target[HUM].tolist() == [0.0, 0.0]


def test_a_label_says_less_the_less_is_left_of_its_call() -> None:
    """It raises an answer as it raised that about the clean window, up to certain."""
    of = course(replace(STILL, mix_share=1.0, mix_db=0.0))
    raised = replace(of.places, correction=torch.tensor([[5.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    mixed = prepared(replace(of, places=raised), [LOW, HIGH] * 4)
    plain = prepared(of, [LOW, HIGH] * 4)
    before, after = plain.ranks[:, 0], mixed.ranks[:, 0]
    raised_to = torch.maximum(before, (before + 5).clamp(max=MOST_BY_LABEL))
    assert len(before[::2].round().unique()) > 1
    assert torch.allclose(after[::2], raised_to[::2])
    # Of the others, those that had the labelled call mixed in.
    is_same = torch.isclose(after[1::2], before[1::2])
    assert (is_same | torch.isclose(after[1::2], raised_to[1::2])).all()
    assert is_same.any()
    assert torch.allclose(mixed.target, mixed.ranks.sigmoid())


def test_of_sounds_that_no_bird_makes_only_the_teacher_tells() -> None:
    """A label is its species' own pitch and pace: moved and stretched, it holds no more."""
    strange = course(replace(STILL, strange_share=1.0, strange_shift_hz=100.0))
    wrong = replace(strange.places, correction=torch.full((3, 2), 9.0))
    target, ranks = prepared(replace(strange, places=wrong), [LOW, HIGH, HUM])[1:3]
    assert torch.allclose(target[:2], ranks[:2].sigmoid())
    assert float(target[LOW, 1]) < 0.1
    assert target[HUM].tolist() == [0.0, 0.0]


def test_background_with_a_bird_on_top_is_background_no_more() -> None:
    """A second window mixed in brings its label and the teacher's answer."""
    always = replace(STILL, mix_share=1.0)
    target = prepared(course(always), [HUM, HIGH] * 4).target
    assert (target[::2, 1] > 0.5).any()


def test_the_same_chance_makes_the_same_batch() -> None:
    """A resumed training sees what an unbroken one sees; another step sees something else."""
    first = prepared(course(DEFAULT_MIXING), [LOW, HIGH, HUM])
    again = prepared(course(DEFAULT_MIXING), [LOW, HIGH, HUM])
    other = prepared(course(DEFAULT_MIXING), [LOW, HIGH, HUM], seed=1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_a_student_comes_to_agree() -> None:
    """After some steps it is nearer to the teacher in everything it is asked for."""
    of, student = course(), network()
    student.train()
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    losses = []
    for step in range(8):
        loss = of.loss(student, np.array([LOW, HIGH, HUM] * 3), np.random.default_rng(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_answers_are_heard_again() -> None:
    """A teacher is asked less often than the student learns, and says what it said."""
    teacher = Pitch()
    of, student = replace(course(teacher=teacher), again_share=0.5), network()
    n_steps, batch = 4 * HEARD_FIRST, np.array([LOW, HIGH])
    steps = [of.heard(student, batch, np.random.default_rng(step)) for step in range(n_steps)]
    assert HEARD_FIRST <= len(teacher.given) < n_steps
    told = {
        (mel.half().numpy().tobytes(), target.half().numpy().tobytes())
        for heard in steps
        for mel, target in zip(heard.mel, heard.target, strict=True)
    }
    assert len(told) == 2 * len(teacher.given)


def test_an_order_of_the_unlikely_is_taught() -> None:
    """Of species that no sigmoid's loss tells apart; an unknown bird drowns none of them."""
    answers = replace(course().answers, species=torch.tensor([0, 1]))
    ranks = torch.tensor([[-9.0, -6.0, 3.0]])
    right, wrong = torch.tensor([[-10.0, -7.0, 3.0]]), torch.tensor([[-7.0, -10.0, 3.0]])
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    assert float(loss(wrong, ranks.sigmoid()) - loss(right, ranks.sigmoid())) < 0.01
    assert float(answers.disorder(wrong, ranks) - answers.disorder(right, ranks)) > 1
    assert torch.allclose(answers.disorder(right, ranks), answers.disorder(right + 5, ranks))


@pytest.mark.parametrize(("profile", "said"), [("field", "FILE.onnx"), ("paper", "use field")])
def test_a_teacher_that_hears_no_batches_is_refused(
    garden: Path, tmp_path: Path, profile: str, said: str
) -> None:
    """The message says what is needed, and where it comes from."""
    order = EncoderOrder(Sources(garden), profile, tmp_path, tmp_path, is_patient=True)
    with pytest.raises(OrderError, match=said):
        fit_encoder(order)
