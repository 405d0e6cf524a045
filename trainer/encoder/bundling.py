"""A trained encoder as a bundle: graph, thresholds, golden check, card and notice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, BundleError, Golden, Outputs, save_bundle
from trainer.data.corpus import Role
from trainer.data.recordings import Recording
from trainer.encoder.fitting import Fitted
from trainer.encoder.held_out import Calibration
from trainer.encoder.mel import LogMel
from trainer.encoder.running import cpu_session, run_logits
from trainer.export import OUTPUTS, export_encoder, parity, store_half

LICENCE = "CC BY-NC-SA 4.0"
"""Recordings of that licence are among the sources; share-alike passes it on"""
HALF_PARITY = 1e-3
"""Largest |Δlogit| between network and graph that storing the weights as fp16 may cost"""
CARD = (
    *("profile", "fold", "seed", "epochs", "seconds", "n_weights"),
    *("data_hash", "device", "teacher", "is_patient", "begin_from", "average_with"),
)
"""What the bundle repeats of a training's result"""
TOLERANCE = {"CPUExecutionProvider": 2e-3, "CUDAExecutionProvider": 2e-2}


def refuse_painter(folder: Path) -> None:
    """Refuse a bundle that paints: its generator knows the embeddings of the encoder in it.

    Raises:
        BundleError: it does; the text says what to do.
    """
    try:
        described = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing, or nothing that could be read, is lost
    if isinstance(described, dict) and described.get("generator"):
        raise BundleError(
            f"{folder} paints, and another encoder would leave its generator behind: "
            "name another -o, and train a generator for it"
        )


def bundle_encoder(fitted: Fitted, calibration: Calibration, folder: Path, name: str) -> Bundle:
    """Export a fitted encoder and write its bundle.

    Raises:
        ExportError: the graph does not run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    profile, corpus = fitted.profile, fitted.corpus
    graph = folder / "encoder.onnx"
    waveforms = golden_waveforms(profile.mel.sample_rate, profile.samples_per_window)
    delta = write_graph(fitted, graph, waveforms)
    session = cpu_session(graph, n_threads=1)
    golden = Golden(waveforms, run_logits(session, waveforms))
    bundle = Bundle(
        path=folder,
        name=name,
        encoder_id="",
        labels=corpus.labels,
        thresholds=calibration.thresholds,
        sample_rate=profile.mel.sample_rate,
        samples_per_window=profile.samples_per_window,
        outputs=outputs_of(session),
        activation=profile.activation,
        temperature=calibration.scale.temperature,
        offsets=calibration.scale.offsets,
        licence=LICENCE,
        trained_on=card(fitted),
        metrics={
            **last_measured(fitted),
            "calibration": calibration.report,
            "export_max_abs_delta_logit": delta,
        },
        tolerance=TOLERANCE,
    )
    return save_bundle(bundle, golden, notice(corpus.audio.recordings, fitted.result["teacher"]))


def outputs_of(session: Any) -> Outputs:
    """Return the names of what a graph of ours gives."""
    there = {node.name for node in session.get_outputs()}
    return Outputs(**{name: name for name in OUTPUTS if name in there})


def write_graph(fitted: Fitted, graph: Path, waveforms: NDArray[np.float32]) -> float:
    """Export with fp16-stored weights where that costs little; return the largest |Δlogit|."""
    fitted.network.cpu()
    export_encoder(fitted.network, fitted.profile.samples_per_window, graph)
    full = graph.read_bytes()
    front_end = next(m for m in fitted.network.modules() if isinstance(m, LogMel))
    store_half(graph, front_end)
    delta = parity(fitted.network, graph, waveforms)
    if delta > HALF_PARITY:
        graph.write_bytes(full)
        delta = parity(fitted.network, graph, waveforms)
    return delta


def golden_waveforms(sample_rate: int, n_samples: int) -> NDArray[np.float32]:
    """Return three windows [3, n_samples] to check a station with: silence, a song, noise.

    Synthetic, so that no one's recording travels with the bundle; whole 16-bit steps, so that
    the file packs well.
    """
    generator = np.random.default_rng(20_261_121)
    at = np.arange(n_samples) / sample_rate
    pitch = 3500 + 1200 * np.sin(2 * np.pi * 3 * at) - 900 * np.floor(at * 2)
    gate = (np.sin(2 * np.pi * 7 * at) > 0.2) * np.minimum(1, at)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    song = 0.3 * gate * (np.sin(phase) + 0.3 * np.sin(2 * phase))
    hiss = generator.standard_normal(n_samples) * 10 ** (-60 / 20)
    noise = generator.standard_normal(n_samples) * 10 ** (-30 / 20)
    stacked = np.stack([np.zeros(n_samples), song + hiss, noise])
    return (np.round(stacked * 32768) / 32768).astype(np.float32)


def card(fitted: Fitted) -> dict[str, Any]:
    """Return what the bundle says about its training."""
    corpus, result = fitted.corpus, fitted.result
    trained = [r for r, held in zip(corpus.audio.recordings, corpus.held, strict=True) if not held]
    by_role = Counter(Role(int(role)).name.lower() for role in corpus.role[~corpus.held])
    return {
        **{key: result[key] for key in CARD},
        "versions": result["versions"],
        "recordings": dict(by_role),
        "licence_tiers": sorted({r.licence_tier for r in trained if r.licence_tier}),
        "recordists": sorted({r.recordist for r in trained if r.recordist}),
    }


def last_measured(fitted: Fitted) -> dict[str, Any]:
    """Return what the last epoch measured: of a mean's last part, for nothing heard the mean."""
    is_mean = bool(fitted.result["average_with"])
    name = "held_out_of_last_part" if is_mean else "held_out"
    return {name: fitted.result["history"][-1:]}


def notice(recordings: Iterable[Recording], teacher: str | None = None) -> str:
    """Return the text of NOTICE: licence, and everyone whose work is in the weights."""
    recordings = list(recordings)
    recordists = sorted(
        {r.recordist for r in recordings if r.recordist}, key=lambda name: (name.casefold(), name)
    )
    licences = Counter(r.licence or "none stated" for r in recordings)
    origins = Counter(r.origin for r in recordings if r.origin)
    numbers = sorted({int(r.xeno_canto_id) for r in recordings if r.xeno_canto_id.isdecimal()})
    return "\n".join(
        [
            f"The weights in this folder are licensed {LICENCE}: non-commercial, share-alike.",
            "https://creativecommons.org/licenses/by-nc-sa/4.0/",
            "They were trained on, or chosen with, other people's recordings, none of which is",
            "in this folder. The station's code has its own licence (Apache-2.0).",
            *(
                ["", f"They learnt from the answers of a teacher too: {teacher}."]
                if teacher
                else []
            ),
            *_section("Licences of the recordings, as their sources state them", licences),
            *_section("Collections they were taken from", origins),
            "",
            f"Recordists ({len(recordists)} named by their sources):",
            "; ".join(recordists),
            "",
            f"xeno-canto recordings ({len(numbers)}; https://xeno-canto.org/NUMBER):",
            " ".join(f"XC{number}" for number in numbers),
        ]
    )


def _section(title: str, counts: Counter[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {n:5d}  {text}" for text, n in counts.most_common())]
