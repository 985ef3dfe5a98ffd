"""The parameters of an SGR sequence in, the style of what follows out."""

from functools import lru_cache
from typing import NamedTuple

Color = int | tuple[int, int, int] | None  # 0 to 255 of the palette; red, green, blue; the default


class Style(NamedTuple):
    """How a piece of text looks."""

    fg: Color = None
    bg: Color = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    inverse: bool = False


PLAIN = Style()


def number(param: str) -> int:
    """Return a parameter of a control sequence, at most 9999; 0 when it is missing or no number."""
    digits = param.partition(":")[0]
    return min(int(digits[:5]), 9999) if digits.isdecimal() else 0


_FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 21: "underline"}


@lru_cache(4096)
def sgr(style: Style, params: str) -> Style:
    """Return `style` as the parameters of an SGR sequence change it."""
    changes: dict[str, Color] = style._asdict()
    rest = iter(params.split(";"))
    for param in rest:
        code = number(param)
        if code == 0:
            changes = PLAIN._asdict()
        elif param.startswith("4:"):
            changes["underline"] = param != "4:0"
        elif code in _FLAGS:
            changes[_FLAGS[code]] = True
        elif code == 22:
            changes["bold"] = changes["dim"] = False
        elif code in (23, 24, 27):
            changes[_FLAGS[code - 20]] = False
        elif 30 <= code <= 37 or 40 <= code <= 47:
            changes["fg" if code < 40 else "bg"] = code % 10
        elif 90 <= code <= 97 or 100 <= code <= 107:
            changes["fg" if code < 100 else "bg"] = code % 10 + 8
        elif code in (39, 49):
            changes["fg" if code == 39 else "bg"] = None
        elif code in (38, 48, 58):
            parts = param.split(":")[1:]
            if not parts:
                mode = next(rest, "")
                parts = [mode] + [next(rest, "") for _ in range({"5": 1, "2": 3}.get(mode, 0))]
            color = _extended([number(part) for part in parts])
            if color is not None and code != 58:
                changes["fg" if code == 38 else "bg"] = color
    return Style(**changes)  # type: ignore[arg-type]


def _extended(parts: list[int]) -> Color:
    """Return the colour that `5, index` or `2, [space,] red, green, blue` name."""
    if parts[0] == 5 and len(parts) == 2:
        return min(parts[1], 255)
    if parts[0] == 2 and len(parts) >= 4:
        red, green, blue = parts[-3:] if len(parts) == 4 else parts[2:5]
        return min(red, 255), min(green, 255), min(blue, 255)
    return None
