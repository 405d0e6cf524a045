"""The report as one page that needs no other file: plots, tables, the worst errors to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from trainer.data.recordings import DataError, Recording
from trainer.evaluation.hearing import decoded
from trainer.evaluation.measures import species_peaks
from trainer.evaluation.report import Evaluation
from trainer.evaluation.truth import BACKGROUND, UNKNOWN

N_ERRORS = 12
AROUND_S = 4.5
"""Shown on each side of the window that misled most"""
CSS = """
:root { color-scheme: light; }
body { margin: 2.5rem auto; max-width: 46rem; padding: 0 1.2rem; background: #fff; color: #22313a;
  font: 16px/1.55 "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; }
.under { color: #5b6d76; margin: .2rem 0 1.6rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem;
  margin: 1.2rem 0; }
.card { border: 1px solid #d9e0e3; border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.55rem; } .card span { color: #5b6d76; font-size: .82rem; }
figure { margin: .8rem 0; } svg, img { width: 100%; height: auto; }
figcaption, .note { color: #5b6d76; font-size: .88rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .22rem .5rem; border-bottom: 1px solid #e6ebed; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: #5b6d76; }
.error { margin: 1.4rem 0; } .error p { margin: .1rem 0; font-size: .92rem; }
code { font-size: .85em; overflow-wrap: anywhere; }
"""
TITLES = {
    "recording_top1": "right by recording",
    "window_top1": "right by window",
    "macro": "mean over species",
    "cmap": "cmAP",
    "ece": "calibration error",
    "unknown_auroc": "AUROC, unknown birds",
    "background_auroc": "AUROC, background",
    "event_f1": "F1 of events",
}


def page(evaluation: Evaluation) -> str:
    """Return the page.

    Raises:
        DataError: matplotlib is not installed.
    """
    try:
        sections = list(_sections(evaluation))
    except ImportError as error:
        raise DataError(f"--html needs matplotlib ({error}): pip install matplotlib") from error
    title = f"{evaluation.report['bundle']} on {evaluation.report['data']}"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</html>\n"
    )


def _sections(evaluation: Evaluation) -> Iterator[str]:
    report = evaluation.report
    yield _under(report)
    yield _cards(report)
    if report["n_known"]:
        yield from _known(evaluation)
    if report["n_unknown"] or report["n_background"]:
        yield _strangers(evaluation)
    if report["n_event_files"]:
        yield _events(report)
    if report["recordists"]:
        yield _recordists(report)
    if report["errors"]:
        yield from _errors(evaluation)
    yield _small_print(report)


def _under(report: Mapping[str, Any]) -> str:
    fold = f", fold {report['fold']}" if report["fold"] is not None else ""
    return (
        f'<p class="under">Encoder <code>{escape(report["encoder_id"])}</code>{fold}: '
        f"{report['n_recordings']} recordings, {report['n_windows']} windows. "
        "Intervals are 95 %, over draws of recordings."
        f"{' The bundle was ' + report['caution'] + '.' if report['caution'] else ''}</p>"
    )


def _cards(report: Mapping[str, Any]) -> str:
    cards = []
    for name, title in TITLES.items():
        if report.get(name) is None:
            continue
        low, high = report.get(f"{name}_interval") or (None, None)
        under = f"{title}<br>{low:.3f} – {high:.3f}" if low is not None else title
        cards.append(f'<div class="card"><b>{report[name]:.3f}</b><span>{under}</span></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _known(evaluation: Evaluation) -> Iterator[str]:
    from trainer.evaluation import plots

    report, peer = evaluation.report, evaluation.report["peer"]
    common = {label.scientific_name: label.common_name for label in evaluation.bundle.labels}
    titles = {name: title for name, title in TITLES.items() if name not in ("ece", "event_f1")}
    name = peer["name"].partition(" (")[0] if peer else ""
    yield "<h2>The figures and how sure they are</h2>"
    yield _figure(plots.intervals(titles, report, peer, name), _peer_caption(report))
    yield "<h2>By species</h2>"
    yield _figure(
        plots.species_bars(report["species"]),
        "Of the recordings of a species (their number in brackets), how many are named so; and of "
        "those named so, how many are. The species with the highest mean probability counts.",
    )
    yield _species_table(report)
    yield "<h2>What is taken for what</h2>"
    yield _figure(
        plots.confusion(report["confusion"], common), "Recordings; colour is the row's share."
    )
    if report["reliability"]:
        yield "<h2>Do the probabilities mean what they say?</h2>"
        yield _figure(
            plots.reliability(report["reliability"]),
            "The highest probability of each species in each recording, from 0.1 up: what an event "
            "is told with. On the diagonal, 70\u00a0% is right seven times of ten. So many peaks "
            f"would show an error of {report['ece_floor']:.3f} if all of them were true.",
        )


def _peer_caption(report: Mapping[str, Any]) -> str:
    peer = report["peer"]
    if not peer:
        return "Each point with its 95 % interval."
    same = "on the same windows" if peer["same_windows"] else "on windows of its own length"
    ours, theirs = peer["bundle_ms_per_window"], peer["ms_per_window"]
    return (
        f"{peer['name']} {same}, among the same labels. A window takes {ours:.2f} ms here and "
        f"{theirs:.2f} ms there (CPU time, medians of {peer['n_timed']} in turn on one core): "
        f"{ours / theirs:.3f} of its time."
    )


def _species_table(report: Mapping[str, Any]) -> str:
    columns = ("precision", "recall", "event_precision", "event_recall")
    rows = [
        [row["common_name"], str(row["n"]), *(_number(row[column]) for column in columns)]
        for row in report["species"].values()
        if row["n"]
    ]
    head = ["", "recordings", "precision", "recall", "event precision", "event recall"]
    note = "Events: at the bundle's thresholds, over all rows of the folder."
    return _table(head, rows) + f'<p class="note">{note}</p>'


def _strangers(evaluation: Evaluation) -> str:
    from trainer.evaluation import plots

    report, heard = evaluation.report, evaluation.heard
    peaks = species_peaks(heard)
    groups = {
        "its species": peaks[heard.target >= 0],
        "unknown birds": peaks[heard.target == UNKNOWN],
        "background": peaks[heard.target == BACKGROUND],
    }
    told = ", ".join(
        f"{report[f'{name}_with_event']} of {report[f'n_{name}']} {title}"
        for name, title in (("unknown", "of unknown birds"), ("background", "of background"))
        if report[f"n_{name}"]
    )
    shown = {name: values for name, values in groups.items() if len(values)}
    return "<h2>What it does not know</h2>" + _figure(
        plots.separation(shown), f"Recordings with an event at the bundle's thresholds: {told}."
    )


def _events(report: Mapping[str, Any]) -> str:
    rows = [
        [title, _number(report[name])]
        for name, title in (
            ("event_precision", "events that overlap a call of their species"),
            ("event_recall", "calls that an event overlaps"),
            ("event_f1", "F1"),
            ("segment_f1", "F1 by the second"),
        )
    ]
    return (
        "<h2>Events, as the station tells them</h2>"
        + _table(["", ""], rows)
        + (
            f'<p class="note">{report["n_event_files"]} files with times, '
            f"{report['n_events_there']} calls, {report['n_events_told']} events.</p>"
        )
    )


def _recordists(report: Mapping[str, Any]) -> str:
    titles = {
        "seen": "recordists that the bundle names",
        "unseen": "other recordists",
        "not_stated": "not stated",
        "over_recordists": "all that are stated; interval over recordists",
    }
    rows = [
        [
            titles[name],
            str(row.get("n_recordings", "")),
            str(row["n_recordists"] or ""),
            _with_interval(row),
        ]
        for name, row in report["recordists"].items()
        if row.get("n_recordings", 1)
    ]
    return "<h2>By recordist</h2>" + _table(
        ["", "recordings", "recordists", "right by recording"], rows
    )


def _errors(evaluation: Evaluation) -> Iterator[str]:
    report = evaluation.report
    shown = report["errors"][:N_ERRORS]
    place = {recording.file: i for i, recording in enumerate(evaluation.recordings)}
    yield "<h2>The worst errors</h2>"
    yield (
        f'<p class="note">{len(report["errors"])} recordings are named wrongly; the surest '
        f"{len(shown)}. Marked is the window that spoke most for the wrong species.</p>"
    )
    for error in shown:
        yield _error(evaluation, error, place[error["file"]])


def _error(evaluation: Evaluation, error: Mapping[str, Any], index: int) -> str:
    common = {label.scientific_name: label.common_name for label in evaluation.bundle.labels}
    recording = evaluation.recordings[index]
    said = (
        f"<b>{escape(common[error['scientific_name']])}</b> ({error['score']:.2f}) taken for "
        f"<b>{escape(common[error['said']])}</b> ({error['said_score']:.2f})"
    )
    return (
        f'<div class="error"><p>{said}</p>{_spectrogram(evaluation, error["said"], index)}'
        f'<p class="note"><code>{escape(recording.file)}</code> · '
        f"{escape(recording.recordist or 'recordist not stated')} · "
        f"{escape(recording.licence or 'licence not stated')}</p></div>"
    )


def _spectrogram(evaluation: Evaluation, said: str, index: int) -> str:
    """Return the recording's spectrogram around the window that spoke most for a species."""
    from trainer.evaluation import plots

    bundle, heard = evaluation.bundle, evaluation.heard
    label = [label.scientific_name for label in bundle.labels].index(said)
    rows = np.flatnonzero(heard.owner == index)
    start_s = float(heard.start_s[rows[heard.probabilities[rows, label].argmax()]])
    end_s = start_s + bundle.window_s
    from_s = max(0.0, start_s - AROUND_S)
    try:
        samples = _between(
            evaluation.recordings[index], bundle.sample_rate, from_s, end_s + AROUND_S
        )
    except DataError as error:
        return f'<p class="note">{escape(str(error))}</p>'
    source = plots.spectrogram(samples, bundle.sample_rate, (start_s, end_s), from_s)
    return f'<img alt="spectrogram" src="{source}">'


def _between(recording: Recording, rate: int, from_s: float, until_s: float) -> np.ndarray:
    return decoded(recording, rate)[round(from_s * rate) : round(until_s * rate)]


def _small_print(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"Data <code>{report['data_hash'][:16]}</code>, {escape(report['device'])}, "
        f"{escape(versions)}, seed {report['seed']}, {report['seconds']} s. "
        f"A recording's score: {escape(report['recording_score'])}."
    ]
    if report["skipped"]:
        files = "; ".join(f"{escape(f)}: {escape(why)}" for f, why in report["skipped"].items())
        lines.append(f"Not judged ({len(report['skipped'])}): {files}.")
    return "<h2>Small print</h2>" + "".join(f'<p class="note">{line}</p>' for line in lines)


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{titles}</tr>{body}</table>"


def _with_interval(row: Mapping[str, Any]) -> str:
    if row["recording_top1"] is None:
        return "–"
    low, high = row["recording_top1_interval"]
    return f"{row['recording_top1']:.3f} ({low:.3f} – {high:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
