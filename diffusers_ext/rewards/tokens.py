"""Which tokens mean yes and which mean no."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

YES: Final = ("yes", " yes", "Yes", " Yes", "YES", " YES")
NO: Final = ("no", " no", "No", " No", "NO", " NO")


@dataclass(frozen=True)
class TokenGroups:
    """Token ids of all spellings of yes and of no; the probability of an answer is the sum over its group."""

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> TokenGroups:
        """Find the spellings that are one token each.

        Raises:
            ModelError: the tokenizer has none for yes, or none for no.
        """
        groups = cls(_single(tokenizer, YES), _single(tokenizer, NO))
        for name, found in (("yes", groups.yes), ("no", groups.no)):
            if not found:
                raise ModelError(
                    f"the tokenizer of this model has no single token for {name!r} in any spelling, so its verdict "
                    "cannot be read from one position; use a model whose vocabulary has whole words"
                )
        return groups


def _single(tokenizer: PreTrainedTokenizerBase, spellings: Iterable[str]) -> tuple[int, ...]:
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in spellings]
    unknown = tokenizer.unk_token_id
    return tuple(dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1 and ids[0] != unknown))
