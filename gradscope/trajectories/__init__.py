"""Checkpoints -> Report: a training run as its checkpoints show it, each diagnosed by itself.

``run.py`` does it; ``snapshots.py`` has what each checkpoint gives, and their order; ``workers.py``
and ``ranks.py`` are the processes that share the work, of this machine and of torchrun.
"""

from gradscope.trajectories.run import help_scan, scan_checkpoints

__all__ = ["help_scan", "scan_checkpoints"]
