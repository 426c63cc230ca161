"""Templates of many wikis: every row loads, has a normalised name, and shows what its wiki shows."""

from __future__ import annotations

import pytest

from megatron_pz.wikitext import language_data, templates
from megatron_pz.wikitext.extract import wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.marks import DROPPED, UNKNOWN
from megatron_pz.wikitext.templates import patterns


@pytest.mark.parametrize("language", language_data.languages())
def test_every_row_is_used(language: str) -> None:
    file = language_data.language_file(language)["templates"]
    for pattern, names in file.get("text", {}).items():
        patterns.compiled(pattern)
        for name in names:
            assert templates.name_and_mark(name, False, language)[0], name
    for function, names in file.get("computed", {}).items():
        assert function in templates.FUNCTIONS
        for name in names:
            written = name.upper() if function == "ship" else name
            assert templates.name_and_mark(written, False, language)[0], name
    for name in (*file.get("wordless", []), *file.get("sounds", [])):
        spelled = name.replace("*", "x")
        assert templates.mark_of(templates.template_name(spelled), language) != UNKNOWN, name


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("ja", "{{仮リンク|甲|en|Alpha}}と{{仮リンク|乙|en|B|label=丙}}。", "甲と丙。"),
        ("ja", "{{読み仮名|仮名|かな}}と{{ルビ|漢字|かんじ}}である。", "仮名（かな）と漢字（かんじ）である。"),
        ("zh", "他在{{link-en|甲|Alpha}}和{{tsl|en|Beta||乙}}及{{le|丙|C|丁}}。", "他在甲和乙及丁。"),
        ("zh", "张三{{bd|1950年|1月1日|2000年|2月2日}}是人。", "张三（1950年1月1日—2000年2月2日）是人。"),
        ("zh", "张三{{bd|1950年|1月1日|catIdx=Z}}是人。", "张三（1950年1月1日—）是人。"),
        ("ru", "Был {{iw|Альфа|альфой|en|Alpha}} и {{нп5|Бета}} из {{число|12345}} людей.",
         "Был альфой и Бета из 12 345 людей."),
        ("pt", "O {{PEPB|camião|caminhão}} anda.",
         "O camião (português europeu) ou caminhão (português brasileiro) anda."),
        ("es", "Es del {{siglo|XX||s}} o del {{Siglo|V|a|s|1}}, no del {{siglo|II|d}} ya.",
         "Es del siglo XX o del siglo V a. C., no del II d. C. ya."),
        ("es", "Mide {{esd|10 m}} y {{unidad|5|km|2}} o {{unidad|100|km}}.", "Mide 10 m y 5 km² o 100 km."),
        ("de", "Rom ({{laS|Roma}}) und {{enS|Rome}} am {{Datum|3|10|1990}} in {{DEU}}.",
         "Rom (lateinisch Roma) und englisch Rome am 3. Oktober 1990 in Deutschland."),
        ("de", "Er sprach: {{Zitat|Nein.}} und ging.", "Er sprach: „Nein.“ und ging."),
        ("de", "Er, {{SortKeyName|Max|Muster}}, sprach {{\"|Text=Nein}} in {{SortKey|b|Ulm}}{{Coordinate|text=ICON0}}.",
         "Er, Max Muster, sprach „Nein“ in Ulm."),
        ("de", "Er {{Vorlage:nowrap|kam}} und {{ Template : Nowrap|ging}}. Er {{Vorlage:Unbekannt|x}} nie.",
         "Er kam und ging."),
        ("fr", "Il a {{Modèle:unité|5|km}} ici.", "Il a 5 km ici."),
        ("es", "Mide {{convertir|5|km|mi}}.", "Mide 5 km."),
        ("fa", "او {{تبدیل|5|km|mi}} و {{کسر|1|2}} رفت.", "او 5 km و 1/2 رفت."),
        ("uk", "Був {{нп|Альфа|альфою|en|Alpha}}{{джерело?}} і {{число|12345}} осіб ({{МФА|x}}).",
         "Був альфою і 12 345 осіб."),
        ("pl", "Był {{link-interwiki|Alfa|tekst=alfą|Q=Q5}}{{fakt}} i {{ułamek|1|2}} [http://a b] {{j|en}}.",
         "Był alfą i 1/2 b."),
        ("pt", "Mede {{unidade|5|km|2}} hoje.", "Mede 5 km² hoje."),
        ("it", "È {{M|10|ul=m2}} e {{M|5|ul=kg/m3}} qui.", "È 10 m² e 5 kg/m³ qui."),
        ("zh", "他在{{flag|USA}}。", "他在美国。"),
        ("ar", "حاسوب {{إنج|Computer}} هو {{وإو|عر=ألفا|تر=Alpha|لغ=en|نص=بيتا}}.",
         "حاسوب (بالإنجليزية: Computer) هو بيتا."),
        ("it", "È lungo {{M|10|k|m}} e {{M|5|ul=kg}}.", "È lungo 10 km e 5 kg."),
        ("ko", "파리({{llang|fr|Paris}})는 {{임시링크|도시|en|City}}이다.", "파리(프랑스어: Paris)는 도시이다."),
        ("fr", "Il a vu {{Lien|langue=en|trad=Alpha|fr=Alfa|texte=l'alfa}} et {{lien|Bêta}}.",
         "Il a vu l'alfa et Bêta."),
        ("en", "The {{SMS|Emden}} and {{sclass|Iowa|battleship}} won in {{nfly|1999}} at {{stnlnk|York}}.",
         "The SMS Emden and Iowa-class battleship won in 1999 at York."),
        ("de", "Der Berg ({{Höhe|115.5|DE-NHN}}) ist bei {{Coordinate|NS=52/30/10/N|EW=13.4|text=DMS}} in {{\"|Rom}}.",
         "Der Berg (115,5 m ü. NHN) ist bei 52° 30′ 10″ N, 13,4° O in „Rom“."),
        ("de", "Er ({{arS|مصر|d=Miṣr}}; {{frS}} ''x'') kam{{Coordinate|NS=1|EW=2|article=/}}.",
         "Er (arabisch مصر, DMG Miṣr; französisch x) kam."),
        ("ar", "برلين ({{إنج|Berlin}}) مدينة.", "برلين (بالإنجليزية: Berlin) مدينة."),
        ("it", "È {{senza fonte|vero}} e a {{coord|40|N|3|E}} ({{inglese|London}}).",
         "È vero e a 40°N 3°E (in inglese: London)."),
        ("es", "Está a 5{{esd}}km en {{coord|40|26|N|3|41|O}}.", "Está a 5 km en 40°26′N 3°41′O."),
        ("ja", "長さは{{convert|5|km|mi}}で{{Lang-en-short|x}}である。", "長さは5 kmで英: xである。"),
        ("zh", "青岛{{nsrefc|a|{{cite book|title=b}}}}是{{jpn|j=青島|hg=チンタオ}}。", "青岛是日語：青島 チンタオ。"),
        ("ru", "Он родился {{OldStyleDate|14 января|1900|2 января}} там.", "Он родился 2 января [14 января] 1900 там."),
        ("ru", "{{начало цитаты}}Слова.{{конец цитаты|источник=x}}", "Слова."),
        ("fr", "{{Mme|Durand}} et {{Mlle}} Petit.", "Mme Durand et Mlle Petit."),
        ("en", "In {{nbay|1999}} and {{nbay|1984|start}} he won.", "In 1999–2000 and 1984 he won."),
        ("en", "See {{ill|Blue Lake|de|Blauer See}} and {{ill|de|Red Lake}}.", "See Blue Lake and Red Lake."),
        ("en", "He left {{ill|de|Ernestinum|Ernestinum Gotha|the Ernestinum}} then.", "He left the Ernestinum then."),
        ("en", "They beat {{fb|ENG}} for {{C$|5}} million.", "They beat England for C$5 million."),
        ("de", "Tokio ({{jaS|東京|Tōkyō}}; {{enS|x|de=y}}) und {{zh|t=中國|s=中国|p=Zhōngguó}} hier.",
         "Tokio (japanisch 東京, Tōkyō; englisch x ‚y‘) und chinesisch 中國 / 中国, Pinyin Zhōngguó hier."),
        ("de", "Er las {{Bibel|Mt|5|3}}: {{Zitat-en|To be|Übersetzung=Sein}}.", "Er las Mt 5,3: “To be” („Sein“)."),
        ("de", "Er (* {{JULGREGDATUM|15|2|1564|Link=true}}; {{yiS|x|y}}) las {{Art.|5|gg|juris}} GG.",
         "Er (* 15. Februar jul. / 25. Februar 1564 greg.; jiddisch x, y) las Art. 5 GG."),
        ("de", "Er starb {{JULGREGDATUM|25|12|1870}} dort.",
         "Er starb 25. Dezember 1870 jul. / 6. Januar 1871 greg. dort."),
        ("ja", "{{生年月日と年齢|1950|01|05}}生、{{死亡年月日と没年齢|1900|3|1|1950|2|2}}。",
         "1950年1月5日生、1950年2月2日（49歳没）。"),
        ("ko", "그는 {{출생일과 나이|1950|1|5}}에 갔다.", "그는 1950년 1월 5일에 갔다."),
        ("zh", "{{start date|1990|5}}至{{end date|1991}}。", "1990年5月至1991年。"),
        ("fr", "Le son {{API|[y]}} existe (prononcé {{API|/x/}}) là.", "Le son [y] existe là."),
        ("ru", "Звук {{МФА|y|Ru-y.ogg}} есть ({{МФА|x}}).", "Звук [y] есть."),
        ("es", "El sonido {{AFI|/y/}} es {{IPA|[x]}} aquí.", "El sonido /y/ es [x] aquí."),
        ("zh", "孔子（{{bd|前551年||前479年}}）是人。", "孔子（前551年—前479年）是人。"),
        ("pt", "Pelé ({{dni|23|10|1940|si}}) em {{dtlink|||2021}} foi.", "Pelé (23 de outubro de 1940) em 2021 foi."),
        ("de", "Die {{RMS|Titanic}}, {{CSS|Virginia}} ({{csS|x}}) und {{rmS|Cuira}}.",
         "Die RMS Titanic, CSS Virginia (tschechisch x) und rätoromanisch Cuira."),
        ("fr", "Du {{grec ancien|ἄτομος|átomos|indivisible}} ici.", "Du ἄτομος / átomos, « indivisible » ici."),
        ("ja", "語源は{{ラテン翻字|grc|átomos}}である。", "語源はátomosである。"),
        ("it", "Gioca la {{Naz|CA|ITA}} con {{bandiera|FRA|nome}} e {{bandiera|FRA}} altri.",
         "Gioca la Italia con Francia e altri."),
        ("it", "Lungo {{M|10|-|15|ul=km}}. Largo {{M|10|k|m}}.", "Largo 10 km."),
        ("pt", "Em {{dtlink|1|1|1950}} e {{dtlink||3|1950}}, {{AC|50}} e 50 {{a.C.}}.",
         "Em 1 de janeiro de 1950 e março de 1950, 50 a.C. e 50 a.C.."),
        ("es", "El {{fecha|1|enero|1950}} y el {{ac|50}}.", "El 1 de enero de 1950 y el 50 a. C.."),
        ("ru", "Он родился {{СС3|9|1|1905}} и {{СС3|21|1|1870}} и {{СС3|25|12|1870}}.",
         "Он родился 9 (22) января 1905 и 21 января (2 февраля) 1870 и 25 декабря 1870 (6 января 1871)."),
        ("ru", "{{цитата|Слово.|автор=Даль}} Конец.", "Слово.\n\nКонец."),
        ("ru", "Он ({{ДР|1|2|1931}} — {{ДС|23|4|2007}}) снят в {{год в кино|1995}} году{{oq|en|x}} {{сколько?}} раз.",
         "Он (1 февраля 1931 — 23 апреля 2007) снят в 1995 году раз."),
        ("ru", "Он родился {{ДР|26|5|1799|15}} или {{дата рождения|3|3|1850|19|2}} там.",
         "Он родился 15 (26) мая 1799 или 19 февраля (3 марта) 1850 там."),
        ("uk", "Він {{життєпис}} народився {{ДН|20|2|1889|8}} року, прийшов {{Дата|2000|7|25}} року.",
         "Він народився 8 (20) лютого 1889 року, прийшов 25 липня 2000 року."),
        ("uk", "{{As of|2021|post=,}} це {{url|http://x.org|сайт}}.", "Станом на 2021, це сайт."),
        ("uk", "Школа ({{langi|fr|École}}) є{{Немає АД|1|2|2012}} тут.", "Школа (École) є тут."),
        ("ja", "彼は{{和暦|2021}}に死去、{{没年齢|1966|7|11|2021|5|6}}。{{fr|mot}}と{{lang-en-us|color}}{{en}}。",
         "彼は令和3年に死去、54歳没。motとアメリカ英語: color。"),
        ("zh", "他（{{韓|諺=이재명|漢=李在明}}）是人{{en}}。", "他（韓語：이재명／李在明）是人。"),
        ("pt", "{{Japonês|Gundam|機動|Kidō}} é{{en}} isto.", "Gundam (機動, Kidō) é isto."),
        ("it", "Il sito{{en}} è questo.", "Il sito è questo."),
        ("ja", "長さ{{convert|3|to|5|km|abbr=off}}、{{convert|3|x|5|m}}である。", "長さ3–5 km、3 m × 5 mである。"),
        ("zh", "他{{fact|是甲|time=2010}}和{{jpn|j=東京|rm=Tōkyō}}。", "他是甲和日語：東京 Tōkyō。"),
        ("zh", "{{who|有人}}在{{tsl|en|FAST TCP}}{{何时|time=2010}}上市（{{sehk|0941}}，{{nyse|CHL}}）。",
         "有人在FAST TCP上市（港交所：0941，NYSE：CHL）。"),
        ("en", "AT&T ({{NYSE|T}}) has {{Javadoc:SE|package=java.lang|java/lang|Object}}, {{Javadoc:SE|a|B|b()}}.",
         "AT&T (NYSE: T) has java.lang.Object, b()."),
        ("uk", "Він ({{ДН2|18|1|1834|6}}, {{МФА2|x}}) мав −3 {{градус Цельсія}}.",
         "Він (6 (18) січня 1834) мав −3 °C."),
        ("uk", "Він ({{нар}} {{рік у театрі|1924}}) жив{{ref+|примітка}} у домі{{перехід|#x}}.",
         "Він (нар. 1924) жив у домі."),
        ("de", "Die Zeitung ({{hiS|जागरण}}) ist alt.", "Die Zeitung (Hindi जागरण) ist alt."),
        ("fr", "La {{lien|trad=Oracle RAC|lang=en}} ({{cf.}} ''x'') a 2<sup>taille de l'adresse - masque</sup>.",
         "La Oracle RAC (cf. x) a 2^(taille de l'adresse - masque)."),
        ("fr", "Il dit :\n\n{{citation bilingue bloc|lang=en|It is.|C'est.|Fielding}}\n\nFin du texte.",
         "Il dit :\n\n« It is. »\n\n« C'est. »\n\nFin du texte."),
        ("fa", "تهران ({{lang-en|Tehran}}) و {{به عربی|طهران}}{{مدرک}} است.",
         "تهران (انگلیسی: Tehran) و به عربی: طهران است."),
        ("th", "กรุงเทพ ({{lang-en|Bangkok}}){{ต้องการอ้างอิง}} เป็นเมือง", "กรุงเทพ (อังกฤษ: Bangkok) เป็นเมือง"),
        ("hi", "दिल्ली ({{lang-en|Delhi}}){{उद्धरण आवश्यक}} शहर है।", "दिल्ली (अंग्रेज़ी: Delhi) शहर है।"),
        ("ar", "عيسى {{عليه السلام}} هنا.", "عيسى عليه السلام هنا."),
    ],
)  # fmt: skip
def test_what_a_wiki_shows(language: str, wikitext: str, text: str) -> None:
    assert "\n\n".join(wikitext_to_paragraphs(wikitext, "T", Wiki(language))) == text


