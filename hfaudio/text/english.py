"""English as it is said: numbers, money, times and abbreviations in words, one spelling for each word.

Read as words, without the "and" of "one hundred and five", since references are what a model learns to say:

    42, 1,000, 3.14, -5         forty two, one thousand, three point one four, minus five
    1999, 2005, 1990s, '90s     nineteen ninety nine, two thousand five, nineteen nineties, nineties
    21st, 1,000th               twenty first, one thousandth
    $5.20, €1, £3 million       five dollars and twenty cents, one euro, three million pounds
    12.5%                       twelve point five percent
    7:30, 7:05 p.m., 7:00       seven thirty, seven oh five pm, seven o'clock
    007, 16 digits and more     zero zero seven: digit by digit
    mp3, 5kg                    mp three, five kg
    Mr., Dr., St., vs., &       mister, doctor, saint, versus, and

Bare numbers of four digits from 1100 to 2099 are read as years ("fifteen hundred people" is also how people speak).
Dates, fractions, telephone numbers and units have no rule of their own: their numbers are read one after the other.
Contractions stay ("don't"). A word that is said differently in Britain and America
("learnt", "aluminium", "mum") is two words, and both stay.
"""

import re

from hfaudio.text.numbers import cardinal, decimal, digits, ordinal, plural, year

# Two spellings of one word, British and American.
SPELLINGS = """
    colour color  colours colors  coloured colored  colouring coloring  colourful colorful  colourless colorless
    favour favor  favours favors  favoured favored  favourite favorite  favourites favorites  favourable favorable
    flavour flavor  flavours flavors  flavoured flavored  honour honor  honours honors  honoured honored
    honourable honorable  harbour harbor  harbours harbors  humour humor  labour labor  labours labors
    labourer laborer  laboured labored  neighbour neighbor  neighbours neighbors  neighbouring neighboring
    neighbourhood neighborhood  neighbourhoods neighborhoods  behaviour behavior  behaviours behaviors  rumour rumor
    rumours rumors  armour armor  armoured armored  vapour vapor  odour odor  odours odors  parlour parlor
    rigour rigor  vigour vigor  valour valor  splendour splendor  saviour savior  savour savor  endeavour endeavor
    endeavours endeavors  tumour tumor  tumours tumors  clamour clamor  candour candor  ardour ardor  fervour fervor
    centre center  centres centers  centred centered  theatre theater  theatres theaters  metre meter  metres meters
    kilometre kilometer  kilometres kilometers  centimetre centimeter  centimetres centimeters  millimetre millimeter
    millimetres millimeters  litre liter  litres liters  fibre fiber  fibres fibers  spectre specter  sombre somber
    calibre caliber  lustre luster  meagre meager  sceptre scepter  organise organize  organises organizes
    organised organized  organising organizing  organisation organization  organisations organizations  realise realize
    realises realizes  realised realized  realising realizing  recognise recognize  recognises recognizes
    recognised recognized  recognising recognizing  apologise apologize  apologised apologized  apologising apologizing
    criticise criticize  criticised criticized  emphasise emphasize  emphasised emphasized  specialise specialize
    specialised specialized  summarise summarize  summarised summarized  memorise memorize  memorised memorized
    minimise minimize  minimised minimized  maximise maximize  maximised maximized  modernise modernize
    civilisation civilization  civilised civilized  characterise characterize  characterised characterized
    authorise authorize  authorised authorized  utilise utilize  utilised utilized  sympathise sympathize
    symbolise symbolize  standardise standardize  generalise generalize  normalise normalize  optimise optimize
    optimised optimized  prioritise prioritize  finalise finalize  mobilise mobilize  stabilise stabilize
    harmonise harmonize  colonise colonize  economise economize  industrialised industrialized  analyse analyze
    analysed analyzed  analysing analyzing  paralyse paralyze  paralysed paralyzed  catalyse catalyze  defence defense
    defences defenses  offence offense  offences offenses  licence license  licences licenses  pretence pretense
    practise practice  practised practiced  practising practicing  practises practices  travelled traveled
    travelling traveling  traveller traveler  travellers travelers  cancelled canceled  cancelling canceling
    modelled modeled  modelling modeling  labelled labeled  labelling labeling  signalled signaled
    signalling signaling  quarrelled quarreled  levelled leveled  fuelled fueled  marvellous marvelous
    counsellor counselor  jewellery jewelry  woollen woolen  fulfil fulfill  fulfils fulfills  enrol enroll
    enrolment enrollment  skilful skillful  wilful willful  instalment installment  instil instill  distil distill
    anaesthetic anesthetic  anaemia anemia  paediatric pediatric  encyclopaedia encyclopedia  mediaeval medieval
    foetus fetus  manoeuvre maneuver  manoeuvres maneuvers  oesophagus esophagus  diarrhoea diarrhea  catalogue catalog
    catalogues catalogs  grey gray  greys grays  greyish grayish  tyre tire  tyres tires  kerb curb  kerbs curbs
    plough plow  ploughs plows  ploughed plowed  programme program  programmes programs  cheque check  cheques checks
    draught draft  draughts drafts  gaol jail  mould mold  moulds molds  mouldy moldy  moult molt  smoulder smolder
    smouldering smoldering  sceptic skeptic  sceptical skeptical  sceptics skeptics  storey story  storeys stories
    pyjamas pajamas  cosy cozy  ageing aging  judgement judgment  judgements judgments  acknowledgement acknowledgment
    moustache mustache  sulphur sulfur  yoghurt yogurt  artefact artifact  artefacts artifacts  enquire inquire
    enquired inquired  enquiry inquiry  enquiries inquiries  councillor councilor
"""
AMERICAN = dict(zip(SPELLINGS.split()[::2], SPELLINGS.split()[1::2], strict=True))

ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "prof": "professor",
    "st": "saint",  # not "street": names of saints are the more frequent in running speech
    "mt": "mount",
    "jr": "junior",
    "sr": "senior",
    "capt": "captain",
    "lt": "lieutenant",
    "sgt": "sergeant",
    "vs": "versus",
    "etc": "et cetera",
    "ok": "okay",
}

