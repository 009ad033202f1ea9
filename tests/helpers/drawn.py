"""What the property tests draw: layouts, weights, gradients, hyperparameters.

Numbers come from a seed, and hypothesis draws what matters about them: the layout, the
outcome of the cosine test, magnitudes. Free numbers would hardly ever be orthogonal.
Layouts come from a pool, because each new shape compiles.
"""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import assume, settings
from hypothesis import strategies as st

import reference
from optax_adamp import ProjectionDimensionNumbers

# Of float64, in which sums of some hundred terms keep fourteen digits.
TOLERANCE = 1e-12

OUTCOMES = ("channel", "layer", "none", "zero", "chance", "near", "mixed")


class Layout(NamedTuple):
    """A shape, and what its axes are; those not named are batch axes."""

    shape: tuple[int, ...]
    reduction: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def batch(self):
        both = (*self.reduction, *self.output)
        return tuple(axis for axis in range(len(self.shape)) if axis not in both)

    @property
    def length(self):
        """Weights in a channel."""
        return int(np.prod([self.shape[axis] for axis in self.reduction]))

    def spec(self, view="auto"):
        return ProjectionDimensionNumbers(self.reduction, self.output, view)

    def gather(self, array):
        """The array with axes (batch elements, channels, numbers of a channel)."""
        order = (*self.batch, *self.output, *self.reduction)
        sizes = [
            int(np.prod([self.shape[axis] for axis in axes]))
            for axes in (self.batch, self.output, self.reduction)
        ]
        return np.transpose(array, order).reshape(sizes)

    def scatter(self, gathered):
        """What `gather` gathered."""
        order = (*self.batch, *self.output, *self.reduction)
        array = gathered.reshape([self.shape[axis] for axis in order])
        return np.transpose(array, np.argsort(order))

    def axes_of(self, view):
        """The axes along a vector of a view."""
        return self.reduction if view == "channel" else self.reduction + self.output


NAMED_LAYOUTS = (
    Layout((6, 4), (0,), (1,)),
    Layout((4, 6), (1,), (0,)),
    Layout((3, 6, 4), (1,), (2,)),  # stacked layers
    Layout((3, 2, 5, 4), (0, 1, 2), (3,)),  # a convolution
    Layout((5, 2, 3), (0,), (1, 2)),  # queries of attention
    Layout((2, 3, 6, 4), (2,), (3,)),  # experts of layers
    Layout((6, 3, 4), (0,), (2,)),  # stacked in the middle
    Layout((6,), (0,), ()),  # one channel
)


def _random_layout(rng):
    """Up to four axes in any role, of size one now and then, or without a channel."""
    axes = rng.integers(1, 5)
    shape = tuple(int(size) for size in rng.integers(1, 7, size=axes))
    roles = rng.choice(["reduction", "reduction", "output", "batch"], size=axes)
    reduction, output = (
        tuple(int(axis) for axis in np.flatnonzero(roles == role))
        for role in ("reduction", "output")
    )
    return Layout(shape, reduction, output)


_RNG = np.random.default_rng(0)
RANDOM_LAYOUTS = tuple(_random_layout(_RNG) for _ in range(40))


def is_long_run():
    return settings().max_examples > 100


def layouts(named=NAMED_LAYOUTS):
    """The named layouts; in long runs random ones as well."""
    return st.sampled_from(named + RANDOM_LAYOUTS if is_long_run() else named)


def few_layouts():
    """For what compiles more for each layout than a step: stacked, of several axes."""
    return layouts(NAMED_LAYOUTS[2:5])


