"""Tokens as text while they come: a character is shown when it is whole.

In: token ids, one at a time. Out: text; all of it together is what all tokens decode to together.
"""

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""What half a character decodes to."""
MOST_HELD = 8
"""Tokens that are held back for the rest of a character; more than that are no character."""
CONTEXT = 8
"""Tokens before the new ones that are decoded with them, since some tokenizers write a word otherwise at the beginning."""


class TextStream:
    """Takes tokens, gives the text that is whole."""

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        """Begin after a prompt's tokens, which are shown already."""
        self._decode = decode
        self._ids = [*prompt]
        self._context = max(0, len(self._ids) - CONTEXT)
        self._shown = len(self._ids)

    def take(self, token: int) -> str:
        """The text that one more token makes whole, often nothing."""
        self._ids.append(token)
        text = self._text(len(self._ids))
        if not text.endswith(BROKEN):
            return self._show(len(self._ids), text)
        if len(self._ids) - self._shown <= MOST_HELD:
            return ""
        for end in range(len(self._ids) - 1, self._shown, -1):  # what is before a character that may still become one
            if self._text(end) + self._decode(self._ids[end:]) == text:
                return self._show(end, self._text(end))
        return ""

    def rest(self) -> str:
        """What was held back, at the end."""
        return self._show(len(self._ids), self._text(len(self._ids)))

    def _text(self, end: int) -> str:
        """Of the tokens that are not shown, up to `end`."""
        before = self._decode(self._ids[self._context : self._shown])
        return self._decode(self._ids[self._context : end])[len(before) :]

    def _show(self, end: int, text: str) -> str:
        self._context, self._shown = max(self._context, self._shown - CONTEXT), end
        return text


class UntilStop:
    """Takes text as it comes, gives it until one of some texts stands in it; what may be its beginning is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = tuple(stops), ""
        self.is_stopped = False
        """Whether one of them was met; it is not shown, nor what follows."""

    def take(self, text: str) -> str:
        """The text that is before any stop for certain."""
        if self.is_stopped:
            return ""
        self._held += text
        if found := [place for stop in self._stops if (place := self._held.find(stop)) >= 0]:
            self.is_stopped = True
            return self._show(min(found))
        lengths = range(min(len(self._held), max(map(len, self._stops), default=1) - 1), 0, -1)
        held = next((n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)
        return self._show(len(self._held) - held)

    def rest(self) -> str:
        """What was held back, at the end."""
        return "" if self.is_stopped else self._show(len(self._held))

    def _show(self, end: int) -> str:
        shown, self._held = self._held[:end], self._held[end:]
        return shown
