"""Words: styled text, which is most of them, names of people and ships, links, citations, lists and quotations."""

from __future__ import annotations

from megatron_pz.wikitext.marks import DROPPED, ITEM, PARAGRAPH
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    around,
    constant,
    either,
    everything,
    first,
    last,
    positional,
    renderers,
    second,
)


def _items(parameters: Parameters) -> str:
    return "".join(f"\n{ITEM}{value}" for value in positional(parameters) if value) + "\n"


def _block(*names: str) -> Render:
    choose = either(*names)
    return lambda parameters: f"{PARAGRAPH}{choose(parameters)}{PARAGRAPH}"


def _ship(prefix: str) -> Render:
    """``{{USS|Enterprise|CVN-65}}`` -> USS Enterprise (CVN-65); the second parameter may be empty."""

    def render(parameters: Parameters) -> str:
        name = f"{prefix} {first(parameters)}".strip()
        hull = second(parameters)
        return f"{name} ({hull})" if hull and parameters.get("3", "") == "" else name

    return render


def _ship_with_prefix(parameters: Parameters) -> str:
    """``{{ship|French ship|Océan|1790}}``: prefix, name, disambiguation."""
    return _ship(first(parameters))({"1": second(parameters), "2": parameters.get("3", "")})


def _harvard(style: str) -> Render:
    """Author-year citations inside a sentence: harvtxt Smith (2005), harv (Smith 2005), harvnb Smith 2005."""

    def render(parameters: Parameters) -> str:
        values = [value for value in positional(parameters) if value]
        if not values:
            return DROPPED
        *authors, year = values if len(values) > 1 else [values[0], ""]
        names = authors[0] if len(authors) == 1 else f"{', '.join(authors[:-1])} & {authors[-1]}"
        if style == "text":
            return f"{names} ({year})" if year else names
        plain = f"{names} {year}".strip()
        return f"({plain})" if style == "parenthesis" else plain

    return render


def _link(parameters: Parameters) -> str:
    """``{{ill|title|language|title there|lt=label}}``; old uses put the language first."""
    label = parameters.get("lt") or parameters.get("display") or first(parameters)
    if parameters.get("3") and len(label) <= 3 and label.islower():
        return parameters.get("4") or parameters["3"] if label == first(parameters) else label
    return label


def _sort_name(parameters: Parameters) -> str:
    return " ".join(value for value in (first(parameters), second(parameters)) if value)


RENDERERS = renderers(
    (
        "nowrap|nobr|nobreak|no wrap|j|nwr|small|smaller|big|bigger|larger|large|huge|midsize|sc|sc2|smallcaps|small "
        "caps|"
        "caps|allcaps|smallcaps all|em|strong|bold|italic|italics|italics correction|mono|monospace|kbd|samp|tt|var|"
        "mvar|"
        "math|bigmath|nobold|noitalic|no italic|no bold|normal|abbr|abbrv|define|tooltip|h:title|visible anchor|"
        "vanchor|"
        "not a typo|typo|as written|proper name|avoid wrap|section link|unicode|iast|hebrew|polytonic|"
        "pie|script/hebrew|script/arabic|nastaliq|nq|nihongo krt|nihongo foot|aut|author|xt|!xt|mxt|code|center|"
        "centre|left|right|align|underline|overline|strike|delete|plainlist|plain list|flatlist|flat list|"
        "startflatlist|"
        "cslist|longitem|nonwrap|flag|flagcountry|flagu|flagg|flag country|flagathlete|native name text|hidden|"
        "rtl-para|okay|title|visible|keep|inline block|inline-block|nobreak begin|pad|hanging indent|"
        "formatnum|num|nts|number table sorting|val/delimitnum|railgauge|rail gauge|track gauge|gauge|"
        "date|dts|dtsh|date table sorting|film date text|ce|linktext1|su|wbr|ruby|ruby-ja|dfn|term|word|w|snamei|au|"
        "sans-serif|serif|script/nastaliq|script/cuneiform|cuneiform|script/runic|runic|coptic|gothic|script/coptic|"
        "musical instruments|sigfig|rounddown|uc|lc|ucfirst|lcfirst|titlecase|birth year and age|death year and age|"
        "birth-date|birth-date and age|death-date|death-date and age|start-date|end-date|birth based on age as of date",
        first,
    ),
    ("ill|interlanguage link|interlanguage link multi|link-interwiki|illm", _link),
    ("linktext", everything("")),
    ("sortname|sort name", _sort_name),
    ("sort|hs|sort/", lambda parameters: second(parameters) or first(parameters)),
    ("uss", _ship("USS")),
    ("hms", _ship("HMS")),
    ("ss", _ship("SS")),
    ("rms", _ship("RMS")),
    ("hmas", _ship("HMAS")),
    ("hmcs", _ship("HMCS")),
    ("usns", _ship("USNS")),
    ("mv", _ship("MV")),
    ("ship", _ship_with_prefix),
    ("harvtxt|harvard citation text", _harvard("text")),
    ("harv|harvard citation", _harvard("parenthesis")),
    ("harvnb|harvard citation no brackets|harvp|harvcol|harvcoltxt|harvcolnb", _harvard("plain")),
    ("bibleverse|bibleref|bibleref2|bibleverse-nb|bible|quran-usc|cite quran|qref", everything(" ")),
    ("sic", lambda parameters: second(parameters) if first(parameters) in ("hide", "?") else first(parameters)),
    ("key press|keypress|key|kbd key", everything("+")),
    ("angbr|angle bracket|grapheme|angbr ipa", around("⟨", "⟩")),
    ("bracket|brackets|sqbr", around("[", "]")),
    ("extinct|dagger|†", constant("†")),
    (
        "unbulleted list|ubl|vunblist|unbulleted|ublist|unordered list|bulleted list|ulist|ordered list|olist|"
        "vertical list",
        _items,
    ),
    ("hlist|hlist-comma|horizontal list|flatlist inline|comma separated entries|cse", everything(", ")),
    ("columns-list|column list|columnslist|div col list|multicol list", last),
    (
        "quote|blockquote|cquote|quotation|bquote|quote frame|rquote|centered pull quote|long quote|block quote|"
        "quotation1|epigraph|verse translation|poem quote|poemquote|poem|bq|talkquote|block indent|indented quote",
        _block("1", "text", "quote", "content"),
    ),
)
