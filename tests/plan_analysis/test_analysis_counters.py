from hypothesis import given
from hypothesis import strategies as st
from longshore.plan.analysis.comparison import Count
from longshore.plan.analysis.counters import PodSample, increments

NOW, WARM = 10_000.0, 15.0


def pod(
    requests: int, errors: int = 0, slow: int = 0, ready: float | None = 0.0, process: str = "1"
) -> PodSample:
    return PodSample(requests, errors, slow, ready, process)


def test_what_happened_is_the_difference() -> None:
    first, base = increments({}, {"x": pod(100, 5, 7)}, frozenset("x"), NOW, WARM)
    assert first.errors == Count(0, 0)
    second, _ = increments(base, {"x": pod(160, 8, 7)}, frozenset("x"), NOW, WARM)
    assert (second.errors, second.slow, second.counted) == (Count(60, 3), Count(60, 0), 1)


def test_a_restart_counts_nothing_and_begins_anew() -> None:
    base = {"x": pod(1000, 50)}
    for after in (pod(20, 1), pod(2000, 60, process="2")):
        found, base2 = increments(base, {"x": after}, frozenset("x"), NOW, WARM)
        assert found.errors == Count(0, 0)
        assert found.restarted == 1
        again, _ = increments(
            base2,
            {"x": pod(after.requests + 10, after.errors, process=after.process)},
            frozenset("x"),
            NOW,
            WARM,
        )
        assert again.errors == Count(10, 0)


def test_a_vanished_pod_is_counted_as_gone_and_not_as_traffic() -> None:
    found, base = increments({"x": pod(10), "y": pod(50)}, {"x": pod(15)}, frozenset("x"), NOW, WARM)
    assert (found.errors, found.vanished) == (Count(5, 0), 1)
    assert set(base) == {"x"}


def test_a_pod_that_misses_a_scrape_catches_up() -> None:
    found, base = increments({"x": pod(10, 1)}, {}, frozenset("x"), NOW, WARM)
    assert (found.errors, found.unanswered) == (Count(0, 0), 1)
    found, _ = increments(base, {"x": pod(40, 4)}, frozenset("x"), NOW, WARM)
    assert found.errors == Count(30, 3)


def test_warm_up_is_left_out() -> None:
    cold = pod(100, 100, ready=NOW - 5)
    found, base = increments({}, {"x": cold}, frozenset("x"), NOW, WARM)
    assert (found.warming, base) == (1, {})
    _, base = increments(base, {"x": pod(200, 150, ready=NOW - 5)}, frozenset("x"), NOW + 10, WARM)
    found, _ = increments(base, {"x": pod(300, 151, ready=NOW - 5)}, frozenset("x"), NOW + 12, WARM)
    assert found.errors == Count(100, 1)


def test_a_pod_that_is_not_ready_does_not_count() -> None:
    found, base = increments({}, {"x": pod(5, ready=None)}, frozenset("x"), NOW, WARM)
    assert (found.warming, base) == (1, {})


samples = st.builds(
    PodSample,
    st.integers(-5, 10**12),
    st.integers(-5, 10**12),
    st.integers(-5, 10**12),
    st.none() | st.floats(-1e9, 1e9),
    st.sampled_from(["1", "2"]),
)
scrapes = st.dictionaries(st.sampled_from("abcdef"), samples)


@given(st.lists(st.tuples(scrapes, st.frozensets(st.sampled_from("abcdef"))), max_size=6))
def test_hostile_counters_give_possible_counts(
    history: list[tuple[dict[str, PodSample], frozenset[str]]],
) -> None:
    base: dict[str, PodSample] = {}
    for scraped, listed in history:
        found, base = increments(base, scraped, listed, NOW, WARM)
        for count in (found.errors, found.slow):
            assert 0 <= count.failures <= count.requests <= 10**9
        assert set(base) <= listed
