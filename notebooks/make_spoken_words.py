"""Makes `spoken_words.npz`, the audio of the notebook on spoken words.

It needs eSpeak NG, `espeak-ng` on the path (`apt install espeak-ng` on Debian), and the
notebooks' own requirements; it reads nothing else. The same version of eSpeak NG gives
the same file:

    python make_spoken_words.py

A synthesizer speaks twelve words, in four groups that are easy to confuse. A *voice* is
one of its variants of timbre; every utterance has an accent, a speed and a pitch at
random. The voices are shared out among training, validation and test, so that a test
voice is never heard in training. Noise is left to the notebook: it can't be compressed.

The file holds mono samples at 8 kHz, 8-bit mu-law, one utterance after the other:

    words     (12,)             the words
    voices    (voices,)         their names
    parts     (voices,)         the part that a voice belongs to
    word      (utterances,)     index into `words`
    voice     (utterances,)     index into `voices`
    length    (utterances,)     how many samples
    samples   (sum of length,)  uint8; `decode` of the notebook makes them linear
    made_by   ()                the version of eSpeak NG
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import scipy.io.wavfile
import scipy.signal

FILE = Path(__file__).with_name("spoken_words.npz")

WORDS = [
    *("go", "no", "low"),
    *("three", "tree", "free"),
    *("bed", "bad", "bet"),
    *("pin", "bin", "thin"),
]
# Variants that sound alike are left out: klatt6 is klatt, for one.
VOICES = [
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("f1", "f2", "f3", "f4", "f5"),
    *("klatt", "klatt2", "klatt3", "klatt4", "klatt5"),
    *("robosoft", "robosoft2", "robosoft3", "robosoft4", "robosoft6"),
    *("croak", "whisper", "whisperf", "grandma", "grandpa", "aunty"),
    *("announcer", "UniRobot", "Demonic", "Storm", "Tweaky", "kaukovalta"),
]
# Caribbean English (en-029) is left out: `three` is nearly `tree` there.
ACCENTS = [
    *("en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp"),
    *("en-us", "en-us-nyc"),
]
# Voices of a part, and how often each of them says each word.
PARTS = {"train": (19, 4), "validation": (7, 5), "test": (9, 6)}
WORDS_PER_MINUTE = (130, 220)
PITCH = (15, 85)

RATE = 8000
LONGEST = int(0.6 * RATE)
# A sample counts as speech from here on, relative to the loudest one.
QUIET = 0.02
MU = 255


def speak(word: str, voice: str, accent: str, speed: int, pitch: int) -> np.ndarray:
    """One utterance without the silence around it; its peak is 1."""
    with tempfile.TemporaryDirectory() as folder:
        wav = str(Path(folder, "word.wav"))
        command = ["espeak-ng", "-z", "-v", f"{accent}+{voice}", "-w", wav]
        command += ["-s", str(speed), "-p", str(pitch), word]
        subprocess.run(command, check=True)
        rate, samples = scipy.io.wavfile.read(wav)
    wave = scipy.signal.resample_poly(samples.astype(np.float64), RATE, rate)
    wave /= np.abs(wave).max()
    loud = np.flatnonzero(np.abs(wave) > QUIET)
    return wave[loud[0] : loud[-1] + 1][:LONGEST]


def encode(wave: np.ndarray) -> np.ndarray:
    """Mu-law: loud samples are kept less exactly than quiet ones."""
    bent = np.sign(wave) * np.log1p(MU * np.abs(wave)) / np.log1p(MU)
    return np.round((np.clip(bent, -1, 1) + 1) / 2 * MU).astype(np.uint8)


def main() -> None:
    """Speaks every utterance and writes the file."""
    rng = np.random.default_rng(0)
    parts = rng.permutation(
        [part for part, (voices, _) in PARTS.items() for _ in range(voices)]
    )
    waves, words, voices = [], [], []
    for voice, (name, part) in enumerate(zip(VOICES, parts, strict=True)):
        for word, text in enumerate(WORDS):
            for _ in range(PARTS[part][1]):
                accent = ACCENTS[rng.integers(len(ACCENTS))]
                speed = int(rng.integers(*WORDS_PER_MINUTE, endpoint=True))
                pitch = int(rng.integers(*PITCH, endpoint=True))
                waves.append(encode(speak(text, name, accent, speed, pitch)))
                words.append(word)
                voices.append(voice)
    listing = ["espeak-ng", "--version"]
    version = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    np.savez_compressed(
        FILE,
        words=np.array(WORDS),
        voices=np.array(VOICES),
        parts=parts,
        word=np.array(words, np.uint8),
        voice=np.array(voices, np.uint8),
        length=np.array([len(wave) for wave in waves], np.uint16),
        samples=np.concatenate(waves),
        made_by=np.array(version.split("Data at")[0].strip()),
    )
    print(f"{len(waves)} utterances, {FILE.stat().st_size / 1e6:.1f} MB: {FILE.name}")


if __name__ == "__main__":
    main()
