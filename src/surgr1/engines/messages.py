"""The chat form of a request: one place, so that training and generation cannot differ."""

from typing import Any

from surgr1.engines.types import Prompt, Request


def user_messages(prompt: str, images: int = 1) -> list[dict[str, Any]]:
    """The user turn for the processor's chat template: the images first, then the text."""
    content: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]


def rendered(request: Request, processor: Any) -> Prompt:
    """The request as an engine's prompt, its pictures opened."""
    from PIL import Image

    pictures = []
    for path in request.images:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return Prompt(
        request.request_id,
        chat_text(request.prompt, processor, len(pictures)),
        request.prompt,
        pictures,
        request.policy,
    )


def chat_text(prompt: str, processor: Any, images: int = 1) -> str:
    """The chat up to where the answer begins."""
    return processor.apply_chat_template(
        user_messages(prompt, images), add_generation_prompt=True, tokenize=False
    )


def picture_tokens(processor: Any) -> list[int]:
    """The placeholders of pictures and videos: never to be produced, the next forward pass would look for
    their pixels.
    """
    return [processor.tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>")]
