"""A generator's training resumes where it was broken off, and says how it goes."""

from __future__ import annotations

import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from PIL import Image  # noqa: E402

from tests.trainer.generator.tiny import TINY, TINY_PROFILE, lessons  # noqa: E402
from trainer.checkpoints import alone_in  # noqa: E402
from trainer.generator.course import NULL, Draw, Lessons  # noqa: E402
from trainer.generator.diffusion import Denoiser, Edm  # noqa: E402
from trainer.generator.networks import UNet  # noqa: E402
from trainer.generator.sheets import Look  # noqa: E402
from trainer.generator.training import (  # noqa: E402
    Diverged,
    Generator,
    Plan,
    Progress,
    Training,
    branch_off,
    group_at,
    load_checkpoint,
    rate_factor,
    save_checkpoint,
    save_in_passing,
    take_step,
    train,
)

CPU = torch.device("cpu")
PLAN = Plan(images_seen=48, pretrain_images=16, batch_size=8, learning_rate=2e-3, seed=4)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Lessons:
    """Return lessons of three species, and of one to pre-train on."""
    return lessons(tmp_path_factory.mktemp("lessons"))


def training(given: Lessons, folder: Path, plan: Plan = PLAN, judge: object = None) -> Training:
    """Return a new training of the tiny network."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    generator = Generator(Denoiser(UNet(TINY), Edm(0.5)), len(given.species))
    return Training(
        generator=generator,
        average=copy.deepcopy(generator).requires_grad_(False),
        optimiser=torch.optim.Adam(generator.parameters(), plan.learning_rate, fused=True),
        lessons=given,
        profile=TINY_PROFILE,
        plan=plan,
        identity={"profile": "field", "size": "tiny", "images": "same", "seed": plan.seed},
        device=CPU,
        precision=torch.float32,
        folder=folder,
        judge=judge or (lambda generator, progress: {"said": 1.0}),
    )


def weights(of: torch.nn.Module) -> np.ndarray:
    """Return all weights in one vector."""
    return torch.cat([p.detach().flatten() for p in of.parameters()]).numpy()


def test_a_broken_off_training_ends_where_an_unbroken_one_does(
    given: Lessons, tmp_path: Path
) -> None:
    """Stopped in pre-training and resumed: the same weights and average, bit for bit."""
    whole = training(given, tmp_path / "whole")
    train(whole, Progress())
    first = training(given, tmp_path / "broken")
    progress = Progress()
    take_step(first, progress)
    progress.step, progress.images_seen = 1, 8
    save_checkpoint(first, progress)

    again = training(given, tmp_path / "broken")
    torch.manual_seed(99)
    end = train(again, load_checkpoint(again))
    assert (end.step, end.images_seen) == (6, 48)
    np.testing.assert_array_equal(weights(again.generator), weights(whole.generator))
    np.testing.assert_array_equal(weights(again.average), weights(whole.average))
    assert not np.array_equal(weights(whole.average), weights(whole.generator))


def test_the_first_images_are_seen_small_and_twice_as_many(
    given: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the side at first, then all of it: what the network is given says so."""
    plan = replace(PLAN, images_seen=40, half_images=32)
    of = training(given, tmp_path, plan)
    sides = []
    forward = of.generator.denoiser.forward

    def noted(x: torch.Tensor, *rest: object) -> torch.Tensor:
        sides.append(tuple(x.shape))
        return forward(x, *rest)

    monkeypatch.setattr(of.generator.denoiser, "forward", noted)
    progress = train(of, Progress())
    assert sides == [(16, 3, 32, 32), (16, 3, 32, 32), (8, 3, 64, 64)]
    assert (progress.images_seen, progress.step) == (40, 3)


def test_no_measurement_is_missed_where_images_become_large(given: Lessons, tmp_path: Path) -> None:
    """The last step of small images, twice as many, may pass both ends of something."""
    plan = replace(PLAN, images_seen=48, half_images=24, judge_every=24)
    progress = train(training(given, tmp_path / "run", plan), Progress())
    assert [line["images_seen"] for line in progress.history] == [32, 48]


