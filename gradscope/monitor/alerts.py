"""Findings while a model trains: rules run on the stream of samples, and alerts do not flap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from gradscope import registry
from gradscope.config import Settings
from gradscope.configured import rules_to_run
from gradscope.diagnose import cause_of
from gradscope.monitor.live_profile import LiveProfile
from gradscope.monitor.sampled import Sampled
from gradscope.records import Finding
from gradscope.rules.training import TrainingProfile
from gradscope.training import Alert, RunInfo

__all__ = ["Alerts"]

# Samples before the first judgement: as many steps as a scan looks at.
_FIRST = 8

# Samples from one judgement to the next. Two see at least so much that is new.
_BETWEEN = 4

# Steps from one to the next, where every step is sampled: a judgement takes as long as a step may.
# The window of samples reaches back further.
_STEPS = 12

# Judgements in a row that open an alert, and that close it.
_OPENS = 2
_CLOSES = 3

# What opens again within so many judgements has never been away.
_SAME = 12

# What no sample after it can take back.
_AT_ONCE = frozenset({"GS401"})


@dataclass(slots=True)
class _Seen:
    """What the judgements so far made of one rule."""

    found: int = 0
    missed: int = 0
    alert: Alert | None = None

    @property
    def stands(self) -> bool:
        return self.alert is not None and self.alert.closed is None


class Alerts:
    """Judges a training while it goes on.

        alerts = Alerts(info)
        for changed in alerts.see(sampled):
            ...

    It judges every fourth sample, or every twelfth where every step is sampled, and at once where
    numbers are no longer finite. An alert opens when two judgements in a row have found it, and
    closes when three have not.
    """

    def __init__(self, info: RunInfo, settings: Settings | None = None) -> None:
        """Looks up which rules run, with which limits.

        Raises:
            ConfigError: the settings name a rule or a limit that there is not.
        """
        self._running = [
            entry for entry in rules_to_run(settings or Settings()) if entry.rule.judges_training()
        ]
        self._live = LiveProfile(info)
        self._seen: dict[str, _Seen] = {}
        self._past: list[Alert] = []
        self._between = max(_BETWEEN, _STEPS // info.every)

    @property
    def standing(self) -> tuple[Alert, ...]:
        """Those that are open, in the order of their opening."""
        found = [seen.alert for seen in self._seen.values() if seen.alert and seen.stands]
        return tuple(sorted(found, key=lambda alert: (alert.step, alert.code)))

    @property
    def all(self) -> tuple[Alert, ...]:
        """Those that are open and those that have closed, in the order of their opening."""
        latest = [seen.alert for seen in self._seen.values() if seen.alert]
        return tuple(sorted([*self._past, *latest], key=lambda alert: (alert.step, alert.code)))

    def profile(self) -> TrainingProfile:
        """The profile of the last samples."""
        return self._live.profile()

    def see(self, sampled: Sampled) -> list[Alert]:
        """Takes a sample in.

        Returns:
            Alerts that have opened, closed or become more severe by it.
        """
        self._live.add(sampled)
        samples = self._live.samples
        due = samples >= _FIRST and not (samples - _FIRST) % self._between
        if not (due or self._live.broken):
            return []
        profile = self._live.profile()
        return self._settle(self._judge(profile, due), sampled.step, due)

    def _judge(self, profile: TrainingProfile, due: bool) -> tuple[Finding, ...]:
        """What is found; out of turn only what cannot wait is looked for."""
        found: dict[str, Finding] = {}
        for entry in self._running:
            if due or entry.rule.code in _AT_ONCE:
                shown = cast(TrainingProfile, entry.shown(profile)) if entry.unseen else profile
                finding = entry.rule.check_training(shown, entry.limits)
                if isinstance(finding, Finding):
                    found[entry.rule.code] = finding
        return tuple(replace(each, cause=cause_of(each, found, profile)) for each in found.values())

    def _settle(self, found: tuple[Finding, ...], step: int, due: bool) -> list[Alert]:
        changed: list[Alert] = []
        for finding in found:
            seen = self._seen.setdefault(finding.code, _Seen())
            seen.found += 1
            if not seen.stands and seen.found < _OPENS and finding.code not in _AT_ONCE:
                continue
            told = self._told(finding, seen, step)
            before, seen.alert, seen.missed = seen.alert, told, 0
            if before is None or before.closed is not None or before.severity != told.severity:
                changed.append(told)
        codes = {finding.code for finding in found}
        for code, seen in self._seen.items():
            if not due or code in codes:
                continue
            seen.found, seen.missed = 0, seen.missed + 1
            if seen.alert is not None and seen.stands and seen.missed >= _CLOSES:
                seen.alert = replace(seen.alert, closed=step)
                changed.append(seen.alert)
        return changed

    def _told(self, finding: Finding, seen: _Seen, step: int) -> Alert:
        """The alert of a finding: the one that stands or stood just now, else a new one."""
        values = {name: measure.value for name, measure in finding.evidence.items()}
        severity = finding.severity
        if seen.alert is not None and seen.stands and finding.code in _AT_ONCE:
            # Everything is broken after it; where it began is what helps.
            return seen.alert
        if seen.alert is not None and (seen.stands or seen.missed <= _SAME):
            step = seen.alert.step
            severity = min(severity, seen.alert.severity, key=lambda each: each.rank)
        elif seen.alert is not None:
            self._past.append(seen.alert)
        return Alert(
            finding.code,
            finding.name,
            severity,
            finding.sites,
            finding.message,
            values,
            finding.cause or self._earlier_cause(finding.code, step),
            step,
            limits={
                name: measure.limit
                for name, measure in finding.evidence.items()
                if measure.limit is not None
            },
            remedies=tuple(remedy.name for remedy in registry.treating(finding.code)),
        )

    def _earlier_cause(self, code: str, step: int) -> str | None:
        """The most fundamental fault that explains one of that code, and was there before.

        A window does not show when things began; what stood or stands since an earlier step does.
        """
        for cause in registry.rules()[code].explained_by:
            seen = self._seen.get(cause)
            if seen is not None and seen.alert is not None and seen.alert.step < step:
                return cause
        return None
