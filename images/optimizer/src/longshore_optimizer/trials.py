"""Tries candidates in the order that a budget wants, or takes what other workers found, and times them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from longshore.artifact.manifest import Verdict

from longshore_optimizer import modeldir
from longshore_optimizer.candidates import Bench
from longshore_optimizer.decide import Rules, Trial, gate, refuse
from longshore_optimizer.ledger import known_of
from longshore_optimizer.measure.latency import rescale
from longshore_optimizer.parallel import Publisher, Row, Share, Timing, gather, parts, trials_of
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques.base import Proposal
from longshore_optimizer.turns import planned, turns

Left = Callable[[], float]
"""Tells the seconds that are left of the budget."""

_RESERVE = 0.3
"""Largest share of the time budget that is kept for the final, interleaved measurement."""

_CAUTION = 1.5
"""What is kept for it relative to what it should take: machines are busier at times."""

_LEADERS_RESERVE = 0.12
"""Share of the time budget that the leader keeps when it waits for other workers: to confirm and write."""


@dataclass(frozen=True)
class Search:
    """What trying and timing needs; `rules` say what is asked for."""

    request: Request
    bench: Bench
    reporter: Reporter
    left: Left
    rules: Rules

    def run(self, proposals: tuple[Proposal, ...], original: Trial) -> "Found":
        """Try and time the candidates; with other workers where the request has a share, as their leader."""
        share = self.request.share
        if share is None:
            measured = self.timed([original, *self.tried(proposals, self.request.trials)])
            return Found(measured[0], measured[1:])
        return self._lead(share, proposals, original)

    def assist(self, proposals: tuple[Proposal, ...], original: Trial, publisher: Publisher) -> None:
        """Try and time a helper's part; what is found goes into its table as it comes."""
        share = publisher.share
        mine = self._divided(proposals, share.count)[share.index]
        limit = trials_of(self.request.trials, share.index, share.count)
        tried = self.tried(tuple(mine), limit, {}, publisher)
        measured = self.timed([original, *tried])
        baseline = measured[0].latency
        publisher.publish(
            [Row.of(t) for t in measured[1:]], Timing.of(baseline) if baseline is not None else None
        )

    def tried(
        self,
        proposals: tuple[Proposal, ...],
        limit: int,
        found: Mapping[str, Trial] | None = None,
        publisher: Publisher | None = None,
    ) -> list[Trial]:
        """Build and score candidates, at most `limit`; those in `found` are taken from there."""
        tried: list[Trial] = []
        total = min(len(proposals), limit)
        for number, proposal in enumerate(planned(proposals, tried, self.rules)):
            trial = (found or {}).get(proposal.name)
            if trial is None and number >= limit:
                reason = f"budget.trials ({self.request.trials}) is used up"
                tried.append(refuse(Trial(proposal), reason, Verdict.SKIPPED))
                continue
            reserve = self._reserve(tried)
            if trial is None and self.left() < reserve:
                tried.append(refuse(Trial(proposal), "budget.time is used up", Verdict.SKIPPED))
                continue
            if trial is None:
                self.reporter.stage("Candidates", proposal.name, done=number, total=total)
                seconds = (self.left() - reserve) / turns(proposals, tried, proposal)
                trial = self._tried(proposal, seconds)
            tried.append(trial)
            self.reporter.trial(trial)
            if publisher is not None:
                publisher.publish([Row.of(trial)])
        return tried

    def timed(self, trials: list[Trial]) -> list[Trial]:
        """Time the original, which comes first, and what is still in play, interleaved."""

        def progress(done: int, total: int) -> None:
            self.reporter.stage("Measure", "timing in interleaved rounds", done=done, total=total)

        self.reporter.stage("Measure", "timing in interleaved rounds")
        measured = self.bench.measure(trials, progress, self.rules)
        for trial in measured:
            self.reporter.trial(trial)
        return measured

    def built(self, trial: Trial) -> Trial:
        """Give a candidate whose model lies here: one that another worker measured is built again.

        It is scored anew, so what is written is what was proven; the latency stays relative to the original.
        """
        if self.bench.path(trial.proposal.name).is_file():
            return trial
        self.reporter.stage("Candidates", f"building {trial.proposal.name}, which another worker measured")
        again = self.bench.attempt(trial.proposal, self.rules, seconds=self.left() / 2)
        return replace(again, latency=trial.latency) if again.alive else again

    def _reserve(self, tried: Sequence[Trial]) -> float:
        """Seconds kept for the final measurement of what is alive, of one more, and of the winner again."""
        models = sum(t.alive for t in tried) + 3
        return min(_CAUTION * self.bench.measuring(models), _RESERVE * self.request.seconds)

    def _tried(self, proposal: Proposal, seconds: float) -> Trial:
        """Build and score a candidate, or take what a run before this one found out.

        What nothing could prove is not built: without evaluation data that is all that changes answers.
        """
        if self.rules.max_drop is None and not proposal.lossless:
            return gate(Trial(proposal), self.rules)
        ledger = self.request.ledger
        known = ledger.find(proposal) if ledger is not None else None
        if known is not None and known.verdict is not None:
            return known.trial(proposal)
        trial = self.bench.attempt(proposal, self.rules, known, seconds)
        if ledger is not None:
            ledger.note(known_of(trial, self._digest(trial)))
        return trial

    def _digest(self, trial: Trial) -> str | None:
        return modeldir.onnx_sha256(self.bench.path(trial.proposal.name)) if trial.alive else None

    def _divided(self, proposals: tuple[Proposal, ...], count: int) -> list[list[Proposal]]:
        plain = tuple(p for p in proposals if p.after is None)
        return parts(list(planned(plain, [], self.rules)), proposals, count)

    def _lead(self, share: Share, proposals: tuple[Proposal, ...], original: Trial) -> "Found":
        divided = self._divided(proposals, share.count)
        mine = self.tried(tuple(divided[0]), trials_of(self.request.trials, 0, share.count))
        original, *own = self.timed([original, *mine])
        kept = self.request.seconds * _LEADERS_RESERVE

        def told(done: int, total: int) -> None:
            self.reporter.stage("Measure", "waiting for the other workers", done=done, total=total)

        tables = gather(share, self.request.key or "", lambda: self.left() - kept, told)
        theirs: list[Trial] = []
        silent = [i for i in range(1, share.count) if i not in tables or not tables[i].done]
        for index in range(1, share.count):
            part, table = divided[index], tables.get(index)
            found = table.trials(part, original.latency) if table is not None else {}
            theirs += self.tried(tuple(part), trials_of(self.request.trials, index, share.count), found)
        theirs = self._timed_here(theirs, original)
        notes = [f"{share.count} workers searched; latencies are relative to the original on the same worker"]
        notes += [f"worker {i} fell silent: worker 0 did the rest of its candidates" for i in silent]
        return Found(original, [*own, *theirs], tuple(notes))

    def _timed_here(self, trials: list[Trial], original: Trial) -> list[Trial]:
        """Time what a silent worker left, relative to the original's latency of before."""
        late = [t for t in trials if t.alive and t.latency is None]
        if not late or original.latency is None:
            return trials
        again, *measured = self.timed([original, *late])
        if again.latency is None:
            return trials
        known = {}
        for trial in measured:
            latency = trial.latency
            if latency is not None and latency.rounds and again.latency.rounds:
                latency = rescale(latency, again.latency, original.latency)
            known[trial.proposal.name] = replace(trial, latency=latency)
        return [known.get(t.proposal.name, t) for t in trials]


@dataclass(frozen=True)
class Found:
    """The timed original and candidates, and what the report should say of how they were found."""

    original: Trial
    trials: list[Trial]
    notes: tuple[str, ...] = field(default=())
