"""A monitor inside a training: samples, the store they go to, and what the rules say of them."""

from gradscope.monitor.monitor import Monitor
from gradscope.monitor.sampled import Sampled

__all__ = ["Monitor", "Sampled"]
