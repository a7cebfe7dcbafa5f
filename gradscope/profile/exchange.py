"""Profiles of one model on several processes: who holds what, and the one packed exchange a step.

Under DDP and FSDP2 each process sees other samples, under tensor parallelism other units of the
same samples. Every process contributes what it has summed; a single all-reduce adds it up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradscope.batches import Batch, tensors_in
from gradscope.profile.axes import Shard
from gradscope.profile.sharding import is_distributed
from gradscope.profile.site import Site
from gradscope.profile.sums import PEAKS, PLACED, Place, Sums

__all__ = ["Exchange", "Packet", "merged"]

T = TypeVar("T")

Key = tuple[str, str]


@dataclass
class Packet:
    """What one process has summed at one step.

    Attributes:
        sums: by the site or parameter, and the kind of what was summed.
        parts: over how many processes the units of a site are spread. Of what has parts, all
            processes but one for each batch and part hold copies; what has none is just added.
        about: the sites, without what was gathered there.
    """

    sums: dict[Key, Sums] = field(default_factory=dict)
    parts: dict[Key, int] = field(default_factory=dict)
    about: dict[str, Site] = field(default_factory=dict)


class Exchange:
    """The processes that profile one model together; often just this one."""

    def __init__(self, model: nn.Module) -> None:
        together = dist.is_available() and dist.is_initialized() and is_distributed(model)
        self.processes = dist.get_world_size() if together else 1
        self.process = dist.get_rank() if together else 0
        self._device = next((each.device for each in model.parameters()), torch.device("cpu"))
        if together and dist.get_backend() == "nccl":
            # Weights that are offloaded lie where this backend cannot reach them.
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._first = self._samples = self._here = 0
        self.batches = 1

    @property
    def alone(self) -> bool:
        return self.processes == 1

    def slot(self, value: Tensor) -> Tensor:
        """A scalar at this process's place among those of all."""
        slots = value.new_zeros(self.processes)
        slots[self.process] = value
        return slots

    def open(self, batch: Batch, samples: int) -> int:
        """Finds out which processes see which samples of a step; how many there are in all."""
        self._here = self._samples = samples
        if self.alone:
            return samples
        prints: list[tuple[tuple[float, ...], int]] = [((), 0)] * self.processes
        dist.all_gather_object(prints, (_fingerprint(batch), samples))
        different = list(dict.fromkeys(prints))
        mine = different.index(prints[self.process])
        self.batches = len(different)
        self._first = sum(count for _, count in different[:mine])
        self._samples = sum(count for _, count in different)
        return self._samples

    def place(self, x: Tensor, shard: Shard | None) -> Place | None:
        """Where an output (samples, ...) lies in the whole; None where this process has it all."""
        if self.alone:
            return None
        # Flattened sequences have several rows a sample. Rows picked by a router have no place.
        rows, uneven = divmod(x.shape[0], self._here)
        if uneven or not rows:
            return Place(0, 0, shard, self.process, self.processes)
        return Place(self._first * rows, self._samples * rows, shard, self.process, self.processes)

    def everyone(self, here: bool) -> bool:
        """Whether something holds on all processes; each of them has to ask."""
        return all(self.gathered(here))

    def gathered(self, here: T) -> list[T]:
        """What each process has; each of them has to call it."""
        if self.alone:
            return [here]
        found: list[Any] = [None] * self.processes
        dist.all_gather_object(found, here)
        return found

    def total(self, packet: Packet) -> Packet:
        """The sums over all processes; every process has to call it, and gets the same."""
        if self.alone:
            return packet
        mine = [
            (key, packet.parts.get(key), name, tuple(value.shape))
            for key, sums in packet.sums.items()
            for name, value in sums.items()
        ]
        gathered: list[Any] = [None] * self.processes
        dist.all_gather_object(gathered, (mine, packet.about))
        shapes: dict[tuple[Key, int | None, str], set[tuple[int, ...] | None]] = {}
        unplaced = self._unplaced([about for _, about in gathered])
        for entries, _ in gathered:
            for key, parts, name, shape in entries:
                entry = shapes.setdefault((key, parts, name), set())
                # Rows of which nobody knows where they belong among all are in no order.
                entry |= {shape, None} if key[0] in unplaced and name in PLACED else {shape}
        agreed = [
            (*entry, next(iter(shapes[entry])))
            for entry in merged([[entry[:3] for entry in entries] for entries, _ in gathered])
            if len(shapes[entry]) == 1
        ]
        flat = torch.cat(
            [
                value.reshape(-1).to(self._device, torch.float64)
                if (value := packet.sums.get(key, {}).get(name)) is not None
                else torch.zeros(math.prod(shape), dtype=torch.float64, device=self._device)
                for key, _, name, shape in agreed
            ]
            or [torch.zeros(0, dtype=torch.float64, device=self._device)]
        )
        dist.all_reduce(flat)
        total = Packet()
        for (key, parts, name, shape), values in zip(
            agreed, flat.split([math.prod(shape) for *_, shape in agreed]), strict=True
        ):
            plain = name == PEAKS or parts is None
            copies = 1.0 if plain else self.processes / (self.batches * parts)
            if parts is not None:
                total.parts[key] = parts
            total.sums.setdefault(key, {})[name] = (values / copies).reshape(shape)
        order = merged([list(about) for _, about in gathered])
        known = {name: value for _, about in reversed(gathered) for name, value in about.items()}
        for name, rows in unplaced.items():
            known[name].unplaced, known[name].shape = True, (rows, *known[name].shape[1:])
        total.about = {name: known[name] for name in order}
        return total

    def _unplaced(self, abouts: list[dict[str, Site]]) -> dict[str, int]:
        """The sites whose rows are not so many a sample on every process; how many in all."""
        found = {}
        for name in dict.fromkeys(name for about in abouts for name in about):
            held = [about[name].held if name in about else (0, 1) for about in abouts]
            rates = {rows / samples for rows, samples in held}
            if len(rates) > 1 or not next(iter(rates)).is_integer():
                found[name] = sum(rows for rows, _ in held) * self.batches // self.processes
        return found


def merged(lists: list[list[Any]]) -> list[Any]:
    """One list in the order of all: what one lacks stands before what follows it in another."""
    first, *others = lists
    order = list(first)
    for each in others:
        if each == first:
            continue
        known = set(order)
        waiting: list[Any] = []
        for entry in each:
            if entry not in known:
                waiting.append(entry)
            elif waiting:
                place = order.index(entry)
                order[place:place] = waiting
                waiting = []
        order += waiting
    return order


def _fingerprint(batch: Batch) -> tuple[float, ...]:
    """Numbers that tell batches apart."""
    found: list[float] = []
    for tensor in tensors_in(batch):
        values = tensor.detach().reshape(-1)
        values = (values.abs() if values.is_complex() else values).double().nan_to_num()
        weights = torch.arange(1, len(values) + 1, device=values.device, dtype=torch.float64)
        found += [float(len(values)), float(values.sum()), float(values @ weights)]
    return tuple(found)
