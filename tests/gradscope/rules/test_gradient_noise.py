"""GS105: small batches whose gradient is noise get a remark, and nothing else does."""

from __future__ import annotations

from gradscope.records import Finding, GradientNoise, Severity, Skipped
from gradscope.rules.gradient_noise import GradientNoise as Rule
from tests.gradscope.rules.making import profile

RULE = Rule()


def check(squared_norm: float, covariance: float, samples: int = 4) -> Finding | Skipped | None:
    noise = GradientNoise(4, samples // 2, squared_norm, covariance)
    return RULE.check(profile(batch_size=samples, gradient_noise=noise), RULE.limits)


def test_a_gradient_that_is_noise_is_for_info() -> None:
    finding = check(squared_norm=0.01, covariance=4.0)
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.INFO
    assert "99% is noise" in finding.message
    assert "the noise scale is 4e+02 samples" in finding.message


def test_nothing_may_be_left_of_the_gradient() -> None:
    finding = check(squared_norm=-0.5, covariance=4.0)
    assert isinstance(finding, Finding)
    assert "100% is noise (limit 90%)." in finding.message


def test_no_finding() -> None:
    assert check(squared_norm=1.0, covariance=4.0) is None
    assert check(squared_norm=0.01, covariance=400.0, samples=64) is None
    assert check(squared_norm=1.0, covariance=-1.0) is None
    assert check(squared_norm=float("nan"), covariance=float("nan")) is None


def test_without_an_estimate_it_is_skipped() -> None:
    assert isinstance(RULE.check(profile(batch_size=4), RULE.limits), Skipped)
