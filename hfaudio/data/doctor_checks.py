"""The doctor's checks: from the measures of all splits to findings with a value, a rule and a remedy."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Literal

import numpy as np

from hfaudio.data.datasets import AUDIO_REASONS
from hfaudio.data.doctor_audio import CLIPPED_SAMPLES, CLIPPED_SHARE, EDGE_DB, SHAPE_SIZE, SILENT_DB, similar_pairs
from hfaudio.data.doctor_measures import EXAMPLES, Example, SplitMeasures, log_rates
from hfaudio.data.doctor_text import character_name

Severity = Literal["fix", "look", "fine"]
Splits = Mapping[str, SplitMeasures]

# Shares of the rows of a split from which on something must be repaired ("fix"). Below, training skips such rows.
MAX_UNREADABLE = 0.01  # more is a fault of the copy or of the export, not of single files
MAX_EMPTY_TEXTS = 0.05
MAX_MISFITS = 0.001  # a transcript that cannot be spoken so fast belongs to another recording, and is rarely alone
MAX_SILENT = 0.01
MAX_BROKEN_TEXTS = 0.01
# Shares from which on somebody should look.
FEW = 0.001
MANY_CLIPPED = 0.01
LONG_EDGES = 0.4  # of all seconds before the first and after the last loud frame; read speech has 0.1 to 0.3
SHARED_TRANSCRIPTS = 0.2  # of the different transcripts of an evaluation split that training has too
ONE_TRANSCRIPT = 0.25  # of the rows of a split

FULL_BAND_RATE = 16_000  # Hz; speech has little above 8 kHz, and pre-trained speech models read this rate
RARE_CHARACTER = 10  # occurrences in the training split: too few to learn a label from

# Of 100 clips of speechocean762, 97 or more stay within both limits when they are coded by Opus, mp3 or Vorbis, and
# all when resampled to 8 or 22.05 kHz, padded, made softer or noisy (30 dB SNR). No two of its 3,740 clips do.
COPY_SPREAD_CHANGE = 0.02
COPY_SIMILARITY = 0.985
# Two takes of one short word by one speaker look the same: among 1,000 clips of the Free Spoken Digit Dataset (median
# 0.4 s) 36 pairs are within the limits.
COPY_MIN_SPREAD = 0.2  # seconds; about 0.7 s of speech
MAX_COPY_PAIRS = 10_000

# Characters per second, on a logarithmic scale in units of the robust standard deviation (1.4826 times the median
# absolute deviation, 0.34 for speechocean762: 2.4 to 36 characters, which 6 of its 3,740 clips do not keep, all slow).
OUTLIER = 4.0
MIN_RATE_SPREAD = 0.1  # of log(rate): 10 %, should all rows be nearly equal
MIN_RATE_ROWS = 20


@dataclass(frozen=True)
class Finding:
    """The result of one check: `value` is what was found, by the `rule`, and `remedy` what to do about it."""

    name: str
    severity: Severity
    value: str
    rule: str
    remedy: str
    examples: tuple[Example, ...] = ()
    accepted: bool = False  # known to the user, and without effect on the verdict


def unreadable(splits: Splits) -> Finding:
    return _by_share(
        "unreadable",
        splits,
        AUDIO_REASONS,
        look=0,
        fix=MAX_UNREADABLE,
        rule="every recording can be decoded to its end",
        remedy="copy or export these files again, or take the rows out; training skips and counts them",
    )


def usable(splits: Splits) -> Finding:
    empty = [split for split in splits.values() if sum(split.skipped.values()) == len(split)]
    reasons = ", ".join(
        f"{split.name}: {reason} {n:,}" for split in empty for reason, n in Counter(split.skipped).most_common(3)
    )
    counts = ", ".join(f"{len(split) - sum(split.skipped.values()):,} in {split.name}" for split in splits.values())
    return Finding(
        "usable",
        "fix" if empty else "fine",
        f"no usable row ({reasons})" if empty else f"usable rows: {counts}",
        "every split has rows that can be read, and have a length and a transcript to train on",
        "check --audio_column, --text_column, --normalizer, --min_seconds and --max_seconds",
    )


def too_short(splits: Splits) -> Finding:
    return _by_share(
        "too_short",
        splits,
        ("too short",),
        look=FEW,
        rule="recordings last --min_seconds at least",
        remedy="look whether they were cut wrongly; training skips them",
    )


def too_long(splits: Splits) -> Finding:
    return _by_share(
        "too_long",
        splits,
        ("too long",),
        look=FEW,
        rule="recordings last --max_seconds at most",
        remedy="cut them at pauses (hfaudio align finds the words), or raise --max_seconds if the memory allows it",
    )


def empty_transcripts(splits: Splits) -> Finding:
    return _by_share(
        "empty_transcripts",
        splits,
        ("empty transcript",),
        look=0,
        fix=MAX_EMPTY_TEXTS,
        rule="a transcript has letters or digits after normalisation",
        remedy="write the transcripts, or take these rows out; training skips them",
    )


def labels_fit(splits: Splits) -> Finding:
    return _by_share(
        "labels_fit",
        splits,
        ("label longer than its frames",),
        look=0,
        fix=MAX_MISFITS,
        rule="frames >= characters + repeated characters (CTC), at --frames_per_second",
        remedy="check that these transcripts belong to their recordings; training skips the rows",
    )


def silent_clips(splits: Splits) -> Finding:
    return _by_share(
        "silent_clips",
        splits,
        ("silent",),
        look=0,
        fix=MAX_SILENT,
        rule=f"the loudest 10 ms reach {SILENT_DB:g} dB under full scale",
        remedy="take these rows out, or record them again; training uses them if they have a transcript",
    )


def long_silences(splits: Splits) -> Finding:
    shares, examples = {}, []
    for split in splits.values():
        seconds = np.asarray(split.seconds)
        ends = seconds - np.asarray(split.speech)
        shares[split.name] = float(ends.sum() / max(seconds.sum(), 1e-9))
        examples += [split.example(row, f"{ends[row]:.1f} of {seconds[row]:.1f} s") for row in _largest(ends)]
    worst = max(shares.values(), default=0)
    return Finding(
        "long_silences",
        "look" if worst > LONG_EDGES else "fine",
        "silent ends: " + ", ".join(f"{share:.0%} of {name}" for name, share in shares.items()),
        f"less than {LONG_EDGES:.0%} of the seconds lie before the first or after the last frame that is at most "
        f"{-EDGE_DB:g} dB under the loudest of its clip",
        "trim the ends to about 0.2 s: silence costs time and memory and teaches nothing",
        tuple(examples) if worst > LONG_EDGES else (),
    )


def clipping(splits: Splits) -> Finding:
    counts = {split.name: split.clipped_clips for split in splits.values()}
    shares = [split.clipped_clips / max(len(split), 1) for split in splits.values()]
    examples = [
        split.example(-row, f"{share:.2%} of the samples")
        for split in splits.values()
        for share, row in sorted(split.clipped, reverse=True)
    ]
    return Finding(
        "clipping",
        "look" if max(shares, default=0) > MANY_CLIPPED else "fine",
        _counts(counts, splits),
        f"a clip is clipped if {CLIPPED_SHARE:.2%} of its samples, and {CLIPPED_SAMPLES} at least, are at full scale",
        "record with less gain; if the originals are clean, export them again at a lower level",
        tuple(examples),
    )


def sample_rates(splits: Splits) -> Finding:
    rates = sum((split.sample_rates for split in splits.values()), Counter[int]())
    low = [rate for rate in rates if rate < FULL_BAND_RATE]
    return Finding(
        "sample_rates",
        "look" if low or len(rates) > 1 else "fine",
        "; ".join(f"{split.name}: " + _listed(split.sample_rates, "{} Hz") for split in splits.values()),
        f"all recordings have one rate, {FULL_BAND_RATE:,} Hz or more",
        "hfaudio resamples, but cannot give back what lies above half a rate: a model learns which band goes with "
        "which source. Take the originals, or train with hfaudio.audio.augment's band limit",
    )


def channels(splits: Splits) -> Finding:
    counts = sum((split.channels for split in splits.values()), Counter[int]())
    return Finding(
        "channels",
        "look" if set(counts) - {1} else "fine",
        "; ".join(f"{split.name}: " + _listed(split.channels, "{}") for split in splits.values()),
        "recordings have one channel",
        "hfaudio averages channels; where each holds another speaker, split them into rows of their own",
    )


def copies_within(splits: Splits) -> Finding:
    counts, examples = {}, []
    for split in splits.values():
        fingerprints = np.asarray(split.fingerprints)
        heard, first = np.unique(fingerprints, return_index=True)
        copies = np.setdiff1d(np.flatnonzero(fingerprints), first)
        counts[split.name] = len(copies)
        for row in copies[:EXAMPLES]:
            original = first[np.searchsorted(heard, fingerprints[row])]
            examples.append(split.example(int(row), f"= {split.ids[int(original)]}"))
    return Finding(
        "copies_within",
        "look" if any(counts.values()) else "fine",
        _counts(counts, splits),
        "no two rows of a split have the same samples (silent clips aside)",
        "keep one of each; copies weigh double in training and in scores",
        tuple(examples),
    )


def copies_across(splits: Splits) -> Finding:
    found: list[tuple[SplitMeasures, SplitMeasures, int]] = []
    examples = []
    for first, second in combinations(splits.values(), 2):
        shared = np.intersect1d(first.fingerprints, second.fingerprints)
        shared = shared[shared > 0]
        found.append((first, second, len(shared)))
        for fingerprint in shared[:EXAMPLES]:
            row, other = (_row_of(fingerprint, split.fingerprints) for split in (second, first))
            examples.append(second.example(row, f"= {first.name} {first.ids[other]}"))
    return Finding(
        "copies_across",
        _worst_pair(found),
        _shared(found),
        "no recording is in two splits (the same samples; silent clips aside)",
        "take them out of the training split: a model has seen the answers of such a test",
        tuple(examples),
    )


def similar_recordings(splits: Splits) -> Finding:
    places, spreads, shapes = [], [], []
    seen = np.zeros(0, dtype=np.uint64)
    for split in splits.values():
        fingerprints = np.asarray(split.fingerprints)
        _, first = np.unique(fingerprints, return_index=True)  # exact copies have findings of their own
        rows = first[(np.asarray(split.spreads)[first] >= COPY_MIN_SPREAD) & ~np.isin(fingerprints[first], seen)]
        seen = np.union1d(seen, fingerprints)
        places += [(split, int(row)) for row in rows]
        spreads.append(np.asarray(split.spreads)[rows])
        shapes.append(np.frombuffer(split.shapes, dtype=np.int8).reshape(-1, SHAPE_SIZE)[rows])
    pairs = similar_pairs(
        np.concatenate(spreads),
        np.concatenate(shapes),
        max_spread_change=COPY_SPREAD_CHANGE,
        min_similarity=COPY_SIMILARITY,
    )
    found = sorted(islice(pairs, MAX_COPY_PAIRS), key=lambda pair: -pair[2])
    across = [pair for pair in found if places[pair[0]][0] is not places[pair[1]][0]]
    within = [pair for pair in found if places[pair[0]][0] is places[pair[1]][0]]
    examples = []
    for first_row, second_row, similarity in (across + within)[:EXAMPLES]:
        (one, row), (other, other_row) = places[first_row], places[second_row]
        examples.append(other.example(other_row, f"like {one.name} {one.ids[row]}, similarity {similarity:.3f}"))
    at_least = "at least " if len(found) == MAX_COPY_PAIRS else ""
    return Finding(
        "similar_recordings",
        "look" if found else "fine",
        f"{at_least}{len(found):,} pairs, {len(across):,} of them across splits",
        f"no two recordings have nearly the same energy over time in two bands (correlation {COPY_SIMILARITY:g}), as "
        "copies have that are coded, resampled, padded or made louder; not found: excerpts, changed speed, less than "
        "about 0.7 s of speech",
        "listen to these pairs; take copies out as for copies_across and copies_within",
        tuple(examples),
    )


def contradictions(splits: Splits) -> Finding:
    fingerprints = np.concatenate([np.asarray(split.fingerprints) for split in splits.values()])
    texts = np.concatenate([np.asarray(split.texts) for split in splits.values()])
    told = np.unique(np.stack([fingerprints, texts]), axis=1)[0]
    heard, counts = np.unique(told[told > 0], return_counts=True)
    contradicted = heard[counts > 1]
    examples = []
    for split in splits.values():
        rows = np.flatnonzero(np.isin(np.asarray(split.fingerprints), contradicted))[:EXAMPLES]
        examples += [split.example(int(row), split.known_texts.get(split.texts[row], "")) for row in rows]
    return Finding(
        "contradictions",
        "look" if len(contradicted) else "fine",
        f"{len(contradicted):,} recordings with several transcripts",
        "copies of a recording have the same transcript after normalisation",
        "listen, and keep the row that is right",
        tuple(examples),
    )


def repeated_transcripts(splits: Splits) -> Finding:
    values, examples, worst = [], [], 0.0
    for split in splits.values():
        texts = np.asarray(split.texts)
        different, first, counts = np.unique(texts[texts > 0], return_index=True, return_counts=True)
        if not len(different):
            continue
        rows = np.flatnonzero(texts > 0)[first]
        most = np.argsort(-counts, kind="stable")[:EXAMPLES]
        worst = max(worst, counts.max() / len(texts))
        values.append(f"{split.name}: {len(different):,} different ones of {len(texts):,}")
        examples += [
            split.example(int(rows[i]), f"{counts[i]:,} times: {split.known_texts.get(int(different[i]), '')}")
            for i in most
            if counts[i] > 1
        ]
    return Finding(
        "repeated_transcripts",
        "look" if worst > ONE_TRANSCRIPT else "fine",
        "; ".join(values) or "no transcripts",
        f"no transcript is that of more than {ONE_TRANSCRIPT:.0%} of a split's rows",
        "is it a default of the export? A model learns to say it always; keep fewer of these rows",
        tuple(examples),
    )


def shared_transcripts(splits: Splits) -> Finding:
    values, worst = [], 0.0
    for first, second in combinations(splits.values(), 2):
        if is_training(first.name) == is_training(second.name):
            continue
        train, other = (first, second) if is_training(first.name) else (second, first)
        known, asked = np.unique(train.texts), np.unique(other.texts)
        asked = asked[asked > 0]
        share = float(np.isin(asked, known).sum() / max(len(asked), 1))
        worst = max(worst, share)
        values.append(f"{share:.0%} of {other.name} in {train.name}")
    return Finding(
        "shared_transcripts",
        "look" if worst > SHARED_TRANSCRIPTS else "fine",
        ", ".join(values) or "nothing to compare",
        f"at most {SHARED_TRANSCRIPTS:.0%} of the different transcripts of an evaluation split are in training",
        "expected for commands and prompts. Elsewhere split by sentence: a model, and more so its LM, knows the text",
    )


def shared_speakers(splits: Splits) -> Finding:
    named = [split for split in splits.values() if split.speakers]
    found: list[tuple[SplitMeasures, SplitMeasures, int]] = []
    examples = []
    for first, second in combinations(named, 2):
        if is_training(first.name) and is_training(second.name):
            continue
        shared = sorted(first.speakers.keys() & second.speakers.keys())
        found.append((first, second, len(shared)))
        for name in shared[:EXAMPLES]:
            rows = f"{first.speakers[name]:,} rows in {first.name}, {second.speakers[name]:,} in {second.name}"
            examples.append(Example(second.name, f"speaker {name}", rows))
    unknown = len(splits) > 1 and len(named) < len(splits)
    severity = _worst_pair(found)
    return Finding(
        "shared_speakers",
        "look" if unknown and severity == "fine" else severity,
        _shared(found) + ("; not all splits name their speakers" if unknown else ""),
        "no speaker is in two splits",
        "name the column by --speaker_column, and split by speaker: else the score is that of known voices",
        tuple(examples),
    )


def rare_characters(splits: Splits) -> Finding:
    training = [split for split in splits.values() if is_training(split.name)] or list(splits.values())
    alphabet = sum((split.alphabet for split in training), Counter[str]())
    rare = sorted((n, char) for char, n in alphabet.items() if n < RARE_CHARACTER)
    examples = []
    for n, char in rare[:EXAMPLES]:
        split = next(split for split in training if char in split.first_seen)
        examples.append(Example(split.name, split.first_seen[char], f"{char} {character_name(char)}, {n} times"))
    return Finding(
        "rare_characters",
        "look" if rare else "fine",
        f"{len(rare):,} of {len(alphabet):,} characters" + (": " + " ".join(c for _, c in rare[:30]) if rare else ""),
        f"every character of the normalised training transcripts occurs {RARE_CHARACTER} times or more",
        "write them in common letters or numbers in words (--normalizer english), or take the rows out: each is a "
        "label that cannot be learnt",
        tuple(examples),
    )


def unknown_characters(splits: Splits) -> Finding:
    training = {char for split in splits.values() if is_training(split.name) for char in split.alphabet}
    unknown, examples = Counter[str](), []
    for split in splits.values():
        if training and not is_training(split.name):
            chars = sorted(split.alphabet.keys() - training)
            unknown.update({char: split.alphabet[char] for char in chars})
            examples += [
                Example(split.name, split.first_seen[char], f"{char} {character_name(char)}")
                for char in chars[:EXAMPLES]
            ]
    return Finding(
        "unknown_characters",
        "look" if unknown else "fine",
        f"{len(unknown):,} characters"
        + (": " + " ".join(char for char, _ in unknown.most_common(30)) if unknown else ""),
        "characters of the evaluation splits occur in training too",
        "each is an error that no model of characters can avoid; normalise alike, or move rows",
        tuple(examples),
    )


def mixed_scripts(splits: Splits) -> Finding:
    return _by_share(
        "mixed_scripts",
        splits,
        ("mixed_scripts",),
        look=0,
        rule="a word has letters of one of Latin, Cyrillic, Greek and Armenian, which look alike",
        remedy="write the word in one script; words wholly in a wrong one are not found, see the alphabet",
    )


def unicode_forms(splits: Splits) -> Finding:
    composed, decomposed = ({s.name: s.count(kind) for s in splits.values()} for kind in ("composed", "decomposed"))
    examples = [example for split in splits.values() for example in split.examples("decomposed")]
    return Finding(
        "unicode_forms",
        "look" if any(decomposed.values()) else "fine",
        f"not NFC: {_counts(decomposed, splits)}; with composed letters: {_counts(composed, splits)}",
        "transcripts are in Unicode NFC: one code point for a letter with its accent, where there is one",
        "hfaudio's normalisers compose; for other tools write NFC, else one letter becomes two labels",
        tuple(examples),
    )


def invisible(splits: Splits) -> Finding:
    return _by_share(
        "invisible_characters",
        splits,
        ("invisible_characters",),
        look=0,
        rule="no control or format characters and no blanks but U+0020 (joiners may stand in Persian and Indic words)",
        remedy="delete them; --normalizer basic and english do",
    )


def broken_encoding(splits: Splits) -> Finding:
    return _by_share(
        "broken_encoding",
        splits,
        ("broken_encoding",),
        look=0,
        fix=MAX_BROKEN_TEXTS,
        rule="no U+FFFD, and no UTF-8 that was read as Windows-1252",
        remedy="read the transcripts again as what they were written in",
    )


def speech_rate(splits: Splits) -> Finding:
    rates = {split.name: log_rates(split) for split in splits.values()}
    pooled = np.concatenate([values for _, values in rates.values()])
    rule = (
        f"the logarithm of the characters per second, silent ends left out, is within {OUTLIER:g} robust standard "
        "deviations of the median"
    )
    remedy = "listen: too many characters are often a shifted or wrong transcript, too few a missing part"
    if len(pooled) < MIN_RATE_ROWS:
        return Finding("speech_rate", "fine", f"not judged: fewer than {MIN_RATE_ROWS} rows", rule, remedy)
    median = float(np.median(pooled))
    scale = max(1.4826 * float(np.median(np.abs(pooled - median))), MIN_RATE_SPREAD)
    worst, counts = [], {}
    for split in splits.values():
        rows, values = rates[split.name]
        distances = np.abs(values - median) / scale
        counts[split.name] = int((distances > OUTLIER).sum())
        for i in _largest(distances):
            if distances[i] > OUTLIER:
                row = int(rows[i])
                text = split.known_texts.get(split.texts[row], "")
                worst.append((distances[i], split.example(row, f"{np.exp(values[i]):.1f} a second: {text}")))
    worst.sort(key=lambda item: -item[0])
    return Finding(
        "speech_rate",
        "look" if worst else "fine",
        f"{_counts(counts, splits)}; median {np.exp(median):.1f} characters a second, usual "
        f"{np.exp(median - OUTLIER * scale):.1f} to {np.exp(median + OUTLIER * scale):.1f}",
        rule,
        remedy,
        tuple(example for _, example in worst[:EXAMPLES]),
    )


CHECKS: dict[str, Callable[[Splits], Finding]] = {
    "unreadable": unreadable,
    "usable": usable,
    "copies_across": copies_across,
    "shared_speakers": shared_speakers,
    "labels_fit": labels_fit,
    "empty_transcripts": empty_transcripts,
    "speech_rate": speech_rate,
    "silent_clips": silent_clips,
    "long_silences": long_silences,
    "clipping": clipping,
    "too_short": too_short,
    "too_long": too_long,
    "sample_rates": sample_rates,
    "channels": channels,
    "copies_within": copies_within,
    "similar_recordings": similar_recordings,
    "contradictions": contradictions,
    "repeated_transcripts": repeated_transcripts,
    "shared_transcripts": shared_transcripts,
    "rare_characters": rare_characters,
    "unknown_characters": unknown_characters,
    "mixed_scripts": mixed_scripts,
    "unicode_forms": unicode_forms,
    "invisible_characters": invisible,
    "broken_encoding": broken_encoding,
}


def is_training(split: str) -> bool:
    """Whether a split is trained on: "train", "train.clean.100"."""
    return split.startswith("train")


def _by_share(
    name: str, splits: Splits, kinds: tuple[str, ...], *, look: float, fix: float = 1.0, rule: str, remedy: str
) -> Finding:
    """A finding on rows of these kinds, judged by the largest share of a split; from `fix` = 1 on nothing is above."""
    counts = {split.name: split.count(*kinds) for split in splits.values()}
    worst = max((counts[split.name] / max(len(split), 1) for split in splits.values()), default=0)
    severity: Severity = "fix" if worst > fix else "look" if worst > look else "fine"
    examples = [example for split in splits.values() for example in split.examples(*kinds)]
    return Finding(name, severity, _counts(counts, splits), rule, remedy, tuple(examples))


def _counts(counts: Mapping[str, int], splits: Splits) -> str:
    found = [
        f"{n:,} of {len(splits[name]):,} in {name} ({n / len(splits[name]):.2%})" for name, n in counts.items() if n
    ]
    return ", ".join(found) or "none"


def _shared(found: Iterable[tuple[SplitMeasures, SplitMeasures, int]]) -> str:
    return ", ".join(f"{n:,} in both {one.name} and {other.name}" for one, other, n in found if n) or "none"


def _worst_pair(found: Iterable[tuple[SplitMeasures, SplitMeasures, int]]) -> Severity:
    """ "fix" if a training split shares something with another, "look" if only others do."""
    pairs = [(first, second) for first, second, n in found if n]
    if any(is_training(first.name) != is_training(second.name) for first, second in pairs):
        return "fix"
    return "look" if pairs else "fine"


def _listed(counts: Counter[int], form: str) -> str:
    return ", ".join(f"{form.format(value)} ({n:,})" for value, n in sorted(counts.items())) or "nothing readable"


def _largest(values: np.ndarray) -> Iterator[int]:
    """Places of the EXAMPLES largest values, the largest first."""
    order = np.argpartition(-values, EXAMPLES)[:EXAMPLES] if len(values) > EXAMPLES else np.arange(len(values))
    return (int(i) for i in sorted(order, key=lambda i: (-values[i], i)))


def _row_of(fingerprint: int, fingerprints: object) -> int:
    return int(np.flatnonzero(np.asarray(fingerprints) == fingerprint)[0])
