"""report.html: one run in depth, or several runs side by side, in one file that needs no network.

The page is made of four files beside this one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from typing import Any

import numpy as np

from npgpt.html_page import make_page
from npgpt.reporting.record import Columns, Record
from npgpt.reporting.thinning import smoothed, thinned

POINTS = 1200  # of a line; a wide screen has no more pixels
LAYER_POINTS = 240  # of each of many lines
SMOOTH_FROM = 100  # points; fewer need no smoothing
SCRIPTS = ("charts.js", "report.js")
AXES = ("step", "tokens", "seconds")


def page(records: Sequence[Record]) -> str:
    """The report of one run, or the comparison of several, as HTML."""
    data = {
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "runs": [_run(record) for record in records],
    }
    title = " and ".join(record.name for record in records[:4]) + (" and more" if len(records) > 4 else "")
    return make_page(files("npgpt.reporting"), title, data, SCRIPTS)


def _run(record: Record) -> dict[str, Any]:
    """All that the page shows of a run, as JSON holds it."""
    settings = [("model", record.model.to_dict()), ("training", record.training), ("plan", record.plan)]
    return {
        "name": record.name,
        "skipped": record.skipped,
        "max_steps": _whole(record.plan.get("max_steps")),
        "context": _whole(record.plan.get("context")),
        "model": asdict(record.model),
        "last": {name: _last(columns) for name, columns in (("train", record.train), ("eval", record.evals))},
        "best": _best(record.evals),
        "series": _series(record),
        "layers": {name: _layers(record, getattr(record, name)) for name in ("gradient", "weight", "activation")},
        "samples": record.samples.items(),
        "passages": record.passages.items(),
        "settings": [[name, {k: _shown(v) for k, v in [*values.items()][:100]}] for name, values in settings],
        "processes": record.processes.items(),
    }


def _series(record: Record) -> dict[str, dict]:
    """{name: {"step": [...], "tokens": [...], "seconds": [...], "value": [...]}} of each line of the charts."""
    train, evals = record.train, record.evals
    series = {name: _line(record, train, train[name]) for name in ("loss", "lr", "grad_norm", "tokens_per_second")}
    series |= {name: _line(record, evals, evals[name]) for name in ("train_loss", "val_loss")}
    loss = train["loss"]
    if len(train) >= SMOOTH_FROM and not np.isnan(loss).any():
        series["smooth_loss"] = _line(record, train, smoothed(loss))
    return series


def _line(record, columns: Columns, values: np.ndarray) -> dict[str, list]:
    kept = thinned(values, POINTS)
    return {**_axes(record, columns, kept), "value": _rounded(values[kept])}


def _layers(record, columns: Columns) -> dict[str, Any]:
    """{"step", "tokens", "seconds", "values": {layer: [...]}}, with the steps at which a layer has a peak."""
    names = [name for name in columns if name != "step"]
    if not names:
        return {"values": {}}
    peaks = np.full(len(columns), np.nan)
    for name in names:  # one at a time, since all of them may be large
        values = columns[name]
        np.fmax(peaks, values / max(np.nanmedian(values), 1e-300), out=peaks)
    kept = thinned(peaks, LAYER_POINTS)
    return {**_axes(record, columns, kept), "values": {name: _rounded(columns[name][kept]) for name in names}}


def _axes(record, columns: Columns, kept: np.ndarray) -> dict[str, list]:
    """What the points can be drawn against. Lines without tokens or time have those of the steps' lines around."""
    steps = columns["step"]
    axes = {"step": steps}
    for name in AXES[1:]:
        own, known = columns[name], ~np.isnan(record.train[name])
        if known.any():
            between = np.interp(steps, record.train["step"][known], record.train[name][known], left=0.0)
            own = np.where(np.isnan(own), between, own)
        axes[name] = own
    return {name: _rounded(values[kept], digits=9) for name, values in axes.items()}


def _last(columns: Columns) -> dict[str, float]:
    """The last row's numbers."""
    last = {name: columns[name][-1] for name in columns} if len(columns) else {}
    return {name: float(value) for name, value in last.items() if not math.isnan(value)}


def _best(evals: Columns) -> dict[str, float] | None:
    """The lowest validation loss and its step. That of the untrained model doesn't count."""
    losses = np.where(evals["step"] > 0, evals["val_loss"], np.nan)
    if np.isnan(losses).all():
        return None
    best = int(np.nanargmin(losses))
    return {"step": float(evals["step"][best]), "val_loss": float(losses[best])}


def _rounded(values: np.ndarray, digits: int = 6) -> list:
    """Numbers as JSON holds them in few characters; None for NaN."""
    return [None if value != value else _short(value, digits) for value in values.tolist()]


def _short(value, digits):
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def _whole(value):
    return value if type(value) is int and 0 <= value < 2**53 else None


def _shown(value):
    """A setting as text: JSON, but for texts as they are."""
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:300]
