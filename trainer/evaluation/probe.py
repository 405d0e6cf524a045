"""A linear probe: which species does a network that knows photographs see in a small picture?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTH = 0.01
"""Inverse of the regularisation: 1,280 values and a hundred photographs a species"""

Features = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A taught probe, and what it is worth on photographs that it was not taught by."""

    model: Any
    accuracy: float

    def species_in(self, features: Features) -> Ints:
        """Return the species seen in each picture."""
        seen: Ints = self.model.predict(features)
        return seen


def fit_probe(taught: Features, species: Ints, asked: Features, answers: Ints) -> Probe:
    """Return a probe taught by photographs at the size of the pictures, and judged on others."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
    model.fit(taught, species)
    return Probe(model, float((model.predict(asked) == answers).mean()))
