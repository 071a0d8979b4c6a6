"""What the pipeline tells while it works; the Job prints it as JSON lines, the terminal draws it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from longshore.artifact.job import Progress

from longshore_optimizer.decide import Trial


@dataclass
class Reporter:
    """Callbacks for stages and for single trials; both may be left out."""

    on_progress: Callable[[Progress], None] = field(default=lambda progress: None)
    on_trial: Callable[[Trial], None] = field(default=lambda trial: None)

    def stage(
        self, stage: str, message: str = "", *, done: int = 0, total: int = 0, best: str | None = None
    ) -> None:
        """Tell that a stage began or moved on."""
        self.on_progress(Progress(stage=stage, done=done, total=total, best=best, message=message))

    def trial(self, trial: Trial) -> None:
        """Tell what is known of a candidate now."""
        self.on_trial(trial)
