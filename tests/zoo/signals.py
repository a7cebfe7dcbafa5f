"""Prints what the rules look at in healthy networks, fresh and trained: what limits must leave out.

python -m tests.zoo.signals [--steps 400]
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch

from gradscope.diagnose import diagnose
from gradscope.profile import profile_steps
from gradscope.randomness import seed_everything
from gradscope.records import Profile
from gradscope.rules.signal import backward_sites, typical
from gradscope.trial import Arm, Running, evaluate
from tests.zoo.healthy import HEALTHY, healthy_subject


def row(profile: Profile) -> str:
    sites = backward_sites(profile)
    ratio = typical(sites[0]) / typical(sites[-1]) if len(sites) > 1 else math.nan
    activations = [site for site in profile.activations if not site.is_output]
    excess = [
        site.dead - site.always_positive
        for site in activations
        if site.dead is not None and site.always_positive is not None
    ]
    dead = [site.dead for site in activations if site.dead is not None]
    saturated = [site.saturated for site in activations if site.saturated is not None]
    base = statistics.median(profile.input_variation)
    variation = [statistics.median(site.variation) / base for site in activations]
    figures = (
        ratio,
        max(dead, default=math.nan),
        max(excess, default=math.nan),
        max(saturated, default=math.nan),
        min(variation, default=math.nan),
    )
    return "".join(
        f"{'-' if math.isnan(figure) else format(figure, '.3g'):>11}" for figure in figures
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    headings = ("backward", "dead", "dead-open", "saturated", "variation")
    print(f"{'network':24}{'state':>9}{'loss':>7}" + "".join(f"{text:>11}" for text in headings))
    flagged = total = 0
    for name in HEALTHY:
        subject = healthy_subject(name)
        running = Running(subject, Arm("train"), seed=0)
        for taken in (0, steps):
            running.advance(taken)
            _, loss = evaluate(subject, running.model)
            seed_everything(0)
            assert subject.build_data is not None
            profile = profile_steps(
                running.model,
                subject.build_data(),
                subject.step,
                build_optimizer=subject.build_optimizer,
            )
            codes = ", ".join(sorted(diagnose(profile).codes))
            flagged, total = flagged + bool(codes), total + 1
            state = f"{taken} steps" if taken else "fresh"
            print(f"{name:24}{state:>9}{loss:7.3f}{row(profile)}  {codes}", flush=True)
    print(f"{flagged} of {total} have a finding")


if __name__ == "__main__":
    main()
