"""Sentence boundaries in many languages, and every row of the tables behind them."""

from __future__ import annotations

import dataclasses

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_pz.wikitext import sentences as module
from megatron_pz.wikitext.sentences import guess_language, sentences

LANGUAGES = module._languages()


@pytest.mark.parametrize(
    "expected",
    [
        ["He met Dr. Smith in the U.S. Senate. ", "They spoke."],
        ["It costs $3.50 (approx. 3 euros)! ", '"Why?" ', "He asked."],
        ["In Roe v. Wade (est. 1970) it was so. ", "It ended."],
        ["J. R. R. Tolkien wrote it, e.g. in vol. 2. ", "No. 5 is next. ", "In 1999. ", "Then 2000."],
        ["He said no. ", "Five came. ", "Is it? yes it is."],
        ["Wait... what? ", "So it goes… ", "End."],
        ["東京は首都である。", "人口は多い！", "終わり"],
        ["यह एक वाक्य है। ", "दूसरा।"],
        ["- one item\n", "- another. item\n", "- third"],
        ["It was −5 °C. ", "It snowed."],
        ["no end"],
    ],
)
def test_sentences(expected: list[str]) -> None:
    assert sentences("".join(expected)) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aA. !?\n\"'。)…1։።က်ทิ१ཀ། \u200dё", max_size=60))
def test_sentences_join_to_their_paragraph(paragraph: str) -> None:
    found = sentences(paragraph)
    assert "".join(found) == paragraph
    assert all(found)


