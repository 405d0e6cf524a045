"""`fieldstation paint`: a call beside its pictures, or in words why there are none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import soundfile
from PIL import Image

from fieldstation.analysis.classifier import Classifier, Overflow
from fieldstation.bundle import SHIPPED, Bundle, load_bundle
from fieldstation.cli import main
from fieldstation.commands.calls import Listener, NoCall, call_in_recording
from fieldstation.commands.paint import EXAMPLES, parse_seeds
from fieldstation.config import Settings, StationSettings
from fieldstation.generation.denoiser import OnnxDenoiser, PaintingError
from fieldstation.generation.noise import seed_of
from fieldstation.generation.sheet import CALL_WIDTH, GAP, PICTURE_WIDTH
from fieldstation.store.log_db import LogStore
from tests.commands.conftest import RATE, Run
from tests.onnx_models import make_painting_bundle, make_tone_bundle, tone
from tests.store.examples import detection

EVENT = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of bundles: both, green (paints the Great Tit alone), ear, unknown."""
    folder = tmp_path_factory.mktemp("models")
    make_painting_bundle(folder / "both")
    make_painting_bundle(folder / "green", paints=["Parus major"])
    make_tone_bundle(folder / "ear")
    unknown = make_painting_bundle(folder / "unknown").path / "bundle.json"
    described = json.loads(unknown.read_text())
    described["labels"][0]["kind"] = "unknown_bird"
    unknown.write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of recordings, 2 s each, of a Chaffinch, a Great Tit, noise and silence."""
    folder = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0).normal(0, 1e-3, 2 * RATE).astype(np.float32)
    for name, samples in {
        "chaffinch": noise + tone(2_000, 2, RATE),
        "great_tit": noise + tone(4_000, 2, RATE),
        "noise": noise,
        "silence": np.zeros(2 * RATE, np.float32),
        "click": tone(2_000, 0.05, RATE),
    }.items():
        soundfile.write(folder / f"{name}.flac", samples, RATE)
    soundfile.write(folder / "huge.wav", 1e30 * noise, RATE, subtype="FLOAT")
    return folder


@dataclass
class Told:
    """What a command ended with."""

    code: int
    out: str
    err: str


Paint = Callable[..., Told]


@pytest.fixture
def paint(state: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Paint:
    """Return what runs `fieldstation paint` in this process, by default with the bundle `both`."""

    def run(call: object, *options: object, bundle: str = "both") -> Told:
        words = ["paint", call, "-o", tmp_path / "sheet.png", "--bundle", models / bundle]
        code = main([*map(str, words), "--state", str(state), *map(str, options)])
        captured = capsys.readouterr()
        return Told(code, captured.out, captured.err)

    return run


def first_colour(path: Path, with_call: bool = True) -> str:
    """Return which channel the first picture of a sheet has most of."""
    left = CALL_WIDTH + GAP if with_call else 0
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)[:PICTURE_WIDTH, left : left + PICTURE_WIDTH]
    return ("red", "green", "blue")[int(pixels.mean(axis=(0, 1)).argmax())]


def texts(path: Path) -> dict[str, str]:
    with Image.open(path) as sheet:
        return dict(sheet.text)


def test_a_recording_is_painted(cli: Run, models: Path, recording: Path, tmp_path: Path) -> None:
    """The best call of twenty seconds, four seeds, a choice of sampling; no state is left."""
    sheet = tmp_path / "sheet.png"
    ended = cli(
        *("paint", recording, "--seeds", "1..4", "--guidance", "2", "--steps", "9"),
        *("-o", sheet, "--bundle", models / "both"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "4 pictures in" in ended.stdout
    assert "CPUExecutionProvider" in ended.stdout
    told = texts(sheet)
    assert told["species"] in ended.stdout
    assert (
        first_colour(sheet) == {"Fringilla coelebs": "red", "Parus major": "green"}[told["species"]]
    )
    written = {key: told[key] for key in ("Generated", "seed", "guidance", "steps", "condition")}
    assert written == {
        "Generated": "true",
        "seed": "1 2 3 4",
        "guidance": "2",
        "steps": "9",
        "condition": "call",
    }
    assert not (tmp_path / "state").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_the_call_decides_what_is_painted(paint: Paint, sounds: Path, tmp_path: Path) -> None:
    """A Chaffinch red, a Great Tit green; eight pictures where no seeds are named."""
    for name, colour in (("chaffinch", "red"), ("great_tit", "green")):
        assert paint(sounds / f"{name}.flac").code == 0
        assert first_colour(tmp_path / "sheet.png") == colour
    assert texts(tmp_path / "sheet.png")["seed"] == "1 2 3 4 5 6 7 8"


def test_of_several_birds_one_that_is_painted_is_taken(
    paint: Paint, recording: Path, tmp_path: Path
) -> None:
    """A bird that the bundle cannot paint does not stand in the way of one that it can."""
    assert paint(recording, "--seeds", 1, bundle="green").code == 0
    assert texts(tmp_path / "sheet.png")["species"] == "Parus major"


def test_a_recording_that_overflows_the_encoder_is_refused(models: Path, sounds: Path) -> None:
    """As another's encoder may on sound that is far too loud."""

    class Overflowing:
        def predict(self, windows: object) -> list[object]:
            raise Overflow("the window at noon overflows the encoder")

    context = SimpleNamespace(settings=Settings(station=StationSettings(timezone="UTC")))
    listener = Listener(load_bundle(models / "both"), Overflowing(), context)  # type: ignore[arg-type]
    with pytest.raises(NoCall, match=r"at noon .* bring the recording to full scale"):
        call_in_recording(sounds / "chaffinch.flac", listener)


