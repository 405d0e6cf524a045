"""Training resumes where it was broken off."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.recordings import RATE  # noqa: E402
from tests.trainer.tiny import TINY  # noqa: E402
from trainer.checkpoints import alone_in  # noqa: E402
from trainer.data.corpus import Sources, gather, training_windows  # noqa: E402
from trainer.data.windows import WindowGrid  # noqa: E402
from trainer.encoder.courses import LabelCourse, mels_of  # noqa: E402
from trainer.encoder.training import (  # noqa: E402
    Progress,
    Training,
    average_decay,
    begin_with,
    follow,
    load_checkpoint,
    rate_factor,
    run_epoch,
    save_checkpoint,
    take_step,
    train,
)

CPU = torch.device("cpu")


def training(garden: Path, folder: Path, n_epochs: int = 2) -> Training:
    """Return a new training of the tiny profile."""
    folder.mkdir(exist_ok=True)
    corpus = gather(Sources(garden), RATE, folder.parent, 0)
    torch.manual_seed(0)
    network = TINY.network(len(corpus.labels))
    windows = training_windows(corpus, WindowGrid(RATE, RATE // 2), 0.0)
    target = np.eye(len(corpus.labels), dtype=np.float32)[windows.target]
    return Training(
        network=network,
        optimiser=torch.optim.Adam(network.parameters(), TINY.learning_rate),
        course=LabelCourse(windows, mels_of(network, windows.windows), target, CPU),
        profile=TINY,
        n_epochs=n_epochs,
        seed=5,
        device=CPU,
        folder=folder,
        judge=lambda _: {"said": 1.0},
    )


def weights(of: Training) -> np.ndarray:
    """Return all weights in one vector."""
    return torch.cat([p.detach().flatten() for p in of.network.parameters()]).numpy()


def test_a_broken_off_training_ends_where_an_unbroken_one_does(
    garden: Path, tmp_path: Path
) -> None:
    """Stopped in the middle of the second epoch and resumed: the same weights, bit for bit."""
    whole = training(garden, tmp_path / "whole")
    train(whole, Progress())

    first = training(garden, tmp_path / "broken", n_epochs=1)
    progress = train(first, Progress())
    order = first.course.epoch(np.random.default_rng((5, 1)))
    batches = np.array_split(order, round(len(order) / TINY.batch_size))
    first.network.train()
    for step, batch in enumerate(batches[:2]):
        progress.loss += take_step(first, batch, np.random.default_rng((5, 1, step)))
        progress.step += 1
    save_checkpoint(first, progress)

    again = training(garden, tmp_path / "broken")
    torch.manual_seed(99)
    train(again, load_checkpoint(again))
    np.testing.assert_array_equal(weights(again), weights(whole))


def test_every_epoch_leaves_a_line_and_a_checkpoint(garden: Path, tmp_path: Path) -> None:
    """metrics.jsonl has one object an epoch, with the loss and what the judge said."""
    one = training(garden, tmp_path / "run")
    train(one, Progress())
    lines = [json.loads(line) for line in one.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert all(line["said"] == 1.0 for line in lines)
    assert load_checkpoint(one).history == lines


@pytest.mark.parametrize(
    ("other", "said"),
    [({"seed": 6}, "trained with seed 5, not 6"), ({"fold": 1}, "trained with fold 0, not 1")],
)
def test_a_checkpoint_of_another_training_is_refused(
    garden: Path, tmp_path: Path, other: dict[str, int], said: str
) -> None:
    """Other random numbers are neither of two trainings; another fold was taught already."""
    one = replace(training(garden, tmp_path / "run"), fold=0)
    save_checkpoint(one, Progress())
    with pytest.raises(ValueError, match=said):
        load_checkpoint(replace(one, **other))
    with pytest.raises(ValueError, match=r"other labels: give another --run"):
        load_checkpoint(replace(one, network=TINY.network(9)))


def test_the_average_forgets_its_beginning() -> None:
    """After a hundred steps of constant weights the average is those weights."""
    profile = replace(TINY, ema_decay=0.999)
    network, average = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for n_steps in range(100):
        follow(average, network, average_decay(profile, n_steps))
    torch.testing.assert_close(average.weight, network.weight, atol=1e-4, rtol=0)
    assert average_decay(profile, 1_000_000) == 0.999


def test_the_rate_rises_and_falls() -> None:
    """A warm-up to the full rate, then a cosine to nothing; constant where none is asked for."""
    profile = replace(TINY, warmup_share=0.1, cosine=True)
    factors = [rate_factor(profile, done) for done in (0.05, 0.1, 0.55, 1.0)]
    assert factors == pytest.approx([0.5, 1.0, 0.5, 0.0], abs=1e-6)
    assert rate_factor(TINY, 0.7) == 1.0


def test_an_epoch_that_is_done_takes_no_step(garden: Path, tmp_path: Path) -> None:
    """Resuming after the last step of an epoch changes no weight."""
    one = training(garden, tmp_path / "run")
    progress = Progress()
    run_epoch(one, progress)
    before = weights(one).copy()
    run_epoch(one, progress)
    np.testing.assert_array_equal(weights(one), before)


def test_a_training_ends_in_time_with_its_rate_at_nothing(garden: Path, tmp_path: Path) -> None:
    """As many steps as fit, the last weights judged; going on finds nothing left to do."""
    limited = replace(training(garden, tmp_path / "run", n_epochs=10_000), time_limit_s=0.5)
    progress = train(limited, Progress())
    assert 0 < progress.epoch < 10_000
    assert progress.seconds >= 0.5
    assert progress.history[-1]["said"] == 1.0
    again = replace(training(garden, tmp_path / "run", n_epochs=10_000), time_limit_s=0.5)
    went_on = train(again, load_checkpoint(again))
    assert (went_on.epoch, len(went_on.history)) == (progress.epoch, len(progress.history))
    np.testing.assert_array_equal(weights(again), weights(limited))


def test_a_time_that_ends_between_two_epochs_leaves_none_unjudged(
    garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes while a line is written is no training: there was no last epoch yet."""
    limited = replace(training(garden, tmp_path / "run", n_epochs=10_000), time_limit_s=0.5)
    evaluate = limited.network.eval
    monkeypatch.setattr(limited.network, "eval", lambda: (time.sleep(0.3), evaluate()))
    assert train(limited, Progress()).history[-1]["said"] == 1.0


