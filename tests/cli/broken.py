"""A module whose pipeline has two problems."""

from __future__ import annotations

from typing import Any

from alto import pipeline, stage


@stage
async def length(text: str) -> int:
    return len(text)


@stage
async def shout(text: str) -> str:
    return text.upper()


@pipeline
def wrong(text: str) -> Any:
    length(text)
    return shout(length(text))
