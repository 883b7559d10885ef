from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.tokens import TokenGroups


def word_tokenizer(*words):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[UNK]", *words])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def test_every_spelling_that_is_one_token_counts_once():
    groups = TokenGroups.of(word_tokenizer("yes", "maybe", "no", "Yes", "NO", "YES"))
    assert sorted(groups.yes) == [1, 4, 6]
    assert sorted(groups.no) == [3, 5]


@pytest.mark.parametrize(("words", "missing"), [(("no", "maybe"), "yes"), (("yes", "maybe"), "no"), ((), "yes")])
def test_a_tokenizer_without_a_yes_or_a_no_cannot_judge(words, missing):
    with pytest.raises(ModelError, match=f"no single token for '{missing}'"):
        TokenGroups.of(word_tokenizer(*words))


def test_spellings_of_several_tokens_are_left_out():
    tokenizer = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate("yesno")} | {"no": 5}, [("n", "o")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="'yes'"):
        TokenGroups.of(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_nano_groups_hold_exactly_the_vocabulary_entries_that_read_yes_or_no(untrained_judge):
    tokenizer = untrained_judge.tokenizer
    decoded = {number: tokenizer.decode([number]) for number in range(len(tokenizer))}
    for word, group in (("yes", untrained_judge.backbone.answers.yes), ("no", untrained_judge.backbone.answers.no)):
        assert set(group) == {number for number, text in decoded.items() if text.lstrip(" ").lower() == word}
        assert len(group) == len(set(group)) > 0
