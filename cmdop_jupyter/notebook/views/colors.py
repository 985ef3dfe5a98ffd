"""A style in, HTML tags or an escape sequence out. Every colour can be read on light and on dark pages."""

from functools import lru_cache

from .sgr import Color, Style

Rgb = tuple[int, int, int]

# On pages: contrast of at least 3.9 with white and with #111. White is the colour of ordinary text.
PAGE = (
    "#777",
    "#c44",
    "#384",
    "#873",
    "#47b",
    "#b4b",
    "#388",
    "",
    "#777",
    "#e10",
    "#083",
    "#970",
    "#07e",
    "#d0c",
    "#088",
    "",
)
# Where the background is known, what xterm has.
XTERM: tuple[Rgb, ...] = (
    *((0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229)),
    *((127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255), (255, 0, 255), (0, 255, 255)),
    (255, 255, 255),
)
CUBE = (0, 95, 135, 175, 215, 255)
GREY: Rgb = (119, 119, 119)  # behind inverse text of the ordinary colour
DARKEST, LIGHTEST = 0.14, 0.26  # luminance of text on a page whose own is not known


@lru_cache(4096)
def tags(style: Style) -> tuple[str, str]:
    """Return what goes before and behind a text of that style in HTML."""
    names = [name for name, on in (("b", style.bold), ("i", style.italic), ("u", style.underline)) if on]
    css = _css(style)
    if css and not names:
        names = ["span"]
    attribute = f' style="{css}"' if css else ""
    opening = "".join(f"<{name}{'' if at else attribute}>" for at, name in enumerate(names))
    return opening, "".join(f"</{name}>" for name in reversed(names))


@lru_cache(4096)
def escape_sequence(style: Style) -> str:
    """Return the SGR sequence that sets that style on a terminal, "" for the plain one."""
    flags = ((1, style.bold), (2, style.dim), (3, style.italic), (4, style.underline), (7, style.inverse))
    codes = [str(code) for code, on in flags if on]
    for base, color in ((30, style.fg), (40, style.bg)):
        if isinstance(color, tuple):
            codes.append(";".join(map(str, (base + 8, 2, *color))))
        elif color is not None:
            codes.append(f"{base + 8};5;{color}" if color > 15 else str(base + color + (52 if color > 7 else 0)))
    return f"\x1b[{';'.join(codes)}m" if codes else ""


def luminance(rgb: Rgb) -> float:
    """Return the relative luminance, 0 to 1.

    Source: WCAG 2.1, "relative luminance".
    """
    red, green, blue = map(_linear, rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def readable(rgb: Rgb) -> Rgb:
    """Return the colour of that hue that stands out both from white and from black."""
    light = luminance(rgb)
    linear = [_linear(part) for part in rgb]
    if light > LIGHTEST:
        linear = [part * LIGHTEST / light for part in linear]
    elif light < DARKEST:
        linear = [part + (1 - part) * (DARKEST - light) / (1 - light) for part in linear]
    else:
        return rgb
    red, green, blue = (
        round(255 * (12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055)) for part in linear
    )
    return red, green, blue


def _linear(part: int) -> float:
    share = part / 255
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def _css(style: Style) -> str:
    fg, bg = style.fg, style.bg
    parts = []
    if style.inverse:
        fg, bg = bg, GREY if fg is None else fg
    if bg is None:
        if color := _on_page(fg):
            parts.append(f"color:{color}")
    else:
        back = _rgb(bg)
        black = luminance(back) > 0.18
        parts.append(f"background:{_hex(back)};color:{('#000' if black else '#fff') if fg is None else _hex(_rgb(fg))}")
    if style.dim:
        parts.append("opacity:.7")
    return ";".join(parts)


def _on_page(color: Color) -> str:
    if color is None:
        return ""
    if isinstance(color, int) and color < 16:
        return PAGE[color]
    return _hex(readable(_rgb(color)))


def _rgb(color: Color) -> Rgb:
    if isinstance(color, tuple):
        return color
    index = color or 0
    if index < 16:
        return XTERM[index]
    if index > 231:
        grey = 8 + 10 * (index - 232)
        return grey, grey, grey
    index -= 16
    return CUBE[index // 36], CUBE[index // 6 % 6], CUBE[index % 6]


def _hex(rgb: Rgb) -> str:
    long = "".join(f"{part:02x}" for part in rgb)
    return f"#{long[::2]}" if long[::2] == long[1::2] else f"#{long}"