@pytest.mark.parametrize(
    ("sound", "bundle", "message"),
    [
        ("silence.flac", "both", "is silent: its loudest sample is at -120 dB full scale"),
        ("noise.flac", "both", r"no bird is heard \(no bird 1.00; best species "),
        ("click.flac", "both", "too short: it holds less than 0.1 s"),
        ("huge.wav", "both", r"huge.wav cannot be heard: sample 0 is \S+, no sound"),
        ("chaffinch.flac", "unknown", "a bird is heard, but none that the bundle knows"),
        ("chaffinch.flac", "green", r"Fringilla coelebs is not painted .*: it paints Parus major"),
        ("chaffinch.flac", "ear", "bundle ear does not paint"),
        ("gone.flac", "both", r"gone.flac' is neither a file nor an event's id"),
        ("", "both", "is a folder: name one recording"),
    ],
)
def test_what_cannot_be_painted_is_refused_in_words(
    paint: Paint, sounds: Path, tmp_path: Path, sound: str, bundle: str, message: str
) -> None:
    """Silence, no bird, an unknown bird, one that is not painted: one line each, and no file."""
    told = paint(sounds / sound, bundle=bundle)
    assert told.code == 2
    assert_line(told.err, message)
    assert not list(tmp_path.glob("**/*.png"))


