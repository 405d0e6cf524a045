"""Samplers against closed forms: of Gaussian pictures the ideal denoiser is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fieldstation.generation.guidance import Counted, clipped, guided
from fieldstation.generation.noise import noises_for
from fieldstation.generation.schedules import karras_sigmas, linear_sigmas
from fieldstation.generation.solvers import (
    Array,
    Denoise,
    sample_ancestral,
    sample_dpmpp_2m,
    sample_heun,
)

MEAN, DEVIATION = 0.4, 0.25
"""Of the pictures' pixels, each for itself"""
SHAPE = (3, 8, 8)
Solve = Callable[[Denoise, Array, tuple[float, ...]], Array]
ODE_SOLVERS = [sample_heun, sample_dpmpp_2m]


def ideal(x: Array, sigma: float) -> Array:
    """Return the mean of N(MEAN, DEVIATION²) given x: what a perfect network would say."""
    variance = DEVIATION**2
    return (variance * x + sigma**2 * MEAN) / (variance + sigma**2)


def exact(x: NDArray[Any], sigma_from: float, sigma_to: float) -> NDArray[Any]:
    """Return where the probability-flow path through x at `sigma_from` is at `sigma_to`."""
    variance = DEVIATION**2
    shrink = math.sqrt((variance + sigma_to**2) / (variance + sigma_from**2))
    return np.asarray(MEAN + (x - MEAN) * shrink)


def start(sigma: float, n: int = 4, seed: int = 0) -> NDArray[Any]:
    """Return noise of that level, float64: rounding would hide the order of a method."""
    return sigma * next(noises_for(range(seed, seed + n), SHAPE)).astype(np.float64)


