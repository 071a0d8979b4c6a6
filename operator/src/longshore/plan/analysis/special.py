"""Two tail probabilities that the standard library lacks."""

import math


def chi_squared_tail(x: float, degrees: int) -> float:
    """P(X >= x) for a chi-squared X: the regularized upper incomplete gamma function Q(degrees/2, x/2).

    Series below the mean, Lentz's continued fraction above it: Press et al., "Numerical Recipes", section
    6.2. Relative error below 1e-10.
    """
    if degrees <= 0 or x <= 0:
        return 1.0
    a, x = degrees / 2, x / 2
    front = -x + a * math.log(x) - math.lgamma(a)
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-15:
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1 - total * math.exp(front))
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    fraction = d
    for i in range(1, 100_000):
        step = -i * (i - a)
        b += 2
        d = 1 / _away_from_zero(step * d + b, tiny)
        c = _away_from_zero(b + step / c, tiny)
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return min(1.0, fraction * math.exp(front))


def kolmogorov_tail(x: float) -> float:
    """P(K >= x) for Kolmogorov's limiting distribution: 2 sum over j of (-1)^(j-1) exp(-2 j^2 x^2)."""
    if x < 0.2:
        return 1.0
    total = sum(math.copysign(math.exp(-2 * j * j * x * x), j % 2 - 0.5) for j in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
