"""Settings held against the rules there are: which run, with which limits, on what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from gradscope import registry
from gradscope.config import Settings, nearest
from gradscope.errors import UsageError
from gradscope.records import Profile
from gradscope.rules import Rule

__all__ = ["Configured", "configured", "rules_to_run"]


@dataclass(frozen=True)
class Configured:
    """A rule as it is run.

    Attributes:
        rule: what is run.
        limits: those in force.
        changed: names of the limits that the settings give.
        unseen: globs; sites and parameters whose whole name matches one are not shown to the rule.
    """

    rule: Rule[Any]
    limits: Any
    changed: frozenset[str] = frozenset()
    unseen: tuple[str, ...] = ()

    def shown(self, profile: Profile) -> Profile:
        """The profile without what the rule is not to see; the same one where that is nothing."""
        sites = tuple(site for site in profile.sites if not self._hides(site.name))
        parameters = tuple(entry for entry in profile.parameters if not self._hides(entry.name))
        stored = None if profile.stored is None else profile.stored.without(self._hides)
        kept = len(sites) == len(profile.sites) and len(parameters) == len(profile.parameters)
        if kept and stored is profile.stored:
            return profile
        return replace(profile, sites=sites, parameters=parameters, stored=stored)

    def _hides(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.unseen)


def configured(settings: Settings) -> dict[str, Configured]:
    """Every rule by code, as the settings have it.

    Raises:
        ConfigError: the settings name a rule or a limit that there is not.
    """
    limits: dict[str, dict[str, float]] = {}
    for key, given in settings.limits.items():
        with _named_in(settings, "rules"):
            code = registry.rule(key).code
        if code in limits:
            raise settings.error(("rules", key), f"is a second table for {code}; keep one")
        known = [entry.name for entry in fields(registry.rules()[code].limits)]
        for name in given:
            if name not in known:
                raise settings.error(
                    ("rules", key),
                    f"has no limit {name!r}; the nearest is {nearest(name, known)!r} (there are "
                    f"{', '.join(known)})",
                )
        limits[code] = dict(given)
    unseen: dict[str, tuple[str, ...]] = {}
    for pattern, keys in settings.ignored_sites.items():
        with _named_in(settings, "ignore-sites", pattern):
            for code in registry.matching(keys):
                unseen[code] = (*unseen.get(code, ()), pattern)
    return {
        code: Configured(
            rule,
            replace(rule.limits, **limits[code]) if code in limits else rule.limits,
            frozenset(limits.get(code, ())),
            unseen.get(code, ()),
        )
        for code, rule in registry.rules().items()
    }


def rules_to_run(
    settings: Settings,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
) -> list[Configured]:
    """The rules to run, in order of code: those selected less those ignored.

    ``select`` starts afresh: what the settings select and ignore does not count beside it.
    ``ignore`` comes on top of what the settings ignore. Limits and ignored sites always count.

    Raises:
        ConfigError: the settings name a rule or a limit that there is not.
        UsageError: an entry of ``select`` or ``ignore`` matches no rule.
    """
    every = configured(settings)
    chosen = set(every)
    # Also where select replaces them, so that a wrong file is told of by every command.
    if settings.select is not None:
        with _named_in(settings, "select"):
            chosen = registry.matching(settings.select)
    with _named_in(settings, "ignore"):
        chosen -= registry.matching(settings.ignore)
    if select is not None:
        chosen = registry.matching(select)
    if ignore is not None:
        chosen -= registry.matching(ignore)
    return [entry for code, entry in every.items() if code in chosen]


@contextmanager
def _named_in(settings: Settings, *keys: str) -> Iterator[None]:
    """Makes the error about an unknown rule one about the settings that name it."""
    try:
        yield
    except UsageError as error:
        fault = str(error).rstrip(".")
        raise settings.error(keys, f"is wrong: {fault[:1].lower()}{fault[1:]}") from error