def assert_line(err: str, message: str) -> None:
    """Check that the error is one line, which matches."""
    (line,) = [line for line in err.splitlines() if not line.startswith("state ")]
    assert line.startswith("fieldstation paint: ")
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance", "-1"), "guidance_scale is -1.0; 0 to 20"),
        (("--guidance", "nan"), "guidance_scale is nan"),
        (("--steps", "0"), "n_steps is 0; 1 to 1000"),
        (("-o", "sheet.jpg"), "name a file that ends in .png"),
        (("-o", "/nowhere/sheet.png"), "there is no folder /nowhere"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(
    paint: Paint, sounds: Path, options: tuple[str, ...], message: str
) -> None:
    """Before anything is heard."""
    told = paint(sounds / "chaffinch.flac", *options)
    assert told.code == 2
    assert_line(told.err, message)


def test_a_file_that_cannot_be_written_leaves_nothing(
    paint: Paint, sounds: Path, tmp_path: Path
) -> None:
    """A folder in the way is named, and no half a picture stays."""
    (tmp_path / "taken.png").mkdir()
    told = paint(sounds / "chaffinch.flac", "-o", tmp_path / "taken.png", "--seeds", 1)
    assert told.code == 2
    assert_line(told.err, r"taken.png': Is a directory")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1..8", tuple(range(1, 9))), ("7", (7,)), ("3,5,3", (3, 5, 3)), ("0..0", (0,))],
)
def test_seeds_are_a_range_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    """As a person writes them."""
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "x", "1..", "-1", "1,,2", "8..1", "1..65", "1.5", "9007199254740992", "0..999999"]
)
def test_seeds_that_are_none_are_refused(
    paint: Paint, sounds: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A range of millions is not painted; what is no number is not guessed at."""
    with pytest.raises(SystemExit) as ended:
        paint(sounds / "chaffinch.flac", f"--seeds={text}")
    assert ended.value.code == 2
    assert "argument --seeds: " in capsys.readouterr().err


Log = Callable[..., None]


@pytest.fixture
def log(state: Path, models: Path) -> Log:
    """Return what writes a Great Tit's event into the station's log, whatever its sound."""

    def write(frequency: float | None = 4_000, **changes: Any) -> None:
        bundle = load_bundle(models / "both")
        stored = None if frequency is None else embedding(bundle, frequency)
        values = {"encoder_id": bundle.encoder_id, "clip": "clip.flac", "embedding": stored}
        state.mkdir()
        store = LogStore(f"sqlite:///{state / 'log.db'}")
        store.record([detection(EVENT.int, **{**values, **changes})], 0)
        store.close()

    return write


def embedding(bundle: Bundle, frequency: float) -> bytes:
    """Return what a message carries of a tone."""
    waveform = tone(frequency, bundle.window_s, bundle.sample_rate)
    _, embeddings = Classifier(bundle, "cpu").run(waveform[None])
    assert embeddings is not None
    return embeddings[0].astype("<f2").tobytes()


def keep_clip(state: Path, sound: Path, file: str = "clip.flac") -> None:
    """Put a recording where the station keeps its clips."""
    (state / "clips").mkdir(parents=True)
    (state / "clips" / file).write_bytes(sound.read_bytes())


def test_an_event_is_painted_from_its_stored_embedding(
    paint: Paint, log: Log, tmp_path: Path
) -> None:
    """Without any recording, by its own seeds: the first is that of its picture in the log."""
    log()
    told = paint(str(EVENT).upper(), "--seeds", "1,2")
    assert told.code == 0, told.err
    assert first_colour(tmp_path / "sheet.png", with_call=False) == "green"
    paint(EVENT)
    written = texts(tmp_path / "sheet.png")
    assert written["event_id"] == str(EVENT)
    assert written["probability"] == "0.8750"
    assert written["seed"].split() == [str(seed_of(EVENT, index)) for index in range(8)]


def test_an_events_clip_is_shown_beside_its_pictures(
    paint: Paint, log: Log, state: Path, sounds: Path, tmp_path: Path
) -> None:
    """The stored embedding decides: here a Chaffinch's, while the clip has a Great Tit."""
    log(frequency=2_000)
    keep_clip(state, sounds / "great_tit.flac")
    assert paint(EVENT, "--seeds", 1).code == 0
    assert first_colour(tmp_path / "sheet.png") == "red"


@pytest.mark.parametrize("changes", [{"frequency": None}, {"encoder_id": "0" * 16}])
def test_an_event_without_an_embedding_of_use_is_heard_again(
    paint: Paint, log: Log, state: Path, sounds: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Its clip gives this encoder's own, even of a Chaffinch; the event stays what it was."""
    log(**changes)
    keep_clip(state, sounds / "chaffinch.flac")
    assert paint(EVENT, "--seeds", 1).code == 0
    assert first_colour(tmp_path / "sheet.png") == "red"
    written = texts(tmp_path / "sheet.png")
    assert (written["species"], written["probability"]) == ("Parus major", "0.8750")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequency": None}, "neither its embedding nor its clip is kept"),
        ({"encoder_id": "0" * 16}, r"is of encoder 0{16}; the generator \w{16} knows those of"),
        ({"frequency": None, "clip": "../secret.flac"}, "neither its embedding nor its clip"),
        ({"frequency": None, "clip": None}, "neither its embedding nor its clip"),
        ({"scientific_name": "Corvus corax"}, "Corvus corax is not painted by this bundle"),
    ],
)
def test_an_event_that_cannot_be_painted_is_refused_in_words(
    paint: Paint, log: Log, state: Path, sounds: Path, changes: dict[str, Any], message: str
) -> None:
    """What is not kept, what another encoder said, and what lies outside the folder of clips."""
    log(**changes)
    keep_clip(state, sounds / "great_tit.flac", "another.flac")
    (state / "secret.flac").write_bytes((sounds / "great_tit.flac").read_bytes())
    told = paint(EVENT)
    assert told.code == 2
    assert_line(told.err, message)


