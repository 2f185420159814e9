"""Stop, start and help in 39 languages, and in the ways in which people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import notices
from app.countries import BadPack, Packs
from app.countries import keywords as lists
from app.domain.keywords import MAX_TEXT_CHARS, Match, normalise
from app.domain.text import segment

PACKS = Packs.load()
FILE = lists.load_file()
KEYWORDS = lists.matcher(FILE, PACKS)
STOPS = [
    (code, word, country)
    for code, language in FILE.languages.items()
    for word in (*language.stop, *language.stop_alone)
    for country in {p.id for p in PACKS.all() if code in p.data.languages} or {"default"}
]


def action(text: str, country: str = "US") -> tuple[str, bool] | None:
    match = KEYWORDS.match(text, country)
    return (match.action, match.doubtful) if match else None


def test_the_lists_cover_39_languages_and_stop_everywhere() -> None:
    assert len(FILE.languages) == 39
    for pack in PACKS.all():
        for text in ("STOP", "stop.", "Stop!"):
            assert KEYWORDS.match(text, pack.id) is not None, pack.id
            assert action(text, pack.id) == ("stop", False), pack.id


@pytest.mark.parametrize(
    "spelling", [str, str.lower, str.title, '"{}"'.format, " {} !\n".format, "👍 {}".format]
)
def test_every_opt_out_word_acts_in_its_countries(spelling: object) -> None:
    missed = [
        (code, word, country)
        for code, word, country in STOPS
        if action(spelling(word), country) != ("stop", False)  # type: ignore[operator]
    ]
    assert not missed


def test_every_opt_out_word_of_a_pack_acts_in_its_country() -> None:
    missed = [
        (pack.id, word)
        for pack in PACKS.all()
        for word in pack.data.opt_out.keywords
        if action(word, pack.id) != ("stop", False)
    ]
    assert not missed


@pytest.mark.parametrize(
    "text",
    [
        "stop",
        "STOP.",
        "'Stop'",
        "«STOP»",
        "S T O P",
        "S.T.O.P.",
        "s-t-o-p",
        "ＳＴＯＰ",
        "𝐒𝐓𝐎𝐏",
        "\u200bSTOP\u200e\ufeff",
        "STOP\u202c",
        "ST\u00adOP",  # soft hyphen
        "🛑 STOP 🛑",
        "STOP✋🏽",
        "STOP\x00",
        "STOP 36180",
        "STOP36180",
        "stop please",
        "STOP PLS!!",
        "StopAll",
        "STOP ALL",
        "opt-out",
        "OPT OUT",
        "optout",
        "Unsubscribe",
        "cancel",
        "END",
        "revoke",
        "STOP STOP STOP STOP",
        "Stop! Stop! STOP! stop!!",
        "stop all stop all",
        "STOP 456*9*5#",
        "STOPPP",
        "stoooop!!!",
        "SSSTTTOOOPPP",
        "UNSUBSCRIBEEE",
        "SТOP",  # a Cyrillic T
        "ЅТОР",  # four Cyrillic letters
        "ЅТОРРР please",
        "ΣΤΟΡ",  # four Greek ones
        "ЕND",
        "ᴜɴꜱᴜʙꜱᴄʀɪʙᴇ",
        "🅢🅣🅞🅟",
        "🆂🆃🅾🅿",
        "S\u20d2T\u20d2O\u20d2P",
        "STOP\u3164",  # a letter that shows nothing
        "*STOP*",
        "_stop_",
        "<STOP>",
        "`STOP`",
        "„STOP“",
        "‚stop‘",
        "»STOP«",
        "「STOP」",
        "STOP🛑",
        "STOP!!!1",
        "STOP\u2060\u200d\ufe0f",
        "ST\u200bOP\u200c",
        "\u202eSTOP",
        "STOP…",
        "STOP,",
        "UNSUBSCRIBE 🙏🏽",
    ],
)
def test_ways_to_write_stop(text: str) -> None:
    assert action(text) == ("stop", False)


@pytest.mark.parametrize(
    ("text", "country"),
    [
        ("arrêt", "FR"), ("ARRET", "FR"), ("arre\u0302t", "FR"),
        ("İPTAL", "TR"), ("iptal", "TR"), ("IPTAL", "TR"), ("ıptal", "TR"), ("çık", "TR"), ("CIK", "TR"),
        ("إلغاء", "SA"), ("الغاء", "SA"), ("إلـغـاء", "SA"), ("أَلغاء", "SA"),
        ("إيقاف", "SA"), ("ايقاف", "SA"),
        ("διαγραφή", "GR"), ("ΔΙΑΓΡΑΦΗ", "GR"), ("τέλος", "GR"),
        ("từ chối", "VN"), ("TU CHOI", "VN"), ("Tu\u031b\u0300 chô\u0301i", "VN"), ("hủy", "VN"),
        ("STOPP", "SE"), ("REZYGNUJĘ", "PL"), ("rezygnuje", "PL"), ("não", "XX"),
        ("הסר", "IL"), ("הָסֵר", "IL"), ("退订", "CN"), ("TD退订", "CN"), ("수신거부", "KR"), ("ยกเลิก", "TH"),
        ("बंद", "IN"), ("স্টপ", "BD"), ("স্টেশন", "XX"), ("СТОП", "RU"), ("стоп!", "RU"),
    ],
)  # fmt: skip
def test_scripts_and_accents(text: str, country: str) -> None:
    assert action(text, country) == (None if country == "XX" else ("stop", False))


SAID = {  # by language: a country, a word with another behind it, words in a sentence
    "en": ("GB", "STOP thanks", "You have the wrong number, sorry about that"),
    "fr": ("FR", "désabonnement svp", "Bonjour, je souhaite mon désabonnement dès ce jour"),
    "es": ("ES", "STOP gracias", "Por favor no me envíen más publicidad a este número"),
    "pt": ("PT", "REMOVER já", "Por favor, não me enviem mais mensagens destas"),
    "de": ("DE", "Abmelden bitte", "Ich möchte keine Nachrichten mehr von Ihnen bekommen"),
    "nl": ("NL", "Afmelden graag", "Ik wil graag geen berichten meer van jullie krijgen"),
    "it": ("IT", "Cancellami subito", "Per favore, non voglio più ricevere le vostre offerte"),
    "pl": ("PL", "Rezygnuję z tego", "Bardzo proszę, nie wysyłajcie mi takich wiadomości"),
    "cs": ("CZ", "Odhlásit prosím", "Prosím vás, už mi nepište s těmito nabídkami"),
    "sk": ("SK", "Odhlásiť prosím", "Prosím vás, neposielajte mi takéto správy každý deň"),
    "hu": ("HU", "Leiratkozás kérem", "Köszönöm, de nem kérek több üzenetet önöktől"),
    "ro": ("RO", "Dezabonare acum", "Vă rog să nu mai trimiteți mesaje pe acest număr"),
    "el": ("GR", "Διαγραφή παρακαλώ", "Σας παρακαλώ πολύ μη μου στέλνετε άλλα μηνύματα"),
    "sv": ("SE", "Avregistrera mig", "Kan ni vara snälla och sluta skicka sådana här meddelanden"),
    "no": ("NO", "Avslutt takk", "Kan dere være så snille å slutt å sende slike meldinger"),
    "da": ("DK", "Afmeld tak", "Vil I være søde at stop med at sende de her beskeder"),
    "fi": ("FI", "Lopeta kiitos", "Hei, älkää lähettäkö minulle enää näitä viestejä"),
    "tr": ("TR", "STOP lütfen", "Lütfen bana bir daha mesaj göndermeyin, teşekkürler"),
    "ru": ("RU", "Отписка пожалуйста", "Пожалуйста, больше не шлите мне вашу рекламу"),
    "uk": ("UA", "Відписка дякую", "Будь ласка, більше не надсилайте мені цю рекламу"),
    "kk": ("KZ", "Тоқтату керек", "Өтінемін, маған енді мұндай хабар жібермеңіз"),
    "ar": ("SA", "إلغاء من فضلك", "من فضلكم لا أريد رسائل من هذا النوع بعد اليوم"),
    "fa": ("IR", "لغو لطفا", "لطفا دیگر برای من پیامک تبلیغاتی ارسال نکنید"),
    "he": ("IL", "הסר בבקשה", "שלום, אני מבקש מכם להסיר אותי מרשימת התפוצה"),
    "ur": ("PK", "بند کریں شکریہ", "براہ کرم مجھے یہ پیغام دوبارہ مت بھیجیں شکریہ"),
    "hi": ("IN", "बंद करो", "कृपया मुझे ऐसे संदेश फिर से मत भेजें धन्यवाद"),
    "bn": ("BD", "বন্ধ করুন", "দয়া করে আমাকে আর এসব বার্তা পাঠাবেন না ধন্যবাদ"),
    "ta": ("IN", "நிறுத்து நன்றி", "தயவு செய்து இனி எனக்கு செய்திகள் அனுப்ப வேண்டாம் நன்றி"),
    "zh-Hans": ("CN", "取消订阅 谢谢", "不要再给我发短信"),
    "zh-Hant": ("TW", "取消訂閱 謝謝", "麻煩你們不要再傳簡訊給我了"),
    "ja": ("JP", "配信停止 お願いします", "すみませんがもうこの番号には送信しないでください"),
    "ko": ("KR", "무료거부 부탁", "앞으로 이런 광고 문자는 제발 그만 보내 주세요"),
    "vi": ("VN", "Từ chối nhé", "Tôi không muốn, vui lòng ngừng gửi tin cho tôi"),
    "th": ("TH", "ยกเลิก ครับ", "กรุณาอย่าส่งข้อความแบบนี้มาอีกนะครับขอบคุณ"),
    "id": ("ID", "Berhenti dong", "Mohon jangan hubungi saya lagi lewat nomor ini"),
    "ms": ("MY", "Berhenti tolong", "Tolong jangan hantar mesej macam ini kepada saya lagi"),
    "tl": ("PH", "Tigil na po", "Pakiusap huwag na kayong mag-text sa akin tungkol dito"),
    "sw": ("KE", "Sitisha tafadhali", "Tafadhali sana msinitumie ujumbe kama huu tena"),
    "af": ("ZA", "Kanselleer asb", "Moet nie meer stuur nie asseblief, ek wil dit nie hê nie"),
}


def test_every_language_stops_by_its_first_word_and_by_a_phrase() -> None:
    assert SAID.keys() == FILE.languages.keys()
    first = {code: action(text, country) for code, (country, text, _) in SAID.items()}
    assert {code: found for code, found in first.items() if found != ("stop", False)} == {}
    phrase = {code: action(text, country) for code, (country, _, text) in SAID.items()}
    assert {code: found for code, found in phrase.items() if found != ("stop", True)} == {}


def test_every_word_acts_in_disguise_and_in_every_language_there_is_help_and_start() -> None:
    for code, language in FILE.languages.items():
        country = SAID[code][0]
        for word in language.stop:
            held_down = word[:-1] + word[-1] * 5 if word[-1].isascii() else word
            assert action(f"\ufeff{held_down}\u200d 🙏", country) == ("stop", False), word
        for word in language.help:
            assert action(f" {word}?!", country) == ("help", False), word
        for word in (*language.start, *language.yes):
            assert action(f"“{word}”", country) in {("start", False), ("start", True)}, word


@pytest.mark.parametrize(
    ("text", "country"),
    [
        ("RET 12345", "TR"),
        ("ret B001", "TR"),
        ("İPTAL 4609", "TR"),
        ("END 36180", "GB"),
        ("CANCEL 123", "US"),
        ("BAJA 7726!", "ES"),
        ("TD 1069", "CN"),
        ("TC 9241", "VN"),
    ],
)
def test_a_code_behind_a_word_that_stops_alone_is_a_stop_in_doubt(text: str, country: str) -> None:
    assert action(text, country) == ("stop", True)


@pytest.mark.parametrize(
    ("text", "country", "stop"),
    [
        ("TC QC", "VN", True), ("tc qc.", "VN", True), ("QC", "VN", False),
        ("取消订阅", "CN", True), ("거부합니다", "KR", True), ("解約", "JP", True), ("やめて", "JP", True),
        ("Sluta!", "SE", True), ("وقف", "SA", True), ("رکو", "PK", True), ("Désabonnement", "FR", True),
    ],
)  # fmt: skip
def test_words_of_countries(text: str, country: str, stop: bool) -> None:
    assert action(text, country) == (("stop", False) if stop else None)


@pytest.mark.parametrize("letter", ["T", "R", "N"])
def test_single_letters_act_in_their_country_only(letter: str) -> None:
    assert action(letter, "CN") == ("stop", False)
    assert action(letter.lower() + "。", "CN") == ("stop", False)
    assert action(letter, "US") is None
    assert action(f"{letter} please", "CN") is None


def test_short_words_act_in_their_country_or_alone() -> None:
    assert action("TC", "VN") == ("stop", False)
    assert action("TC", "US") is None
    assert action("END", "GB") == ("stop", False)
    assert action("the end is near") is None
    assert action("cancel my order") is None
    assert action("quit smoking program") is None


@pytest.mark.parametrize(
    "text",
    [
        "please stop",
        "pls STOP now",
        "STOP. I never signed up for this",
        "STOP! Who is this and where did you get my number?",
        "Stop, please and thank you so much",
        "STOP - wrong number, I don't know you",
        "... unsubscribe! this is the third time",
        "STOP merci de ne plus m'envoyer de SMS",
        "I want to unsubscribe from this",
        "UNSUBSCRIBE from all of your lists",
        "Stop texting me or I will call my lawyer",
        "I told you twice already, take me off your list",
        "STOP\n\nOn Tue, Acme wrote:\n> Big sale today only",
        "Stop\nSent from my iPhone",
        "don’t text me again ever",
        "UNSUBSCRIBE ME from all of it please",
        "no quiero más mensajes",
        "je ne veux plus recevoir vos messages",
        "请不要再发短信给我了",
        "麻烦退订一下谢谢",
        "もう配信停止してください",
        "لا ترسل لي رسائل",
        "xin đừng nhắn tin nữa",
    ],
)
def test_what_sounds_like_stop_is_one_in_doubt(text: str) -> None:
    assert action(text) == ("stop", True)


@pytest.mark.parametrize("text", ["HELP", "help!", "Info", "HELP please", "aide", "AYUDA"])
def test_help(text: str) -> None:
    assert action(text) == ("help", False)


def test_start_is_a_whole_message_and_yes_needs_a_question() -> None:
    assert action("START") == ("start", False)
    assert action("unstop") == ("start", False)
    assert action("start now") is None
    assert action("YES") == ("start", True)
    assert action("Oui", "FR") == ("start", True)
    assert action("ALTA", "MX") == ("start", False)
    assert action("ALTA", "JP") == ("start", True)  # a foreign word for it


def test_a_countrys_own_words_go_first_and_stop_before_all_else() -> None:
    assert KEYWORDS.match("СТОП", "UA") == Match("stop", "СТОП", "uk", False)
    assert KEYWORDS.match("СТОП", "EE") == Match("stop", "СТОП", "ru", False)  # any language
    assert KEYWORDS.match("TAK", "PL") == Match("start", "TAK", "pl", True)
    assert KEYWORDS.match("STOP", "DE") is not None
    assert action("help stop") == ("help", False)  # the first word is what they ask for


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "!!!",
        "👍",
        "\u200b",
        "Thanks, see you there",
        "What time do you open on Sunday?",
        "ok",
        "1",
        "no",
        "The bus stop is next to the bank, isn't it",
        "I'd like to start on Monday",
        "stop by the shop at 5 if you can",
        "I'll be at the bus stop. Come and get me",
        "The end. It was a good film, wasn't it",
    ],
)
def test_ordinary_texts_are_left_alone(text: str) -> None:
    assert action(text) is None


@pytest.mark.parametrize(
    ("text", "country"),
    [
        ("End of March then", "GB"), ("END OF 2026", "GB"), ("cancel 2 tickets", "US"), ("quit at 5pm", "US"),
        ("See you at the shop", "GB"), ("Sooooo happy!!!", "US"), ("hmmm ok", "US"), ("Terminal T1", "CN"),
        ("T1", "CN"), ("N95", "CN"), ("R 2", "CN"), ("TC may gio", "VN"), ("retour demain", "TR"),
        ("je veux arrêter de fumer", "FR"), ("arrêter de fumer", "FR"), ("jag ska sluta jobba", "SE"),
        ("sluta röka", "SE"), ("La salida está a la izquierda", "ES"), ("voy a salir a las 5", "ES"),
        ("Das Ende vom Film war gut", "DE"), ("ik ga uit eten", "NL"), ("uit eten", "NL"),
        ("koniec pracy o piątej", "PL"), ("нет времени сегодня", "RU"), ("Нет, завтра", "KZ"),
        ("я стою на остановке", "RU"), ("η στάση του λεωφορείου", "GR"), ("مدیر صاحب کہاں ہیں", "PK"),
        ("明天几点开门", "CN"), ("我想订阅新闻", "CN"), ("何時に開きますか", "JP"), ("내일 몇 시에 열어요", "KR"),
        ("hẹn gặp bạn ngày mai", "VN"), ("พรุ่งนี้เปิดกี่โมง", "TH"), ("besok jam berapa buka", "ID"),
        ("ความสุขทุกวัน", "TH"), ("Ok, dobrze, jutro", "PL"), ("Tak prosím", "EE"), ("ΟΚ ευχαριστώ", "GR"),
        ("Спасибо, увидимся", "RU"), ("Сколько стоит доставка?", "RU"), ("Ας τα πούμε αύριο", "GR"),
        ("number please", "US"), ("is this the right number?", "US"), ("kansellasie van vlug", "ZA"),
    ],
)  # fmt: skip
def test_ordinary_sentences_of_the_world_are_no_stop(text: str, country: str) -> None:
    match = KEYWORDS.match(text, country)
    assert match is None or match.action != "stop"


def test_a_text_is_read_up_to_its_limit() -> None:
    assert action("x " * MAX_TEXT_CHARS + "stop texting me") is None
    assert action("x " * 100 + "stop texting me") == ("stop", True)


@given(st.text(max_size=80), st.sampled_from(["US", "TR", "CN", "EE", ""]))
def test_any_text_has_an_answer(text: str, country: str) -> None:
    match = KEYWORDS.match(text, country)
    assert match is None or match.action in ("stop", "start", "help")
    for key in normalise(text):
        assert key
        assert key == " ".join(key.split())


GSM7 = {
    "en", "fr", "es", "pt", "de", "nl", "it", "pl", "cs", "sk", "hu", "ro", "sv", "no", "da", "fi", "tr", "vi", "id",
    "ms", "tl", "sw", "af",
}  # fmt: skip
FORMS = ("stop", "start", "help", "question")


def answers(code: str) -> dict[str, str]:
    """The four texts of a language, as those of a tenant that has set its brand and nothing else."""
    words = FILE.confirmations[code]
    fields = {"brand": "Acme Shop", "contact": "12025550199"}
    fields |= {"program": words.program, "frequency": words.frequency}
    return {form: getattr(words, form).format(**fields) for form in FORMS}


@pytest.mark.parametrize("code", FILE.languages)
def test_each_language_has_each_answer_and_what_it_costs(code: str) -> None:
    """One segment in the networks' alphabet; else one for the confirmation of a stop, two for the others."""
    for form, text in answers(code).items():
        cut = segment(text)
        assert cut.encoding == ("gsm7" if code in GSM7 else "ucs2"), (form, text)
        most = 1 if code in GSM7 or form == "stop" else 2
        assert len(cut.parts) <= most, (form, len(text), text)
        assert text.startswith("Acme Shop")
        assert ("12025550199" in text) == (form in ("stop", "help"))
        assert not any(mark in text for mark in "!%{}"), text


