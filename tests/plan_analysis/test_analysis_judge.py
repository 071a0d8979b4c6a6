import json
from dataclasses import replace

import pytest
from longshore.api.rollout import Analysis, AnalysisSignal, SignalType
from longshore.plan.analysis.comparison import Compared, Count, Limits, Tick, observe
from longshore.plan.analysis.distribution import Distributions
from longshore.plan.analysis.evidence import Evidence
from longshore.plan.analysis.judge import (
    AnalysisState,
    Judgement,
    Look,
    dump_state,
    judge,
    load_state,
    look_at,
)
from longshore.plan.analysis.settings import Settings, settings_of
from longshore.plan.analysis.signals import HookAnswer, Reading
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.analysis.words import certainty, comparison_sentence, duration, percent

QUIET = Tick(Count(40, 0), Count(360, 1), 2.0)
FAULTY = Tick(Count(40, 8), Count(360, 1), 2.0)
SILENT = Tick(Count(0, 0), Count(400, 2), 2.0)


def after(settings: Settings, *looks: Look, state: AnalysisState | None = None) -> Judgement:
    state = state or AnalysisState()
    for look in looks:
        state = look_at(settings, state, look)
    return judge(settings, state)


def test_evidence_in_plain_words() -> None:
    state = replace(Compared(), canary=Count(812, 14), stable=Count(7401, 31))
    worse = Evidence(logs=(5.17,) * 4, spare=0.0, seconds=100.0)
    sentence = comparison_sentence(Limits(), replace(state, worse=worse))
    assert sentence == (
        "canary 14 errors of 812 (1.7 %), stable 31 of 7,401 (0.4 %): 99.4 % evidence that it is worse"
    )


def test_undecided_evidence_says_when_a_decision_is_expected() -> None:
    state = Compared()
    for _ in range(3):
        state = observe(Limits(), state, Tick(Count(40, 1), Count(360, 1), 2.0))
    sentence = comparison_sentence(Limits(), state)
    assert "evidence that it is worse, 99 % aborts; Fail expected in about" in sentence


def test_faulty_canary_fails_and_says_which_signal() -> None:
    settings = settings_of(Analysis(), latency_objective=True)
    found = after(settings, *[Look(2.0, errors=QUIET, latency=FAULTY)] * 20)
    assert found.verdict is Verdict.FAIL
    assert "slow requests" in found.text
    assert {s.name: s.verdict for s in found.signals}["latency"] is Verdict.FAIL


def test_good_canary_passes_only_when_every_signal_does() -> None:
    signals = (AnalysisSignal(name="audit", type=SignalType.WEB_HOOK, address="http://audit"),)
    settings = settings_of(Analysis(signals=signals), latency_objective=False)
    good = [Look(2.0, errors=QUIET)] * 60
    assert after(settings, *good).verdict is Verdict.NO_DATA
    assert after(settings, *good, Look(2.0, QUIET, hooks={"audit": HookAnswer(200)})).verdict is Verdict.PASS


def test_silence_is_neither_good_nor_bad_and_becomes_overdue() -> None:
    settings = settings_of(Analysis(no_data_deadline="2m"), latency_objective=False)
    good = [Look(2.0, errors=QUIET)] * 60
    silent = after(settings, *good, *[Look(2.0, errors=SILENT)] * 40)
    assert silent.verdict is Verdict.NO_DATA
    assert not silent.overdue
    assert "no request to the canary for" in silent.text
    long = after(settings, *good, *[Look(2.0, errors=SILENT)] * 120)
    assert long.overdue
    assert "noDataDeadline is 2 min" in long.text
    back = after(settings, *good, *[Look(2.0, errors=SILENT)] * 120, Look(2.0, errors=QUIET))
    assert back.verdict is Verdict.PASS


def test_thin_traffic_is_told_from_traffic_that_will_decide() -> None:
    settings = settings_of(Analysis(), latency_objective=False)
    assert after(settings, Look(2.0, errors=SILENT)).thin
    assert after(settings, *[Look(2.0, errors=Tick(Count(0, 0), Count(1, 0), 2.0))] * 9).thin
    assert not after(settings, *[Look(2.0, errors=QUIET)] * 5).thin


def test_counters_that_cannot_be_read_are_an_error() -> None:
    settings = settings_of(Analysis(), latency_objective=False)
    found = after(settings, Look(2.0, errors=QUIET), Look(2.0, problem="connection refused by 10.0.0.7"))
    assert found.verdict is Verdict.ERROR
    assert "connection refused by 10.0.0.7" in found.text


def test_a_proven_fault_stays_proven_when_data_stops() -> None:
    settings = settings_of(Analysis(), latency_objective=False)
    found = after(settings, *[Look(2.0, errors=FAULTY)] * 20, *[Look(2.0, problem="gone")] * 100)
    assert found.verdict is Verdict.FAIL