def test_an_event_that_is_not_in_the_log_is_refused(paint: Paint, log: Log, state: Path) -> None:
    """The error says where ids come from, and a log that is not there is said to be so."""
    assert_line(paint(EVENT).err, "log.db does not exist yet")
    log()
    told = paint(UUID(int=7))
    assert told.code == 2
    assert_line(told.err, "is not in the log: `fieldstation detections --format jsonl`")
    elsewhere = state.rename(state.with_name("elsewhere")) / "log.db"
    assert paint(EVENT, "--seeds", 1, "--database", f"sqlite:///{elsewhere}").code == 0


def test_a_bundle_without_embedding_paints_from_the_name(
    paint: Paint, models: Path, sounds: Path, tmp_path: Path
) -> None:
    """It is said: painted from the species, not from the call."""
    described = json.loads((models / "both/bundle.json").read_text())
    described["outputs"]["embedding"] = None
    foreign = models / "foreign"
    shutil.copytree(models / "both", foreign)
    (foreign / "bundle.json").write_text(json.dumps(described))
    assert paint(sounds / "great_tit.flac", "--seeds", 1, bundle="foreign").code == 0
    assert first_colour(tmp_path / "sheet.png") == "green"
    assert texts(tmp_path / "sheet.png")["condition"] == "species"


def test_torch_paints_the_same_picture(paint: Paint, sounds: Path, tmp_path: Path) -> None:
    """By its seed; the line says what ran, and one that is not known is refused."""
    pytest.importorskip("torch", reason="needs the extra 'train'")
    seed = (sounds / "great_tit.flac", "--seeds", 1)
    assert paint(*seed).code == 0
    first = np.asarray(Image.open(tmp_path / "sheet.png"), np.int16)
    told = paint(*seed, "--runtime", "torch")
    assert (told.code, " on torch-c" in told.out) == (0, True)
    second = np.asarray(Image.open(tmp_path / "sheet.png"), np.int16)
    assert np.abs(first - second).max() <= 1
    refused = paint(*seed, "--runtime", "jax")
    assert refused.code == 2
    assert_line(refused.err, "--runtime is 'jax'; one of onnxruntime, torch")


def test_a_generator_that_breaks_is_said_in_a_line(
    paint: Paint, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may pass: the exit code is 1."""

    def breaks(*arguments: object) -> None:
        raise PaintingError("denoiser.onnx failed: out of memory")

    monkeypatch.setattr(OnnxDenoiser, "__call__", breaks)
    told = paint(sounds / "great_tit.flac")
    assert told.code == 1
    assert_line(told.err, "nothing was painted: denoiser.onnx failed: out of memory")


def test_the_bolder_example_is_bolder_than_what_is_shipped() -> None:
    """The shipped generator's guidance has been chosen anew twice; the help must follow."""
    asked = re.search(r"--guidance (\S+) --steps (\d+) -o bolder", EXAMPLES)
    assert asked is not None
    card = load_bundle(SHIPPED / "garden").generator
    assert card is not None
    assert float(asked[1]) > card.guidance_scale
    assert int(asked[2]) > card.n_steps
