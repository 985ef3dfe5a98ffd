"""What a flood costs a front end: messages and bytes a second, of one view and of ten, as a client sees them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kernels import Kernel, Message

FLOOD = "while :; do seq -f 'a numbered line of the flood, and some words behind it: %.0f' 1 1000000; done"
KINDS = ("comm_msg", "comm_open", "display_data", "update_display_data")


def main(full: bool = False) -> list[dict[str, Any]]:
    """Flood one view, then ten, for 10 seconds (4 without `full`)."""
    seconds = 10.0 if full else 4.0
    rows = []
    for count in (1, 10):
        messages, size = _flood(count, seconds)
        detail = f"worst second of {seconds:g}, numbered lines as fast as they come"
        what = f"{count} view{'s' if count > 1 else ''} under a flood"
        rows.append(
            {
                "name": f"{what}: messages to the page",
                "value": messages,
                "unit": "/s",
                "bound": "<= 20",
                "detail": detail,
            }
        )
        rows.append(
            {
                "name": f"{what}: bytes to the page",
                "value": size / 1e6,
                "unit": "MB/s",
                "bound": "<= 1",
                "detail": detail,
            }
        )
    return rows


def _flood(count: int, seconds: float) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder, Kernel(Path(folder) / "kernel") as kernel:
        kernel.run("%load_ext cmdop_jupyter")
        for number in range(count):
            kernel.run(f"%%cmdop --name flood{number} --max-log 100M\n{FLOOD}")
        began = time.monotonic()
        kernel.run(f"import time; time.sleep({seconds})", timeout=seconds + 60)
        ended = time.monotonic()
        sent = [message for message in kernel.iopub if message.kind in KINDS and began <= message.time <= ended]
        for number in range(count):
            kernel.run(f"%cmdop stop flood{number}", timeout=60)
    return worst_second(sent)


def worst_second(messages: Sequence[Message]) -> tuple[int, int]:
    """The most messages, and the most bytes, that came within one second."""
    most = largest = 0
    for first, message in enumerate(messages):
        window = [other for other in messages[first:] if other.time < message.time + 1]
        most = max(most, len(window))
        largest = max(largest, sum(other.size for other in window))
    return most, largest
