"""What the common inline templates show in an article's text.

A template that is not listed here is dropped: on Wikipedia the long tail is navigation, citations, infoboxes and
maintenance notices. Parameters arrive already rendered, innermost templates first. Sources: the templates' own
documentation pages on English Wikipedia; names that other wikis share mean the same there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from megatron_pz.wikipedia.localization import LANGUAGE_NAMES
from megatron_pz.wikipedia.marks import BREAK, DROPPED, IN_ONE_LINE, ITEM, MARKS, PARAGRAPH, ROW, SOUND
from megatron_pz.wikipedia.units import quantity

Parameters = Mapping[str, str]
"""Positional parameters under "1", "2", …; named ones under their names. Values are stripped."""
Render = Callable[[Parameters], str]

_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
_RAISABLE = re.compile(r"[0-9+\-−–=()n]*$")
_LOWERABLE = re.compile(r"[0-9+\-−–=()]*$")

MONTHS: Final = "January February March April May June July August September October November December".split()


def superscript(text: str) -> str:
    """``10<sup>6</sup>`` must not become 106: digits and signs are raised, other text is left as it is."""
    return text.translate(_SUPERSCRIPTS) if _RAISABLE.match(text) else text


def subscript(text: str) -> str:
    return text.translate(_SUBSCRIPTS) if _LOWERABLE.match(text) else text


def positional(parameters: Parameters) -> list[str]:
    """The positional parameters up to the first that is missing."""
    values: list[str] = []
    while (value := parameters.get(str(len(values) + 1))) is not None:
        values.append(value)
    return values


def _first(parameters: Parameters) -> str:
    return parameters.get("1", "")


def _second(parameters: Parameters) -> str:
    return parameters.get("2", "")


def _last(parameters: Parameters) -> str:
    return (positional(parameters) or [""])[-1]


def _all(separator: str) -> Render:
    return lambda parameters: separator.join(value for value in positional(parameters) if value)


def _constant(text: str) -> Render:
    return lambda parameters: text


def _around(before: str, after: str = "") -> Render:
    """The first parameter between two fixed strings; nothing where it is empty."""
    return lambda parameters: f"{before}{_first(parameters)}{after}" if _first(parameters) else ""


def _either(*names: str) -> Render:
    """The first of these parameters that is not empty."""
    return lambda parameters: next((parameters[name] for name in names if parameters.get(name)), "")


def _items(parameters: Parameters) -> str:
    return "".join(f"\n{ITEM}{value}" for value in positional(parameters) if value) + "\n"


def _block(*names: str) -> Render:
    choose = _either(*names)
    return lambda parameters: f"{PARAGRAPH}{choose(parameters)}{PARAGRAPH}"


def _language_text(label: str) -> Render:
    return lambda parameters: f"{label}{_first(parameters)}" if _first(parameters) else DROPPED


def _langx(parameters: Parameters) -> str:
    name = LANGUAGE_NAMES.get(_first(parameters).partition("-")[0], "")
    text = parameters.get("2") or parameters.get("text", "")
    label = f"{name}: " if name and parameters.get("label", "yes") != "none" else ""
    return f"{label}{text}" if text else DROPPED


def _nihongo(parameters: Parameters) -> str:
    """``{{nihongo|English|kanji|rōmaji|extra|extra2}}`` -> English (kanji, rōmaji, extra) extra2."""
    english, *inside = (parameters.get(str(number), "") for number in range(1, 4))
    inside.append(parameters.get("4") or parameters.get("extra", ""))
    parenthesis = ", ".join(value for value in inside if value)
    after = parameters.get("5") or parameters.get("extra2", "")
    parts = [english, f"({parenthesis})" if parenthesis and english else parenthesis, after]
    return " ".join(part for part in parts if part)


def _nihongo_rōmaji_first(parameters: Parameters) -> str:
    english, kanji, rōmaji = (parameters.get(str(number), "") for number in range(1, 4))
    return _nihongo({"1": rōmaji, "2": kanji, "3": english})


def _scripts(*labelled: tuple[str, str]) -> Render:
    """Labelled spellings of one word: ``Chinese: 漢語; pinyin: Hànyǔ``."""

    def render(parameters: Parameters) -> str:
        return "; ".join(f"{label}{parameters[name]}" for name, label in labelled if parameters.get(name)) or DROPPED

    return render


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _date(year: str, month: str = "", day: str = "", day_first: bool = False) -> str:
    number = _number(month)
    if number is not None and 1 <= number <= 12:
        month = MONTHS[number - 1]
    day = day.lstrip("0")
    if not month:
        return year
    if not day:
        return f"{month} {year}".strip()
    if not year:
        return f"{day} {month}" if day_first else f"{month} {day}"
    return f"{day} {month} {year}" if day_first else f"{month} {day}, {year}"


def _is_day_first(parameters: Parameters) -> bool:
    return parameters.get("df", "").casefold() in ("y", "yes", "true", "1")


def _year_month_day(parameters: Parameters) -> str:
    year = _first(parameters)
    if year and _number(year) is None:
        return year  # free text: {{start date text|c. 1900}}
    return _date(year, _second(parameters), parameters.get("3", ""), _is_day_first(parameters))


def _as_of(parameters: Parameters) -> str:
    date = _date(_first(parameters), _second(parameters), parameters.get("3", ""), _is_day_first(parameters))
    if alternative := parameters.get("alt"):
        return alternative
    words = "since" if parameters.get("since") else "as of"
    if parameters.get("lc", parameters.get("since lc", "")) == "":
        words = words[0].upper() + words[1:]
    return f"{words} {date}" if date else DROPPED


def _old_style_date(parameters: Parameters) -> str:
    """``{{OldStyleDate|2 February|1905|20 January}}`` -> 2 February [O.S. 20 January] 1905."""
    new, year, old = (parameters.get(str(number), "") for number in range(1, 4))
    return " ".join(part for part in (new, f"[O.S. {old}]" if old else "", year) if part)


def _fraction(parameters: Parameters) -> str:
    values = positional(parameters)
    if len(values) == 1:
        return f"1/{values[0]}"
    if len(values) == 2:
        return f"{values[0]}/{values[1]}"
    return f"{values[0]} {values[1]}/{values[2]}" if values else ""


def _value(parameters: Parameters) -> str:
    """``{{val|6.24|0.01|e=18|u=m}}`` -> 6.24±0.01×10¹⁸ m."""
    text = _first(parameters)
    if uncertainty := _second(parameters):
        text += f"±{uncertainty.lstrip('+')}"
    if exponent := parameters.get("e"):
        text += f"×10{superscript(exponent)}"
    unit = parameters.get("u") or parameters.get("ul") or parameters.get("up") or ""
    return f"{text} {unit}".strip()


def _formula(parameters: Parameters) -> str:
    """``{{chem|H|2|O}}`` -> H₂O. Numbers after an element are counts; a last sign is the charge."""
    pieces: list[str] = []
    for value in positional(parameters):
        charge = value[-1:] in ("+", "-", "−", "–")
        pieces.append(superscript(value) if charge else subscript(value) if pieces else value)
    return "".join(pieces)


def _inline_formula(parameters: Parameters) -> str:
    """``{{chem2|CO3(2-)}}`` in the template's own short notation: digits after a letter or bracket are counts."""
    return re.sub(r"(?<=[A-Za-z)\]])\d+", lambda digits: subscript(digits[0]), _first(parameters))


