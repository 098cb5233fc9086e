"""The chat form of a request: one place, so that training and generation cannot differ."""

from typing import Any


def user_messages(prompt: str, images: int = 1) -> list[dict[str, Any]]:
    """The user turn for the processor's chat template: the images first, then the text."""
    content: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