BY_LANGUAGE = {
    "it": ["Nel 1950 l'ing. Bianchi andò a Roma con la sua famiglia. ", "Poi tornò."],
    "vi": ["Ông sinh tại TP. Hồ Chí Minh và gặp TS. Nguyễn. ", "Xong."],
    "de": [
        "Er wurde am 3. Mai 1950 in Bonn geboren. ",
        "Im 19. Jahrhundert lebte er hier, am Hof Ludwigs XIV. Danach nicht. ",
        "„Das ist gut.“ ",
        "Sie wohnt in der Goethestr. 12 in Bonn. ",
        "Die Burg, z. B. die der Fam. Müller, steht seit 1999. ",
        "Dann kam Bd. 3 und die Abb. Eins.",
    ],
    "fr": [
        "« Il est là. » ",
        "La ville fut fondée vers 50 av. J.-C. à Rome par M. Dupont et Mgr. Martin. ",
        "Il est mort.",
    ],
    "ru": [
        "Завод им. Ленина был построен в 1950 г. Москва росла на р. Москве. ",
        "А. С. Пушкин родился в Москве, т. е. здесь. ",
        "Он был на ул. Мира.",
    ],
    "uk": ["Завод ім. Шевченка в м. Київ був великим. ", "Він був на вул. Миру."],
    "zh": ["北京是中国的首都。", "人口很多！", "“好。”他说。", "「是嗎？」王某問道。", "「好。」", "他走了。"],
    "ja": ["「行く。」と彼は言った。", "東京は大きい。", "そうですか？", "円周率は３．１４である。"],
    "ko": ["서울은 수도이다. ", "그는 1950. 3. 4. 태어났다. ", "끝."],
    "ar": ["القاهرة عاصمة مصر. ", "هل هي كبيرة؟ ", "كان د. محمد هنا."],
    "fa": ["تهران پایتخت ایران است. ", "این شهر بزرگ است."],
    "ur": ["لاہور ایک شہر ہے۔ ", "یہ بڑا ہے۔"],
    "he": ["ירושלים היא עיר. ", "היא גדולה?! ", "פרופ. כהן כאן."],
    "hi": ["दिल्ली भारत की राजधानी है। ", "डॉ. राजेंद्र प्रसाद और ए. पी. जे. कलाम राष्ट्रपति थे। ", "वे यहाँ थे॥"],
    "th": ["กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย ", "เมืองนี้ก่อตั้งเมื่อ พ.ศ. 2325 โดยรัชกาลที่ 1 มีวัดมาก ๆ หลายแห่ง และมีคลอง"],
    "lo": ["ວຽງຈັນເປັນນະຄອນຫຼວງ ", "ມັນໃຫຍ່ ແລະ ເກົ່າ"],
    "my": ["မြန်မာနိုင်ငံသည် အရှေ့တောင်အာရှတွင်၊ ရှိသည်။ ", "ရန်ကုန်သည် မြို့ကြီး ဖြစ်သည်။"],
    "km": ["ភ្នំពេញគឺជារាជធានី។ ", "ក ខ គ ។ល។ ", "វាធំ។"],
    "gu": ["અમદાવાદ શહેર છે. ", "ડૉ. ક. મા. મુનશી લેખક છે. ", "તે મોટું છે."],
    "si": ["කොළඹ නගරයක් වේ. ", "එය විශාල ය. ", "ජ. රත්නායක."],
    "ku": ["Hewlêr bajar e. ", "Ew herî mezin e û ji bajarên B. Barzanî ye."],
    "mr": ["तो एम. एस. स्वामीनाथन यांना भेटला. ", "ते गेले."],
    "bo": ["བོད་ནི་ཡུལ་ཞིག་རེད། །", "ལྷ་ས་ནི་རྒྱལ་ས་རེད།"],
    "hy": ["Երևանը Հայաստանի մայրաքաղաքն է։ ", "Այն շատ հին է: ", "Ինչո՞ւ է նա այստեղ, 1950 թ. Երևանում։"],
    "am": ["አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት። ", "እሷ ትልቅ ናት፡፡", "ለምን፧"],
    "el": ["Ποιος είναι; ", "Η Αθήνα είναι πόλη· ο Αγ. Γεώργιος επίσης. ", "Το 300 π.Χ. Αυτός ήταν."],
    "tr": ["Atatürk için 19. Yüzyıl'da ve III. Selim ile bir ev. ", "Doç. Dr. Ali geldi."],
    "ka": ["თბილისი დედაქალაქია. ", "იგი დიდია."],
    "pl": ["Ulica św. Jana i ul. Długa w XV. Wieku. ", "To jest koniec."],
    "id": ["Jl. Sudirman dan tgl. 3 adalah untuk Prof. Drs. Hatta. ", "Ia pergi."],
    "lt": ["Šv. Jonas ir 300 tūkst. Vilniaus gyventojų yra čia. ", "Jis mirė."],
    "lv": ["Ludvigs XIV. Francijā un 1. Pasaules karš ir šeit, piem. Rīgā. ", "Viņš mira."],
    "eu": ["1. Mundu Gerra eta Luis XIV. Frantziakoa hemen dira, adib. Bilbon. ", "Hil zen."],
    "bn": ["এম. এ. রহমান এলেন। ", "মো. করিম গেলেন।"],
    "ta": ["எம். ஜி. ராமச்சந்திரன் வந்தார். ", "அவர் போனார்."],
    "te": ["ఎన్. టి. రామారావు వచ్చారు. ", "డా. రెడ్డి వెళ్ళారు."],
    "kn": ["ಎಂ. ಎಸ್. ಸುಬ್ಬುಲಕ್ಷ್ಮಿ ಬಂದರು. ", "ಡಾ. ರಾಜ್ ಹೋದರು."],
    "ml": ["എം. ടി. വാസുദേവൻ വന്നു. ", "ഡോ. നായർ പോയി."],
    "pa": ["ਐਮ. ਐਸ. ਸਿੰਘ ਆਏ। ", "ਡਾ. ਕੌਰ ਗਏ।"],
    "fi": ["Hän syntyi 3. Toukokuuta. ", "Se oli kylmä."],
}


@pytest.mark.parametrize("language", BY_LANGUAGE)
def test_sentences_of_a_language(language: str) -> None:
    expected = BY_LANGUAGE[language]
    assert sentences("".join(expected), language) == expected


