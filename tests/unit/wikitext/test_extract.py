"""Wikitext to text: hand-worked examples, a realistic article, and arbitrary input."""

from __future__ import annotations

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read.articles import wiki_of
from megatron_pz.wikipedia.read.dump import SiteInfo
from megatron_pz.wikitext.extract import TextOptions, wikitext_to_paragraphs


def text_of(wikitext: str, keep: str = "") -> str:
    return "\n\n".join(wikitext_to_paragraphs(wikitext, "Title", options=TextOptions.keeping(keep)))


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        # Links
        ("[[cat]], [[cat|dog]]s and [[Cat (animal)|]]", "cat, dogs and Cat"),
        ("[[:Category:Cats]] [[Category:Cats]] [[fr:Chat]] x", "Category:Cats x"),
        ("a [[File:x.jpg|thumb|left|A [[nested|caption]] {{x|y}} [http://z q]]] b", "a b"),
        ("[[Image:a.png]] [https://x.org the site] and [https://y.org] http://z.org/a_b", "the site and http://z.org/a_b"),
        ("[[wikt:word|word]] in [[Foo#Bar|there]] [[a_b]]", "word in there a b"),
        ("[1] [sic] a[i]", "[1] [sic] a[i]"),
        # Emphasis, entities, tags, comments, magic words
        ("'''Bold''' ''it'' '''''both''''' L''''amour''' it's", "Bold it both L'amour it's"),
        ("''Emma'''s ''x'' '''b''' '''''c''''' d", "Emma's x b c d"),
        ("''Emma'''s plot and l'''amour''", "Emmas plot and lamour"),
        ("He, l'''amour'', no", "He, l'amour, no"),
        ("a &amp;lt;b&amp;gt; &amp;amp; c&amp;nbsp;d", "a &lt;b&gt; &amp; c d"),
        ("a&nbsp;b &lt;i&gt; &amp; &#8364; &unknown; AT&T", "a b <i> & € &unknown; AT&T"),
        ("x<!-- gone [[ --> y<br/>z <span class='q'>s</span> <stdio.h>", "x y\nz s <stdio.h>"),
        ("10<sup>6</sup> m<sup>-2</sup> H<sub>2</sub>O 19<sup>th</sup>", "10⁶ m⁻² H₂O 19th"),
        ("__NOTOC__ a__b <nowiki>'x' &amp; [y]</nowiki>", "a__b 'x' & [y]"),
        ("a<ref>n</ref> b<ref name=x/> c<ref group='g'>{{cite|t=[[x]]}}\n\nmore</ref>.", "a b c."),
        ("<i style='visibility:hidden'>0</i>5 <i style='color: transparent'>0</i>6", "5 6"),
        ("<i style='background-color:transparent'>7</i>", "7"),
        ("One<gallery>\nA.jpg|b\n</gallery>two<references />three", "One\n\ntwo\n\nthree"),
        ("a [[]b<ref>]</ref>]] c", "a ]b c"),
        ("a <nowiki/>&lt;ref b", "a b"),
        ("a<br>&lt;ref<br>b", "a\nb"),
        ("[[File:a.jpg|thumb|b [[c]]\n\nd [[e]]]]Text.\n\n[[File:f.jpg|g\n\nh [[i]]\n\nj", "Text.\n\nh i\n\nj"),
        ("<ruby>漢<rt>かん</rt></ruby> <ruby>字<rp>(</rp><rt>じ</rt><rp>)</rp></ruby> <ruby>a<rt>b</ruby> <q>c</q>",
         "漢(かん) 字(じ) ab \"c\""),
        ("<span style='display: none'>no</span>yes<table><tr><td>no</td></tr></table>", "yes"),
        # Templates
        ("{{Infobox|a={{b|c=[[d]]}}\n|e=f}}Text{{unknown}}.", "Text."),
        ("{{lang|fr|mot}} {{lang-de|Wort}} {{langx|ru|слово}} {{transl|ar|DIN|kalima}}",
         "mot German: Wort Russian: слово kalima"),
        ("{{convert|5|km|mi}}, {{convert|1300|ft|m|abbr=on}}, {{convert|3|to|4|kg}}, a {{convert|9|mi|adj=on}} road",
         "5 kilometres, 1,300 ft, 3 to 4 kilograms, a 9-mile road"),
        ("{{convert|5|ft|6|in|cm}} {{convert|1|m2}} {{convert|-5|C|F}} {{convert|2|e6m3|sp=us}}",
         "5 feet 6 inches 1 square metre −5 °C 2 million cubic meters"),
        ("{{nihongo|Tokyo Tower|東京タワー|Tōkyō-tawā|lead=yes}}", "Tokyo Tower (東京タワー, Tōkyō-tawā)"),
        ("{{birth date|1879|3|14}} {{Birth date and age|df=yes|1990|12|01}} {{start date|1999}}",
         "March 14, 1879 1 December 1990 1999"),
        ("{{as of|2010|1}}, {{As of|2011|lc=y}} {{circa|1900}} {{OldStyleDate|2 May|1905|19 April}}",
         "As of January 2010, as of 2011 c. 1900 2 May [O.S. 19 April] 1905"),
        ("{{frac|1|2}} {{frac|3|1|4}} {{val|6.02|e=23|u=mol}} {{chem|H|2|O}} {{chem|NH|4|+}} {{formatnum:12345}}",
         "1/2 3 1/4 6.02×10²³ mol H₂O NH₄⁺ 12,345"),
        ("{{nowrap|a {{abbr|b|c}}}} {{nowrap|1=E = mc<sup>2</sup>}} {{sic}} {{USS|Enterprise|CVN-65}}",
         "a b E = mc² [sic] USS Enterprise (CVN-65)"),
        ("{{hlist|a|b}} {{key press|Ctrl|C}} {{ndash}} {{'}} {{PAGENAME}} {{{1|default}}}",
         "a, b Ctrl+C – ' Title default"),
        # Leftovers of dropped markup
        ("X ({{lang-el|Χ}}; {{IPA-el|x}}) is", "X (Greek: Χ) is"),
        ("X ({{IPA|x}}; {{audio-ipa|y}}, {{unknown}}) is", "X is"),
        ("X (pronounced {{IPAc-en|x}}; born 1950) is", "X (born 1950) is"),
        ("X (UK: {{IPA|a}}, US: {{IPA|b}}), or {{pron-en|z}}, is", "X, is"),
        ("X , y ( ) and {{unknown}}, z{{cn}}. F[ ] End <ref>r</ref>.", "F[ ] End."),
        # Broken markup costs no more than its paragraph or section
        ("a [[broken b\n\nc", "a broken b\n\nc"),
        ("A.\n[[File:a.jpg|thumb|b\n\nC.\n== External links ==\n[http://d The site of the town] in French", "A.\n\nC."),
        ("{{broken\n|a=b\n== Next ==\ntext }} more", "text more"),
        ("{| class=x\n| a\n== Next ==\ntext", "text"),
        ("a.<ref>open\n== Next ==\ntext", "a.\n\ntext"),
        ("a ]] b }} c [[d|e}} f", "a b c e f"),
    ],
)  # fmt: skip
def test_inline(wikitext: str, text: str) -> None:
    assert text_of(wikitext) == text


