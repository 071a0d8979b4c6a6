"""Traces of the shapes that public ones have: a day, bursts, a flash crowd. Rates in requests per second.

Shapes after what is published of them: the day of Wikipedia's and of Azure's public function traces (one
broad peak, a lower night, minute noise), on-off bursts (Markov-modulated Poisson), and a flash crowd that
rises within a minute and decays over half an hour (Ari et al., Managing flash crowds on the Internet, 2003).
"""

import math
from random import Random

from longshore.simulate.trace import Trace, from_rates

WIDTH = 5.0


def diurnal(mean: float, hours: float = 6.0, seed: int = 11) -> Trace:
    """Draw a day's shape compressed into `hours`: peak to trough about 6 to 1."""
    random = Random(seed)
    count = int(hours * 3600 / WIDTH)
    rates, noise = [], 0.0
    for i in range(count):
        day = 2 * math.pi * i / count
        noise = 0.98 * noise + random.gauss(0, 0.01)
        shape = 1 - 0.62 * math.cos(day) + 0.15 * math.cos(2 * day + 0.6)
        rates.append(max(mean * shape * (1 + noise), 0.05 * mean))
    return from_rates(rates, WIDTH, seed)


def bursty(base: float, hours: float = 4.0, seed: int = 12) -> Trace:
    """Draw bursts of two to three times the base, some minutes long, that begin within half a minute."""
    random = Random(seed)
    rates: list[float] = []
    level = goal = 1.0
    left = 300.0
    for _ in range(int(hours * 3600 / WIDTH)):
        left -= WIDTH
        if left <= 0:
            goal = random.uniform(2.0, 3.0) if goal == 1.0 else 1.0
            left = random.uniform(120, 420) if goal > 1.0 else random.expovariate(1 / 900) + 180
        level += (goal - level) * (1 - math.exp(-WIDTH / 15))
        rates.append(base * level)
    return from_rates(rates, WIDTH, seed)


def flash(base: float, hours: float = 3.0, seed: int = 13) -> Trace:
    """Draw one flash crowd of five times the base: up within a minute, down over half an hour."""
    rates = []
    begin = hours * 3600 / 3
    for i in range(int(hours * 3600 / WIDTH)):
        since = i * WIDTH - begin
        extra = 0.0
        if since > 0:
            extra = 4.0 * min(since / 60, 1.0) * math.exp(-max(since - 300, 0) / 900)
        rates.append(base * (1 + extra))
    return from_rates(rates, WIDTH, seed)