def test_a_training_whose_time_is_over_is_saved(given: Lessons, tmp_path: Path) -> None:
    """No time at all takes no step; what was there stays there."""
    one = training(given, tmp_path / "run", replace(PLAN, time_limit_s=0.0))
    before = weights(one.generator).copy()
    assert train(one, Progress()).step == 0
    np.testing.assert_array_equal(weights(one.generator), before)
    assert load_checkpoint(one).images_seen == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_after_its_step(
    given: Lessons, tmp_path: Path, number: int
) -> None:
    """The step is finished and saved, and the handlers are those of before."""
    before = signal.getsignal(number)
    one = training(
        given,
        tmp_path / "run",
        replace(PLAN, images_seen=10**9),
        judge=lambda generator, progress: os.kill(os.getpid(), number) or {},
    )
    late = Progress(step=2499, images_seen=19_992)
    end = train(one, late)
    assert (end.step, end.images_seen) == (2500, 20_000)
    assert load_checkpoint(one).images_seen == 20_000
    assert signal.getsignal(number) == before


def test_the_metrics_say_how_it_went(given: Lessons, tmp_path: Path) -> None:
    """A line at the end with loss, rate and what the judge said."""
    one = training(given, tmp_path / "run")
    end = train(one, Progress())
    (line,) = [json.loads(text) for text in one.metrics.read_text().splitlines()]
    assert line["images_seen"] == 48
    assert line["group"] == "garden"
    assert 0 < line["loss"] < 10
    assert line["said"] == 1.0
    assert end.history == [line]
    assert load_checkpoint(one).history == [line]


def test_a_checkpoint_of_another_training_is_refused(given: Lessons, tmp_path: Path) -> None:
    """Going on with another seed is neither of two trainings; branching off with one is."""
    save_checkpoint(training(given, tmp_path / "run"), Progress(step=3, images_seen=24))
    other = training(given, tmp_path / "run", replace(PLAN, seed=5))
    with pytest.raises(ValueError, match="trained with seed 4, not 5"):
        load_checkpoint(other)
    assert branch_off(other, other.checkpoint).images_seen == 24


def test_other_photographs_are_refused_even_for_a_branch(given: Lessons, tmp_path: Path) -> None:
    """Label vectors belong to the species of the photographs."""
    one = training(given, tmp_path / "run")
    save_checkpoint(one, Progress())
    other = replace(one, identity={**one.identity, "images": "others"})
    with pytest.raises(ValueError, match="images 'same', not 'others'"):
        branch_off(other, one.checkpoint)


def test_pre_training_comes_first(given: Lessons, tmp_path: Path) -> None:
    """As many images as the plan says; without photographs for it, never."""
    one = training(given, tmp_path / "run")
    assert [group_at(one, n) for n in (0, 15, 16, 48)] == [
        *("pretrain", "pretrain", "garden", "garden")
    ]
    bare = replace(one, lessons=replace(given, groups={"garden": given.groups["garden"]}))
    assert group_at(bare, 0) == "garden"


def test_the_rate_rises_stays_and_falls(given: Lessons, tmp_path: Path) -> None:
    """The plateau suits any length; the last quarter falls to nearly nothing."""
    one = training(given, tmp_path / "run", replace(PLAN, images_seen=100_000))
    factors = [rate_factor(one, n) for n in (0, 49, 5_000, 75_000, 93_750, 100_000)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.02], rel=0.01)


def test_a_condition_is_a_row_a_vector_or_nothing() -> None:
    """As the draw says, row by row."""
    generator = Generator(torch.nn.Identity(), 3)
    rows = torch.full((3, 512), 7.0)
    drawn = Draw(np.arange(3), np.array([NULL, 2, NULL]), np.array([5, -1, -1]))
    conditions = generator.conditions(drawn, rows)
    torch.testing.assert_close(conditions[0], rows[0])
    torch.testing.assert_close(conditions[1], generator.labels[2])
    torch.testing.assert_close(conditions[2], generator.null)


