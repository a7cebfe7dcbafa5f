"""Prints what the rules look at in networks that are too large for the tests.

python -m tests.zoo.large
"""

from __future__ import annotations

import torch
from transformers import ResNetConfig, ResNetForImageClassification

import gradscope
from gradscope.rules.signal import backward_sites, gain_per_site, typical


def main() -> None:
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig())
    batch = {"pixel_values": torch.randn(8, 3, 64, 64), "labels": torch.randint(2, (8,))}
    profile = gradscope.profile(model, [batch], steps=1)
    sites = backward_sites(profile)
    print(
        f"ResNet-50: {len(sites)} activations on the trunk, backward signal first over last "
        f"{typical(sites[0]) / typical(sites[-1]):.3g}, {gain_per_site(sites):.3g} times from "
        f"one to the next; findings: {sorted(gradscope.diagnose(profile).codes) or 'none'}"
    )


if __name__ == "__main__":
    main()
