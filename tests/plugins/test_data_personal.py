"""How much is found of phone numbers and of garbled texts, and how much else is taken for them."""

from finery_data.checks import encoding, personal

PHONES = [
    "+49 30 901820", "030 901820", "0171 2345678", "+4915123456789", "(089) 123 45 67",
    "0221/4710-123", "030-23125000", "+43 1 514440", "01 514440", "0664 1234567",
    "0043 664 1234567", "+41 44 668 18 00", "044 668 18 00", "079 123 45 67", "0041 79 123 45 67",
    "+33 1 42 68 53 00", "01 42 68 53 00", "06 12 34 56 78", "06.12.34.56.78", "+34 912 345 678",
    "+39 06 6982", "06 698 12345", "+39 347 123 4567", "+48 22 123 45 67", "+31 20 123 4567",
    "020 123 4567", "06 12345678", "06-12345678", "+44 20 7946 0958", "020 7946 0958",
    "07700 900123", "(020) 7946 0958", "+44 (0)20 7946 0958", "+1 212 555 0147", "(212) 555-0147",
    "212-555-0147", "212.555.0147", "+12125550147", "+55 11 91234-5678", "+91 98765 43210",
    "098765 43210", "022-23456789", "+81 3-1234-5678", "03-1234-5678", "090-1234-5678",
    "+90 212 345 67 89", "0212 345 67 89", "0532 123 45 67", "(0532) 123 45 67", "+46 8 123 456 78",
    "08-123 456 78", "070-123 45 67",
]  # fmt: skip
"""Of 15 countries, as people write them."""
NO_FORM = [
    "0612345678", "912 345 678", "612 34 56 78", "612345678", "347 123 4567", "3471234567",
    "22 123 45 67", "601 234 567", "601234567", "07700900123", "1-800-555-0199", "2125550147",
    "(11) 91234-5678", "11 91234-5678", "(21) 2345-6789", "98765 43210", "9876543210", "0701234567",
]  # fmt: skip
"""Numbers of Spain, Poland, Italy, Brazil and India, and bare digits: other numbers look so too."""
OTHER_NUMBERS = [
    "order 123456789 has not arrived", "order number 4711-0815-2234",
    "invoice 2025-001234 of 2025-11-03", "article 10-4432-77", "on 12.03.2025 at 14:30",
    "from 03/11/2024 to 05/11/2024", "2024-05-17T08:15:30Z", "20240517081530",
    "DE89 3704 0044 0532 0130 00", "FR76 3000 6000 0112 3456 7890 189",
    "GB29 NWBK 6016 1331 9268 19", "4111 1111 1111 1111", "ISBN 978-3-16-148410-0",
    "ISBN 0-306-40615-2", "EAN 4006381333931", "coordinates 52.520008, 13.404954",
    "$1,234,567.89", "1.234.567,89 EUR", "price 1 299 000 kr", "3.14159265358979",
    "build 2024.11.3.118", "8.8.8.8", "2001:db8::1", "MAC 00:1B:44:11:3A:B7",
    "tracking 1Z999AA10123456784", "tracking 00340434161094042557", "VAT DE123456789",
    "tax id 12/345/67890", "customer 00012345", "account 0532013000", "sort code 20-00-00",
    "zip 10115 and 90210-1234", "case 2021-03-14-0007", "SSN 078-05-1120", "2019-2020 season",
    "pages 100-120, 130-145", "10 000 000 people", "100 200 300 400", "1 2 3 4 5 6 7 8 9 10",
    "0 1 1 2 3 5 8 13 21", "chr1:1000000-2000000", "uuid 123e4567-e89b-12d3-a456-426614174000",
    "IMEI 490154203237518", "epoch 1700000000123", "serial 0123456789ABCDEF", "part no. 06-12-34",
    "order no. 300-1234567-8901234", "booking 555-1234", "contract 10.2023.4567.89",
]  # fmt: skip
LIKE_A_PHONE = ["lottery 07 12 23 34 41 45", "temperature 021 0345", "batch 01-2345-678"]


def phones(text: str) -> list[str]:
    found = personal.personal_data(text, personal.KINDS)
    return [piece.text for kind, piece in found if kind == "phone"]


def test_phone_numbers_in_a_text() -> None:
    assert [n for n in PHONES if phones(f"call me: {n}, after six") != [n]] == []


def test_phone_numbers_without_a_form_of_their_own_are_left() -> None:
    assert [n for n in NO_FORM if phones(f"call me: {n}, after six")] == []


def test_other_numbers_are_no_phone_numbers() -> None:
    assert [text for text in OTHER_NUMBERS if phones(text)] == []
    assert all(phones(text) for text in LIKE_A_PHONE)


TEXTS = [
    "Können Sie mir bitte helfen?", "„Schön“, sagte er.", "Größe: 42 – bitte prüfen",
    "Où est ma carte ?", "C’est déjà réglé.", "« Très bien », dit-elle.", "À bientôt, cœur",
    "¿Dónde está mi tarjeta?", "¡Qué difícil!", "El niño comió piñas.", "Não recebi o cartão.",
    "Zażółć gęślą jaźń.", "Proszę o zwrot pieniędzy.", "Příliš žluťoučký kůň", "Děkuji, můj účet",
    "Şifremi unuttum", "Güncelleme başarısız oldu", "Árvíztűrő tükörfúrógép", "Jag förstår inte",
    "Где моя карта?", "Спасибо за помощь", "Πού είναι η κάρτα μου;", "カードはどこですか。",
    "我的卡在哪里？", "أين بطاقتي؟", "Thẻ của tôi ở đâu?", "It’s here – “now”.", "Costs £5 or €6",
    "20 °C ± 1, µm ½ cup",
]  # fmt: skip
"""In 14 languages."""
UNUSUAL = [
    "É” and „Ä“ and 10 £", "“Ô” says", "3½ × 2¼ ÷ 7", "IL Y MARQUÉ…", "« À » et « Â »",
    "Ã is a letter of Portuguese: São, Ão", "50 µg/m³ ± 5 %", "MÊME L’ÂGE", "VÅR ÄLG", "AÇÃO",
    "‘single’ ‚low‘ ‹a›", "nbsp\u00a0here", "emoji 😀👩‍👧 ❤️", "Ünïcödé Ïs Fün", "L’ÎLE «Ô»",
]  # fmt: skip


def misread(text: str) -> str:
    """UTF-8 read as Windows-1252, with Latin-1 where that has no character, as browsers do."""
    return "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode("utf-8"))


def test_texts_are_clean_and_are_found_when_they_are_misread() -> None:
    assert [text for text in TEXTS + UNUSUAL if list(encoding.garbled(text))] == []
    assert [text for text in TEXTS if not list(encoding.garbled(misread(text)))] == []


def test_a_single_misread_letter_is_found() -> None:
    letters = [chr(c) for c in range(0xA1, 0x180)]
    assert [c for c in letters if not list(encoding.garbled(f"wo{misread(c)}rd"))] == []


def test_texts_that_nearly_match_take_no_longer() -> None:
    almost = ("AB12" + "A" * 40 + " ") * 5_000 + ("+1" + "1" * 60 + "a ") * 5_000
    assert list(personal.personal_data(almost, list(personal.FINDERS))) == []
