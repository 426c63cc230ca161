"""What the wikis of different languages call the same things: file links, trailing sections, disambiguation templates.

Names are casefolded. English is always understood besides a wiki's own language, since MediaWiki itself does so for
namespaces and many wikis import English templates. A language without a row here works with English and with the
namespaces that its dump declares; its trailing sections then stay in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FILE_NAMESPACES = frozenset(
    "file image media bild datei fichier imagen archivo immagine bestand afbeelding plik grafika ficheiro arquivo "
    "imagem "
    "файл изображение зображення fil tiedosto kuva soubor fájl kép 画像 ファイル 文件 图像 圖像 檔案 파일 그림 dosya "
    "resim "
    "tập_tin ملف پرونده קובץ तस्वीर चित्र αρχείο εικόνα berkas fitxer fişier fișier imagine slika датотека слика "
    "файл".split()
)
CATEGORY_NAMESPACES = frozenset(
    "category kategorie catégorie categoría categoria categorie kategoria категория категорія kategori luokka "
    "kategória "
    "カテゴリ 分类 分類 분류 thể_loại تصنيف رده קטגוריה श्रेणी κατηγορία kategorija категорија".split()
)

_TRAILING_SECTIONS = {
    "en": "references|external links|see also|further reading|notes|notes and references|references and notes|sources|"
    "bibliography|footnotes|citations|works cited|external links and references|references and further reading|"
    "notes and citations|literature cited|cited sources|cited references|general references|primary sources|"
    "secondary sources|references and sources|sources and references|explanatory notes|notes and sources|endnotes|"
    "selected bibliography|cited works|related articles|external sources|further information|gallery|image gallery|"
    "additional reading|suggested reading|recommended reading|general sources|footnotes and references|"
    "explanatory footnotes|bibliography and further reading|sources and further reading|references and links",
    "de": "einzelnachweise|weblinks|siehe auch|literatur|quellen|anmerkungen|fußnoten|belege|literatur und quellen|"
    "einzelnachweise und anmerkungen|anmerkungen und einzelnachweise|quellen und literatur|galerie",
    "fr": "références|liens externes|voir aussi|notes et références|bibliographie|notes|annexes|articles connexes|"
    "lien externe|liens internes|sources|sources et références|sur les autres projets wikimedia|galerie",
    "es": "referencias|enlaces externos|véase también|bibliografía|notas|notas y referencias|fuentes|referencias y "
    "notas|"
    "lecturas adicionales|galería",
    "it": "note|collegamenti esterni|voci correlate|bibliografia|altri progetti|fonti|riferimenti|galleria d'immagini",
    "pt": "referências|ligações externas|ver também|bibliografia|notas|notas e referências|fontes|leitura adicional|"
    "galeria",
    "nl": "referenties|externe links|externe link|zie ook|bronnen|literatuur|noten|voetnoten|bronvermelding|"
    "bibliografie",
    "pl": "przypisy|linki zewnętrzne|zobacz też|bibliografia|uwagi|źródła",
    "ru": "примечания|ссылки|см. также|литература|источники|комментарии|библиография|галерея",
    "uk": "примітки|посилання|див. також|література|джерела|виноски|галерея",
    "sv": "referenser|externa länkar|se även|källor|noter|litteratur|fotnoter|vidare läsning",
    "da": "referencer|eksterne henvisninger|se også|kilder|noter|litteratur",
    "no": "referanser|eksterne lenker|se også|kilder|noter|litteratur|fotnoter",
    "fi": "lähteet|aiheesta muualla|katso myös|viitteet|kirjallisuutta",
    "cs": "reference|externí odkazy|související články|literatura|poznámky|odkazy",
    "hu": "források|további információk|jegyzetek|lásd még|külső hivatkozások|irodalom",
    "tr": "kaynakça|dış bağlantılar|ayrıca bakınız|notlar|kaynaklar|konuyla ilgili yayınlar",
    "ja": "脚注|出典|参考文献|関連項目|外部リンク|注釈|参照|関連文献|脚注・出典|注釈・出典",
    "zh": "参考文献|參考文獻|外部链接|外部連結|参见|參見|参看|參看|注释|注釋|参考资料|參考資料|延伸阅读|延伸閱讀|脚注|"
    "腳註|外部連接|"
    "相关条目|相關條目|备注|備註|参考来源|參考來源",
    "ko": "각주|외부 링크|같이 보기|참고 문헌|참고문헌|주석|출처|참고 자료|더 읽어보기",
    "vi": "tham khảo|liên kết ngoài|xem thêm|chú thích|ghi chú|đọc thêm|thư mục",
    "ar": "مراجع|وصلات خارجية|انظر أيضا|انظر أيضًا|المراجع|المصادر|مصادر|هوامش|ملاحظات",
    "fa": "منابع|پیوند به بیرون|جستارهای وابسته|پانویس|یادداشت‌ها",
    "he": "הערות שוליים|קישורים חיצוניים|ראו גם|לקריאה נוספת",
    "id": "referensi|pranala luar|lihat pula|lihat juga|catatan kaki|catatan|daftar pustaka|bacaan lanjutan",
    "ca": "referències|enllaços externs|vegeu també|bibliografia|notes|notes i referències",
    "ro": "note|legături externe|vezi și|bibliografie|referințe|lectură suplimentară",
    "el": "παραπομπές|εξωτερικοί σύνδεσμοι|δείτε επίσης|πηγές|βιβλιογραφία|σημειώσεις",
    "simple": "other websites|related pages|references|more reading|other readings|sources|notes",
}

_DISAMBIGUATION_TEMPLATES = {
    "en": r"disambig(?:uation)?(?:[ _-][^|{}]*)?|dab|disamb|hndis|hndab|geodis|numberdis|schooldis|roaddis|mathdab|"
    r"airport disambig|biology disambig|call sign disambig|chinese title disambig|hospital disambig|"
    r"letter-number combination disambig|mil-unit-dis|molecular formula disambig|music disambig|opus disambig|"
    r"phonetics disambig|place name disambiguation|portal disambig|school disambig|species latin name disambig|"
    r"station disambig|synagogue disambig|taxonomic authority disambig|taxonomy disambig|wp disambig|human name "
    r"disambig",
    "de": "begriffsklärung",
    "fr": "homonymie|homonymes?|patronymie|toponymie|paronymie|bandeau homonymie",
    "es": "desambig(?:uación)?|des",
    "it": "disambigua|nd omonimia",
    "pt": "desambig(?:uação)?",
    "nl": "dp|dpintro",
    "pl": "ujednoznacznienie|disambig",
    "ru": "неоднозначность|многозначность|disambig",
    "uk": "неоднозначність|багатозначність|disambig",
    "sv": "förgrening|gren|grensida|förgreningssida",
    "da": "flertydig",
    "no": "peker|pekerside|etternavn",
    "fi": "täsmennyssivu",
    "cs": "rozcestník",
    "hu": "egyért(?:-[^|{}]*)?",
    "tr": "anlam ayrımı",
    "ja": "aimai|曖昧さ回避|人名の曖昧さ回避|地名の曖昧さ回避",
    "zh": "disambig|消歧义|消歧義|地名消歧义|人名消歧义",
    "ko": "동음이의(?:어)?(?: 문서)?|동명이인",
    "vi": "định hướng|trang định hướng",
    "ar": "توضيح",
    "he": "פירושונים",
    "id": "disambig",
    "ca": "desambiguació|biografies",
    "ro": "dezambiguizare",
    "el": "αποσαφήνιση",
}

_DISAMBIGUATION_TITLES = re.compile(
    r"\((?:disambiguation|begriffsklärung|homonymie|desambiguación|disambigua|desambiguação|doorverwijspagina|"
    r"ujednoznacznienie|значения|значення|olika betydelser|曖昧さ回避|消歧义|消歧義|동음이의|định hướng|توضيح|"
    r"disambiguasi)\)$",
    re.IGNORECASE,
)
_LIST_TITLES = re.compile(
    r"^(?:lists? of |liste? (?:der |des |de |d’|d')|anexo:|lista (?:de |dei |di |delle )|lijst van |lista[ :]|список |"
    r"lista över |"
    r".*の?一覧$|.*列表$|.*목록$|danh sách )",
    re.IGNORECASE,
)

INTERLANGUAGE_PREFIX = re.compile(
    r"(?:[a-z]{2,3}|simple|tokipona|be-x-old|be-tarask|zh-[a-z-]+|nds-nl|roa-[a-z]+|map-bms|bat-smg|fiu-vro|cbk-zam)$"
)
"""Prefix of a link to the same article in another language, which shows nothing in the text."""


def trailing_sections(language: str) -> frozenset[str]:
    """Casefolded headings of the sections that hold no prose: references, links, literature."""
    names = f"{_TRAILING_SECTIONS['en']}|{_TRAILING_SECTIONS.get(language, '')}"
    return frozenset(name for name in names.split("|") if name)


def disambiguation_template(language: str) -> re.Pattern[str]:
    """Matches a template in the wikitext that marks a disambiguation page."""
    names = _DISAMBIGUATION_TEMPLATES["en"]
    if own := _DISAMBIGUATION_TEMPLATES.get(language, ""):
        names = f"{names}|{own}"
    return re.compile(rf"\{{\{{\s*(?:{names})\s*(?:\||\}}\}})", re.IGNORECASE)


def is_disambiguation_title(title: str) -> bool:
    return bool(_DISAMBIGUATION_TITLES.search(title))


def is_list_title(title: str) -> bool:
    """Whether the title names a list of things ("List of …" in the languages known here)."""
    return bool(_LIST_TITLES.match(title))


@dataclass(frozen=True)
class Wiki:
    """Names that one wiki uses, from its dump's siteinfo and the tables above."""

    language: str = "en"
    file_namespaces: frozenset[str] = FILE_NAMESPACES
    category_namespaces: frozenset[str] = CATEGORY_NAMESPACES
    trailing_sections: frozenset[str] = field(default_factory=lambda: trailing_sections("en"))


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
mr=Marathi ms=Malay mt=Maltese my=Burmese ne=Nepali nl=Dutch nn=Norwegian_Nynorsk no=Norwegian nb=Norwegian
nv=Navajo oc=Occitan pa=Punjabi pl=Polish ps=Pashto pt=Portuguese qu=Quechua rm=Romansh ro=Romanian ru=Russian
rus=Russian sa=Sanskrit sc=Sardinian scn=Sicilian sco=Scots sh=Serbo-Croatian si=Sinhala sk=Slovak sl=Slovene sm=Samoan
sq=Albanian aln=Gheg_Albanian sr=Serbian sv=Swedish sw=Swahili ta=Tamil te=Telugu tg=Tajik th=Thai tk=Turkmen
tl=Tagalog tr=Turkish tt=Tatar uk=Ukrainian ur=Urdu uz=Uzbek vi=Vietnamese yi=Yiddish yo=Yoruba zh=Chinese zu=Zulu
""".split()
    for pair in [pair.replace("_", " ")]
)
"""English names of languages by code: what {{lang-ru|…}} shows before its text on English Wikipedia."""
