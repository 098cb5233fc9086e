"""Conversations as model inputs: completion-only labels, pictures decoded once and kept as bytes, patches
made per batch, questions about one picture as branches of it.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import FACTOR, open_image
from surgr1.engines.messages import chat_text
from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.conversations import Conversation

IGNORE = -100
_HELD_BYTES = 2**30
"""Decoded pictures that a data set keeps, in every process that reads it."""


class TokenError(SurgR1Error):
    """A picture off its grid or a sequence over the budget."""


class TokenizedConversations:
    """A map-style dataset: each item has `input_ids`, `labels` (-100 on everything but the completion), the
    picture (uint8 (3, h, w)), its file's name (`image`) and the number of tokens up to its end (`prefix`).

    The picture must already be on its grid: then the number of image tokens is width * height / 28² and the
    processor resizes nothing. Raises TokenError naming the sample otherwise, or when a sequence is longer
    than `max_length`.
    """

    def __init__(self, conversations: Sequence[Conversation], processor: Any, *, max_length: int) -> None:
        import numpy as np

        tokenizer = processor.tokenizer
        self._image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._pictures: OrderedDict[str, Any] = OrderedDict()
        self._held = 0
        self._rows: list[tuple[Any, int, str, int]] = []
        self.lengths: list[int] = []
        picture_end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        for c in conversations:
            if c.width % FACTOR or c.height % FACTOR:
                raise TokenError(
                    f"sample {c.sample_id}: picture {c.image} is {c.width} x {c.height}, not on the 28-pixel"
                    " grid; prepare it first"
                )
            text = chat_text(c.prompt, processor)
            prompt: list[int] = []
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
                prompt += [token] * (c.width * c.height // FACTOR**2) if token == self._image_id else [token]
            completion = [*tokenizer(c.completion, add_special_tokens=False)["input_ids"], end]
            if len(prompt) + len(completion) > max_length:
                raise TokenError(
                    f"sample {c.sample_id}: {len(prompt) + len(completion)} tokens are over max_length"
                    f" {max_length}"
                )
            # As numbers of four bytes: hundreds of thousands of lists would not fit.
            ids = np.asarray(prompt + completion, np.int32)
            self._rows.append((ids, len(prompt), c.image, prompt.index(picture_end) + 1))
            self.lengths.append(len(prompt) + len(completion))

    @property
    def prompt_lengths(self) -> list[int]:
        """Tokens of every item up to its completion."""
        return [row[1] for row in self._rows]

    @property
    def images(self) -> list[str]:
        """The picture of every item."""
        return [row[2] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, prompt, image, prefix = self._rows[index]
        ids = ids.tolist()
        return {
            "input_ids": ids,
            "labels": [IGNORE] * prompt + ids[prompt:],
            "picture": self._picture(image),
            "image": image,
            "prefix": prefix,
        }

    def _picture(self, image: str) -> Any:
        """(3, h, w) uint8. The pictures used last are held, up to `_HELD_BYTES`."""
        import numpy as np

        if image in self._pictures:
            self._pictures.move_to_end(image)
            return self._pictures[image]
        picture = np.asarray(open_image(Path(image))).transpose(2, 0, 1).copy()
        self._pictures[image] = picture
        self._held += picture.nbytes
        while self._held > _HELD_BYTES and len(self._pictures) > 1:
            self._held -= self._pictures.popitem(last=False)[1].nbytes
        return picture


class Collator:
    """Left-pads a batch and makes its patches. Result: input_ids, attention_mask, labels, mm_token_type_ids
    (B, T), pixel_values (patches, 1176), image_grid_thw (B, 3)."""

    def __init__(self, processor: Any) -> None:
        self._pad = processor.tokenizer.pad_token_id
        self._image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._images = processor.image_processor

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = self._inputs([i["input_ids"] for i in items], [i["picture"] for i in items])
        return {**inputs, "labels": _padded([i["labels"] for i in items], IGNORE, left=True)}

    def _inputs(self, rows: list[list[int]], pictures: list[Any]) -> dict[str, Any]:
        import torch

        ids = _padded(rows, self._pad, left=True)
        mask = _padded([[1] * len(r) for r in rows], 0, left=True)
        found = self._images([torch.from_numpy(p) for p in pictures], return_tensors="pt", do_resize=False)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image_id).long() * mask,
            "pixel_values": found["pixel_values"],
            "image_grid_thw": found["image_grid_thw"],
        }


class BranchCollator(Collator):
    """Questions with their answers as branches of their picture, for a model taught by
    `shared_prefix.install`: the prefix inputs of the U distinct pictures, `owner` (B,), and `completion_ids`,
    `completion_mask`, `labels` (B, C) of everything that follows the picture. `shift_labels` tells the loss
    that the states already predict the labels beside them.
    """

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        heads = {i["image"]: i for i in items}
        order = {image: k for k, image in enumerate(heads)}
        inputs = self._inputs(
            [h["input_ids"][: h["prefix"]] for h in heads.values()], [h["picture"] for h in heads.values()]
        )
        branches = [i["input_ids"][i["prefix"] :] for i in items]
        labels = _padded([i["labels"][i["prefix"] :] for i in items], IGNORE)
        return {
            **inputs,
            "owner": torch.tensor([order[i["image"]] for i in items]),
            "completion_ids": _padded(branches, self._pad),
            "completion_mask": _padded([[1] * len(b) for b in branches], 0),
            "labels": labels,
            "shift_labels": labels,
        }


def _padded(rows: list[list[int]], fill: int, *, left: bool = False) -> Any:
    import torch

    width = max(map(len, rows))
    gaps = [[fill] * (width - len(r)) for r in rows]
    return torch.tensor([g + r if left else r + g for g, r in zip(gaps, rows, strict=True)])


class _Epochs:
    """`set_epoch`, called by the data loader, gives every epoch its own order, which depends on `seed` and
    the epoch alone: a resumed run continues it.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed, self._epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def _shuffled(self) -> list[int]:
        import numpy as np

        return list(np.random.default_rng((self._seed, self._epoch)).permutation(self._length).tolist())


class SortedBatches(_Epochs):
    """Order of one epoch: random batches of `size`, each sorted by length, so that the micro-batches it is
    cut into for accumulation pad little and the gradient is that of a random batch. (Grouping whole batches
    by length, as transformers' own sampler does, makes batches of one kind of text: the nano base learned
    far slower so.)
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        super().__init__(len(lengths), seed)
        self._lengths, self._size = lengths, size

    def __iter__(self) -> Iterator[int]:
        order = self._shuffled()
        for i in range(0, len(order), self._size):
            yield from sorted(order[i : i + self._size], key=lambda k: self._lengths[k])


class PicturesTogether(_Epochs):
    """Order of one epoch: pictures at random, the items of each one after another, so that most of them
    share a micro-batch.
    """

    def __init__(self, images: Sequence[Hashable], seed: int) -> None:
        super().__init__(len(images), seed)
        self._images = images

    def __iter__(self) -> Iterator[int]:
        items: dict[Hashable, list[int]] = {}
        for k in self._shuffled():
            items.setdefault(self._images[k], []).append(k)
        for group in items.values():
            yield from group