@pytest.mark.parametrize(
    ("language", "template"),
    [
        ("nl", "j|en"), ("ar", "قرآن|1|2"), ("es", "unidad|5,5|e=3|m"),
        ("pt", "ligação interlíngua|en|A|a"), ("de", "coordinate|text=Ort|NS=1|EW=2"),
        ("de", "birth date|1879|3|14"), ("es", "as of|2010"), ("fr", "dts|2008|November|29"), ("ja", "rws|York"),
        ("zh", "sclass|Iowa|battleship"), ("es", "zh|s=北京|p=Běijīng"), ("it", "death date and age|2000|1|2|1920|3|4"),
        ("uk", "OldStyleDate|2 February|1905|20 January"), ("zh", "ill|en|甲|Alpha"), ("fr", "unité/2|3|4|m"),
        ("ja", "convert|3|and|5|km"), ("zh", "convert|5|acre"), ("pt", "dtlink|32|1|1950"), ("ru", "сс3|30|2|1900"),
        ("ru", "сс3|31|12|9999"), ("ru", "др|3|3|1850|19"), ("ru", "др|1931"), ("uk", "дн|31|13|1889"),
        ("ja", "和暦|1989"), ("ja", "和暦|1872"), ("ja", "没年齢|1966|7|11"), ("uk", "as of|2021|7"),
        ("ja", "birth date|1950|13|1"), ("zh", "start date|1990||5"), ("de", "julgregdatum|15|Februar|1564"),
        ("pt", "séc|V|a.C."), ("ru", "температура|5|10"), ("ja", "hands|15|16"),
    ],
)  # fmt: skip
def test_no_english_words_on_other_wikis(language: str, template: str) -> None:
    assert wikitext_to_paragraphs(f"A {{{{{template}}}}} there. End.", "T", Wiki(language)) == ["End."]


def test_every_name_that_is_only_english_has_a_row() -> None:
    file = language_data.language_file("en")["templates"]
    named = {name for table in ("text", "computed") for names in file[table].values() for name in names}
    assert set(file["only_in_english"]) <= named | set(file["wordless"])
    for name in file["only_in_english"]:
        written = name.upper() if name in file["computed"]["ship"] else name
        mark = "" if name in named else DROPPED
        assert templates.name_and_mark(written, False, "simple") == (name if name in named else "", mark), name
        own = language_data.language_file("de")["templates"]
        if not any(name in names for table in ("text", "computed") for names in own[table].values()):
            assert not templates.name_and_mark(name, False, "de")[0], name
