"""Draws the sample: parametric faces, 48 × 48 grey, in FER2013's proportions, with label noise and planted copies.

The seven expressions are built from facial action units (Ekman & Friesen 1978, as tabulated for the basic emotions by
Matsumoto & Ekman 2008): brows, lids, nose, mouth. 3,000 faces take about two seconds. Nothing here says anything
about real faces; it is there so that every page has something true to show without a download.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_core.artifacts import atomic_file
from fer_core.schema import EMOTIONS, USAGES

SIDE = 48
FER2013_COUNTS = (4953, 547, 5121, 8989, 6077, 4002, 6198)  # images of each emotion, in EMOTIONS' order
USAGE_SHARES = (0.8, 0.1, 0.1)
LABEL_NOISE = 0.04
BATCH = 100  # faces drawn at a time: their 48 × 48 fields stay in the processor's cache

# Action units at full strength, for each emotion; positive is up, open, wide.
UNITS = {
    #               brow: inner outer arch | lids: upper lower | nose wrinkle | mouth: corner open width upper_lip teeth
    "angry": (-1.0, 0.25, -0.3, 0.25, 0.45, 0.35, -0.35, 0.05, -0.35, 0.0, 0.2),
    "disgust": (-0.6, -0.15, -0.1, -0.35, 0.65, 1.0, -0.55, 0.25, 0.0, 0.9, 0.3),
    "fear": (0.95, 0.25, -0.45, 0.8, 0.05, 0.0, -0.25, 0.4, 0.45, 0.1, 0.5),
    "happy": (0.05, 0.1, 0.2, -0.2, 0.6, 0.1, 1.0, 0.35, 0.6, 0.15, 1.0),
    "sad": (0.75, -0.65, -0.3, -0.5, 0.05, 0.0, -0.8, 0.0, -0.15, 0.0, 0.0),
    "surprise": (0.8, 0.85, 0.8, 0.95, -0.15, 0.0, -0.05, 1.0, -0.5, 0.1, 0.0),
    "neutral": (0.0,) * 11,
}
# Planted copies: usage of the copy, usage of the first, share of the former's images, whether only near.
COPIES = ((2, 0, 0.08, False), (2, 1, 0.01, False), (2, 0, 0.03, True), (1, 0, 0.08, False), (0, 0, 0.03, False))
CONFUSED_WITH = (4, 0, 5, 6, 6, 2, 4)  # the emotion that a careless label names instead


def draw(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws n faces; the same n and seed give the same bits on one machine.

    Returns
    -------
    images : uint8 (n, 48, 48), grey 0–255
    labels : uint8 (n,), index into EMOTIONS
    usage : uint8 (n,), index into USAGES
    """
    rng = np.random.default_rng(seed)
    usage = np.repeat(np.arange(3), _apportion(n, USAGE_SHARES)).astype(np.uint8)
    shown = np.concatenate([_emotions(int((usage == part).sum()), rng) for part in range(3)])
    # Every batch has its own stream, so that neither its size nor the order of drawing leaks into other faces' numbers.
    streams = rng.spawn(-(-n // BATCH))
    batches = [_faces(shown[k * BATCH : (k + 1) * BATCH], stream) for k, stream in enumerate(streams)]
    images = np.concatenate(batches)
    careless = rng.random(n) < LABEL_NOISE
    labels = np.where(careless, np.array(CONFUSED_WITH)[shown], shown).astype(np.uint8)
    _plant(images, labels, usage, rng)
    return images, labels, usage


def write(path: Path, n: int = 3000, seed: int = 0) -> None:
    """Writes the drawn faces in fer2013.csv's own format, whole or not at all."""
    images, labels, usage = draw(n, seed)
    with atomic_file(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as out:
        out.write("emotion,pixels,Usage\n")
        for image, label, part in zip(images.reshape(n, -1).tolist(), labels, usage, strict=True):
            out.write(f"{label},{' '.join(map(str, image))},{USAGES[part]}\n")


def _apportion(n: int, shares: tuple[float, ...]) -> np.ndarray:
    """Whole numbers in proportion to the shares that add up to n, by largest remainder."""
    exact = n * np.array(shares) / sum(shares)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    return counts


def _emotions(n: int, rng: np.random.Generator) -> np.ndarray:
    """n emotions in FER2013's proportions, at least one of each where n allows it, in drawn order."""
    floor = 1 if n >= 2 * len(EMOTIONS) else 0
    counts = floor + _apportion(n - floor * len(EMOTIONS), tuple(map(float, FER2013_COUNTS)))
    return rng.permutation(np.repeat(np.arange(len(EMOTIONS)), counts))


def _plant(images: np.ndarray, labels: np.ndarray, usage: np.ndarray, rng: np.random.Generator) -> None:
    """Plants, in place, what the audit is to find: copies, exact and near, some at odds on the label; flat images.

    Much as in FER2013: of PrivateTest 8 % copies of Training, 1 % of PublicTest and 3 % the same picture lighter or
    darker, some a pixel further left; of PublicTest 8 % copies of Training; 3 % repeated within Training; 4 % of the
    copies under another label.
    """
    waiting = [rng.permutation(np.flatnonzero(usage == part)) for part in range(3)]
    sizes = [len(part) for part in waiting]

    def take(part: int, count: int) -> np.ndarray:
        taken, waiting[part] = np.split(waiting[part], [count])
        return taken

    for target, source, share, near in COPIES:
        to, of = take(target, round(share * sizes[target])), take(source, round(share * sizes[target]))
        common = labels[to] != EMOTIONS.index("disgust")  # too few to lose one
        to, of = to[common], of[common]
        images[to] = images[of]
        labels[to] = np.where(rng.random(len(to)) < 0.04, np.array(CONFUSED_WITH)[labels[of]], labels[of])
        if near:
            images[to] = np.rint(images[to] * rng.uniform(0.7, 0.95, (len(to), 1, 1)) + 12).astype(np.uint8)
            images[to[::2], :, :-1] = images[to[::2], :, 1:]
    flat = take(0, min(4, len(labels) // 500))
    images[flat] = rng.integers(0, 256, (len(flat), 1, 1), dtype=np.uint8)


def _faces(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (n, 48, 48): one face for each emotion in `shown`.

    Lengths are in half-widths of the picture: x and y run from −1 to 1. Every shape is a signed distance, and its edge
    is blended over a pixel: anti-aliasing without drawing at a larger size.
    """
    n = len(shown)

    def vary(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    strength = rng.beta(3.5, 1.2, (n, 1)) + 0.1
    units = np.array([UNITS[emotion] for emotion in EMOTIONS])[shown] * strength + rng.normal(0, 0.12, (n, 11))
    inner, outer, arch, upper, lower, wrinkle, corner, open_, wide, lip, teeth = units.astype(np.float32).T.reshape(
        11, n, 1, 1
    )

    # Pose: roll, size, place, then yaw and pitch as a shift of the features on the head.
    grid = (np.arange(SIDE, dtype=np.float32) + 0.5) / (SIDE / 2) - 1
    roll, size = np.clip(rng.normal(0, 0.1, (n, 1, 1)), -0.4, 0.4).astype(np.float32), vary(0.95, 1.25)
    x, y = grid[None, None, :] - vary(-0.08, 0.08), grid[None, :, None] - vary(-0.08, 0.08)
    x, y = (np.cos(roll) * x + np.sin(roll) * y) / size, (np.cos(roll) * y - np.sin(roll) * x) / size
    yaw, pitch = vary(-0.18, 0.18), vary(-0.05, 0.05)
    soft = np.float32(SIDE / 2) * size  # pixels to the unit: how far an edge is blended

    def cover(distance: np.ndarray) -> np.ndarray:
        """Share of a pixel inside, from the signed distance (negative inside)."""
        return np.clip(0.5 - distance * soft, 0, 1)

    def ellipse(cx: np.ndarray, cy: np.ndarray, rx: np.ndarray, ry: np.ndarray) -> np.ndarray:
        return (np.sqrt(np.square((x - cx) / rx) + np.square((y - cy) / ry)) - 1) * np.minimum(rx, ry)

    # Identity, light and camera.
    skin, hair_tone, backdrop = vary(0.42, 0.9), vary(0.05, 0.5), vary(0.05, 0.95)
    head_x, head_y = vary(0.62, 0.76), vary(0.84, 0.98)
    eye_gap, eye_y, eye_x = vary(0.27, 0.34), vary(-0.2, -0.1) + pitch, vary(0.12, 0.16)
    brow_gap, brow_thick, mouth_y, mouth_x = vary(0.16, 0.22), vary(0.02, 0.05), vary(0.44, 0.54), vary(0.2, 0.27)
    light_x, light_y, light = vary(-0.35, 0.35), vary(-0.3, 0.15), vary(0.6, 1.1)

    picture = np.broadcast_to(backdrop + vary(-0.2, 0.2) * x + vary(-0.2, 0.2) * y, (n, SIDE, SIDE)).copy()

    def paint(amount: np.ndarray, tone: np.ndarray | float) -> None:
        np.add(picture, amount * (tone - picture), out=picture)

    head = ellipse(np.zeros_like(yaw), np.float32(0.06) * np.ones_like(yaw), head_x, head_y)
    shade = skin * (1 + light_x * x + light_y * y - 0.28 * np.square(x / head_x) - 0.12 * np.square(y / head_y))
    paint(cover(np.maximum(np.abs(x) - 0.42, 0.6 - y)), skin * 0.7)  # neck
    paint(cover(ellipse(yaw * 0.2, vary(-0.2, 0.0), head_x + vary(0.0, 0.22), head_y + vary(0.0, 0.12))), hair_tone)
    face = cover(np.maximum(head, vary(-0.72, -0.5) - y - 0.3 * np.square(x)))
    paint(face, shade)

    u = x - yaw  # the features turn with the head, and the far side is foreshortened
    u = u * (1 + 0.8 * yaw * np.sign(u))
    side = np.sign(u)
    tilt = np.abs(u) - eye_gap  # 0 in the middle of each eye, negative towards the nose

    # Lids and eyes: an almond between two parabolas, a dark iris within.
    bow = 1 - np.square(tilt / eye_x)
    v = y - eye_y
    top = v + (0.075 + 0.065 * upper) * bow
    bottom = v - (0.055 - 0.035 * lower) * bow
    almond = cover(np.maximum(-top, bottom)) * (bow > 0)
    gaze = vary(-0.04, 0.04) * side
    iris = cover(np.sqrt(np.square(tilt - gaze) + np.square(v)) - 0.062)
    paint(almond, np.minimum(shade * 0.6 + 0.45, 1))
    paint(almond * iris, 0.08)
    lid = (bow > -0.15) * cover(np.abs(top) - 0.022)
    paint(lid * 0.8 * face, shade * 0.3)
    paint((bow > 0) * cover(np.abs(bottom - 0.045) - 0.02) * (0.15 + 0.5 * np.clip(lower, 0, 1)) * face, shade * 0.6)

    # Brows: inner and outer ends move on their own, and an arch between them.
    along = np.clip((tilt + eye_x + 0.03) / (2 * eye_x + 0.08), 0, 1)  # 0 at the inner end, 1 at the outer
    height = inner * (1 - along) * 0.11 + outer * along * 0.1 + (0.03 + 0.05 * arch) * 4 * along * (1 - along)
    reach = np.abs(tilt + 0.05 * np.clip(-inner, 0, 1)) - eye_x - 0.04
    brow = np.maximum(np.abs(v + brow_gap + height) - brow_thick * (1.2 - 0.5 * along), reach)
    paint(cover(brow) * face * 0.9, np.minimum(hair_tone, shade * 0.45))
    furrow = cover(np.maximum(np.abs(np.abs(u) - 0.05) - 0.018, np.abs(v + 0.16) - 0.07))
    paint(furrow * face * np.clip(-inner, 0, 1) * 0.6, shade * 0.5)

    # Nose: shaded flank, nostrils; wrinkled, with the folds from nose to mouth.
    nose_y = vary(0.2, 0.27) + pitch - 0.04 * wrinkle
    flank = cover(np.maximum(np.abs(u - 0.06 * np.sign(light_x)) - 0.025, np.abs(y - nose_y + 0.14) - 0.14))
    paint(flank * face * 0.35, shade * 0.6)
    paint(cover(np.sqrt(np.square((np.abs(u) - 0.065) * 0.8) + np.square(y - nose_y)) - 0.028) * face, shade * 0.35)
    ridges = np.clip(np.sin((y - nose_y) * 42), 0, 1) * cover(np.maximum(np.abs(u) - 0.1, np.abs(v - 0.06) - 0.1))
    paint(ridges * face * np.clip(wrinkle, 0, 1) * 0.5, shade * 0.5)
    fold = np.maximum(
        np.abs(np.abs(u) - 0.12 - 0.35 * np.maximum(y - nose_y, 0)) - 0.02, np.abs(y - nose_y - 0.12) - 0.14
    )
    paint(cover(fold) * face * np.clip(0.1 + 0.5 * np.abs(corner) + 0.4 * wrinkle, 0, 0.8), shade * 0.6)

    # Mouth: two lips around an opening; the corners rise or fall against the middle.
    half = mouth_x * (1 + 0.35 * wide)
    across = np.clip(1 - np.square(u / half), 0, 1)
    line = y - mouth_y - pitch + corner * 0.13 * (1 - across) - 0.05 * corner + 0.03 * lip
    gap = np.clip(open_, 0, 1.1)
    roof, floor = line + (0.02 + 0.08 * gap + 0.06 * lip) * across, line - (0.02 + 0.19 * gap) * across
    lips = cover(np.maximum(np.maximum(-roof - 0.045, floor - 0.055), np.abs(u) - half - 0.02))
    paint(lips * face * 0.75, shade * vary(0.5, 0.75))
    inside = cover(np.maximum(np.maximum(-roof, floor), np.abs(u) - half)) * np.clip(gap * 6, 0, 1)
    paint(inside, 0.1)
    paint(inside * cover(roof - 0.075) * np.clip(teeth * 1.4, 0, 1), np.minimum(skin * 0.5 + 0.55, 1))
    paint(cover(np.maximum(np.abs(line) - 0.016, np.abs(u) - half)) * face * (1 - np.clip(gap * 4, 0, 1)), shade * 0.25)

    # Some wear glasses, some a beard; then exposure, blur by the lens' half pixel, grain.
    rim = np.abs(np.sqrt(np.square(tilt) + np.square(v)) - 0.2) - 0.014
    paint(cover(rim) * face * (vary(0, 1) < 0.12), 0.1)
    paint(face * cover(0.3 - y) * (1 - lips) * (vary(0, 1) < 0.2) * 0.35, hair_tone)
    picture = picture * light + vary(-0.12, 0.12)
    blurred = (picture + np.roll(picture, 1, 1) + np.roll(picture, 1, 2) + np.roll(picture, (1, 1), (1, 2))) / 4
    picture += vary(0, 1) * (blurred - picture)
    picture += rng.standard_normal(picture.shape, np.float32) * vary(0.005, 0.035)
    return np.clip(np.rint(picture * 235 + 10), 0, 255).astype(np.uint8)
