"""Localized names on the wikis of different languages: file links, closing sections, disambiguation templates.

The names are data (:mod:`megatron_pz.wikitext.wiki_names`). English names apply besides those of the wiki's own
language, because MediaWiki accepts them for namespaces and many wikis import English templates.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from megatron_pz.wikitext import wiki_names

if TYPE_CHECKING:
    from megatron_pz.wikitext.templates.from_dump import DumpTemplates

FILE, TEMPLATE, CATEGORY = 6, 10, 14
"""Numbers of namespaces."""
_TABLES: Final = {FILE: "file", TEMPLATE: "template", CATEGORY: "category"}
_CANONICAL: Final = {
    "media": -2, "special": -1, "talk": 1, "user": 2, "user_talk": 3, "project": 4, "project_talk": 5, "wikipedia": 4,
    "wikipedia_talk": 5, "file_talk": 7,
    "mediawiki": 8, "mediawiki_talk": 9, "template_talk": 11, "help": 12, "help_talk": 13, "category_talk": 15,
}  # fmt: skip
"""English names of the other namespaces that every wiki has."""
_ANOTHER: Final = 1000
"""Stands for the numbers of the namespaces that only some wikis have, or whose names the tables do not tell apart."""
_REDIRECT = re.compile(r"\s*+[#＃]\s*+([^\[\]:\n]{1,40}?)\s*+:?+\s*+\[\[")
_TEMPLATE_CALL = re.compile(r"\{\{\s*+([^|{}\[\]<>\n]{1,100})(?=\||\}\}|\n)")


@functools.cache
def trailing_sections(language: str) -> frozenset[str]:
    """Return the casefolded headings of the sections that close an article: references, links, literature."""
    return frozenset(name.casefold() for name in wiki_names.names("closing_sections", language))


def is_disambiguation_title(title: str) -> bool:
    """Return whether the title ends in "(disambiguation)", in any language."""
    return title.endswith(")") and wiki_names.folded(title.rpartition("(")[2][:-1]) in _disambiguation_titles()


@functools.cache
def _disambiguation_titles() -> frozenset[str]:
    return frozenset(map(wiki_names.folded, wiki_names.names_of_all("disambiguation_titles")))


def is_list_title(title: str) -> bool:
    """Return whether the title names a list of things ("List of …" in the languages known here)."""
    return bool(_list_titles().match(title))


@functools.cache
def _list_titles() -> re.Pattern[str]:
    patterns = (re.escape(row).replace(r"\*", ".*") for row in wiki_names.names_of_all("list_titles"))
    return re.compile(f"(?:{'|'.join(patterns)})$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Wiki:
    """Names that one wiki uses. Missing names come from the tables for its language."""

    language: str = "en"
    """Code in the wiki's address, e.g. ``simple`` or ``zh-yue``."""
    file_namespaces: frozenset[str] = frozenset()
    category_namespaces: frozenset[str] = frozenset()
    trailing_sections: frozenset[str] = frozenset()
    interlanguage_prefixes: frozenset[str] = frozenset()
    """Prefixes that may stand before the colon of a link to this article in another language, which shows nothing."""
    templates: DumpTemplates | None = None
    """The dump's own templates, which explain what no table knows."""

    def __post_init__(self) -> None:
        """Fill in the missing names."""
        prefixes = wiki_names.interlanguage_prefixes() - {wiki_names.wiki_code(self.language)}
        for name, value in (
            ("file_namespaces", namespace_names(FILE, self.language)),
            ("category_namespaces", namespace_names(CATEGORY, self.language)),
            ("trailing_sections", trailing_sections(self.language)),
            ("interlanguage_prefixes", prefixes),
        ):
            if not getattr(self, name):
                object.__setattr__(self, name, value)


def namespace_names(number: int, language: str, declared: Mapping[int, str] | None = None) -> frozenset[str]:
    """Return the folded names of the namespace of files, templates or categories.

    Args:
        number: Number of the namespace.
        language: Language of the wiki.
        declared: Names that its dump declares, by number.
    """
    own = (declared or {}).get(number, "")
    known = wiki_names.folded_names(_TABLES[number], language)
    return known | {wiki_names.folded(own)} if own else known


