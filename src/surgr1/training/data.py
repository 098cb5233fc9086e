"""Conversations as model inputs: completion-only labels, pictures decoded once and kept as bytes, patches
made per batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from surgr1.corpora.grid import FACTOR, open_image
from surgr1.engines.messages import user_messages
from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.conversations import Conversation

IGNORE = -100


class TokenError(SurgR1Error):
    """A picture off its grid or a sequence over the budget."""


class TokenizedConversations:
    """A map-style dataset: each item has `input_ids`, `labels` (-100 on everything but the completion) and
    the picture (uint8 (3, h, w)).

    The picture must already be on its grid: then the number of image tokens is width * height / 28² and the
    processor resizes nothing. Raises TokenError naming the sample otherwise, or when a sequence is longer
    than `max_length`.
    """

    def __init__(self, conversations: Sequence[Conversation], processor: Any, *, max_length: int) -> None:
        tokenizer = processor.tokenizer
        self._image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._pictures: dict[str, Any] = {}
        self._rows: list[tuple[list[int], list[int], str]] = []
        self.lengths: list[int] = []
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        for c in conversations:
            if c.width % FACTOR or c.height % FACTOR:
                raise TokenError(
                    f"sample {c.sample_id}: picture {c.image} is {c.width} x {c.height}, not on the 28-pixel"
                    " grid; prepare it first"
                )
            text = processor.apply_chat_template(
                user_messages(c.prompt), add_generation_prompt=True, tokenize=False
            )
            prompt: list[int] = []
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
                prompt += [token] * (c.width * c.height // FACTOR**2) if token == self._image_id else [token]
            completion = [*tokenizer(c.completion, add_special_tokens=False)["input_ids"], end]
            if len(prompt) + len(completion) > max_length:
                raise TokenError(
                    f"sample {c.sample_id}: {len(prompt) + len(completion)} tokens are over max_length"
                    f" {max_length}"
                )
            self._rows.append((prompt + completion, [IGNORE] * len(prompt) + completion, c.image))
            self.lengths.append(len(prompt) + len(completion))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from pathlib import Path

        import numpy as np

        ids, labels, image = self._rows[index]
        if image not in self._pictures:
            self._pictures[image] = np.asarray(open_image(Path(image))).transpose(2, 0, 1).copy()
        return {"input_ids": ids, "labels": labels, "picture": self._pictures[image]}


class Collator:
    """Left-pads a batch and makes its patches. Result: input_ids, attention_mask, labels, mm_token_type_ids
    (B, T), pixel_values (patches, 1176), image_grid_thw (B, 3)."""

    def __init__(self, processor: Any) -> None:
        self._pad = processor.tokenizer.pad_token_id
        self._image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._images = processor.image_processor

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        width = max(len(i["input_ids"]) for i in items)

        def padded(rows: list[list[int]], fill: int) -> Any:
            return torch.tensor([[fill] * (width - len(r)) + r for r in rows])

        ids = padded([i["input_ids"] for i in items], self._pad)
        mask = padded([[1] * len(i["input_ids"]) for i in items], 0)
        pictures = self._images(
            [torch.from_numpy(i["picture"]) for i in items], return_tensors="pt", do_resize=False
        )
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": padded([i["labels"] for i in items], IGNORE),
            "mm_token_type_ids": (ids == self._image_id).long() * mask,
            "pixel_values": pictures["pixel_values"],
            "image_grid_thw": pictures["image_grid_thw"],
        }


class SortedBatches:
    """Order of one epoch: random batches of `size`, each sorted by length, so that the micro-batches it is
    cut into for accumulation pad little and the gradient is that of a random batch. (Grouping whole batches
    by length, as transformers' own sampler does, makes batches of one kind of text: the nano base learned
    far slower so.)

    `set_epoch`, called by the data loader, gives every epoch its own order, which depends on `seed` and the
    epoch alone: a resumed run continues it.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self._lengths, self._size, self._seed, self._epoch = lengths, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        import numpy as np

        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._lengths)).tolist()
        for i in range(0, len(order), self._size):
            yield from sorted(order[i : i + self._size], key=lambda k: self._lengths[k])
