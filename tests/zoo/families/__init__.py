"""One table of small model families, each the essence of how people build such models."""

from __future__ import annotations

from tests.zoo.families import attention, convolutional, dense, odd, pretrained, recurrent, ways
from tests.zoo.families.entry import STEPS, Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for kind in (dense, convolutional, recurrent, attention, odd, ways, pretrained)
    for family in kind.FAMILIES
}

__all__ = ["FAMILIES", "STEPS", "Family"]