@pytest.mark.parametrize("language", sorted(BY_LANGUAGE))
def test_the_language_need_not_be_told(language: str) -> None:
    expected = BY_LANGUAGE[language]
    assert sentences("".join(expected)) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_known_by_each_of_its_frequent_words_and_wikis(language: str) -> None:
    rules = LANGUAGES[language]
    assert all(module._names()[wiki] == language for wiki in rules.wikis)
    letter = next(
        chr(code) for code in range(0x80, 0x3000) if regex.match(rf"\p{{L}}(?<=\p{{{rules.script}}})", chr(code))
    )
    rivals = [other for other in LANGUAGES.values() if other.script == rules.script and other is not rules]
    if rivals:
        own = rules.common.difference(*(other.common for other in rivals))
        assert own
        for word in own:
            assert guess_language(f"{letter * 40} {word} {letter * 40}") == language
    else:
        assert guess_language(letter * 9) == language


EVERYWHERE = frozenset.intersection(*(rules.abbreviations for rules in LANGUAGES.values()))
EVERYWHERE_BEFORE_NUMBERS = frozenset.intersection(*(rules.before_numbers for rules in LANGUAGES.values()))


def texts_of_rows(rules: module._Language) -> list[tuple[str, str, str]]:
    """Return the rows of a language as (table, word, a text that the word keeps together)."""
    capital = {"Cyrillic": "Ж", "Greek": "Ω", "Armenian": "Ժ"}.get(rules.script, "Q") * 3
    is_base = rules.name == "en"
    abbreviations = rules.abbreviations if is_base else rules.abbreviations - EVERYWHERE
    before_numbers = rules.before_numbers if is_base else rules.before_numbers - EVERYWHERE_BEFORE_NUMBERS
    form = {"th": "กกก {}กกก", "lo": "ກກກ {}ກກກ", "km": "ក។{}"}.get(rules.name, "{}")
    return [
        *(("abbreviations", word, f"{capital} {word}. {capital}") for word in abbreviations),
        *(("before_numbers", word, f"{capital} {word.replace('*', 'q')}. 5") for word in before_numbers),
        *(("continues", word, form.format(word)) for word in rules.continues),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_row_keeps_a_sentence_together(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = LANGUAGES[language]
    for key, word, text in texts_of_rows(rules):
        monkeypatch.setitem(LANGUAGES, language, rules)
        assert sentences(text, language) == [text], (key, word)
        rows = getattr(rules, key)
        kept = [row for row in rows if row != word]
        monkeypatch.setitem(LANGUAGES, language, dataclasses.replace(rules, **{key: type(rows)(kept)}))
        assert len(sentences(text, language)) > 1, f"the row {word!r} of {key} changes nothing"


@pytest.mark.parametrize(
    ("language", "word"), [(name, word) for name in LANGUAGES for word in sorted(LANGUAGES[name].short_words)]
)
def test_every_short_word_ends_a_sentence(language: str, word: str) -> None:
    capital = "Q" if LANGUAGES[language].script == "Latin" else word
    assert sentences(f"Qqq qq {word}. {capital}qq", language) == [f"Qqq qq {word}. ", f"{capital}qq"]


@pytest.mark.parametrize("mark", sorted(regex.findall(r"\p{SB=STerm}", "".join(map(chr, range(0x11000))))))
def test_every_terminator_of_the_standard_ends_a_sentence(mark: str) -> None:
    expected = [f"Aa bb{mark} ", "Cc dd"]
    assert sentences("".join(expected), "en") == (["".join(expected)] if mark == "၊" else expected)


def test_an_abbreviation_may_stand_directly_behind_a_script_without_spaces() -> None:
    assert sentences("日期c. 1900年和甲。他来了.  然后走。", "zh") == ["日期c. 1900年和甲。", "他来了.  ", "然后走。"]


def test_an_article_may_be_written_with_its_abbreviation() -> None:
    assert sentences("L'art. 5 du code. Il vint.", "fr") == ["L'art. 5 du code. ", "Il vint."]


def test_no_boundary_lies_inside_a_grapheme_cluster() -> None:
    for text in ("ကသည်။\u1037က", "है।\u0902 दिल्ली", "终。\ufe0f始", "Aa. \u0301Bb", "终。🏽始", "終。ﾞ始"):
        assert "".join(sentences(text)) == text
        assert not any(regex.match(r"[\p{M}🏽ﾞ]", sentence) for sentence in sentences(text))