class Namespaces:
    """Determines a title's namespace, for dumps that do not state it.

    Args:
        language: Language of the wiki.
        declared: Names that its dump declares, by number.
    """

    def __init__(self, language: str, declared: Mapping[int, str]) -> None:
        self._numbers = dict.fromkeys(wiki_names.folded_names("other_namespaces", language), _ANOTHER) | _CANONICAL
        for number in _TABLES:
            self._numbers |= dict.fromkeys(namespace_names(number, language), number)
        self._numbers |= {wiki_names.folded(name): number for number, name in declared.items() if name}

    def number_of(self, title: str) -> int:
        """Return the number of the namespace that a title's prefix names, or 0, that of articles."""
        prefix, colon, _ = title.partition(":")
        return self._numbers.get(wiki_names.folded(prefix), 0) if colon else 0


def is_redirect(text: str, language: str) -> bool:
    """Return whether a page's wikitext makes it a redirect, in English or in the wiki's language."""
    begins = _REDIRECT.match(text)
    if begins is None:
        return False
    return wiki_names.folded(begins[1]) in wiki_names.folded_names("redirect", language)


def redirect_target(text: str) -> str:
    """Return the title to which a redirect's first link leads, empty if it has none."""
    return text.partition("[[")[2].partition("]]")[0].partition("|")[0].partition("#")[0].strip()


class DisambiguationTemplates:
    """The templates that make a page a disambiguation.

    Args:
        language: Language of the wiki.
        learned: Folded names that the dump's own templates add.
    """

    def __init__(self, language: str, learned: Iterable[str] = ()) -> None:
        rows = wiki_names.folded_names("disambiguation_templates", language)
        self._endings = tuple(row[1:] for row in rows if row.startswith("*"))
        self._beginnings = tuple(row[:-1] for row in rows if row.endswith("*"))
        self._names = rows | frozenset(map(wiki_names.folded, learned))
        self._others = wiki_names.folded_names("not_disambiguation_templates", language)
        self._prefixes = tuple(f"{name}:" for name in namespace_names(TEMPLATE, language))
        self._decide = functools.lru_cache(maxsize=1 << 16)(self._is_one)  # most calls of a dump repeat a few names

    def __contains__(self, name: str) -> bool:
        return self._decide(name)

    def _is_one(self, name: str) -> bool:
        name = wiki_names.folded(name)
        for prefix in self._prefixes:
            name = name.removeprefix(prefix).removeprefix("_")
        has_form = name.endswith(self._endings) or name.startswith(self._beginnings)
        return name in self._names or (has_form and name not in self._others)

    def are_in(self, text: str) -> bool:
        """Return whether the wikitext calls one of these templates."""
        return any(map(self._decide, _TEMPLATE_CALL.findall(text)))


def has_disambiguation_word(text: str, language: str) -> bool:
    """Return whether a page's wikitext marks a disambiguation by a magic word (``__DISAMBIG__``)."""
    return any(f"__{word}__" in text for word in wiki_names.names("disambiguation_words", language))


