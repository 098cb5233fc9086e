"""The chat form of a request: one place, so that training and generation cannot differ."""

from typing import Any

from surgr1.engines.types import Prompt, Request


def user_messages(prompt: str, images: int = 1, system: str = "") -> list[dict[str, Any]]:
    """The system turn, if any, and the user turn for the processor's chat template: the images first, then
    the text.
    """
    content: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    turn = {"role": "user", "content": [*content, {"type": "text", "text": prompt}]}
    return [{"role": "system", "content": system}, turn] if system else [turn]


def rendered(request: Request, processor: Any) -> Prompt:
    """The request as an engine's prompt, its pictures opened."""
    from PIL import Image

    pictures = []
    for path in request.images:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return Prompt(
        request.request_id,
        chat_text(request.prompt, processor, len(pictures), request.system) + request.prefix,
        request.prompt,
        pictures,
        request.policy,
        request.system,
        request.prefix,
    )


def chat_text(prompt: str, processor: Any, images: int = 1, system: str = "") -> str:
    """The chat up to where the answer begins. Without `system` the template's own, if it has one."""
    return processor.apply_chat_template(
        user_messages(prompt, images, system), add_generation_prompt=True, tokenize=False
    )


def picture_tokens(processor: Any) -> list[int]:
    """The placeholders of pictures and videos: never to be produced, the next forward pass would look for
    their pixels.
    """
    return [processor.tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>")]
