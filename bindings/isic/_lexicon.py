# SPDX-License-Identifier: Apache-2.0
"""Safe counterpart prompts by replacing unsafe terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import _isic
from ._results import RewrittenPrompt


class Lexicon:
    """Unsafe terms and their safe replacements: longest match first, whole words only, letter case and articles kept.

    entries: a mapping or pairs (unsafe term, replacement); terms may hold several words, an empty replacement removes the
    term. Case and word boundaries are those of ASCII. Raises ValueError on an empty or repeated term.
    Source: Safe-CB requires "minimal modification"; the rules are our choice.

    >>> words = isic.Lexicon({"knife": "spoon", "axe": "spoon"})
    >>> words.rewrite("an axe and a Knife")
    RewrittenPrompt(text='a spoon and a Spoon', replaced=('axe', 'knife'))
    >>> words("a fox with a knife")
    'a fox with a spoon'
    """

    def __init__(self, entries: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        pairs = list(entries.items() if isinstance(entries, Mapping) else entries)
        self._lexicon = _isic.Lexicon(pairs)
        self._size = len(pairs)

    def rewrite(self, prompt: str) -> RewrittenPrompt:
        """The prompt with every unsafe term replaced."""
        return RewrittenPrompt(*self._lexicon.rewrite(prompt))

    def __call__(self, prompt: str) -> str:
        """The rewritten text, as `self_improve(rewrite=...)` requires."""
        return self._lexicon.rewrite(prompt)[0]

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Lexicon({self._size} terms)"
