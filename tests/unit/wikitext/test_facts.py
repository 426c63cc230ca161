"""Numbers, units, dates, names and formulas: each text by hand from the templates' documentation pages."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki


def text_of(wikitext: str, language: str = "en") -> str:
    return "\n\n".join(wikitext_to_paragraphs(wikitext, "Title", Wiki(language=language)))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("100|kN|lbf", "100 kilonewtons"),
        ("100|kn|km/h", "100 knots"),
        ("100|Nm|lbft", "100 newton-metres"),
        ("100|nm", "100 nanometres"),
        ("100|nmi", "100 nautical miles"),
        ("5|ST|t", "5 short tons"),
        ("5|st|kg", "5 stone"),
        ("5|LT", "5 long tons"),
        ("5|ML|cuft", "5 megalitres"),
        ("5|mL", "5 millilitres"),
        ("3|MW", "3 megawatts"),
        ("3|mW", "3 milliwatts"),
        ("10|Mbit/s", "10 megabits per second"),
        ("100|PS|kW", "100 metric horsepower"),
        ("5|Pa", "5 pascals"),
        ("5|kPa|psi", "5 kilopascals"),
        ("3|GHz", "3 gigahertz"),
        ("5|μm", "5 micrometres"),
        ("3|,|4|,|and|5|mi", "3, 4, and 5 miles"),
        ("3|-|4|mi", "3–4 miles"),
        ("3|by|4|by|5|ft", "3 by 4 by 5 feet"),
        ("3|x|4|ft|abbr=on", "3 × 4 ft"),
        ("5|±|2|km", "5 ± 2 kilometres"),
        ("5|+/-|2|km", "5 ± 2 kilometres"),
        ("10-15|km", "10–15 kilometres"),
        ("2.5|km2|adj=on", "2.5-square-kilometre"),
        ("5|to|10|mi|adj=on", "5-to-10-mile"),
        ("100|km/h|mph|adj=on", "100-kilometre-per-hour"),
        ("10|ft|m|adj=mid|-long", "10-foot-long"),
        ("5|ft|6|in|adj=on", "5-foot-6-inch"),
        ("6|ft|2|in|cm", "6 feet 2 inches"),
        ("5|km|order=flip", "5 kilometres"),
        ("1+1/2|in", "1 1/2 inches"),
        ("1/2|mi|km", "1/2 mile"),
        ("5{{frac|1|2}}|in", "5 1/2 inches"),
        ("1|mi|km", "1 mile"),
        ("1300|m|sp=us", "1,300 meters"),
        ("1300|m|comma=off", "1300 metres"),
        ("2|e6m3", "2 million cubic metres"),
        ("160|Tcuft", "160 trillion cubic feet"),
        ("500|PD/sqmi", "500 inhabitants per square mile"),
        ("5|sqmi|km2|abbr=on", "5 sq mi"),
        ("640|acre|ha", "640 acres"),
        ("-5|C|F", "-5 °C"),
        ("9.8|m/s2", "9.8 metres per second squared"),
        ("200|N·m|lbf·ft", "200 newton-metres"),
        ("4|Gyr", "4 billion years"),
        ("15|ktTNT|TJ", "15 kilotons of TNT"),
    ],
)
def test_quantities(arguments: str, shown: str) -> None:
    assert text_of(f"It is {{{{convert|{arguments}}}}} here.") == f"It is {shown} here."


@pytest.mark.parametrize(
    "template",
    [
        "convert|5|foo", "convert|5|KG", "convert|abc|km", "convert|5|km|disp=out", "convert|5|km|disp=number",
        "convert|5|km|unheard=of", "convert|5|km|adj=pre|round", "convert", "currency|100", "currency|100|XYZ",
        "val|abc", "val|5|q=7", "val|1|2|3|4", "chem2|\\x{1}", "age|1920|3|4", "coord|1|2|3",
        "start date|2008|11|29|12|30",
        "dts|2008|Brumaire|3", "birth date|1879|13|14", "USS|Enterprise|CVN-65|7", "frac", "frac|1|2|3|4",
        "music|trill", "dagger|x", "as of|soon", "circa|1|2|3", "height|ft=5|unheard=of", "lang|fr", "nowrap|",
    ],
)  # fmt: skip
def test_arguments_that_are_not_understood_cost_their_sentence(template: str) -> None:
    dropped: dict[str, int] = {}
    source = f"One stays. It is {{{{{template}}}}} long. Two stays."
    assert wikitext_to_paragraphs(source, dropped=dropped) == ["One stays. Two stays."]
    assert dropped == {"unread_arguments": 1}


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("5{{frac|1|2}}", "5 1/2"),
        ("5{{1/2}}", "5 1/2"),
        ("{{sfrac|3''n'' + 1|2}}", "(3n + 1)/2"),
        ("2<sup>1/2</sup>", "2^(1/2)"),
        ("10<sup>12 </sup>kg", "10¹² kg"),
        ("3<sup>k</sup>", "3^k"),
        ("e<sup>iπ</sup>", "e^(iπ)"),
        ("2<sup>n+1</sup>", "2ⁿ⁺¹"),
        ("10<sup>6.5</sup>", "10^(6.5)"),
        ("f<sup>(k)</sup>", "f^(k)"),
        ("A<sup>T</sup>", "A^T"),
        ("1<sup>st</sup>, 19<sup>th</sup>", "1st, 19th"),
        ("M<sup>me</sup>, XIX<sup>e</sup>, n<sup>o</sup>", "Mme, XIXe, no"),
        ("05<sup>h</sup> 35<sup>m</sup> 17<sup>s</sup>", "05h 35m 17s"),
        ("H<sub>2</sub>O, T<sub>max</sub>, x<sub>i</sub>", "H₂O, T_max, x_i"),
        ("Ca<sup>2+</sup>, <sup>14</sup>C", "Ca²⁺, ¹⁴C"),
        ("2{{sup|1/2}}", "2^(1/2)"),
        ("{{circa|965|1040}}", "c. 965 – c. 1040"),
        ("{{circa}} 2nd century", "c. 2nd century"),
        ("{{c.|1900}}", "c. 1900"),
        ("{{fl.|1200|1230}}", "fl. 1200–1230"),
        ("{{floruit|1200}}", "fl. 1200"),
        ("{{reign|1558|1603}}", "r. 1558–1603"),
        ("{{born|1950}}", "b. 1950"),
        ("{{died|1950}}", "d. 1950"),
        ("{{dts|2008|November|29}}", "November 29, 2008"),
        ("{{dts|2008-11-29|format=dmy}}", "29 November 2008"),
        ("{{dts|29 November 2008}}", "29 November 2008"),
        ("{{dts|-44|3|15}}", "March 15, 44 BC"),
        ("{{date|2008-11-29|mdy}}", "November 29, 2008"),
        ("{{birth date|df=yes|1879|3|14}}", "14 March 1879"),
        ("{{death date and age|2000|1|2|1920|3|4}}", "January 2, 2000 (aged 79)"),
        ("{{as of|2010|1|15|lc=y}}", "as of 15 January 2010"),
        ("{{as of|2010|1|15|df=us|lc=y}}", "as of January 15, 2010"),
        ("{{Currency|100|GBP}}", "£100"),
        ("{{currency|1000|JPY}}", "¥1,000"),
        ("{{US$|2 billion}}", "US$2 billion"),
        ("{{val|5|-|10|u=kg}}", "5–10 kg"),
        ("{{val|5|to|10}}", "5 to 10"),
        ("{{val|6.24|0.01|e=18|u=m}}", "(6.24±0.01)×10¹⁸ m"),
        ("{{val|1.234|(5)|ul=kg}}", "1.234(5) kg"),
        ("{{val|5|+1|-2|u=km/s}}", "5 +1/−2 km/s"),
        ("{{val|9.8|u=m|up=s2}}", "9.8 m/s²"),
        ("{{val|5|u=%}}", "5%"),
        ("{{val|12345|fmt=commas}}", "12,345"),
        ("{{val|p=~|5|u=m}}", "~5 m"),
        ("{{chem2|SO4(2-)}}", "SO₄²⁻"),
        ("{{chem2|[Fe(CN)6](4-)}}", "[Fe(CN)₆]⁴⁻"),
        ("{{chem2|2 H2 + O2 -> 2 H2O}}", "2 H₂ + O₂ → 2 H₂O"),
        ("{{chem2|CuSO4*5H2O}}", "CuSO₄·5H₂O"),
        ("{{chem2|NH4+}}", "NH₄⁺"),
        ("{{chem|SO|4|2-}}", "SO₄²⁻"),
        ("{{chem|C|''n''|H|2''n''+2}}", "CₙH₂ₙ₊₂"),
        ("{{sqrt|2}}", "√2"),
        ("{{sqrt|a + b}}", "√(a + b)"),
        ("{{radic|2|3}}", "³√2"),
        ("{{coord|13|19|N|169|9|W|type:event}}", "13°19′N 169°9′W"),
        ("{{coord|51.5|-0.12|display=inline,title}}", "51.5°N 0.12°W"),
        ("{{age|1920|3|4|2000|1|2}}", "79"),
        ("{{HMS|Ajax|22|6}}", "HMS Ajax"),
        ("{{ship|French ship|Océan|1790}}", "French ship Océan (1790)"),
        ("{{sclass|Iowa|battleship}}", "Iowa-class battleship"),
        ("{{stnlnk|Euston}}", "Euston"),
        ("{{rws|York}}", "York railway station"),
        ("{{post-nominals|country=GBR|OBE|FRS}}", "OBE, FRS"),
        ("{{citation needed span|a claim|date=2010}}", "a claim"),
        ("{{IPA|/a/}}", "/a/"),
        ("{{math|''x'' + 1}}, {{mvar|y}}", "x + 1, y"),
        ("<math>x^{2}</math>", "x^{2}"),
        ("<chem>H2O</chem>", "H2O"),
        ('<syntaxhighlight lang="c" inline>int x[]</syntaxhighlight>', "int x[]"),
        ("({{lang-ru|Иван}} or {{lang-de|Johann}})", "(Russian: Иван or German: Johann)"),
        ("{{math|''e''{{sup|''iπ''}} {{=}} −1}}", "e^(iπ) = −1"),
        ("{{nowrap|''e''<sup>''ix''</sup>}}", "e^(ix)"),
        ("{{cvt|75|kg|lb}}", "75 kg"),
        ("5{{±|0.1}} kg, {{±|5|2}}", "5±0.1 kg, +5/−2"),
        ("{{langx|ru|Москва|r=Moskva|p=mɐskva}}", "Russian: Москва, romanized: Moskva"),
        ("{{lang-ja|東京|Tōkyō|east}}", "Japanese: 東京, romanized: Tōkyō, lit. ‘east’"),
        ("({{lang-kw|Bosvena}})", "(Cornish: Bosvena)"),
        ("{{section link|Foo|Bar}}, {{slink||Baz}}", "Foo § Bar, § Baz"),
        ("{{music|time|3|4}}", "3/4"),
        ("{{RA|05|34|31}} {{DEC|22|00|52}}", "05h 34m 31s 22° 00′ 52″"),
        ("5 {{solar mass}}", "5 M☉"),
        ("Anna {{née|Smith}}", "Anna née Smith"),
        ("{{\" '}}x{{' \"}}", "\"'x'\""),
    ],
)  # fmt: skip
def test_what_templates_and_tags_show(wikitext: str, shown: str) -> None:
    assert text_of(f"It is {wikitext} here.") == f"It is {shown} here."


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("{{s|XIX|e}}", "XIXe siècle"),
        ("{{s|I|er}}", "Ier siècle"),
        ("{{s|XX}}", "XXe siècle"),
        ("{{-s|V|e}}", "Ve siècle av. J.-C."),
        ("{{s|III|e|av. J.-C.}}", "IIIe siècle av. J.-C."),
        ("{{sp|XVI|e|et|XVII|e}}", "XVIe et XVIIe siècles"),
        ("{{sp|XVI|e|XVII|e|et|XVIII|e}}", "XVIe et XVIIe et XVIIIe siècles"),
        ("{{-sp|V|e|et|IV|e}}", "Ve et IVe siècles av. J.-C."),
        ("{{unité|5,5|e=3|m}}", "5,5×10³ m"),
        ("{{unité|10|km|2}}", "10 km²"),
        ("{{unité|5|à=10|m}}", "5 à 10 m"),
        ("{{nombre|12|habitants}}", "12 habitants"),
        ("{{date|1|janvier|1900|en musique}}", "1er janvier 1900"),
        ("{{date-|1 janvier 1995}}, {{date|29 9 2019}}", "1er janvier 1995, 29 septembre 2019"),
        ("{{XXe siècle}}, {{IIIe siècle av. J.-C.}}", "XXe siècle, IIIe siècle av. J.-C."),
        ("{{84e|[[congrès]]}}, {{1er|champion}}, {{1re}}", "84e congrès, 1er champion, 1re"),
        ("{{incise|timide}}, {{incise|fin|stop}}", "— timide —, — fin"),
        ("{{souverain2|Joseph II (empereur)}}", "Joseph II"),
        ("{{tmp|2|°C}}, {{euro|77,80}}", "2 °C, 77,80 €"),
        ("({{en langue|de|Österreich}})", "(en allemand : Österreich)"),
        ("{{citation|oui}}, {{citation étrangère|langue=en|yes}}", "« oui », « yes »"),
        ("{{coord|48|51|N|2|21|E}}", "48°51′N 2°21′E"),
        ("H{{ind|2}}O, x{{exp|2}}, {{fchim|H|2|O}}", "H₂O, x², H₂O"),
        ("{{p.|5}}, {{vol.}}3, {{n°|4}}", "p. 5, vol. 3, no 4"),
        ("{{heure|14|30}}", "14 h 30"),
        ("XX{{e}} siècle", "XXe siècle"),
    ],
)
def test_french_templates(wikitext: str, shown: str) -> None:
    assert text_of(f"Il est {wikitext} ici.", "fr") == f"Il est {shown} ici."


@pytest.mark.parametrize("template", ["unité|5|zut=3|m", "s|dix-neuf", "heure|midi", "date|1|brumaire|8", "s"])
def test_french_arguments_that_are_not_understood_cost_their_sentence(template: str) -> None:
    assert text_of(f"Une phrase. Il est {{{{{template}}}}} ici. Une autre.", "fr") == "Une phrase. Une autre."
