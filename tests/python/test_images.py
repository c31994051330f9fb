"""PNG and JPEG files of every kind against Pillow's convert("RGB")."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from request_tool import Refused, RequestTool


@pytest.fixture(scope="module")
def tool():
    tool = RequestTool()
    yield tool
    tool.close()


def pixels(mode, height, width, seed=1):
    random = np.random.default_rng(seed)
    channels = {"L": 0, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    smooth = np.add.outer(np.arange(height), np.arange(width)) * 3 % 256
    noise = random.integers(0, 256, (height, width, channels) if channels else (height, width))
    data = (noise + (smooth[..., None] if channels else smooth)) // 2
    return Image.fromarray(data.astype(np.uint8), mode)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow(file):
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def png(width, height, depth, colour, rows, interlace=0, extra=b""):
    """A PNG file from raw filtered rows: kinds that Pillow does not write."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (48, 64), (480, 640)])
def test_png_modes(tool, mode, size):
    file = saved(pixels(mode, *size), "PNG")
    np.testing.assert_array_equal(tool.image(file), pillow(file))


@pytest.mark.parametrize("colours", [2, 4, 16, 256])
@pytest.mark.parametrize("transparency", [None, 1])
def test_png_palettes(tool, colours, transparency):
    options = {} if transparency is None else {"transparency": transparency}
    file = saved(pixels("RGB", 30, 41).quantize(colours), "PNG", **options)
    np.testing.assert_array_equal(tool.image(file), pillow(file))


def test_png_one_bit(tool):
    file = saved(pixels("L", 20, 33).convert("1"), "PNG")
    np.testing.assert_array_equal(tool.image(file), pillow(file))


@pytest.mark.parametrize("depth", [2, 4])
def test_png_shallow_grey(tool, depth):
    random = np.random.default_rng(depth)
    rows = b"".join(b"\0" + random.bytes(8) for _ in range(16))
    file = png(64 // depth, 16, depth, 0, rows)
    np.testing.assert_array_equal(tool.image(file), pillow(file))


@pytest.mark.parametrize("colour,channels", [(2, 3), (4, 2), (6, 4)])
def test_png_sixteen_bits(tool, colour, channels):
    random = np.random.default_rng(colour)
    rows = b"".join(b"\0" + random.bytes(2 * channels * 11) for _ in range(13))
    file = png(11, 13, 16, colour, rows)
    np.testing.assert_array_equal(tool.image(file), pillow(file))


def test_png_sixteen_bit_grey_keeps_the_upper_byte(tool):
    """Pillow turns everything above 255 white here; the upper byte is what its other 16-bit modes keep."""
    data = np.random.default_rng(7).integers(0, 65536, (9, 10)).astype(">u2")
    file = png(10, 9, 16, 0, b"".join(b"\0" + row.tobytes() for row in data))
    np.testing.assert_array_equal(tool.image(file)[..., 1], data >> 8)


def test_png_gamma_and_orientation_are_ignored(tool):
    image = pixels("RGB", 20, 30)
    exif = Image.Exif()
    exif[0x112] = 6
    for kind in ("PNG", "JPEG"):
        file = saved(image, kind, exif=exif)
        np.testing.assert_array_equal(tool.image(file), pillow(file))


@pytest.mark.parametrize("options", [{}, {"quality": 20}, {"quality": 100, "subsampling": 0}, {"subsampling": 1},
                                     {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (480, 640)])
def test_jpeg_modes(tool, mode, size, options):
    file = saved(pixels(mode, *size), "JPEG", **options)
    found, expected = tool.image(file).astype(int), pillow(file).astype(int)
    assert found.shape == expected.shape
    # two releases of the same decoder may differ in the last place of the colour upsampling
    assert np.abs(found - expected).max() <= 2
    assert (found != expected).mean() < 0.02


def test_jpeg_cmyk_is_refused(tool):
    with pytest.raises(Refused, match="CMYK"):
        tool.image(saved(pixels("CMYK", 16, 16), "JPEG"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_files_are_refused(tool, kind):
    file = saved(pixels("RGB", 60, 80), kind)
    for cut in list(range(0, 200, 7)) + [len(file) // 2, len(file) * 9 // 10]:
        with pytest.raises(Refused):
            tool.image(file[:cut])


def test_damaged_files_do_no_harm(tool):
    random = np.random.default_rng(3)
    for kind in ("PNG", "JPEG"):
        file = saved(pixels("RGB", 40, 50), kind)
        for _ in range(200):
            damaged = bytearray(file)
            for place in random.integers(0, len(file), 3):
                damaged[place] = random.integers(256)
            try:
                tool.image(bytes(damaged))
            except Refused:
                pass


@pytest.mark.parametrize("file", [b"", b"x", b"hello, world", b"GIF89a" + bytes(100), b"BM" + bytes(100),
                                  b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_no_image_is_refused(tool, file):
    with pytest.raises(Refused):
        tool.image(file)


@pytest.mark.parametrize("size", [(2**31 - 1, 1), (65536, 65536), (2**31 - 1, 2**31 - 1), (0, 1), (10001, 10000)])
def test_huge_claims_are_refused(tool, size):
    with pytest.raises(Refused, match="image|PNG"):
        tool.image(png(*size, 8, 2, b""))


def test_a_thin_image_is_read(tool):
    assert tool.image(saved(pixels("RGB", 1, 20000), "PNG")).shape == (1, 20000, 3)
