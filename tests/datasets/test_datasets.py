"""Tests of the synthetic tasks."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from sklearn.utils import check_random_state

from kpflow_sklearn.datasets import make_flip_flop, make_memory_pro, make_multitask

MAKERS = [make_memory_pro, make_flip_flop, make_multitask]
ANGLE_MAKERS = [make_memory_pro, make_multitask]

ALIASES = {
    "MemoryPro": "delaygo, dlygo, DELAY-GO, memory pro",
    "MemoryAnti": "dlyanti, Dly_Anti, memoryanti",
    "DelayPro": "fdgo, FD go, delay_pro",
    "DelayAnti": "fdanti, delayanti, DELAY-anti",
    "ReactPro": "reactgo, React-Pro",
    "ReactAnti": "reactanti, react ANTI",
}
ALL_TASKS = list(ALIASES)

# Four different lengths, so that no two periods can be mistaken for each other.
PERIODS = {"context": 2, "stimulus": 3, "memory": 4, "response": 5}
STIMULUS, MEMORY, RESPONSE, END = 2, 5, 9, 14

# The error, its message, the functions and arguments that it is about, and values to refuse.
FLIP_FLOP = [make_flip_flop]
NO_INTEGER = "{name} must be an instance of int, not {kind}."
NO_NUMBER = "{name} must be an instance of float, not {kind}."
NEGATIVE, NOT_FINITE = (
    "{name} == {value!r}, must be >= 0.",
    "{name} must be finite, got {value!r}.",
)
NO_FLAG = "{name} must be True or False, got {value!r}."
NUMBERS = ["dt", "noise_std"]
REFUSED = [
    (TypeError, NO_INTEGER, MAKERS, ["n_trials"], [2.0, True, "many", None]),
    (TypeError, NO_INTEGER, FLIP_FLOP, ["n_bits", "n_timesteps"], [1.5, False]),
    (ValueError, "{name} == {value!r}, must be >= 1.", MAKERS, ["n_trials"], [0, -3]),
    (ValueError, "{name} == {value!r}, must be >= 1.", FLIP_FLOP, ["n_bits", "n_timesteps"], [0]),
    (TypeError, NO_NUMBER, MAKERS, NUMBERS, ["1", True, None]),
    (TypeError, NO_NUMBER, FLIP_FLOP, ["pulse_probability"], ["often"]),
    (TypeError, NO_NUMBER, ANGLE_MAKERS, list(PERIODS), ["10", None]),
    (ValueError, "{name} == {value!r}, must be > 0.", MAKERS, ["dt"], [0, -1.0]),
    (ValueError, NEGATIVE, MAKERS, ["noise_std"], [-0.1]),
    (ValueError, NEGATIVE, FLIP_FLOP, ["pulse_probability"], [-0.1]),
    (ValueError, NEGATIVE, ANGLE_MAKERS, list(PERIODS), [-1]),
    (ValueError, NOT_FINITE, MAKERS, NUMBERS, [np.inf, np.nan]),
    (ValueError, NOT_FINITE, FLIP_FLOP, ["pulse_probability"], [np.nan]),
    (ValueError, NOT_FINITE, ANGLE_MAKERS, list(PERIODS), [np.inf]),
    (ValueError, NO_FLAG, MAKERS, ["evenly_spaced"], ["no", None]),
    (ValueError, NO_FLAG, ANGLE_MAKERS, ["return_stimuli"], [1, "yes"]),
]


def steps_on(signal):
    """Return the steps at which a signal of one trial is not zero."""
    return np.flatnonzero(signal).tolist()


def unit_vectors(angles):
    """Return the cosines and sines of angles, on a last axis."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def held_by_loop(pulses):
    """Return the last non-zero value of each bit, one step at a time."""
    held = pulses.copy()
    for t in range(1, held.shape[1]):
        silent = held[:, t] == 0
        held[:, t][silent] = held[:, t - 1][silent]
    return held


