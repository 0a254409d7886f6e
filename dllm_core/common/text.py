"""Text that others wrote, made safe to show in a terminal, a table, an error or a page."""

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories: controls, direction marks, unassigned …
KEPT = "\n\t\u200c\u200d\ufe0f"  # also line ends, and the joiners within emoji and within words of Persian or Hindi


def safe(text: str, limit: int = 2000) -> str:
    """`text` with every control character, terminal escape and direction mark as its code point, ⟨U+001B⟩.

    Words of every script and emoji stay as they are. A text of more than `limit` characters loses its middle.
    """
    text = _shortened(text, limit)
    return text if text.isprintable() else _shortened("".join(map(_sign, text)), limit)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head, tail = limit // 2, limit // 8
    return f"{text[:head]}…{len(text) - head - tail:,} more…{text[-tail:]}"


def _sign(sign: str) -> str:
    hidden = unicodedata.category(sign) in HIDDEN and sign not in KEPT
    return f"⟨U+{ord(sign):04X}⟩" if hidden else sign
