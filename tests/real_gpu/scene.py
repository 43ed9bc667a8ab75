"""A drawn scene of coloured squares, a detector of such squares in TorchScript, and how well they are tracked."""

from pathlib import Path
from typing import Any

SIZE, SIDE = 384, 48
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def positions(frame: int) -> list[tuple[int, int]]:
    """Upper left corner of each square; they move along lines of their own and never meet."""
    return [((frame * (number + 1) + 40 * number) % (SIZE - SIDE), 20 + 90 * number) for number in range(len(COLOURS))]


def frames(np: Any, count: int) -> list[Any]:
    drawn = []
    for frame in range(count):
        picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
        for (x, y), colour in zip(positions(frame), COLOURS, strict=True):
            picture[y : y + SIDE, x : x + SIDE] = colour
        drawn.append(picture)
    return drawn


def write_detector(torch: Any, path: Path) -> Path:
    """The weights are the colours; some convolutions that do not change a picture stand for a network's work."""

    class Squares(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("colours", torch.tensor(COLOURS, dtype=torch.float32).reshape(1, -1, 3, 1, 1) / 255)
            same = torch.zeros(3, 3, 3, 3)
            for channel in range(3):
                same[channel, channel, 1, 1] = 1.0
            self.register_buffer("same", same)

        def forward(self, images):  # type: ignore[no-untyped-def]
            for _ in range(16):
                images = torch.nn.functional.conv2d(images, self.same, padding=1)
            mask = (images.unsqueeze(1) - self.colours).abs().amax(dim=2) < 0.3
            columns, rows = mask.any(dim=2), mask.any(dim=3)
            width, height = columns.shape[2], rows.shape[2]
            x1 = torch.argmax(columns.int(), dim=2)
            x2 = width - torch.argmax(columns.flip(2).int(), dim=2)
            y1 = torch.argmax(rows.int(), dim=2)
            y2 = height - torch.argmax(rows.flip(2).int(), dim=2)
            return torch.stack([x1, y1, x2, y2], dim=2).float(), columns.any(dim=2).float()

    example = torch.zeros(1, 3, SIZE, SIZE)
    torch.jit.trace(Squares().eval(), example).save(str(path))
    return path


class TorchDetector:
    """(corners, scores) of each frame, on `device`."""

    def __init__(self, torch: Any, np: Any, model: Path, device: str) -> None:
        self._torch, self._np, self._device = torch, np, device
        self._model = torch.jit.load(str(model), map_location=device).eval()

    def detect(self, pictures: list[Any]) -> list[tuple[Any, Any]]:
        batch = self._torch.from_numpy(self._np.stack(pictures)).to(self._device).permute(0, 3, 1, 2).float() / 255
        with self._torch.inference_mode():
            corners, scores = self._model(batch)
        return list(zip(corners.cpu().numpy(), scores.cpu().numpy(), strict=True))


def mota(np: Any, found: list[tuple[Any, Any]]) -> float:
    """By VideoTracker's own tracker. Raises ImportError where its packages are missing."""
    from video_tracker.detection import Detections
    from video_tracker.tracking import Tracker, TrackingOptions

    tracker = Tracker(["square"], TrackingOptions(min_score=0.5, labels=None, lost_seconds=2.0), 25.0)
    misses = switches = strays = 0
    known: dict[int, int] = {}
    for number, (corners, scores) in enumerate(found):
        tracks = tracker.update(Detections(corners, scores, np.zeros(len(scores), int)), number / 25)
        truth = dict(enumerate(positions(number)))
        for track in tracks:
            near = [
                s for s, (x, y) in truth.items() if abs(track["x"] - x) < SIDE / 2 and abs(track["y"] - y) < SIDE / 2
            ]
            if not near:
                strays += 1
                continue
            del truth[near[0]]
            switches += known.setdefault(near[0], track["id"]) != track["id"]
            known[near[0]] = track["id"]
        misses += len(truth)
    return round(1 - (misses + strays + switches) / (len(found) * len(COLOURS)), 3)