@pytest.mark.parametrize("code", FILE.languages)
def test_answers_name_words_that_work(code: str) -> None:
    country, language, text = SAID[code][0], FILE.languages[code], answers(code)

    def named(form: str, action_: str, words: tuple[str, ...]) -> None:
        found = [word for word in (*words, "START", "STOP", "HELP") if word in text[form]]
        assert any(action(word, country) in {(action_, False), (action_, True)} for word in found), (
            form,
            found,
        )

    stops = (*language.stop, *language.stop_alone)
    named("stop", "start", language.start)
    named("start", "stop", stops)
    named("start", "help", language.help)
    named("help", "stop", stops)
    named("question", "start", (*language.yes, *language.start))
    named("question", "stop", stops)


def test_answers_are_in_the_language_of_the_word_else_of_the_country() -> None:
    words = notices.language()
    writer = notices.Writer(1, "Acme", b"k", {})

    def said(text: str, country: str) -> str:
        match = words.keywords.match(text, country)
        assert match is not None
        return notices.text(
            words, writer, "stop", "12025550199", (match.language, *words.keywords.spoken(country))
        )

    expected = {
        ("STOP", "DE"): "de", ("ARRET", "DE"): "fr", ("STOP", "BE"): "nl", ("STOP", "EE"): "en", ("STOP", "CZ"): "cs",
        ("СТОП", "UA"): "uk", ("СТОП", "KZ"): "kk", ("RET", "TR"): "tr", ("TC", "VN"): "vi", ("R", "CN"): "zh-Hans",
        ("STOP", "TW"): "zh-Hant", ("BAJA", "US"): "es", ("STOP", "US"): "en", ("لغو", "IR"): "fa",
    }  # fmt: skip
    for (text, country), code in expected.items():
        form = FILE.confirmations[code].stop
        assert said(text, country) == form.format(brand="Acme", contact="12025550199"), (text, country)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('confidence = "sourced"', 'confidence = "sure"'),
            r"keywords\.toml: Invalid enum value 'sure' - at",
        ),
        (("[confirmations.en]", "[confirmations.xx]"), "no answers in en - at `\\$.confirmations`"),
        (("[confirmations.th]", "[confirmations.xx]"), "no answers in th - at"),
        (("[languages.en]", "[languages.xx]"), "English is missing"),
        (('CZ = ["cs"]', 'CZ = ["cz"]'), "no keywords for language 'cz' - at `\\$.spoken`"),
        (("stop_alone", "stop_lonely"), "unknown field `stop_lonely`"),
    ],
)
def test_a_broken_list_is_one_line(change: tuple[str, str], message: str) -> None:
    content = lists.files("app.countries").joinpath("keywords.toml").read_text("utf-8")
    with pytest.raises(BadPack, match=message) as error:
        lists.read(content.replace(*change).encode())
    assert "\n" not in str(error.value)
