"""What was tried and what came of it: the arms of the trials, and the verdict's numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradscope.records import DO_NOTHING, Bias, Trial, Verdict
from gradscope.reports.nodes import (
    Block,
    Cell,
    Chart,
    ChartKind,
    Column,
    Entry,
    Figure,
    Fold,
    Items,
    Line,
    Paragraph,
    Table,
    Tone,
)
from gradscope.reports.wording import (
    FAILED,
    HELD,
    STATUS,
    among,
    count,
    distinct,
    middle,
    number,
    percent,
    probability,
)

__all__ = ["repair_arm", "tried", "verdict_numbers"]

_EXTREME = 1e300
_CURVES = 5
"""Training curves drawn: doing nothing, the repair and the best of the others."""


def repair_arm(verdict: Verdict) -> str | None:
    """The arm of the repair: the matched one that is neither doing nothing nor a baseline."""
    arms = (trial.arm for trial in verdict.trials if trial.matched)
    return next((arm for arm in arms if arm != DO_NOTHING and arm not in verdict.baselines), None)


def tried(verdict: Verdict) -> tuple[Block, ...]:
    """The arms on matched seeds with their curves, then the selection before them."""
    matched = _by_arm(trial for trial in verdict.trials if trial.matched)
    selection = _by_arm(trial for trial in verdict.trials if not trial.matched)
    blocks: list[Block] = []
    if matched:
        seeds = len({trial.seed for arm in matched.values() for trial in arm})
        blocks.append(
            Paragraph(
                f"{count(len(matched), 'arm')} trained from the same weights in the same batch "
                f"order, on {count(seeds, 'matched seed')}."
            )
        )
        blocks.append(_matched(verdict, matched))
    if selection:
        runs = sum(len(arm) for arm in selection.values())
        blocks.append(
            Fold(
                f"Selection before that: {count(len(selection), 'arm')} in "
                f"{count(runs, 'short run')}",
                (_selection(verdict, selection),),
                open=len(selection) <= 12,
            )
        )
    return tuple(blocks)


def verdict_numbers(verdict: Verdict, names: Mapping[str, str]) -> tuple[Block, ...]:
    """Before and after with their uncertainty, the baselines, what held and what remains.

    ``names`` gives the name of a finding for its code.
    """
    entries = [Entry("status", "", STATUS[verdict.status])]
    if verdict.metric is not None:
        better = "higher" if verdict.higher_is_better else "lower"
        entries.append(Entry("metric", f"{verdict.metric} ({better} is better)"))
    if verdict.before is not None or verdict.after is not None:
        entries.append(Entry("before → after", " → ".join(distinct(verdict.before, verdict.after))))
    if verdict.interval is not None and verdict.before is not None and verdict.after is not None:
        low, high = (_signed(bound) for bound in verdict.interval)
        entries.append(
            Entry(
                "difference",
                f"{_signed(verdict.after - verdict.before)}, 95 % interval {low} to {high}",
            )
        )
    if verdict.p_value is not None:
        entries.append(
            Entry("p-value", f"{probability(verdict.p_value)} (paired t-test, two-sided)")
        )
    if verdict.effect_size is not None:
        entries.append(Entry("effect size", f"{number(verdict.effect_size)} (Cohen's d_z)"))
    if verdict.seeds:
        entries.append(Entry("matched seeds", number(len(verdict.seeds))))
    if verdict.failed_before is not None or verdict.failed_after is not None:
        entries.append(
            Entry(
                "failed runs", f"{percent(verdict.failed_before)} → {percent(verdict.failed_after)}"
            )
        )
    entries += [
        Entry(f"against {arm}", f"{number(mean)} → {number(verdict.after)}")
        for arm, mean in verdict.baselines.items()
    ]
    entries += [
        Entry(one.name, one.detail, HELD if one.held else FAILED) for one in verdict.invariants
    ]
    if verdict.bias is not None:
        entries.append(Entry("artificial gradient", _turned(verdict.bias)))
    remaining = [f"{code} {names.get(code, '')}".strip() for code in verdict.remaining]
    entries.append(Entry("findings that remain", ", ".join(remaining) or "none"))
    return (Items(tuple(entries)),)


def _turned(bias: Bias) -> str:
    """How far the artificial gradient is turned from the true one, at the start of training."""
    if math.isnan(bias.whole.cosine):
        return f"{bias.whole.note}, so there is no direction to compare"
    text = f"cosine to the true one {number(bias.whole.cosine)} at the start"
    known = [each for each in bias.parameters if not math.isnan(each.cosine)]
    lowest = min(known, key=lambda each: each.cosine, default=None)
    if lowest is not None:
        text += f"; lowest {number(lowest.cosine)}, at {lowest.name}"
    woken = sum(each.true_zero and not each.artificial_zero for each in bias.parameters)
    if woken:
        text += f"; {count(woken, 'parameter')} whose true gradient is zero {_get(woken)} one"
    return text


def _get(number: int) -> str:
    return "gets" if number == 1 else "get"


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _by_arm(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    arms: dict[str, list[Trial]] = {}
    for trial in trials:
        arms.setdefault(trial.arm, []).append(trial)
    return arms


def _usable(value: float) -> bool:
    """Finite, and not so large that a sum would not be."""
    return abs(value) < _EXTREME


def _mean(trials: Sequence[Trial]) -> float:
    """Mean metric of the runs that did not diverge; NaN where all did."""
    finite = [trial.metric for trial in trials if _usable(trial.metric)]
    return statistics.fmean(finite) if finite else math.nan


def _ranked(verdict: Verdict, arms: dict[str, float]) -> list[str]:
    """Best first; what diverged last."""
    sign = -1.0 if verdict.higher_is_better else 1.0
    return sorted(
        arms, key=lambda arm: (math.isnan(arms[arm]), sign * arms[arm] if arms[arm] else 0.0)
    )


def _named(verdict: Verdict, arm: str) -> Cell:
    if arm == repair_arm(verdict):
        return Cell(f"{arm} (the repair)", Tone.GOOD)
    return Cell(arm)


def _bars(means: dict[str, float]) -> dict[str, float | None]:
    """Lengths of bars from zero; none where a mean is negative, as a bar could not show it."""
    finite = [mean for mean in means.values() if _usable(mean)]
    if not finite or min(finite) < 0:
        return dict.fromkeys(means)
    return {
        arm: among(mean, 0.0, max(finite)) if _usable(mean) else 0.0 for arm, mean in means.items()
    }


def _matched(verdict: Verdict, arms: dict[str, list[Trial]]) -> Figure:
    metric = verdict.metric or "metric"
    means = {arm: _mean(trials) for arm, trials in arms.items()}
    bars = _bars(means)
    rows = []
    for arm in _ranked(verdict, means):
        metrics = [trial.metric for trial in arms[arm]]
        finite = [value for value in metrics if _usable(value)]
        spread = f"{number(min(finite))} to {number(max(finite))}" if finite else "–"
        rows.append(
            (
                _named(verdict, arm),
                Cell(number(means[arm]), bar=bars[arm]),
                Cell(number(middle(metrics))),
                Cell(spread, Tone.MUTED),
                Cell(f"{len(metrics) - len(finite)} of {len(metrics)}", Tone.MUTED),
            )
        )
    columns = (
        Column("arm"),
        Column(f"mean {metric}", numeric=True),
        Column("median", numeric=True),
        Column("range", numeric=True),
        Column("diverged", numeric=True, optional=True),
    )
    diverged = any(not _usable(trial.metric) for arm in arms.values() for trial in arm)
    caption = "Runs that diverged are left out of means and medians." if diverged else ""
    table = Table(columns, tuple(rows), caption)
    return Figure(_curves(verdict, arms, means), table, folded=False)


def _selection(verdict: Verdict, arms: dict[str, list[Trial]]) -> Table:
    furthest = {arm: max(trials, key=lambda trial: trial.steps) for arm, trials in arms.items()}
    metrics = {arm: trial.metric for arm, trial in furthest.items()}
    order = sorted(_ranked(verdict, metrics), key=lambda arm: -furthest[arm].steps)
    return Table(
        (
            Column("arm"),
            Column("steps", numeric=True),
            Column(f"{verdict.metric or 'metric'} after them", numeric=True),
        ),
        tuple(
            (
                _named(verdict, arm),
                Cell(number(furthest[arm].steps)),
                Cell(number(metrics[arm])),
            )
            for arm in order
        ),
    )


def _curves(
    verdict: Verdict, arms: dict[str, list[Trial]], means: dict[str, float]
) -> tuple[Chart, ...]:
    """Mean training loss over the steps; the whole set on a log scale where it spans much."""
    repair = repair_arm(verdict)
    first = [arm for arm in (DO_NOTHING, repair) if arm in arms and arm is not None]
    others = [arm for arm in _ranked(verdict, means) if arm not in first]
    tones = {DO_NOTHING: Tone.BAD, repair: Tone.GOOD}
    curves = {arm: _mean_curve(arms[arm]) for arm in [*first, *others][:_CURVES]}
    curves = {arm: curve for arm, curve in curves.items() if curve}
    values = [mean.loss for curve in curves.values() for mean in curve]
    if not values:
        return ()
    logarithmic = min(values) > 0 and max(values) > 30 * min(values)
    # On a log scale nothing lies below the axis.
    floor = min(values) if logarithmic else -math.inf
    several = any(mean.within > 0 for curve in curves.values() for mean in curve)
    said = "; ".join(
        f"{arm} from {number(curve[0].loss)} to {number(curve[-1].loss)}"
        for arm, curve in curves.items()
    )
    return (
        Chart(
            ChartKind.LINES,
            "Training loss, mean of the matched seeds"
            + (" with its 95 % interval" if several else ""),
            f"Mean training loss over the matched seeds, by optimizer step: {said}."
            + (" The interval is of the mean, from Student's t." if several else ""),
            "optimizer step",
            tuple(
                Line(
                    arm,
                    tones.get(arm, Tone.MUTED),
                    tuple((mean.step, mean.loss) for mean in curve),
                    interval=_intervals(curve, floor),
                )
                for arm, curve in curves.items()
            ),
            logarithmic=logarithmic,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Mean:
    """Mean loss at a step, and how far on either side the 95 % interval of that mean reaches."""

    step: float
    loss: float
    within: float


def _intervals(curve: Sequence[_Mean], floor: float) -> tuple[tuple[float, float], ...]:
    if not any(mean.within for mean in curve):
        return ()
    return tuple(
        (max(mean.loss - mean.within, min(floor, mean.loss)), mean.loss + mean.within)
        for mean in curve
    )


def _mean_curve(trials: Sequence[Trial]) -> list[_Mean]:
    """Where at least one run still had a finite loss; one run alone has no width."""
    losses: dict[int, list[float]] = {}
    for trial in trials:
        for step, loss in trial.curve:
            if _usable(loss):
                losses.setdefault(step, []).append(loss)
    return [
        _Mean(float(step), statistics.fmean(seen), _within(seen))
        for step, seen in sorted(losses.items())
    ]


def _within(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(stdtrit(len(values) - 1, 0.975)) * spread