def test_a_look_is_a_sheet_and_the_errors_on_val(given: Lessons, tmp_path: Path) -> None:
    """Four pictures a species, and an error that rises with the noise; the same every time."""
    one = training(given, tmp_path / "run")
    look = Look(given, TINY_PROFILE, CPU, torch.float32, tmp_path)
    first = look(one.average.eval(), Progress(images_seen=7))
    assert first == look(one.average, Progress(images_seen=7))
    errors = [first[f"val_mse_{sigma:g}"] for sigma in (0.1, 0.3, 1.0, 3.0, 10.0)]
    assert errors == sorted(errors)
    with Image.open(tmp_path / "sheets" / "00000007.png") as sheet:
        assert sheet.size == (8 * 66 - 2, 2 * 66 - 2)  # three species of four pictures, eight a row


def test_lines_after_the_checkpoint_are_written_again(given: Lessons, tmp_path: Path) -> None:
    """A killed training's metrics tell every image once; half a line at their end is no harm."""
    one = training(given, tmp_path / "run")
    save_checkpoint(one, Progress(step=3, images_seen=24))
    kept = '{"images_seen": 16}\n{"images_seen": 24}\n'
    one.metrics.write_text(kept + '{"images_seen": 32}\n{"images_se')
    load_checkpoint(one)
    assert one.metrics.read_text() == kept


def test_a_checkpoint_of_another_network_is_refused_in_words(
    given: Lessons, tmp_path: Path
) -> None:
    """Of an older release, which called it the same."""
    one = training(given, tmp_path / "run")
    save_checkpoint(one, Progress())
    state = torch.load(one.checkpoint, weights_only=True)
    del state["generator"]["denoiser.network.first.weight"]
    torch.save(state, one.checkpoint)
    with pytest.raises(ValueError, match="is of another network: give another --run"):
        load_checkpoint(one)


def test_a_damaged_checkpoint_is_refused_in_words(given: Lessons, tmp_path: Path) -> None:
    """Half a file is not gone on from."""
    one = training(given, tmp_path / "run")
    save_checkpoint(one, Progress())
    one.checkpoint.write_bytes(one.checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged: give another --run"):
        load_checkpoint(one)
    torch.save({"network": {}, "average": None, "fold": 0}, one.checkpoint)
    with pytest.raises(ValueError, match="is of no generator's training: drop --resume"):
        load_checkpoint(one)


def test_a_full_disk_does_not_end_a_training(
    given: Lessons, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be saved in passing is told, and the checkpoint of before stays."""
    one = training(given, tmp_path / "run")
    save_checkpoint(one, Progress(images_seen=8))
    one.checkpoint.with_suffix(".tmp").symlink_to("/dev/full")
    save_in_passing(one, Progress(images_seen=16))
    assert "cannot be written: No space left on device; going on" in capsys.readouterr().out
    assert load_checkpoint(one).images_seen == 8


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second is told; when the first has ended, it may."""
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(ValueError, match="another training is at work"),
        alone_in(tmp_path / "run"),
    ):
        pass
    with alone_in(tmp_path / "run"):
        pass


@pytest.mark.parametrize("full", ["metrics.jsonl", "averages/00000024.tmp"])
def test_what_a_full_disk_keeps_of_metrics_does_not_end_it_either(
    given: Lessons, tmp_path: Path, capsys: pytest.CaptureFixture[str], full: str
) -> None:
    """Nor an average that was to be kept."""
    plan = replace(PLAN, images_seen=32, judge_every=24, keeps=True)
    one = training(given, tmp_path / "run", plan)
    (one.folder / full).parent.mkdir(exist_ok=True)
    (one.folder / full).symlink_to("/dev/full")
    assert train(one, Progress()).images_seen == 32
    assert "takes no metrics: No space left on device; going on" in capsys.readouterr().out


def test_measurements_may_be_as_close_as_steps(given: Lessons, tmp_path: Path) -> None:
    """After each, where so many were asked for."""
    plan = replace(PLAN, images_seen=16, judge_every=1)
    assert len(train(training(given, tmp_path / "run", plan), Progress()).history) == 2


def test_a_training_that_diverges_ends_at_its_next_line(given: Lessons, tmp_path: Path) -> None:
    """With the mend; what is no number is not saved over what was."""
    plan = replace(PLAN, images_seen=10**9, judge_every=160, learning_rate=1e30)
    one = training(given, tmp_path / "run", plan)
    with pytest.raises(Diverged, match=r"loss is \w+ after .* less than --learning-rate 1e\+30"):
        train(one, Progress())
    assert not one.checkpoint.exists()
