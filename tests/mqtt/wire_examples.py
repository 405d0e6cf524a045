"""The examples of docs/wire.md, made by the code; run as a program it writes them into the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from fieldstation.clock import parse_instant
from fieldstation.mqtt import messages
from fieldstation.mqtt.messages import Coverage, Receipt, Refusal, SpeciesCount, Status, Summary
from fieldstation.records import (
    Detection,
    Health,
    Hearing,
    Image,
    Interval,
    Message,
    Picture,
)

KEY = "a1b2c3d4e5f60718"
START = parse_instant("2026-05-01T04:12:07.250Z")
SECOND = 1_000_000
EVENT = "019de1c6-a2d2-7c3e-8a51-0d6f6c1f5b11"

GENERATOR = "b7e1d2c3a4f50617"
ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGPYEmUDAAMQAUu5+qy5AAAAAElFTkSuQmCC"
)
"""The shortest PNG: a real picture has 9 kB"""
PICTURE = Picture(
    Image(
        event_id=EVENT,
        station="garden",
        generator_id=GENERATOR,
        seed=3_903_187_451_435_793,
        is_of_call=True,
        file=None,
        width=1,
        height=1,
        n_bytes=len(ONE_PIXEL),
        sha256=hashlib.sha256(ONE_PIXEL).hexdigest(),
        made_at=START + 8 * SECOND,
    ),
    scientific_name="Fringilla coelebs",
    common_name="Chaffinch",
    probability=0.93,
    started_at=START,
    timezone="Europe/Berlin",
)

EXAMPLES: dict[str, Message] = {
    "detection": messages.detection_message(
        Detection(
            event_id=EVENT,
            station="garden",
            station_key=KEY,
            sequence=1042,
            started_at=START,
            ended_at=START + 6 * SECOND,
            timezone="Europe/Berlin",
            scientific_name="Fringilla coelebs",
            common_name="Chaffinch",
            probability=0.93,
            threshold=0.55,
            encoder_id="3f9a0c1b2d4e5f67",
            n_windows=3,
            latitude=52.52,
            longitude=13.4,
            place="behind the shed",
            source="hw:CARD=Device",
            clip=f"2026-05-01/{EVENT}.flac",
        )
    ),
    "logged": messages.receipt_message(
        Receipt(
            "garden",
            KEY,
            START + 7 * SECOND,
            (EVENT, "coverage-77"),
            (Refusal("019de1c6-0000-7000-8000-000000000000", "conflict: see the quarantine"),),
        )
    ),
    "coverage": messages.coverage_message(
        Coverage(
            "garden",
            KEY,
            "coverage-77",
            (
                Interval("run-12", START, 58.5, Hearing.HEARD),
                Interval("run-12", START + 58_500_000, 1.5, Hearing.LOST, "overflow"),
            ),
        )
    ),
    "status": messages.status_message(Status("garden", KEY, True, START, "0.1.0")),
    "health": messages.health_message(
        "garden", KEY, Health(START, {"heard_s": 3512.5, "n_waiting": 0, "problems": []})
    ),
    "summary": messages.summary_message(
        Summary(
            "garden",
            KEY,
            "summary-2026-05-01",
            "2026-05-01",
            "Europe/Berlin",
            (SpeciesCount("Fringilla coelebs", "Chaffinch", 31, START, START + 9_000 * SECOND),),
            heard_s=86_281.5,
            lost_s=118.5,
        )
    ),
    "image": messages.image_message(PICTURE, ONE_PIXEL),
}


def write_into(page: Path) -> None:
    """Put each example behind its mark on the page."""
    text = page.read_text("utf-8")
    for kind, message in EXAMPLES.items():
        shown = json.dumps(json.loads(message.payload), indent=1, ensure_ascii=False)
        block = f"<!-- example: {kind} -->\n```json\n{shown}\n```\n"
        mark = rf"<!-- example: {kind} -->\n(```json\n.*?```\n)?"
        text = re.sub(mark, lambda _, block=block: block, text, flags=re.S)  # type: ignore[misc]
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    write_into(Path(sys.argv[1]))
