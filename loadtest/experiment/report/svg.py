"""Matplotlib's drawing as a small SVG that follows the reader's light or dark scheme.

A figure is drawn in placeholder colours, each of which becomes a CSS variable here.  Within the
page the variables are the page's; a drawing that stands alone brings them along, with its own
ground, so that it can be read whatever the page around it looks like.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

LIGHT: Final = {
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#a67c00",
    "s3": "#8b3a8f",
    "s4": "#00805c",
    "s5": "#5f6670",
    "ink": "#1c2126",
    "soft": "#59626c",
    "grid": "#dde2e7",
    "paper": "#ffffff",
}
DARK: Final = {
    "s0": "#5ab4f0",
    "s1": "#ff8a4c",
    "s2": "#f2c94c",
    "s3": "#d79be0",
    "s4": "#3fcf9f",
    "s5": "#b4bcc6",
    "ink": "#e7eaee",
    "soft": "#a3acb7",
    "grid": "#343b44",
    "paper": "#14181d",
}
"""After Okabe and Ito's colours for every kind of colour vision, moved until each has a contrast of
at least 3 to its ground.  Series differ in their markers, too."""

PLACEHOLDERS: Final = {name: f"#c0de{number:02x}" for number, name in enumerate(LIGHT)}
"""What to draw with: no plot would hold such a colour by itself."""

STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": PLACEHOLDERS["ink"],
    "axes.edgecolor": PLACEHOLDERS["soft"],
    "axes.facecolor": "none",
    "axes.labelcolor": PLACEHOLDERS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": PLACEHOLDERS["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": PLACEHOLDERS["soft"],
    "ytick.color": PLACEHOLDERS["soft"],
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    about: str
    """For those who do not see it, and as its caption."""
    width: float
    height: float
    body: str

    def inline(self) -> str:
        """For a page that defines the variables."""
        return self._element(style="", ground="", extra="")

    def alone(self) -> str:
        """A file of its own."""
        style = f"<style>{variables('svg')}</style>"
        ground = (
            f'<rect width="{self.width:g}" height="{self.height:g}" rx="6" fill="var(--paper)"/>'
        )
        size = f' width="{self.width * 1.2:.0f}" height="{self.height * 1.2:.0f}"'
        return self._element(style, ground, ' xmlns="http://www.w3.org/2000/svg"' + size) + "\n"

    def _element(self, style: str, ground: str, extra: str) -> str:
        title, about = f"{self.name}-title", f"{self.name}-about"
        return (
            f'<svg{extra} viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-labelledby="{title}" aria-describedby="{about}">'
            f'<title id="{title}">{escape(self.title)}</title>'
            f'<desc id="{about}">{escape(self.about)}</desc>'
            f"{style}{ground}{self.body}</svg>"
        )


def variables(element: str) -> str:
    """The colours of both schemes as CSS."""

    def block(colours: dict[str, str]) -> str:
        return f"{element}{{{';'.join(f'--{name}:{value}' for name, value in colours.items())}}}"

    return f"{block(LIGHT)}@media (prefers-color-scheme:dark){{{block(DARK)}}}"


def plot(figure: Figure, name: str, title: str, about: str) -> Plot:
    """Call it, and draw the figure, with `STYLE` in force."""
    text = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=empty)
    width, height = (inches * 72 for inches in figure.get_size_inches())
    return Plot(name, title, about, width, height, _smaller(text.getvalue(), name))


def _smaller(drawing: str, name: str) -> str:
    """The inside of matplotlib's SVG without what a reader never sees, its ids made its own."""
    body = drawing[drawing.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = _own_ids(body, name)
    for variable, colour in PLACEHOLDERS.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"\s+", " ", body).replace("> <", "><")
    return re.sub(r"<[^>]+>", _smaller_tag, body)  # what stands between tags is text, and stays


def _smaller_tag(found: re.Match[str]) -> str:
    tag = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", found[0])
    tag = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", tag)
    tag = tag.replace(' transform="rotate(-0', ' transform="rotate(0')
    return tag.replace(' "', '"').replace(": ", ":").replace("; ", ";")


def _own_ids(body: str, name: str) -> str:
    """Several drawings share a page: only ids that something points at stay, with a prefix."""
    wanted = set(re.findall(r"#([A-Za-z_][\w.-]*)", body))

    def own(found: re.Match[str]) -> str:
        return f' id="{name}-{found[1]}"' if found[1] in wanted else ""

    body = re.sub(r' id="([^"]+)"', own, body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body).replace("xlink:href", "href")
