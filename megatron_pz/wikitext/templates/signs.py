"""Signs that templates stand for: dashes, spaces, line breaks and others that are hard to type."""

from __future__ import annotations

from megatron_pz.wikitext.marks import BREAK
from megatron_pz.wikitext.templates.parameters import around, constant, renderers

RENDERERS = renderers(
    ("ndash|en dash|endash|nsndns|–", constant("–")),
    ("mdash|em dash|emdash|—|mdashb", constant("—")),
    (
        "snd|spnd|spaced ndash|snds|spaced en dash|dash|sndash|spaced en dash space|spndash|space ndash|snbdash|"
        "spaced endash|ndashb",
        constant(" – "),
    ),
    ("spaced mdash|smd|snbmdash|spaced em dash", constant(" — ")),
    (
        "nbsp|space|spaces|thinsp|thin space|hair space|hairsp|nnbsp|spc|ensp|emsp|quad|figure space|pad space|0|ws",
        constant(" "),
    ),
    ("·|dot|middot|•|bullet|bull|\\|interpunct|pipe separator", constant(" · ")),
    ("break|br|crlf|crlf2|-br|newline|pb|paragraph|paragraph break", constant(BREAK)),
    ("!|pipe", constant("|")),
    ("=", constant("=")),
    ("'", constant("'")),
    ("'s", constant("'s")),
    ('"|“|double quotes', around("“", "”")),
    ("\"'|' \"", constant("\"'")),
    ("ellipsis|...|…", constant("…")),
    ("pi|π", constant("π")),
    ("asterisk|star", constant("*")),
    ("okina|ʻokina", constant("ʻ")),
    ("hamza", constant("ʼ")),
    ("sharp|♯", constant("♯")),
    ("flat|♭", constant("♭")),
    ("minus|−", constant("−")),
    ("times|×", constant("×")),
    ("plusminus|±|+-", constant("±")),
    ("deg|degree|°", constant("°")),
    ("pound|number sign|#", constant("#")),
)