ARTICLE = """{{Short description|x}}
{{Infobox thing
| name = A
| list = {{plainlist|
* one
* two
}}
}}
'''A''' is a
thing.<ref>R</ref> It is old.

{| class="wikitable"
|-
| cell {| nested
| x
|}
|}
Second paragraph:
* first [[item]]
* second
# numbered
: indented

== History == <!-- note -->
{{Main|History of A}}
Third.
=== Empty ===
== See also ==
* [[B]]
=== Deeper ===
text
== Reception ==
{{quote|Quoted words.|Author}}
After.<gallery>
File:a.jpg|b
</gallery>
== References ==
{{reflist}}
== External links ==
* [http://a b]
[[Category:X]]
[[de:A]]
"""


def test_an_article_keeps_its_paragraphs() -> None:
    assert wikitext_to_paragraphs(ARTICLE) == [
        "A is a thing. It is old.",
        "Second paragraph:",
        "- first item\n- second\n- numbered",
        "indented",
        "Third.",
        "Quoted words.",
        "After.",
    ]


def test_headings_are_kept_on_request_where_something_follows() -> None:
    text = text_of(ARTICLE, "headings").split("\n\n")
    assert [line for line in text if line in ("History", "Empty", "See also", "Reception", "References")] == [
        "History",
        "Reception",
    ]


