"""The resizes against Pillow itself and against a plain numpy account of torch's bilinear."""

import numpy as np
import pytest
from openpi_client import image_tools
from PIL import Image

from request_tool import Refused, RequestTool


@pytest.fixture(scope="module")
def tool():
    tool = RequestTool()
    yield tool
    tool.close()


def picture(random, height, width):
    """Noise, black and white (the largest sums), or a smooth picture."""
    kind = random.integers(3)
    if kind == 0:
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:
        return (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    y, x, c = np.ogrid[:height, :width, :3]
    return ((np.sin(x * 0.05 + c) + np.cos(y * 0.07)) * 63 + 128).astype(np.uint8)


def pillow(pixels, size):
    """What openpi's policy and its clients do to an image (with the Pillow that openpi pins)."""
    return image_tools.resize_with_pad(pixels, size, size, method=Image.BILINEAR)


SIZES = [(480, 640), (640, 480), (1, 1), (1, 2), (2, 1), (1, 224), (224, 1), (224, 224), (223, 224), (225, 224),
         (18, 18), (323, 320), (720, 1280), (1080, 1920), (3, 600), (600, 3), (448, 448), (56, 56), (7, 1000)]


@pytest.mark.parametrize("height,width", SIZES)
@pytest.mark.parametrize("option", ["auto", "plain"])
def test_known_sizes_equal_pillow(tool, height, width, option):
    random = np.random.default_rng(height * 10000 + width)
    pixels = picture(random, height, width)
    for size in (224, 56):
        if max(height, width) >= size * min(height, width) and min(height, width) > 0 and max(height, width) > size * min(height, width):
            with pytest.raises(Refused, match="shrinks to nothing"):
                tool.resize(pixels, size, option)
            continue
        np.testing.assert_array_equal(tool.resize(pixels, size, option), pillow(pixels, size))


@pytest.mark.parametrize("seed", range(12))
def test_random_sizes_equal_pillow(tool, seed):
    random = np.random.default_rng(seed)
    for _ in range(25):
        height, width = np.exp(random.uniform(0, np.log(700), 2)).astype(int)
        size = int(random.choice([224, 224, 56, 97]))
        if max(height, width) > size * min(height, width):
            continue
        pixels = picture(random, height, width)
        expected = pillow(pixels, size)
        for option in ("auto", "plain"):
            np.testing.assert_array_equal(tool.resize(pixels, size, option), expected, f"{height}x{width} to {size}")


@pytest.mark.parametrize("height,width", [(1, 20000), (20000, 1), (1, 225), (1000, 2), (0, 5)])
def test_what_shrinks_to_nothing_is_refused(tool, height, width):
    with pytest.raises(Refused, match="expected"):
        tool.resize(np.zeros((height, width, 3), np.uint8))
    with pytest.raises(Refused, match="expected"):
        tool.resize_torch(np.zeros((height, width, 3), np.uint8))


def torch_bilinear(pixels, size):
    """float64 account of spec: half-pixel centres, no antialias, clamp, pad 0, then x * 2 - 1."""
    height, width, _ = pixels.shape
    ratio = max(width / size, height / size)
    rows, columns = int(height / ratio), int(width / ratio)

    def blend(inputs, outputs):
        position = np.maximum(inputs / outputs * (np.arange(outputs) + 0.5) - 0.5, 0)
        low = np.minimum(position.astype(int), inputs - 1)
        return low, np.minimum(low + 1, inputs - 1), position - low

    x = pixels.astype(np.float64) / 255
    low, high, weight = blend(height, rows)
    x = x[low] * (1 - weight)[:, None, None] + x[high] * weight[:, None, None]
    low, high, weight = blend(width, columns)
    x = x[:, low] * (1 - weight)[None, :, None] + x[:, high] * weight[None, :, None]
    square = np.zeros((size, size, 3))
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top:top + rows, left:left + columns] = np.clip(x, 0, 1)
    return square.transpose(2, 0, 1) * 2 - 1


@pytest.mark.parametrize("seed", range(6))
def test_lerobots_resize(tool, seed):
    random = np.random.default_rng(100 + seed)
    for _ in range(10):
        height, width = random.integers(1, 500, 2)
        size = int(random.choice([224, 56]))
        if max(height, width) > size * min(height, width):
            continue
        pixels = picture(random, height, width)
        # float32 weights: a position near 500 is known to 3e-5 of a pixel, and a black-to-white step is 2
        np.testing.assert_allclose(tool.resize_torch(pixels, size), torch_bilinear(pixels, size), rtol=0, atol=1.5e-4)
