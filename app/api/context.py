"""What every route may use: made once a process, found at `request.app.state.context`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.api.auth import Authenticator
from app.api.explaining import Explainer
from app.api.metrics import Metrics
from app.api.reference import References
from app.intake import Intake
from app.queue.connection import Queue
from app.settings import Settings
from app.store.engine import Database


@dataclass(frozen=True, slots=True)
class Context:
    """`clock` is Unix seconds."""

    settings: Settings
    database: Database
    queue: Queue
    authenticator: Authenticator
    references: References
    explainer: Explainer
    intake: Intake
    metrics: Metrics
    clock: Callable[[], float] = field(default=time.time)
