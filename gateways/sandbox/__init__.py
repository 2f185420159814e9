"""A sandbox SMSC over real TCP, which makes the faults that carriers make.

    python -m gateways.sandbox --port 2775 --control-port 2776

What it can do, and the numbers with a fixed fate: `gateways.sandbox.behaviour`. The HTTP API
that drives it: `gateways.sandbox.control`. In a test: `Sandbox(Settings(port=0))`.
"""

from __future__ import annotations

from gateways.sandbox.behaviour import Behaviour
from gateways.sandbox.command import main
from gateways.sandbox.server import Sandbox, Settings

__all__ = ["Behaviour", "Sandbox", "Settings", "main"]