class Case(NamedTuple):
    """One leaf and a step on it."""

    layout: Layout
    update: np.ndarray
    grad: np.ndarray
    weight: np.ndarray
    hyperparameters: dict[str, float]

    @property
    def arrays(self):
        return self.update, self.grad, self.weight

    def change(self, **hyperparameters):
        return self._replace(
            hyperparameters={**self.hyperparameters, **hyperparameters}
        )

    def is_clear(self, margin=1e-9):
        """Whether all cosines are farther from the threshold than a sum's error."""
        delta, eps = self.hyperparameters["delta"], self.hyperparameters["eps"]
        if delta == 0:
            return True
        g, w = self.layout.gather(self.grad), self.layout.gather(self.weight)
        for axis in (-1, (-2, -1)):
            norms = np.maximum(_norm(g, axis), eps) * np.maximum(_norm(w, axis), eps)
            products = np.sum(g * w, axis, keepdims=True)
            cosines = np.abs(products) / np.where(norms == 0, 1, norms)
            length = g[0].size // cosines[0].size
            distance = np.abs(cosines * length**0.5 - delta)
            if np.any(distance < margin * max(1, length)):
                return False
        return True

    def expect(self):
        """The reference's step, and the views."""
        with np.errstate(invalid="ignore"):  # eps 0 and a vector of zeros
            return reference.decayed_projection(
                *self.arrays,
                self.layout.reduction,
                self.layout.output,
                **self.hyperparameters,
            )


EPS = st.sampled_from([1e-8, 0.0, 1e-3, 1.0])
# Not so small that the rounding of a cosine decides.
DELTAS = st.one_of(st.floats(1e-3, 3.0), st.sampled_from([0.1, 0.0, np.inf]))


@st.composite
def hyperparameters(draw, delta=DELTAS, eps=EPS):
    return {
        "delta": draw(delta),
        "wd_ratio": draw(st.floats(0, 2)),
        "eps": draw(eps),
        "weight_decay": draw(st.one_of(st.just(0.0), st.floats(1e-3, 1))),
    }


@st.composite
def cases(draw, outcomes=OUTCOMES, delta=DELTAS, eps=EPS, layouts=layouts):
    """Cases in float64 whose test does not hang on rounding."""
    layout = draw(layouts())
    settings = draw(hyperparameters(delta, eps))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    u, g, w = rng.normal(size=(3, *layout.gather(np.empty(layout.shape)).shape))
    if draw(st.booleans()):
        # Small integers: ties, and vectors of zeros.
        u, w = np.rint(u), np.rint(w)
    outcome = draw(st.sampled_from(outcomes))
    for index in range(len(w)):
        one = rng.choice(OUTCOMES[:-1]) if outcome == "mixed" else outcome
        g[index] = _steer(rng, g[index], w[index], one, settings["delta"])
    u, g, w = (
        layout.scatter(array) * 10.0 ** draw(st.integers(-4, 4)) for array in (u, g, w)
    )
    case = Case(layout, u, g, w, settings)
    assume(case.is_clear())
    return case


def _steer(rng, g, w, outcome, delta):
    """Makes a gradient (channels, length) lead to an outcome."""
    if outcome == "channel":
        return _without_radial(g, w, -1)
    if outcome == "layer":
        return _without_radial(g + 3 * w * rng.normal(size=w.shape), w, (-2, -1))
    if outcome == "none":
        return _without_radial(g, w, -1) - w
    if outcome == "zero":
        return np.zeros_like(g)
    if outcome == "near" and np.isfinite(delta):
        # Cosines on both sides of the threshold.
        across = _without_radial(g, w, -1)
        tangent = delta / w.shape[-1] ** 0.5 * rng.uniform(0.5, 1.2)
        return across + tangent * _norm(across, -1) / np.maximum(_norm(w, -1), 1) * w
    return g


def _norm(array, axis):
    return np.sqrt(np.sum(array**2, axis, keepdims=True))


def _without_radial(g, w, axis):
    ww = np.sum(w * w, axis, keepdims=True)
    return g - w * np.sum(g * w, axis, keepdims=True) / np.where(ww == 0, 1, ww)


def scale_of(case):
    """The largest term of the step, which absolute errors are measured by."""
    update, _, weight = case.arrays
    decay: Any = case.hyperparameters["weight_decay"]
    decay = decay * max(1, case.hyperparameters["wd_ratio"])
    return np.abs(update).max() * update.size**0.5 + decay * np.abs(weight).max()


def assert_equal_to_rounding(actual, expected, case):
    atol = TOLERANCE * scale_of(case)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=atol)