def any_solver(denoise: Denoise, x: Array, sigmas: tuple[float, ...], solver: str) -> Array:
    """Run a solver by name, the ancestral one with noise of its own."""
    if solver == "ancestral":
        noises = islice(noises_for(range(len(x)), x.shape[1:]), 1, None)
        return sample_ancestral(denoise, x, sigmas, noises)
    return {"heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m}[solver](denoise, x, sigmas)


@pytest.mark.parametrize("solve", ODE_SOLVERS)
def test_a_path_ends_where_the_exact_one_ends(solve: Solve) -> None:
    """Over a fine grid down to no noise each pixel lands on the closed form."""
    sigmas = karras_sigmas(200, 0.002, 80.0)
    x = start(80.0)
    np.testing.assert_allclose(solve(ideal, x, sigmas), exact(x, 80.0, 0.0), atol=2e-3)


@pytest.mark.parametrize("solve", ODE_SOLVERS)
def test_halving_the_step_quarters_the_error(solve: Solve) -> None:
    """Both solvers are of second order, away from the last step to 0."""

    def error(n_steps: int) -> float:
        sigmas = karras_sigmas(n_steps, 0.05, 20.0)[:-1]
        x = start(20.0)
        return float(np.abs(solve(ideal, x, sigmas) - exact(x, 20.0, 0.05)).max())

    orders = [math.log2(error(n) / error(2 * n)) for n in (64, 128, 256)]
    assert all(1.8 < order < 2.3 for order in orders), orders


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ancestral"])
def test_noise_becomes_pictures_of_the_right_spread(solver: str) -> None:
    """Mean and variance of many samples are those of the pictures that were learnt."""
    n_steps = 500 if solver == "ancestral" else 40
    samples = any_solver(ideal, start(80.0, n=64), karras_sigmas(n_steps, 0.002, 80.0), solver)
    # 12,288 independent pixels: the standard error of the mean is 0.0023, of the variance 1.3 %
    assert samples.mean() == pytest.approx(MEAN, abs=0.009)
    assert samples.var() == pytest.approx(DEVIATION**2, rel=0.06)


def test_the_ancestral_step_is_the_posterior_of_ho_et_al() -> None:
    """Equations 6 and 7, as they are printed, in their own coordinates, over all 1000 steps."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alphas_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    sigmas = linear_sigmas(1000)
    np.testing.assert_allclose(
        sigmas[::-1], np.sqrt((1 - alphas_bar) / alphas_bar), rtol=1e-9, atol=1e-12
    )
    x = sigmas[0] * np.ones((1, 1))
    chain = np.sqrt(alphas_bar[-1]) * x
    noises = np.random.default_rng(0).standard_normal((1000, 1, 1))
    for t, noise in zip(range(1000, 0, -1), noises, strict=True):
        beta, now, before = betas[t - 1], alphas_bar[t], alphas_bar[t - 1]
        start_predicted = ideal(chain / np.sqrt(now), sigmas[1000 - t])
        mean = np.sqrt(before) * beta / (1 - now) * start_predicted
        mean += np.sqrt(1 - beta) * (1 - before) / (1 - now) * chain
        chain = mean + np.sqrt((1 - before) / (1 - now) * beta) * noise
    ours = sample_ancestral(ideal, x, sigmas, iter(noises))
    np.testing.assert_allclose(ours, chain, rtol=1e-9)


def test_respacing_keeps_both_ends_of_the_schedule() -> None:
    """Fifty of a thousand steps begin in the same noise and end with the same finest level."""
    whole, fifty = linear_sigmas(1000), linear_sigmas(50)
    assert len(fifty) == 51
    assert (fifty[0], fifty[-2], fifty[-1]) == (whole[0], whole[-2], 0.0)
    assert set(fifty) <= set(whole)
    assert linear_sigmas(1) == (whole[0], 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: karras_sigmas(0, 0.002, 80), "n_steps is 0; at least 1"),
        (lambda: karras_sigmas(8, 0, 80), "sigma_min is 0"),
        (lambda: karras_sigmas(8, 80, 80), "0 < min < max"),
        (lambda: linear_sigmas(0), "n_steps is 0"),
        (lambda: linear_sigmas(1001), "n_steps is 1001; the schedule has 1000"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    """What would divide by nothing is said before."""
    with pytest.raises(ValueError, match=message):
        make()


@given(st.integers(1, 60), st.floats(1e-3, 0.1), st.floats(1.0, 200.0))
def test_noise_levels_fall_from_the_first_to_nothing(n_steps: int, low: float, high: float) -> None:
    """Strictly, between the ends that were asked for, 0 last."""
    sigmas = karras_sigmas(n_steps, low, high)
    assert len(sigmas) == n_steps + 1
    assert sigmas[0] == pytest.approx(high)
    assert n_steps == 1 or sigmas[-2] == pytest.approx(low)
    assert all(above > below for above, below in pairwise(sigmas))
    assert sigmas[-1] == 0.0


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ancestral"])
@given(n_steps=st.integers(1, 12), pixel=st.floats(-1, 1))
def test_a_denoiser_that_is_sure_gets_its_picture(solver: str, n_steps: int, pixel: float) -> None:
    """Whatever the noise, a network that always sees one picture ends with that picture."""
    x = start(80.0, n=2)
    ended = any_solver(lambda x, _: 0 * x + pixel, x, karras_sigmas(n_steps, 0.002, 80.0), solver)
    np.testing.assert_allclose(ended, pixel, atol=1e-9)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ancestral"])
@settings(max_examples=25)
@given(shift=st.floats(-3, 3), scale=st.floats(0.2, 5), n_steps=st.integers(1, 9))
def test_shifted_and_scaled_pictures_are_sampled_shifted_and_scaled(
    solver: str, shift: float, scale: float, n_steps: int
) -> None:
    """No solver knows where zero is, or what unit a pixel has."""
    sigmas = karras_sigmas(n_steps, 0.01, 10.0)
    moved = tuple(scale * sigma for sigma in sigmas)
    x = start(10.0, n=2)

    def denoise(x: Array, sigma: float) -> Array:
        return shift + scale * ideal((x - shift) / scale, sigma / scale)

    def noises() -> Any:
        return islice(noises_for(range(2), SHAPE), 1, None)

    if solver == "ancestral":
        plain = sample_ancestral(ideal, x, sigmas, noises())
        # the noise of a step is scaled by its sigma, so it need not be
        there = sample_ancestral(denoise, shift + scale * x, moved, noises())
    else:
        plain = any_solver(ideal, x, sigmas, solver)
        there = any_solver(denoise, shift + scale * x, moved, solver)
    np.testing.assert_allclose(there, shift + scale * plain, atol=1e-6)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ancestral"])
def test_numpy_and_torch_sample_the_same(solver: str) -> None:
    """One definition, float32 in both, under guidance: the same pictures to 1e-5."""
    torch = pytest.importorskip("torch")
    sigmas = linear_sigmas(50) if solver == "ancestral" else karras_sigmas(16, 0.002, 80.0)
    noises = [next(stream) for stream in [noises_for(range(2), SHAPE)] for _ in range(51)]
    condition = np.array([[0.2], [-0.3]], np.float32)
    null = np.array([0.05], np.float32)

    def painted(to: Callable[[Any], Any]) -> NDArray[np.float32]:
        def network(x: Array, sigma: float, condition: Array) -> Array:
            return ideal(x - condition[:, :, None, None], sigma) + condition[:, :, None, None]

        denoise = clipped(guided(network, to(condition), to(null), 1.5, (0.1, 10.0)))
        x = to(sigmas[0] * noises[0])
        if solver == "ancestral":
            return np.asarray(sample_ancestral(denoise, x, sigmas, map(to, noises[1:])))
        return np.asarray(any_solver(denoise, x, sigmas, solver))

    ours, theirs = painted(np.array), painted(torch.tensor)
    assert ours.dtype == theirs.dtype == np.float32
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def paint_by_number(x: Array, sigma: float, condition: Array) -> Array:
    """Return pictures of one grey each, the condition's."""
    return 0 * x + condition[:, :1, None, None]


@given(st.floats(0, 5), st.floats(-1, 1), st.floats(-1, 1))
def test_guidance_goes_on_from_nothing_through_the_condition(
    scale: float, grey: float, null: float
) -> None:
    """D_null + w (D - D_null), each picture by its own condition."""
    condition = np.array([[grey], [-grey]])
    denoise = guided(paint_by_number, condition, np.array([null]), scale)
    expected = [null + scale * (grey - null), null + scale * (-grey - null)]
    np.testing.assert_allclose(denoise(start(1.0, n=2), 1.0)[:, 0, 0, 0], expected, atol=1e-9)
    assert condition.tolist() == [[grey], [-grey]]


def test_outside_its_interval_guidance_costs_and_does_nothing() -> None:
    """Inside, ends included, a picture costs two calls; outside, and at w = 1, one."""
    network = Counted(paint_by_number)
    condition, null = np.array([[0.5]] * 3), np.zeros(1)
    denoise = guided(network, condition, null, 2.0, (0.3, 5.0))
    greys, calls = [], []
    for sigma in (0.29, 0.3, 1.0, 5.0, 5.1):
        before = network.n_calls
        greys.append(float(denoise(start(1.0, n=3), sigma)[0, 0, 0, 0]))
        calls.append(network.n_calls - before)
    assert greys == [0.5, 1.0, 1.0, 1.0, 0.5]
    assert calls == [3, 6, 6, 6, 3]
    guided(network, condition, null, 1.0)(start(1.0, n=3), 1.0)
    assert network.n_calls == sum(calls) + 3


@pytest.mark.parametrize(("solver", "n_calls"), [("heun", 15), ("dpmpp_2m", 8), ("ancestral", 8)])
def test_a_picture_costs_what_its_solver_says(solver: str, n_calls: int) -> None:
    """Heun asks twice a step except in the last; the others once."""
    network = Counted(paint_by_number)
    denoise = guided(network, np.zeros((2, 1)), np.zeros(1))
    any_solver(denoise, start(80.0, n=2), karras_sigmas(8, 0.002, 80.0), solver)
    assert network.n_calls == 2 * n_calls