def test_formulas_and_code_are_kept_on_request() -> None:
    source = (
        "Let <math>\\frac{{a}}{b}</math> be.\n<syntaxhighlight lang=py>\ndef f():\n    return {}\n</syntaxhighlight>"
    )
    assert text_of(source) == "Let \\frac{{a}}{b} be."
    assert text_of(source, "math,code") == "Let \\frac{{a}}{b} be.\n\ndef f():\n    return {}"


def test_french_templates_stand_in_french_sentences() -> None:
    wiki = wiki_of(SiteInfo("fr", "frwiki", "https://fr.wikipedia.org/wiki/", {6: "Fichier", 14: "Catégorie"}))
    source = "Le {{date|14|juillet|1789}}, au {{s|XVIII|e}}, sur {{unité|12|km|2}} ; {{sp|XVI|e|et|XVII|e}}."
    source += "\n== Voir aussi ==\nx"
    assert wikitext_to_paragraphs(source, wiki=wiki) == [
        "Le 14 juillet 1789, au XVIIIe siècle, sur 12 km² ; XVIe et XVIIe siècles."
    ]
    assert wikitext_to_paragraphs("a {{s|XVIII|e}} word. Another one.") == ["Another one."]


TABLE = """Before.
{| class="wikitable" style="x"
|+ Some [[caption]]
! scope="col" | Name !! style="b" | Born
|-
| align=left | '''Ada''' || {{circa|1815}}<ref>x</ref>
|-
| Two
lines
| {| class="inner"
| inside
|}
|- bgcolor=red
|
|}
After.
"""


def test_tables_are_kept_on_request_with_a_row_a_line() -> None:
    assert wikitext_to_paragraphs(TABLE) == ["Before.", "After."]
    assert text_of(TABLE, "tables").split("\n\n") == [
        "Before.",
        "Some caption\nName | Born\nAda | c. 1815\nTwo lines | inside",
        "After.",
    ]


def test_a_gallery_line_that_names_no_file_is_dropped() -> None:
    source = "<gallery>\nG{{convert|1|km}}\nFile:a.jpg|alt={{x}}|The {{convert|2|km}}\n</gallery>Text."
    assert text_of(source, "galleries") == "- The 2 kilometres\n\nText."


def test_infoboxes_and_captions_of_galleries_are_kept_on_request() -> None:
    source = (
        "{{Infobox person\n| name = [[Ada]]\n| birth_date = {{birth date|1815|12|10}}\n| image =\n}}\nText."
        "<gallery mode=packed>\nFile:a.jpg|alt=x|The [[house]]\nb.png\n</gallery>"
    )
    assert text_of(source) == "Text."
    assert text_of(source, "infoboxes,galleries").split("\n\n") == [
        "name: Ada\nbirth date: December 10, 1815",
        "Text.",
        "- The house",
    ]


def test_an_unknown_thing_to_keep_is_one_clear_line() -> None:
    with pytest.raises(BadInput, match="--keep sounds: is none of headings, tables"):
        TextOptions.keeping("math,sounds")


def test_names_come_from_the_wiki() -> None:
    wiki = wiki_of(SiteInfo("de", "dewiki", "https://de.wikipedia.org/wiki/", {6: "Sonderdatei", 14: "Kategorie"}))
    source = "a {{lang-ru|б}} [[Sonderdatei:x.jpg|mini|b]][[Kategorie:Y]]\n== Einzelnachweise ==\nc\n== Leben ==\nd"
    assert wikitext_to_paragraphs(source, wiki=wiki) == ["a б", "d"]