def test_a_gap_does_not_count_as_data_time() -> None:
    settings = settings_of(Analysis(no_data_deadline="2m"), latency_objective=False)
    jumped = after(settings, Look(86_400.0, errors=SILENT))
    assert not jumped.overdue
    assert after(settings, Look(-50.0, errors=QUIET)).verdict is Verdict.INCONCLUSIVE


def test_the_kinds_defaults_are_the_calibrated_ones() -> None:
    assert settings_of(Analysis(), latency_objective=False).errors == Limits()


def test_alpha_is_shared_among_the_statistical_signals() -> None:
    signals = (
        AnalysisSignal(name="classes", type=SignalType.DISTRIBUTION),
        AnalysisSignal(name="shadow", type=SignalType.AGREEMENT, threshold=0.1),
        AnalysisSignal(name="queue", type=SignalType.PROMETHEUS, address="http://p", query="up", max=1),
    )
    settings = settings_of(Analysis(false_abort=0.02, signals=signals), latency_objective=True)
    assert settings.statistical == 4
    assert settings.errors.false_abort == pytest.approx(0.005)
    assert settings.distribution[0][1].alpha == pytest.approx(0.005)
    assert settings.agreement == (("shadow", 0.1),)


def test_shadow_always_compares_answers() -> None:
    assert settings_of(Analysis(), latency_objective=False, shadow=True).agreement


def test_answers_are_not_asked_for_where_none_can_be_compared() -> None:
    analysis = Analysis(signals=(AnalysisSignal(name="shadow", type=SignalType.AGREEMENT),))
    assert settings_of(analysis, latency_objective=False).agreement
    assert not settings_of(analysis, latency_objective=False, compares=False).agreement
    assert not settings_of(analysis, latency_objective=False, baking=True).agreement
    assert not settings_of(Analysis(), latency_objective=False, shadow=True, baking=True).agreement


def test_how_many_answers_were_compared_is_told_whatever_is_waited_for() -> None:
    settings = settings_of(Analysis(), latency_objective=False, shadow=True)
    look = Look(2.0, errors=QUIET, agreement={"agreement": Count(10, 1)})
    found = judge(settings, look_at(settings, AnalysisState(), look))
    assert "1 of 10 compared answers differ" in found.text


def test_every_signal_is_reported_and_state_survives_status() -> None:
    signals = (
        AnalysisSignal(name="classes", type=SignalType.DISTRIBUTION),
        AnalysisSignal(name="shadow", type=SignalType.AGREEMENT),
        AnalysisSignal(name="queue", type=SignalType.PROMETHEUS, address="http://p", query="up", max=1),
        AnalysisSignal(name="audit", type=SignalType.WEB_HOOK, address="http://audit"),
    )
    settings = settings_of(Analysis(signals=signals), latency_objective=True)
    look = Look(
        2.0,
        errors=QUIET,
        latency=QUIET,
        distributions={"classes": Distributions((300, 20), (2000, 3000))},
        agreement={"shadow": Count(40, 1)},
        metrics={"queue": (Reading(0.5), None)},
        hooks={"audit": HookAnswer(200)},
    )
    state = AnalysisState()
    for _ in range(30):
        state = look_at(settings, state, look)
    found = judge(settings, state)
    assert [s.name for s in found.signals] == ["errors", "latency", "classes", "shadow", "queue", "audit"]
    assert found.verdict is Verdict.FAIL
    assert "PSI" in found.text
    dumped = json.loads(json.dumps(dump_state(state)))
    assert len(json.dumps(dumped)) < 3000
    loaded = load_state(dumped)
    assert loaded is not None
    assert judge(settings, loaded).verdict is found.verdict
    assert [s.text for s in judge(settings, loaded).signals] == [s.text for s in found.signals]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        7,
        {"errors": {"worse": {"logs": [1.0]}}},
        {"errors": {"worse": {"logs": ["NaN", 0, 0, 0]}}},
        {"errors": {"canary": {"requests": 3, "failures": 9}}},
        {"silent": "long"},
    ],
)
def test_unreadable_state_is_no_state(raw: object) -> None:
    assert load_state(raw) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (0.01724, "1.7 %"),
        (0.0041887, "0.4 %"),
        (0.0004, "0.04 %"),
        (0.123, "12.3 %"),
        (1.0, "100 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_certainty_never_claims_a_line_it_has_not_crossed() -> None:
    assert certainty(4.60) == "98.9 %"
    assert certainty(4.61) == "99.0 %"
    assert certainty(-3.0) == "no"
    assert certainty(50.0) == "over 99.9 %"


def test_duration() -> None:
    assert [duration(s) for s in (0.2, 40, 240, 12_600, 400_000)] == [
        "1 s",
        "40 s",
        "4 min",
        "3.5 h",
        "5 days",
    ]