def _nuclide(parameters: Parameters) -> str:
    return f"{superscript(_second(parameters))}{_first(parameters)}"


def _money(sign: str) -> Render:
    return lambda parameters: f"{sign}{_first(parameters)}"


def _ship(prefix: str) -> Render:
    """``{{USS|Enterprise|CVN-65}}`` -> USS Enterprise (CVN-65); the second parameter may be empty."""

    def render(parameters: Parameters) -> str:
        name = f"{prefix} {_first(parameters)}".strip()
        hull = _second(parameters)
        return f"{name} ({hull})" if hull and parameters.get("3", "") == "" else name

    return render


def _ship_with_prefix(parameters: Parameters) -> str:
    """``{{ship|French ship|Océan|1790}}``: prefix, name, disambiguation."""
    return _ship(_first(parameters))({"1": _second(parameters), "2": parameters.get("3", "")})


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
    label = parameters.get("lt") or parameters.get("display") or _first(parameters)
    if parameters.get("3") and len(label) <= 3 and label.islower():
        return parameters.get("4") or parameters["3"] if label == _first(parameters) else label
    return label


def _transliteration(parameters: Parameters) -> str:
    """Language, optionally a scheme, and the text, which is the last."""
    return _last(parameters)


def _marriage(parameters: Parameters) -> str:
    years = "–".join(value for value in (_second(parameters), parameters.get("3", "")) if value)
    return f"{_first(parameters)} ({years})" if years else _first(parameters)