CURRENCIES = {  # unit, units, hundredth, hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}

WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
AMOUNT = rf"(?:{WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
MINUS = r"(?:(?<!\S)[-\u2212](?=[$£€.0-9]))?"  # "3-5" is a range, " -5" a number
SCALE = r"(?:\s(?:hundred|thousand|million|billion|trillion)\b)?"

MONEY_BEFORE = re.compile(rf"({MINUS})([$£€])\s?({AMOUNT})({SCALE})")
MONEY_AFTER = re.compile(rf"({MINUS})({AMOUNT})({SCALE})\s?([$£€])")
PERCENT = re.compile(rf"({MINUS})({AMOUNT})\s?%")
TIME = re.compile(r"(?<![0-9:.,])([01]?[0-9]|2[0-3]):([0-5][0-9])(?![0-9:])(\s?[ap]m\b)?")
NOT_INSIDE = r"(?<![0-9])(?<![0-9][.,])"  # not the "5s" of "1.5s"
ORDINAL = re.compile(rf"{NOT_INSIDE}({WHOLE})(?:st|nd|rd|th)\b")
PLURAL = re.compile(rf"{NOT_INSIDE}({WHOLE})['\u2019]?s\b")
NUMBER = re.compile(rf"({MINUS})({AMOUNT})")
PER_CENT = re.compile(r"\bper cent\b")
HALF_OF_DAY = re.compile(r"\b([ap])\.m\b\.?")

LONGEST_NUMBER = 15  # digits; longer ones are card and serial numbers


def spell_out(text: str) -> str:
    """Lower-case text with its numbers, amounts, times and "&" in words; other punctuation is still there."""
    text = HALF_OF_DAY.sub(r"\1m", text).replace("&", " and ")
    text = MONEY_BEFORE.sub(lambda match: _money(match[1], match[2], match[3], match[4]), text)
    text = MONEY_AFTER.sub(lambda match: _money(match[1], match[4], match[2], match[3]), text)
    text = PERCENT.sub(lambda match: f" {_signed(match[1], _amount(match[2]))} percent ", text)
    text = TIME.sub(lambda match: f" {_time(int(match[1]), int(match[2]), match[3] or '')} ", text)
    text = ORDINAL.sub(lambda match: f" {_ordinal(match[1])} ", text)
    text = PLURAL.sub(lambda match: f" {plural(_number(match[1]))} ", text)
    return NUMBER.sub(lambda match: f" {_signed(match[1], _number(match[2]))} ", text)


def standard_spelling(text: str) -> str:
    """Words without punctuation, in American spelling and with the abbreviations written out."""
    words = []
    for word in text.split():
        stem, *ending = word.partition("'")  # "colour's"
        words.append(ABBREVIATIONS.get(stem, AMERICAN.get(stem, stem)) + "".join(ending))
    return PER_CENT.sub("percent", " ".join(words))


def _amount(text: str) -> str:
    """An amount, never a year: "1999" -> "one thousand nine hundred ninety nine"."""
    text = text.replace(",", "")
    if "." in text:
        whole, fraction = text.split(".")
        return decimal(text) if len(whole) <= LONGEST_NUMBER else f"{digits(whole)} point {digits(fraction)}"
    if len(text) > LONGEST_NUMBER or (len(text) > 1 and text[0] == "0"):
        return digits(text)
    return cardinal(int(text))


def _number(text: str) -> str:
    """A bare number, which may be a year."""
    if len(text) == 4 and text.isdecimal() and 1100 <= int(text) <= 2099:
        return year(int(text))
    return _amount(text)


def _ordinal(text: str) -> str:
    text = text.replace(",", "")
    return ordinal(int(text)) if len(text) <= LONGEST_NUMBER else digits(text)


def _signed(minus: str, words: str) -> str:
    return f"minus {words}" if minus else words


def _money(minus: str, symbol: str, amount: str, scale: str) -> str:
    unit, units, hundredth, hundredths = CURRENCIES[symbol]
    whole, _, fraction = amount.partition(".")
    if scale or len(fraction) not in (0, 2):
        return f" {_signed(minus, _amount(amount))}{scale} {units} "
    parts = []
    if whole.strip("0") or not fraction.strip("0"):
        parts.append(f"{_amount(whole or '0')} {unit if whole == '1' else units}")
    if fraction.strip("0"):
        parts.append(f"{cardinal(int(fraction))} {hundredth if fraction == '01' else hundredths}")
    return f" {_signed(minus, ' and '.join(parts))} "


def _time(hour: int, minute: int, half_of_day: str) -> str:
    if minute:
        words = f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif half_of_day:
        words = cardinal(hour)
    else:
        words = f"{cardinal(hour)} hundred" if hour > 12 else f"{cardinal(hour)} o'clock"
    return f"{words} {half_of_day.strip()}"