LANGUAGE_NAMES = dict(
    pair.split("=")
    for pair in """
af=Afrikaans am=Amharic ang=Old_English ar=Arabic arc=Aramaic az=Azerbaijani be=Belarusian ber=Berber bg=Bulgarian
bn=Bengali bo=Tibetan br=Breton bs=Bosnian ca=Catalan cs=Czech cu=Church_Slavonic cy=Welsh da=Danish de=German
el=Greek en=English eo=Esperanto es=Spanish et=Estonian eu=Basque fa=Persian fi=Finnish fil=Filipino fo=Faroese
fr=French fro=Old_French fy=West_Frisian ga=Irish gd=Scottish_Gaelic gl=Galician goh=Old_High_German grc=Ancient_Greek
gu=Gujarati haw=Hawaiian he=Hebrew hi=Hindi hr=Croatian ht=Haitian_Creole hu=Hungarian hy=Armenian id=Indonesian
ig=Igbo is=Icelandic it=Italian ja=Japanese jv=Javanese ka=Georgian kk=Kazakh km=Khmer kn=Kannada ko=Korean ku=Kurdish
ky=Kyrgyz la=Latin lb=Luxembourgish lo=Lao lt=Lithuanian lv=Latvian mi=Māori mk=Macedonian ml=Malayalam mn=Mongolian
mr=Marathi ms=Malay mt=Maltese my=Burmese ne=Nepali nl=Dutch nn=Norwegian_Nynorsk no=Norwegian nb=Norwegian nv=Navajo
oc=Occitan pa=Punjabi pl=Polish ps=Pashto pt=Portuguese qu=Quechua rm=Romansh ro=Romanian ru=Russian rus=Russian
sa=Sanskrit sc=Sardinian scn=Sicilian sco=Scots sh=Serbo-Croatian si=Sinhala sk=Slovak sl=Slovene sm=Samoan
sq=Albanian aln=Gheg_Albanian sr=Serbian sv=Swedish sw=Swahili ta=Tamil te=Telugu tg=Tajik th=Thai tk=Turkmen
tl=Tagalog kw=Cornish gv=Manx hsb=Upper_Sorbian dsb=Lower_Sorbian csb=Kashubian ota=Ottoman_Turkish sux=Sumerian
akk=Akkadian cop=Coptic egy=Egyptian non=Old_Norse gmh=Middle_High_German nds=Low_German li=Limburgish wa=Walloon
frp=Franco-Provençal lij=Ligurian lmo=Lombard pms=Piedmontese nap=Neapolitan vec=Venetian fur=Friulian
lad=Judaeo-Spanish ast=Asturian an=Aragonese rom=Romani crh=Crimean_Tatar ba=Bashkir cv=Chuvash ce=Chechen os=Ossetian
ab=Abkhaz ug=Uyghur or=Odia as=Assamese sd=Sindhi pi=Pali ceb=Cebuano su=Sundanese fj=Fijian to=Tongan ty=Tahitian
xh=Xhosa st=Sotho tn=Tswana sn=Shona rw=Kinyarwanda so=Somali om=Oromo ti=Tigrinya ha=Hausa wo=Wolof ln=Lingala
mg=Malagasy ay=Aymara gn=Guarani nah=Nahuatl iu=Inuktitut kl=Greenlandic chr=Cherokee se=Northern_Sámi yue=Cantonese
got=Gothic tr=Turkish tt=Tatar uk=Ukrainian ur=Urdu uz=Uzbek vi=Vietnamese yi=Yiddish yo=Yoruba zh=Chinese zu=Zulu
ksh=Kölsch gez=Geʽez rue=Rusyn bar=Bavarian gsw=Swiss_German hak=Hakka lzh=Literary_Chinese sgs=Samogitian szl=Silesian
ltg=Latgalian vro=Võro krl=Karelian smn=Inari_Sámi sms=Skolt_Sámi sma=Southern_Sámi udm=Udmurt kv=Komi myv=Erzya
mdf=Moksha xal=Kalmyk tyv=Tuvan sah=Yakut av=Avar lez=Lezgian kbd=Kabardian ady=Adyghe inh=Ingush krc=Karachay-Balkar
gag=Gagauz lzz=Laz xmf=Mingrelian ckb=Central_Kurdish kmr=Northern_Kurdish syc=Classical_Syriac syr=Syriac bal=Balochi
bho=Bhojpuri mai=Maithili kok=Konkani doi=Dogri ks=Kashmiri sat=Santali tcy=Tulu dz=Dzongkha shn=Shan mnw=Mon
ilo=Ilocano war=Waray hil=Hiligaynon bcl=Central_Bikol pam=Kapampangan ace=Acehnese ban=Balinese min=Minangkabau
mad=Madurese arn=Mapuche pap=Papiamento pdc=Pennsylvania_Dutch stq=Saterland_Frisian frr=North_Frisian osx=Old_Saxon
dum=Middle_Dutch enm=Middle_English ofs=Old_Frisian frm=Middle_French pro=Old_Occitan sga=Old_Irish peo=Old_Persian
pal=Middle_Persian ae=Avestan xcl=Classical_Armenian hyw=Western_Armenian phn=Phoenician uga=Ugaritic hit=Hittite
arz=Egyptian_Arabic ary=Moroccan_Arabic otk=Old_Turkic chg=Chagatai orv=Old_East_Slavic vep=Veps tpi=Tok_Pisin
bi=Bislama mh=Marshallese ch=Chamorro lld=Ladin sdc=Sassarese rup=Aromanian wen=Sorbian zza=Zaza kab=Kabyle
zgh=Standard_Moroccan_Tamazight tet=Tetum bug=Buginese naq=Khoekhoe nso=Northern_Sotho ve=Venda ts=Tsonga ss=Swazi
nr=Southern_Ndebele nd=Northern_Ndebele lg=Luganda ny=Chewa ki=Kikuyu luo=Luo ak=Akan tw=Twi ee=Ewe ff=Fula bm=Bambara
dyu=Dyula kr=Kanuri kg=Kongo
""".split()
    for pair in [pair.replace("_", " ")]
)
"""English names of languages by code: what {{lang-ru|…}} shows before its text on English Wikipedia."""
