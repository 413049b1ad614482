"""Which of two runs is better: a paired test on the questions that both answered."""

from dataclasses import asdict, dataclass
from typing import Any

from fourfold.eval.audit.rescore import Rescored
from fourfold.eval.statistics import Paired, paired
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Two runs under one rule on their common questions; `outcome` is second minus first."""

    rule: str
    first: float
    second: float
    outcome: Paired
    common: int
    left_out: int

    @property
    def verdict(self) -> str:
        """In words; a difference counts where the sign-flip test gives p < 0.05."""
        if self.outcome.p_value >= 0.05:
            return "no difference that these questions can show"
        return "the second is better" if self.outcome.difference.value > 0 else "the first is better"

    def to_json(self) -> dict[str, Any]:
        """As one object."""
        told = {"rule": self.rule, "first": self.first, "second": self.second, "verdict": self.verdict}
        return told | {"common": self.common, "left_out": self.left_out} | asdict(self.outcome)


def compare_runs(first: Rescored, second: Rescored, rule: str | None = None) -> Comparison:
    """Compare under a rule, by default the first run's headline rule.

    Raises:
        UserError: the runs are of different benchmarks, have no common question, or there is no such rule.
    """
    if first.benchmark.name != second.benchmark.name:
        raise UserError(f"{first.log.path} is of {first.benchmark.name}, {second.log.path} of {second.benchmark.name}")
    one, two = first.under(rule), second.under(rule or first.scores[0].rule)
    clusters = {sample.id: sample.cluster for sample in first.samples}
    answered = first.answers.keys() & second.answers.keys()
    # Under CircularEval a question has a score only where its first order stands.
    common = [key for key in clusters if key in answered and key in one.by_sample and key in two.by_sample]
    if not common:
        raise UserError("the two runs have no question in common; are they of the same split?")
    values = [[score.by_sample[key] for key in common] for score in (one, two)]
    outcome = paired(values[0], values[1], [clusters[key] for key in common])
    total = max(len(one.by_sample), len(two.by_sample))
    means = [100 * sum(some) / len(some) for some in values]
    return Comparison(one.rule, means[0], means[1], outcome, len(common), total - len(common))
