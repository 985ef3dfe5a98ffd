"""Where the picture of a terminal can begin in the middle of its output, and what was switched on before."""

from __future__ import annotations

import re2

LOOK = 16 * 1024  # bytes in which a place to begin is looked for
LONGEST = 64  # bytes of a sequence that may be cut in two

_MODE = re2.compile(rb"\x1b\[\?([0-9;]+)([hl])|\x1b([=>c])|\x1b\[(!)p")
# What programs switch on and off: cursor keys, wrapping, the cursor, the mouse, the other screen, focus, paste.
_KEPT = {1, 7, 9, 25, 45, 47, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1048, 1049, 2004}
_OTHER_SCREEN = (47, 1047, 1049)


class Modes:
    """Bytes of a terminal in, however they are cut; which private modes are set out."""

    def __init__(self) -> None:
        self._set: dict[int, bool] = {}  # in the order they were changed
        self._keypad = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what follows what was fed before."""
        text = self._rest + data
        end = 0
        for found in _MODE.finditer(text):
            end = found.end()
            if found[1]:
                for word in found[1].split(b";"):
                    self._change(int(word or 0), found[2] == b"h")
            elif found[3] in (b"=", b">"):
                self._keypad = found[3] == b"="
            else:  # a reset
                self._set.clear()
                self._keypad = False
        begun = text.rfind(b"\x1b", max(end, len(text) - LONGEST))
        self._rest = text[begun:] if begun >= 0 else b""

    def _change(self, mode: int, on: bool) -> None:
        if mode in _KEPT:
            self._set.pop(mode, None)
            self._set[mode] = on

    @property
    def other_screen(self) -> bool:
        """Whether a full-screen program has the terminal."""
        return any(self._set.get(mode, False) for mode in _OTHER_SCREEN)

    def prefix(self) -> bytes:
        """What brings a fresh terminal into these modes."""
        modes = b"".join(b"\x1b[?%d%c" % (mode, b"h" if on else b"l") for mode, on in self._set.items())
        return modes + (b"\x1b=" if self._keypad else b"")


def beginning(data: bytes) -> int:
    """Where in `data`, cut out of a terminal's output, a picture can begin: behind a line, else at a sequence."""
    newline = data.find(b"\n", 0, LOOK)
    if newline >= 0:
        return newline + 1
    escape = data.find(b"\x1b[", 0, LOOK)
    if escape >= 0:
        return escape
    # No line and no sequence: not in the middle of a character at least.
    return next((at for at in range(min(4, len(data))) if data[at] & 0xC0 != 0x80), 0)