def _height(parameters: Parameters) -> str:
    order = ("ft", "in", "m", "cm")
    return " ".join(f"{parameters[unit]} {unit}" for unit in order if parameters.get(unit))


def _music(parameters: Parameters) -> str:
    signs = {"sharp": "♯", "flat": "♭", "natural": "♮", "#": "♯", "b": "♭", "doublesharp": "𝄪", "doubleflat": "𝄫"}
    return signs.get(_first(parameters), "")


def _sort_name(parameters: Parameters) -> str:
    return " ".join(value for value in (_first(parameters), _second(parameters)) if value)


def _infobox(parameters: Parameters) -> str:
    """One ``name: value`` a line."""
    rows = ((name, " ".join(value.translate(IN_ONE_LINE).split())) for name, value in parameters.items())
    shown = "".join(f"\n{ROW}{name.replace('_', ' ')}: {value}" for name, value in rows if value)
    return f"{PARAGRAPH}{shown}{PARAGRAPH}"


def _table() -> dict[str, Render]:
    table: dict[str, Render] = {}

    def add(names: str, render: Render) -> None:
        for name in names.split("|"):
            table[name] = render

    add(
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
        _first,
    )
    add(
        "lang|langue|script|wikt-lang|resize|font color|color|colour|fontcolor|background color|audio|rtl-lang|"
        "ordinal to",
        _second,
    )
    add("font|langwithname|native name|native phrase|lang-multi", _last)
    add("transl|transliteration|translit|translation|langr", _transliteration)
    add("langx|lang-x", _langx)
    for code, name in LANGUAGE_NAMES.items():
        add(f"lang-{code}", _language_text(f"{name}: "))
    add("lang-grc-gre|lang-gre", _language_text("Greek: "))
    add("lang-sr-cyr|lang-sr-cyrl|lang-sr-latn|lang-sr-lat", _language_text("Serbian: "))
    add("lang-iw", _language_text("Hebrew: "))

    add("nihongo|nihongo-s|nihongo title", _nihongo)
    add("nihongo2", _first)
    add("nihongo3", _nihongo_rōmaji_first)
    add(
        "zh|zh-full|zh-cn|zh-tw|lang-zh",
        _scripts(
            ("c", "Chinese: "),
            ("s", "simplified Chinese: "),
            ("t", "traditional Chinese: "),
            ("p", "pinyin: "),
            ("w", "Wade–Giles: "),
            ("j", "Jyutping: "),
            ("l", "lit. "),
        ),
    )
    add("zh-c|zh-t|zh-s|zh-p", _first)
    add(
        "korean|ko-hhrm|lang-ko2",
        _scripts(("hangul", "Korean: "), ("hanja", "Hanja: "), ("rr", "RR: "), ("mr", "MR: ")),
    )
    add("literal translation|lit|lit.|literally", _around("lit. ‘", "’"))
    add("gloss", _around("‘", "’"))

    add(
        "ipa|ipac-en|ipac-de|ipac-fr|ipac-pl|ipac-cmn|ipac-yue|ipac-hu|ipac-pt|ipac-ga|respell|respelling|pron|"
        "pron-en|pronunciation|"
        "pronunciation respelling|usdict|enpr|ipalink|ipa link|ipa-all|listen|pronounced|needs-ipa|ipa notice|"
        "pronunciation-needed|h:ipa|ipa2|audio-ipa|ipablink|angle ipa",
        _constant(SOUND),
    )

    add("convert|cvt|convinfobox|conv", quantity)
    add(
        "birth date|birth date and age|death date|death date and age|start date|start date and age|end date|"
        "end date and age|film date|release date|bda|dob|date-mf|birth date and age2|launch date|dsd|start and end "
        "dates",
        _year_month_day,
    )
    add("as of|asof", _as_of)
    add("circa|c.|ca|approx", _around("c. "))
    add("floruit|fl.|fl", _around("fl. "))
    add("reign|r.", lambda parameters: "r. " + _all("–")(parameters))
    add("died in|died", _around("d. "))
    add("born in|born", _around("b. "))
    add("oldstyledate|oldstyledatedy|oldstyledateny|old style date", _old_style_date)
    add("marriage|married", _marriage)

    add("frac|fraction|sfrac|tfrac|mfrac|fract", _fraction)
    add("val|val/sandbox", _value)
    add("e|10^|×10^|esp|x10^", lambda parameters: f"×10{superscript(_first(parameters))}" if _first(parameters) else "")
    add("sup", lambda parameters: superscript(_first(parameters)))
    add("sub", lambda parameters: subscript(_first(parameters)))
    add("pow", lambda parameters: f"{_first(parameters)}{superscript(_second(parameters))}")
    add("gaps", _all(""))
    add("chem|chemical formula", _formula)
    add("chem2|chem/sandbox", _inline_formula)
    add("nuclide|simplenuclide|simplenuclide2|nuclide2|physics particle", _nuclide)
    add("co2|carbon dioxide", _constant("CO₂"))
    add("h2o|water", _constant("H₂O"))
    add("height", _height)
    add("music|audio music", _music)
    add("us$|usd|us dollar|currency|$", _money("US$"))
    signs = (
        "a$=A$ aud=A$ ca$=C$ cad=C$ nz$=NZ$ nzd=NZ$ eur=€ €=€ gbp=£ £=£ jpy=¥ ¥=¥ inr=₹ ₹=₹ cny=CN¥ krw=₩ "
        "won=₩ php=₱ rub=₽ hk$=HK$ peso=₱ euro=€"
    )
    for name, _, sign in (pair.partition("=") for pair in signs.split()):
        add(name, _money(sign))

    add("ill|interlanguage link|interlanguage link multi|link-interwiki|illm", _link)
    add("linktext", _all(""))
    add("sortname|sort name", _sort_name)
    add("sort|hs|sort/", lambda parameters: _second(parameters) or _first(parameters))
    add("uss", _ship("USS"))
    add("hms", _ship("HMS"))
    add("ss", _ship("SS"))
    add("rms", _ship("RMS"))
    add("hmas", _ship("HMAS"))
    add("hmcs", _ship("HMCS"))
    add("usns", _ship("USNS"))
    add("mv", _ship("MV"))
    add("ship", _ship_with_prefix)
    add("harvtxt|harvard citation text", _harvard("text"))
    add("harv|harvard citation", _harvard("parenthesis"))
    add("harvnb|harvard citation no brackets|harvp|harvcol|harvcoltxt|harvcolnb", _harvard("plain"))
    add("bibleverse|bibleref|bibleref2|bibleverse-nb|bible|quran-usc|cite quran|qref", _all(" "))
    add("sic", lambda parameters: _second(parameters) if _first(parameters) in ("hide", "?") else _first(parameters))
    add("key press|keypress|key|kbd key", _all("+"))
    add("angbr|angle bracket|grapheme|angbr ipa", _around("⟨", "⟩"))
    add("bracket|brackets|sqbr", _around("[", "]"))
    add("extinct|dagger|†", _constant("†"))
    add(
        "unbulleted list|ubl|vunblist|unbulleted|ublist|unordered list|bulleted list|ulist|ordered list|olist|"
        "vertical list",
        _items,
    )
    add("hlist|hlist-comma|horizontal list|flatlist inline|comma separated entries|cse", _all(", "))
    add("columns-list|column list|columnslist|div col list|multicol list", _last)

    add(
        "quote|blockquote|cquote|quotation|bquote|quote frame|rquote|centered pull quote|long quote|block quote|"
        "quotation1|epigraph|verse translation|poem quote|poemquote|poem|bq|talkquote|block indent|indented quote",
        _block("1", "text", "quote", "content"),
    )

    add("ndash|en dash|endash|nsndns|–", _constant("–"))
    add("mdash|em dash|emdash|—|mdashb", _constant("—"))
    add(
        "snd|spnd|spaced ndash|snds|spaced en dash|dash|sndash|spaced en dash space|spndash|space ndash|snbdash|"
        "spaced endash|ndashb",
        _constant(" – "),
    )
    add("spaced mdash|smd|snbmdash|spaced em dash", _constant(" — "))
    add(
        "nbsp|space|spaces|thinsp|thin space|hair space|hairsp|nnbsp|spc|ensp|emsp|quad|figure space|pad space|0|ws",
        _constant(" "),
    )
    add("·|dot|middot|•|bullet|bull|\\|interpunct|pipe separator", _constant(" · "))
    add("break|br|crlf|crlf2|-br|newline|pb|paragraph|paragraph break", _constant(BREAK))
    add("!|pipe", _constant("|"))
    add("=", _constant("="))
    add("'", _constant("'"))
    add("'s", _constant("'s"))
    add('"|“|double quotes', _around("“", "”"))
    add("\"'|' \"", _constant("\"'"))
    add("ellipsis|...|…", _constant("…"))
    add("pi|π", _constant("π"))
    add("asterisk|star", _constant("*"))
    add("okina|ʻokina", _constant("ʻ"))
    add("hamza", _constant("ʼ"))
    add("sharp|♯", _constant("♯"))
    add("flat|♭", _constant("♭"))
    add("minus|−", _constant("−"))
    add("times|×", _constant("×"))
    add("plusminus|±|+-", _constant("±"))
    add("deg|degree|°", _constant("°"))
    add("pound|number sign|#", _constant("#"))
    return table


