"""English read speech from a text: sentences spoken by the recorded-speaker voices of flite, as an audio folder.

    python scripts/build_read_speech.py OUTPUT --text sentences.txt --clips 100 --seed 0

The voices (rms and slt of CMU ARCTIC, awb, kal) are built from recordings of people, but the speech is synthetic.
Needs Debian's package flite. The folder opens as `--dataset OUTPUT` (split "test"); clips are 16 kHz FLAC.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from hfaudio.audio.io import load_audio

VOICES = ("rms", "slt", "awb", "kal")
WORDS = (6, 25)  # 2 to 12 s, half of them above 6 s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--text", type=Path, required=True, help="one sentence a line")
    parser.add_argument("--clips", type=int, default=100, help="number of clips (100)")
    parser.add_argument("--skip", type=int, default=0, help="sentences to leave out first, for a second set (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of sentences (0)")
    arguments = parser.parse_args()
    lines = [line.strip() for line in arguments.text.read_text(encoding="utf-8").splitlines()]
    usable = [line for line in lines if WORDS[0] <= len(line.split()) <= WORDS[1] and not any(map(str.isdigit, line))]
    order = np.random.default_rng(arguments.seed).permutation(len(usable))
    chosen = order[arguments.skip : arguments.skip + arguments.clips]
    if len(chosen) < arguments.clips:
        parser.error(f"{arguments.text} has {len(usable)} usable sentences, fewer than --skip and --clips together")
    folder = arguments.output / "test"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as table:
        for number, index in enumerate(chosen):
            voice, name = VOICES[number % len(VOICES)], f"{number:04}.flac"
            soundfile.write(folder / name, speak(usable[index], voice), 16_000)
            row = {"file_name": name, "text": usable[index], "speaker": voice}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")


def speak(text: str, voice: str) -> np.ndarray:
    """Samples (N,) at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True)
        return load_audio(file.name, 16_000)


if __name__ == "__main__":
    main()