def test_a_training_begins_with_what_another_came_to(garden: Path, tmp_path: Path) -> None:
    """With its average where it has one; a network of another shape, and no network, by name."""
    other = training(garden, tmp_path / "other")
    average = copy.deepcopy(other.network)
    torch.nn.init.ones_(next(average.parameters()))
    other = replace(other, average=average)
    save_checkpoint(other, Progress())
    one = training(garden, tmp_path / "one")
    begin_with(one, other.checkpoint)
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(value, average.state_dict()[name])
    with pytest.raises(ValueError, match="holds no checkpoint"):
        begin_with(one, tmp_path / "nowhere" / "checkpoint.pt")
    more = replace(one, network=TINY.network(9))
    with pytest.raises(ValueError, match="holds another network"):
        begin_with(more, other.checkpoint)


@pytest.mark.parametrize(("left_out", "said"), [(1, "left out fold 1"), (None, "left out no fold")])
def test_a_training_does_not_begin_with_what_knows_its_judges(
    garden: Path, tmp_path: Path, left_out: int | None, said: str
) -> None:
    """A network that left out another fold, or none, was taught the recordings held out now."""
    other = replace(training(garden, tmp_path / "other"), fold=left_out)
    save_checkpoint(other, Progress())
    one = replace(training(garden, tmp_path / "one"), fold=0)
    with pytest.raises(ValueError, match=f"{said}, so it was taught the recordings of fold 0"):
        begin_with(one, other.checkpoint)
    begin_with(replace(one, fold=None), other.checkpoint)


@pytest.mark.parametrize("content", ["half", "of a generator"])
def test_a_checkpoint_that_is_none_is_refused_in_words(
    garden: Path, tmp_path: Path, content: str
) -> None:
    """Half a file, or a painter's: neither gone on from nor begun with."""
    one = training(garden, tmp_path / "one")
    save_checkpoint(one, Progress())
    if content == "half":
        one.checkpoint.write_bytes(one.checkpoint.read_bytes()[:1000])
    else:
        torch.save({"generator": {}, "average": {}}, one.checkpoint)
    said = "is damaged" if content == "half" else "is of no encoder's training"
    with pytest.raises(ValueError, match=f"{said}: give another --run, or drop --resume"):
        load_checkpoint(one)
    with pytest.raises(ValueError, match=f"{said}: name another --begin-from"):
        begin_with(one, one.checkpoint)


def test_logits_in_another_order_are_not_gone_on_with(garden: Path, tmp_path: Path) -> None:
    """As many labels fit the network, whatever they mean."""
    labels = ("Parus major", "Pica pica", "no bird")
    one = replace(training(garden, tmp_path / "one"), labels=labels)
    save_checkpoint(one, Progress())
    turned = replace(one, labels=("Pica pica", "Parus major", "no bird"))
    with pytest.raises(ValueError, match="of other labels, or of these in another order"):
        load_checkpoint(turned)
    with pytest.raises(ValueError, match="drop --begin-from"):
        begin_with(turned, one.checkpoint)
    load_checkpoint(one)


def test_two_trainings_do_not_share_a_folder(garden: Path, tmp_path: Path) -> None:
    """They would write over each other's checkpoints."""
    one = training(garden, tmp_path / "one")
    with alone_in(one.folder), pytest.raises(ValueError, match="another training is at work in"):
        train(one, Progress())
    assert not one.checkpoint.exists()