TEMPLATES: Final[Mapping[str, Render]] = _table()
"""Renderers by normalised name (:func:`template_name`)."""

_PARSER_FUNCTIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "formatnum": str.strip,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    "nowrap": str.strip,
}
_ENGLISH = ("en", "simple")
PAGE_TITLE: Final = ("pagename", "fullpagename", "basepagename", "subst:pagename")
_MOST_SHOWN_NAMES = 20_000
_shown_names: dict[tuple[str, bool], str] = {}  # of what shown_name has met
_SOUND_PREFIXES = ("ipa-", "ipac-")


def template_name(text: str) -> str:
    """A template's name as a key of :data:`TEMPLATES`: without the namespace, white space and case normalised."""
    name = " ".join(MARKS.sub("", text).replace("_", " ").split()).casefold()
    return name.removeprefix("template:").lstrip()


def is_shown(name: str) -> bool:
    """Whether a template of this normalised name leaves text; its parameters are not even read otherwise."""
    return name in TEMPLATES or name.partition(":")[0] in _PARSER_FUNCTIONS or name.startswith(_SOUND_PREFIXES)


def shown_name(text: str, keeps_infoboxes: bool) -> str:
    """The normalised name of a template that leaves text; empty for one that leaves none."""
    key = (text, keeps_infoboxes)
    name = _shown_names.get(key)
    if name is None:
        if len(_shown_names) >= _MOST_SHOWN_NAMES:
            _shown_names.clear()
        name = template_name(text)
        shown = is_shown(name) or name in PAGE_TITLE or (keeps_infoboxes and is_infobox(name))
        name = _shown_names[key] = name if shown else ""
    return name


def is_infobox(name: str) -> bool:
    return name.startswith("infobox") or name.endswith(("infobox", "taxobox"))


def render(name: str, first_field: str, parameters: Parameters, language: str = "en") -> str:
    """The text that a template shows, or a mark that something was dropped.

    Args:
        name: Normalised name.
        first_field: The name as written, with a parser function's argument after its colon.
        parameters: What follows the first ``|``.
        language: Of the wiki: the names of languages that ``{{lang-ru|…}}`` puts first are known in English only.
    """
    if name.startswith("lang-") and language not in _ENGLISH:
        return _first(parameters) or DROPPED
    renderer = TEMPLATES.get(name)
    if renderer is not None:
        return renderer(parameters) or DROPPED
    if is_infobox(name):
        return _infobox(parameters)
    function, colon, _ = name.partition(":")
    if colon and function in _PARSER_FUNCTIONS:
        return _PARSER_FUNCTIONS[function](first_field.partition(":")[2].strip())
    return SOUND if name.startswith(_SOUND_PREFIXES) else DROPPED