@pytest.mark.parametrize("make", MAKERS)
class TestEveryMaker:
    def test_noise_beyond_float64_is_refused(self, make):
        with pytest.raises(ValueError, match=r"noise_std / sqrt\(dt\) is too large for float64"):
            make(8, noise_std=1.7e308, random_state=0)

    def test_arrays_are_contiguous_float64(self, make):
        for noise_std in (0.0, 0.1):
            for array in make(3, noise_std=noise_std, random_state=0)[:2]:
                assert array.dtype == np.float64
                assert array.flags.c_contiguous

    def test_same_seed_same_data_other_seed_other_data(self, make):
        first, again, other = (make(8, noise_std=0.1, random_state=s)[:2] for s in (5, 5, 6))
        for a, b, c in zip(first, again, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.array_equal(a, c)

    def test_random_state_instance_moves_on(self, make):
        rng = np.random.RandomState(5)
        first, second = make(8, random_state=rng)[1], make(8, random_state=rng)[1]
        np.testing.assert_array_equal(first, make(8, random_state=5)[1])
        assert not np.array_equal(first, second)

    @pytest.mark.parametrize("random_state", [None, 0])
    def test_global_generator_is_neither_changed_nor_read(self, make, random_state):
        global_rng = check_random_state(None)
        before = global_rng.get_state()
        first = make(8, noise_std=0.1, random_state=random_state)[1]
        after = global_rng.get_state()
        np.testing.assert_array_equal(before[1], after[1])
        assert before[2:] == after[2:]
        global_rng.set_state(before)
        again = make(8, noise_std=0.1, random_state=random_state)[1]
        assert np.array_equal(first, again) == (random_state == 0)

    def test_noise_is_white_with_the_stated_std_and_spares_the_targets(self, make):
        noise_std, dt = 0.7, 0.25
        X, y = make(200, dt=dt, random_state=3)[:2]
        X_noisy, y_noisy = make(200, dt=dt, noise_std=noise_std, random_state=3)[:2]
        np.testing.assert_array_equal(y, y_noisy)

        noise = (X_noisy - X) / (noise_std / np.sqrt(dt))
        # Standard errors for n white samples of std 1, at every step and in every channel.
        n = noise[:, 0, 0].size
        assert np.abs(noise.std(axis=0) - 1).max() < 5 / np.sqrt(2 * n)
        assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
        assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
        assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 4 / np.sqrt(noise[:, 1:].size)
        assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 4 / np.sqrt(noise[..., 1:].size)

    def test_bad_random_state(self, make):
        with pytest.raises(ValueError, match="'seed' cannot be used to seed"):
            make(2, random_state="seed")

    def test_numpy_scalars_are_accepted(self, make):
        X = make(np.int64(3), dt=np.float32(0.5), noise_std=np.int32(0), random_state=0)[0]
        np.testing.assert_array_equal(X, make(3, dt=0.5, random_state=0)[0])


@pytest.mark.parametrize("make", ANGLE_MAKERS)
class TestPeriodsAndAngles:
    def test_dt_scales_every_period(self, make):
        coarse, fine = (make(4, **PERIODS, dt=dt, evenly_spaced=True)[:2] for dt in (1.0, 0.5))
        for a, b in zip(coarse, fine, strict=True):
            np.testing.assert_array_equal(np.repeat(a, 2, axis=1), b)

    def test_step_counts_are_rounded_to_the_nearest(self, make):
        # 0.3 / 0.1 is a little less than 3 in floating point, and 0.26 / 0.1 rounds up to 3.
        y = make(1, context=0.3, stimulus=0.26, memory=0.24, response=0.1, dt=0.1)[1]
        assert steps_on(y[0, :, 0]) == list(range(3 + 3 + 2))
        assert y.shape[1] == 9

    def test_context_and_memory_may_be_absent(self, make):
        X, y = make(2, context=0, stimulus=2, memory=0, response=1, evenly_spaced=True)[:2]
        assert steps_on(X[0, :, 1]) == [0, 1]
        assert steps_on(y[0, :, 1]) == [2]

    def test_random_angles_are_uniform_on_the_circle(self, make):
        angles = make(2000, random_state=0, return_stimuli=True)[-1]
        assert angles.min() >= 0 and angles.max() < 2 * np.pi
        # The mean of n uniform unit vectors has length about 1 / sqrt(n), for each harmonic.
        for harmonic in (1, 2):
            assert abs(np.exp(1j * harmonic * angles).mean()) < 4 / np.sqrt(angles.size)

    @pytest.mark.parametrize("name", ["stimulus", "response"])
    @pytest.mark.parametrize("length", [0, 0.9])
    def test_needed_period_without_steps(self, make, name, length):
        message = rf"{name} must last at least one step of dt=2\.0, got {length}\."
        with pytest.raises(ValueError, match=message):
            make(2, dt=2, **{name: length})


class TestMemoryPro:
    def test_defaults(self):
        X, y = make_memory_pro(random_state=0)
        assert X.shape == y.shape == (128, 90, 3)
        assert steps_on(X[0, :, 1]) == list(range(30))
        assert steps_on(y[0, :, 1]) == list(range(60, 90))

    @pytest.mark.parametrize("evenly_spaced", [True, False])
    def test_equals_the_multitask_trials(self, evenly_spaced):
        options = {**PERIODS, "evenly_spaced": evenly_spaced, "random_state": 2}
        X, y = make_memory_pro(5, **options)
        X_multi, y_multi, _ = make_multitask(5, tasks=["MemoryPro"], **options)
        np.testing.assert_array_equal(X, X_multi[..., :3])
        np.testing.assert_array_equal(y, y_multi)


class TestMultitask:
    def test_shapes_order_and_cue(self):
        X, y, tasks, angles = make_multitask(
            4, tasks=ALL_TASKS, **PERIODS, random_state=0, return_stimuli=True
        )
        assert X.shape == (24, END, 9) and y.shape == (24, END, 3) and angles.shape == (24,)
        assert tasks.dtype.kind == "U"
        assert tasks.tolist() == [name for name in ALL_TASKS for _ in range(4)]
        cue = np.repeat(np.eye(6), 4, axis=0)[:, None]
        np.testing.assert_array_equal(X[..., 3:], np.broadcast_to(cue, (24, END, 6)))

    def test_defaults(self):
        X, y, tasks = make_multitask(2, random_state=0)
        assert X.shape == (8, 40, 7) and y.shape == (8, 40, 3)
        assert tasks[::2].tolist() == ALL_TASKS[:4]

    @pytest.mark.parametrize("name", ALL_TASKS)
    def test_periods_and_targets_to_the_step(self, name):
        on, off, fixation_off = {
            "Mem": (STIMULUS, MEMORY, RESPONSE),
            "Del": (STIMULUS, END, RESPONSE),
            "Rea": (RESPONSE, END, END),
        }[name[:3]]
        X, y, tasks, angles = make_multitask(
            5, tasks=ALL_TASKS, **PERIODS, random_state=0, return_stimuli=True
        )
        X, y, angles = X[tasks == name], y[tasks == name], angles[tasks == name]
        answers = angles + np.pi * name.endswith("Anti")
        expected_X, expected_y = np.zeros((5, END, 3)), np.zeros((5, END, 3))
        expected_X[:, :fixation_off, 0] = expected_y[:, :RESPONSE, 0] = 1
        expected_X[:, on:off, 1:] = unit_vectors(angles)[:, None]
        expected_y[:, RESPONSE:, 1:] = unit_vectors(answers)[:, None]
        np.testing.assert_array_equal(X[..., :3], expected_X)
        np.testing.assert_allclose(y, expected_y, rtol=0, atol=1e-15)

    def test_evenly_spaced_matches_trials_across_tasks(self):
        angles = make_multitask(6, evenly_spaced=True, return_stimuli=True)[3].reshape(4, 6)
        np.testing.assert_array_equal(angles, np.tile(2 * np.pi * np.arange(6) / 6, (4, 1)))
        angles = make_multitask(6, random_state=0, return_stimuli=True)[3].reshape(4, 6)
        assert len(np.unique(angles)) == angles.size

    @pytest.mark.parametrize(("name", "aliases"), ALIASES.items())
    def test_aliases(self, name, aliases):
        X, y, _ = make_multitask(3, tasks=[name], random_state=0)
        for alias in aliases.split(", "):
            X_alias, y_alias, tasks = make_multitask(3, tasks=(alias,), random_state=0)
            assert tasks.tolist() == [name] * 3
            np.testing.assert_array_equal(X, X_alias)
            np.testing.assert_array_equal(y, y_alias)

    @pytest.mark.parametrize(
        ("tasks", "complaint"),
        [
            (["DelayPro", "MemoryGo"], "hold known task names, got 'MemoryGo'."),
            (["DelayPro", 3], "hold known task names, got 3."),
            (
                ["fdgo", "DelayPro"],
                "name each task once, got DelayPro twice in ['fdgo', 'DelayPro'].",
            ),
            ("MemoryPro", "be a non-empty sequence of task names, got 'MemoryPro'."),
            ([], "be a non-empty sequence of task names, got []."),
            (None, "be a non-empty sequence of task names, got None."),
        ],
    )
    def test_refused_tasks(self, tasks, complaint):
        hint = f"Known tasks: {', '.join(ALL_TASKS)}. Aliases: delaygo (MemoryPro), "
        with pytest.raises(ValueError, match="^" + re.escape(f"tasks must {complaint} {hint}")):
            make_multitask(2, tasks=tasks)


class TestFlipFlop:
    @pytest.mark.parametrize("n_bits", [1, 3, 5])
    def test_target_is_the_sign_of_the_last_pulse(self, n_bits):
        X, y = make_flip_flop(20, n_bits=n_bits, n_timesteps=50, random_state=0)
        assert X.shape == y.shape == (20, 50, n_bits)
        assert set(np.unique(X)) == {-1, 0, 1}
        assert np.all(X[:, 0] != 0)
        np.testing.assert_array_equal(y, held_by_loop(X))

    @pytest.mark.parametrize(("rate", "dt"), [(0.1, 1.0), (0.1, 0.5), (0.4, 0.25)])
    def test_pulse_rate_is_per_unit_of_time_and_signs_are_fair(self, rate, dt):
        X = make_flip_flop(500, pulse_probability=rate, dt=dt, random_state=0)[0]
        later = X[:, 1:]
        p = rate * dt
        assert abs((later != 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / later.size)
        for signs in (X[:, 0], later[later != 0]):
            assert abs(signs.mean()) < 4 / np.sqrt(signs.size)

    def test_bits_are_independent(self):
        X = make_flip_flop(500, n_bits=2, pulse_probability=0.2, random_state=0)[0][:, 1:]
        both = (X != 0).all(axis=-1).mean()
        assert abs(both - 0.04) < 4 * np.sqrt(0.04 * 0.96 / X[..., 0].size)

    @pytest.mark.parametrize(("rate", "dt"), [(1.0, 1.0), (0.8, 2.0), (0.0, 1.0)])
    def test_pulses_that_are_certain_or_impossible(self, rate, dt):
        X, y = make_flip_flop(4, pulse_probability=rate, dt=dt, random_state=0)
        assert (X[:, 1:] != 0).all() if rate else not X[:, 1:].any()
        np.testing.assert_array_equal(y, X if rate else np.repeat(X[:, :1], 100, axis=1))

    def test_evenly_spaced_runs_through_the_patterns_in_order(self):
        X, y = make_flip_flop(10, n_bits=3, evenly_spaced=True, random_state=0)
        digits = [[int(digit) for digit in f"{k % 8:03b}"] for k in range(10)]
        np.testing.assert_array_equal(X[:, 0], 2 * np.array(digits) - 1)
        np.testing.assert_array_equal(y, held_by_loop(X))
        # Only the first step is set: later pulses are those of the random mode.
        np.testing.assert_array_equal(X[:, 1:], make_flip_flop(10, random_state=0)[0][:, 1:])

    def test_evenly_spaced_with_more_bits_than_an_integer_has(self):
        signs = make_flip_flop(2, n_bits=70, evenly_spaced=True)[0][:, 0]
        np.testing.assert_array_equal(signs, [[-1] * 70, [-1] * 69 + [1]])


@pytest.mark.parametrize(("error", "message", "makers", "names", "values"), REFUSED)
def test_refused_arguments(error, message, makers, names, values):
    for make, name, value in itertools.product(makers, names, values):
        expected = message.format(name=name, value=value, kind=type(value).__name__)
        with pytest.raises(error, match=f"^{re.escape(expected)}$"):
            make(**{name: value})
