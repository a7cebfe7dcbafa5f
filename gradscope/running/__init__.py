"""The monitor attached to a training script that does not know of it.

``Script`` is run as Python would run it, ``Watcher`` finds what it trains as it trains it.
Neither imports torch: the script does when it wants to, or never.
"""

from gradscope.running.script import Script
from gradscope.running.watcher import Outcome, Recorded, Watcher

__all__ = ["Outcome", "Recorded", "Script", "Watcher"]
