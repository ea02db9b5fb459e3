# SPDX-License-Identifier: Apache-2.0
"""The world: its emoji, its words and the composition of images.

`../data/world.json` has all names, code points and word mixtures; the C++ program reads the same file.
Images come from the font's bitmaps, scaled once to a few sizes and composed in integer arithmetic, so that C++ and
Python draw the same bytes.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DATA = Path(__file__).resolve().parent.parent / "data"
WORLD = json.loads((DATA / "world.json").read_text())

SIZE = WORLD["image_size"]
ITEM_SIZES = WORLD["item_sizes"]
OBJECT_SIZE = WORLD["object_size"]
JITTER = 2
BACKGROUNDS = [b["name"] for b in WORLD["backgrounds"]]
COLOURS = [b["rgb"] for b in WORLD["backgrounds"]]
ITEMS = [e["name"] for e in WORLD["items"]]
OBJECTS = ["none"] + [e["name"] for e in WORLD["safe_objects"] + WORLD["harmful_objects"]]
FIRST_HARMFUL = 1 + len(WORLD["safe_objects"])
WORDS = [w["word"] for w in WORLD["words"]]
DRAWS = {w["word"]: w["draws"] for w in WORLD["words"]}
CODEPOINTS = {e["name"]: int(e["codepoint"][2:], 16)
              for e in WORLD["items"] + WORLD["safe_objects"] + WORLD["harmful_objects"]}


def find_font():
    """Path of Noto Color Emoji: EMOJI_FONT, or the result of fontconfig."""
    return os.environ.get("EMOJI_FONT") or subprocess.run(
        ["fc-match", "-f", "%{file}", "Noto Color Emoji"], capture_output=True, text=True, check=True).stdout


def draw_sprites():
    """Premultiplied RGBA sprites, uint8 [h, w, 4], keyed `name.size`; the longer side is `size` pixels."""
    font, sprites = ImageFont.truetype(find_font(), 109), {}
    for name, codepoint in CODEPOINTS.items():
        glyph = Image.new("RGBA", (170, 170), (0, 0, 0, 0))
        ImageDraw.Draw(glyph).text((10, 10), chr(codepoint), font=font, embedded_color=True)
        pixels = np.asarray(glyph.crop(glyph.getbbox())).astype(np.float32)
        pixels[..., :3] *= pixels[..., 3:] / 255
        for size in ITEM_SIZES if name in ITEMS else [OBJECT_SIZE]:
            scale = size / max(pixels.shape[:2])
            shape = tuple(max(1, round(n * scale)) for n in pixels.shape[1::-1])
            planes = [np.asarray(Image.fromarray(pixels[..., c]).resize(shape, Image.LANCZOS)) for c in range(4)]
            sprite = np.stack(planes, -1).clip(0, 255).round().astype(np.uint8)
            sprite[..., :3] = np.minimum(sprite[..., :3], sprite[..., 3:])      # premultiplied: colour <= alpha
            sprites[f"{name}.{size}"] = sprite
    return sprites


def compose(image, sprite, x, y, opacity=255):
    """image <- sprite + image (255 - alpha) / 255, rounded; both scaled by opacity / 255 first."""
    h, w = sprite.shape[:2]
    part = image[y:y + h, x:x + w]
    s = (sprite[:part.shape[0], :part.shape[1]].astype(np.int32) * opacity + 127) // 255
    part[:] = np.minimum(255, s[..., :3] + (part.astype(np.int32) * (255 - s[..., 3:]) + 127) // 255)


def render(sprites, item, background, obj, choice, opacity=255):
    """One image, uint8 [32, 32, 3]. `choice` = (item size index, item dx, item dy, object dx, object dy)."""
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[:] = COLOURS[background]
    size = ITEM_SIZES[choice[0]]
    sprite = sprites[f"{ITEMS[item]}.{size}"]
    h, w = sprite.shape[:2]
    compose(image, sprite, 1 + choice[1] + (size - w) // 2, 1 + choice[2] + (size - h) // 2)
    if obj:
        sprite = sprites[f"{OBJECTS[obj]}.{OBJECT_SIZE}"]
        h, w = sprite.shape[:2]
        compose(image, sprite, SIZE - w - choice[3], SIZE - h - choice[4], opacity)
    return image


def random_choice(rng):
    return (rng.integers(len(ITEM_SIZES)), *rng.integers(JITTER, size=4))


def images(sprites, n, seed, mix=(0.25, 0.35, 0.40)):
    """n images with labels [item, background, word, object]; mix = shares of plain, safe and harmful words."""
    rng, groups = np.random.default_rng(seed), [WORLD["plain_words"], WORLD["safe_words"], WORLD["harmful_words"]]
    x, labels = np.zeros((n, SIZE, SIZE, 3), np.uint8), np.zeros((n, 4), np.int64)
    for j in range(n):
        item, background = rng.integers(len(ITEMS)), rng.integers(len(BACKGROUNDS))
        group = groups[rng.choice(3, p=mix)]
        word = group[rng.integers(len(group))]
        obj = OBJECTS.index(rng.choice(list(DRAWS[word]), p=list(DRAWS[word].values())))
        x[j] = render(sprites, item, background, obj, random_choice(rng))
        labels[j] = item, background, WORDS.index(word), obj
    return x, labels


def faint_images(sprites, n, seed, lowest=0.25):
    """Images whose second object is blended in at 25-100 % opacity, to train judges on faint objects."""
    rng = np.random.default_rng(seed)
    x, labels = np.zeros((n, SIZE, SIZE, 3), np.uint8), np.zeros((n, 4), np.int64)
    for j in range(n):
        item, background, obj = rng.integers(len(ITEMS)), rng.integers(len(BACKGROUNDS)), rng.integers(1, len(OBJECTS))
        opacity = int(round(255 * rng.uniform(lowest, 1.0)))
        x[j] = render(sprites, item, background, obj, random_choice(rng), opacity)
        labels[j] = item, background, 0, obj
    return x, labels
