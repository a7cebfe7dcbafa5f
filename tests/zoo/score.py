"""Prints how often the rules are right on the labelled subjects of the zoo.

python -m tests.zoo.score [--half held-out|calibration|all] [--jobs 2] [--only NAME-GLOB] [--reuse]

Recall is the share of labelled faults that are found, precision the share of findings that are
true of their subject; a false alarm is a healthy subject with any finding. Findings that only
inform are left out. A label names what must be found and what else may.

Published rule sets run on the same subjects: their findings have no codes of gradscope's, so that
for them a faulty subject counts as found with any finding, and a finding as true if its subject is
faulty.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradscope import registry
from gradscope.records import Finding
from tests.zoo.examining import Examined, examine_all, faults_of
from tests.zoo.subjects import cases
from tests.zoo.subjects.case import Case
from tests.zoo.subjects.split import CALIBRATION, HELD_OUT

__all__ = ["Score", "chosen", "score"]

HALVES = {"held-out": HELD_OUT, "calibration": CALIBRATION, "all": HELD_OUT | CALIBRATION}


@dataclass(frozen=True)
class Diagnosed:
    """A case and what was found of it, by gradscope and by the published rule sets."""

    case: Case
    findings: tuple[Finding, ...]
    published: dict[str, list[str] | str]
    seconds: float

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(finding.code for finding in self.findings)

    def of(self, rules: str) -> list[str] | str:
        """What gradscope or a published rule set found; the error's text where it crashed."""
        return self.published[rules] if rules in self.published else sorted(self.codes)

    @property
    def missed(self) -> frozenset[str]:
        return self.case.must - self.codes

    @property
    def false(self) -> list[Finding]:
        """What was found and is not true of the case."""
        return [finding for finding in self.findings if finding.code not in self.case.true]

    @property
    def first(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    @property
    def wrong_first(self) -> bool:
        """Whether something else than the cause leads; with nothing found, nothing leads."""
        return self.first is not None and self.first.code != self.case.cause


@dataclass(frozen=True)
class Score:
    """What the rules made of the cases."""

    diagnosed: Sequence[Diagnosed]

    @property
    def healthy(self) -> list[Diagnosed]:
        return [entry for entry in self.diagnosed if entry.case.healthy]

    @property
    def faulty(self) -> list[Diagnosed]:
        return [entry for entry in self.diagnosed if not entry.case.healthy]

    @property
    def labelled(self) -> Counter[str]:
        return Counter(code for entry in self.faulty for code in entry.case.must)

    @property
    def missed(self) -> Counter[str]:
        return Counter(code for entry in self.faulty for code in entry.missed)

    @property
    def reported(self) -> Counter[str]:
        return Counter(finding.code for entry in self.diagnosed for finding in entry.findings)

    @property
    def false(self) -> Counter[str]:
        return Counter(finding.code for entry in self.diagnosed for finding in entry.false)

    @property
    def recall(self) -> float:
        return share(self.labelled.total() - self.missed.total(), self.labelled.total())

    @property
    def precision(self) -> float:
        return share(self.reported.total() - self.false.total(), self.reported.total())

    @property
    def leading_precision(self) -> float:
        """The share of the findings without a cause among the findings that is true."""
        leading = [
            (finding, entry)
            for entry in self.diagnosed
            for finding in entry.findings
            if finding.cause is None
        ]
        return share(sum(finding not in entry.false for finding, entry in leading), len(leading))

    @property
    def false_alarms(self) -> float:
        return share(sum(bool(entry.findings) for entry in self.healthy), len(self.healthy))

    @property
    def causes_first(self) -> float:
        right = sum(bool(entry.findings) and not entry.wrong_first for entry in self.faulty)
        return share(right, len(self.faulty))


def share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def chosen(half: str, only: str = "*") -> list[str]:
    """Names of the cases of a half that a glob matches."""
    return [
        case.name
        for case in cases().values()
        if fnmatchcase(case.name, only) and (half == "all" or case.architecture in HALVES[half])
    ]


def score(seen: Iterable[Examined]) -> Score:
    """Diagnoses cases as they come."""
    return Score([diagnosed(entry) for entry in seen])


def diagnosed(seen: Examined) -> Diagnosed:
    try:
        findings = faults_of(seen.profile)
    except Exception as error:
        error.add_note(f"in the case {seen.name}")
        raise
    return Diagnosed(cases()[seen.name], tuple(findings), seen.published, seen.seconds)


# --- Printing ---------------------------------------------------------------------------------


def print_rules(result: Score) -> None:
    print(f"{'rule':30}{'recall':>18}{'precision':>18}")
    for code, rule in registry.rules().items():
        labelled, reported = result.labelled[code], result.reported[code]
        found, right = labelled - result.missed[code], reported - result.false[code]
        print(f"{code} {rule.name:24}{fraction(found, labelled)}{fraction(right, reported)}")


def fraction(part: int, whole: int) -> str:
    return f"{part:>7} of {whole:<4}{share(part, whole):>5.0%}" if whole else f"{'-':>17}"


def print_rates(result: Score) -> None:
    print(f"\n{len(result.healthy)} healthy and {len(result.faulty)} faulty subjects")
    print(f"recall {result.recall:.1%}, precision {result.precision:.1%}")
    named = share(sum(len(entry.case.true) for entry in result.faulty), len(result.faulty))
    print(f"a faulty subject's label names {named:.1f} codes in the mean")
    print(f"of findings that nothing else explains, {result.leading_precision:.1%} are true")
    print(f"the first finding is the cause in {result.causes_first:.1%}")
    print("\nwith any finding on a faulty subject counted as right:")
    print(f"{'rules':24}{'recall':>9}{'precision':>11}{'false alarms':>14}{'crashes':>9}")
    names = dict.fromkeys(name for entry in result.diagnosed for name in entry.published)
    for name in ("gradscope", *names):
        faulty, healthy = (
            [entry.of(name) for entry in entries] for entries in (result.faulty, result.healthy)
        )
        found, false = (
            sum(isinstance(codes, list) and bool(codes) for codes in side)
            for side in (faulty, healthy)
        )
        print(
            f"{name:24}{share(found, len(faulty)):>9.1%}{share(found, found + false):>11.1%}"
            f"{share(false, len(healthy)):>14.1%}"
            f"{sum(isinstance(codes, str) for codes in faulty + healthy):>9}"
        )


def print_faults(result: Score) -> None:
    for title, entries in (
        ("false alarm", [entry for entry in result.healthy if entry.findings]),
        ("false finding", [entry for entry in result.faulty if entry.false]),
    ):
        for entry in entries:
            for finding in entry.false:
                print(f"{title}: {entry.case.name}: {finding.code} {finding.message}")
    for entry in result.faulty:
        if entry.missed:
            found = ", ".join(finding.code for finding in entry.findings) or "nothing"
            missed = ", ".join(sorted(entry.missed))
            print(f"miss: {entry.case.name}: {missed} not found, but {found}")
        if entry.wrong_first and entry.first is not None:
            print(
                f"wrong first finding: {entry.case.name}: {entry.first.code} leads, not "
                f"{entry.case.cause}: {entry.first.message}"
            )


def print_crashes(result: Score) -> None:
    for entry in result.diagnosed:
        for name, found in entry.published.items():
            if isinstance(found, str):
                print(f"crash: {entry.case.name}: {name}: {found}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=HALVES, default="all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="*", help="a glob of names of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reuse", action="store_true", help="profiles of an earlier run")
    parser.add_argument("--times", action="store_true", help="print the seconds of each case")
    parser.add_argument(
        "--no-published",
        dest="published",
        action="store_false",
        help="leave out the published rule sets",
    )
    options = parser.parse_args()
    names = chosen(options.half, options.only)
    result = score(
        examine_all(
            names,
            jobs=options.jobs,
            seed=options.seed,
            published=options.published,
            keep=True,
            reuse=options.reuse,
        )
    )
    print_rules(result)
    print_rates(result)
    print()
    print_faults(result)
    print_crashes(result)
    if options.times:
        for entry in sorted(result.diagnosed, key=lambda entry: -entry.seconds):
            print(f"{entry.seconds:7.1f} s  {entry.case.name}")
        print(f"{sum(entry.seconds for entry in result.diagnosed):7.1f} s  in all")


if __name__ == "__main__":
    main()
