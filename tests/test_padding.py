"""Padding told from side information, against masks made by hand."""

import pytest
import torch

from prequential.columns.padding import Padding

PAD = 0


def count(*batches):
    """Padding of batches that are looked at one by one, and of the same looked at together where they may be."""
    padding, found = Padding(), []
    for mask, ignored, tokens in batches:
        found.append(padding.look(*(None if one is None else one.unsqueeze(0) for one in (mask, ignored, tokens))))
    if any(one is None for one in found):
        return None
    if len({ignored.shape for _, ignored, _ in batches}) == 1:
        stacks = [None if same[0] is None else torch.stack(same) for same in zip(*batches, strict=True)]
        assert torch.equal(Padding().look(*stacks), torch.cat(found))
    return int(torch.cat(found).sum())


def padded(lengths, width, prompt=0):
    """Rows of tokens 1, 2, 3, ... filled up with `PAD`; targets are the next tokens, prompts and padding ignored."""
    tokens = torch.full((len(lengths), width), PAD)
    ignored = torch.zeros(len(lengths), width - 1, dtype=torch.bool)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.arange(1, length + 1)
        ignored[row, max(0, length - 1) :] = True
        ignored[row, :prompt] = True
    return tokens, ignored


def test_a_run_of_one_token_at_the_end_is_padding():
    """Rows of 3, 6 and 8 tokens in 8 places: 5 and 2 places are filled up."""
    tokens, ignored = padded([3, 6, 8], 8)
    assert count((None, ignored, tokens)) == 7
    assert count((None, ignored[:, :7], tokens[:, :7])) == 7  # inputs only: the last target is not seen


def test_prompts_are_no_padding():
    """Two ignored targets at the front of each row stay side information."""
    tokens, ignored = padded([4, 8], 8, prompt=2)
    assert count((None, ignored, tokens)) == 4


def test_a_single_filler_counts_once_it_is_known():
    """A row that lacks one token looks like one whose last target is hidden, until longer padding was seen."""
    short, known = padded([7, 8], 8), padded([4, 8], 8)
    assert count((None, short[1], short[0])) == 0
    assert count((None, known[1], known[0]), (None, short[1], short[0])) == 4 + 1


def test_the_last_target_may_be_hidden():
    """One ignored target at the end of each row, each another token: no padding."""
    tokens = torch.arange(40).view(5, 8)
    ignored = torch.zeros(5, 7, dtype=torch.bool)
    ignored[:, -1] = True
    assert count((None, ignored, tokens)) == 0


@pytest.mark.parametrize("left", [False, True])
def test_an_attention_mask_decides(left):
    """On either side; what it shows and the loss ignores is side information even where it repeats."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    mask = mask if left else mask.flip(1)
    tokens = torch.full((2, 8), 5)
    ignored = mask[:, 1:] == 0
    ignored[1, :2] = True
    assert count((mask, ignored, tokens)) == int((mask[:, 1:] == 0).sum())
    tags = mask == 0  # targets that stand beside their own token
    tags[1, 2] = True
    assert count((mask, tags, None)) == 3


def test_without_tokens_or_a_mask_nothing_is_known():
    """Nothing is guessed."""
    assert count((None, torch.ones(2, 3, dtype=torch.bool), None)) is None
