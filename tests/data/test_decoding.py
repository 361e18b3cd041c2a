"""Decoding: Pillow's pixels of photographs, the exact numbers of all else, and a sentence where neither can be."""

import io
import struct
import zlib

import chex
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from longview.data.decoding import decode, encode_png
from tests.data.pictures import PHOTO, encoded, jpeg, numbers, png

SMALL = Image.fromarray(PHOTO).resize((90, 61))


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK', 'PNG', 'PNG with alpha', 'palette'])
@pytest.mark.parametrize('channels', [3, 1])
def test_decoding_equals_pillow(mode, channels):
    data = {
        'PNG': lambda: encoded(SMALL, 'png'),
        'PNG with alpha': lambda: encoded(SMALL.convert('RGBA'), 'png'),
        'palette': lambda: encoded(SMALL.convert('P'), 'gif'),
    }.get(mode, lambda: encoded(SMALL.convert(mode), 'jpeg'))()
    got = decode(data, channels)
    chex.assert_shape(got, (61, 90, channels))
    with Image.open(io.BytesIO(data)) as opened:
        want = np.asarray(opened.convert('RGB' if channels == 3 else 'L')).reshape(got.shape)
    # Color to gray, libjpeg returns its own luma and Pillow computes it back from RGB.
    assert np.abs(got.astype(int) - want).max() <= (0 if channels == 3 or mode != 'RGB' else 2)


def test_png_holds_the_exact_pixels():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    chex.assert_trees_all_equal(decode(encode_png(gray), 1), gray)
    chex.assert_trees_all_equal(decode(encode_png(PHOTO[:20, :30]), 3), PHOTO[:20, :30])


@pytest.mark.parametrize('cut', [0, 3, 400, -40])
def test_damage_is_refused(cut):
    with pytest.raises((ValueError, OSError)):
        decode(jpeg(60, 80)[:cut], 3)


@pytest.mark.parametrize('at', [30, 45, 60, 200])
def test_a_damaged_png_is_refused(at):
    """Pillow says SyntaxError for a chunk whose name is damaged."""
    data = bytearray(encode_png(PHOTO[:20, :30]))
    data[data.index(b'IDAT') + at - 30] ^= 0x55
    with pytest.raises((ValueError, OSError)):
        decode(bytes(data), 3)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_a_png_of_16_bits_keeps_every_one(channels):
    image = numbers('uint16', 9, 7, channels)
    chex.assert_trees_all_equal(decode(png(image), channels, dtype=np.uint16), image)


def test_four_channels_are_four_and_what_has_fewer_is_widened_without_loss():
    image = numbers('uint8', 9, 7, 4)
    chex.assert_trees_all_equal(decode(encode_png(image), 4), image)
    opaque = np.full((9, 7, 1), 255, np.uint8)
    for kind, channels in (('png', 3), ('bmp', 3), ('gif', 1)):
        part = image[..., :channels]
        file = encoded(Image.fromarray(part if channels == 3 else part[..., 0]), kind)
        chex.assert_trees_all_equal(decode(file, 4), np.concatenate([part] * (3 // channels) + [opaque], -1))
    with pytest.raises(ValueError, match='it is stored as CMYK, wanted 1 or L .* or RGBA'):
        decode(encoded(SMALL.convert('CMYK'), 'jpeg'), 4)


def test_float_images_are_the_four_bytes_of_a_png():
    image = numbers('float32', 9, 7, 1)
    file = encode_png(image.view(np.uint8))
    chex.assert_trees_all_equal(decode(file, 1, dtype=np.float32), image)
    chex.assert_trees_all_equal(image, tfds.features.Image(shape=(9, 7, 1), dtype=np.float32).decode_example_np(file))
    with pytest.raises(ValueError, match='it is stored as L, wanted RGBA'):
        decode(encode_png(image.view(np.uint8)[..., :1]), 1, dtype=np.float32)


DEEP = 'it is stored in more than 8 bits a channel and the data set announces uint8'
SHALLOW = 'it is no PNG of 16 bits a channel and the data set announces uint16'
ALTERED = {
    'gray of 16 bits as 8': (lambda: decode(png(numbers('uint16', 9, 7, 1)), 1), DEEP),
    'gray of 16 bits as RGB': (lambda: decode(png(numbers('uint16', 9, 7, 1)), 3), DEEP),
    'RGB of 16 bits as 8': (lambda: decode(png(numbers('uint16', 9, 7, 3)), 3), DEEP),
    'RGBA of 16 bits as 8': (lambda: decode(png(numbers('uint16', 9, 7, 4)), 4), DEEP),
    'TIFF of 16 bits': (lambda: decode(encoded(Image.fromarray(numbers('uint16', 9, 7)), 'tiff'), 1), DEEP),
    'TIFF of floats': (lambda: decode(encoded(Image.fromarray(numbers('float32', 9, 7)), 'tiff'), 1), DEEP),
    '8 bits as 16': (lambda: decode(png(numbers('uint8', 9, 7, 1)), 1, dtype=np.uint16), SHALLOW),
    'a photograph as 16': (lambda: decode(jpeg(9, 7), 3, dtype=np.uint16), SHALLOW),
    'other channels': (
        lambda: decode(png(numbers('uint16', 9, 7, 3)), 1, dtype=np.uint16),
        'it is stored in 3 channels and the data set announces 1',
    ),
    'half of 16 bits': (
        lambda: decode(png(numbers('uint16', 9, 7, 1))[:-60], 1, dtype=np.uint16),
        'it is not a whole PNG',
    ),
    'an array of other channels': (
        lambda: decode(numbers('uint8', 8, 8, 1), 4),
        r'it has the shape \(8, 8, 1\) and the data set announces 4 channels',
    ),
}


@pytest.mark.parametrize('case', ALTERED)
def test_what_would_be_altered_is_refused(case):
    call, message = ALTERED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_eight_bits_in_a_tiff_are_read_in_the_order_that_it_says():
    image = numbers('uint8', 9, 7, 3)
    chex.assert_trees_all_equal(decode(encoded(Image.fromarray(image), 'tiff'), 3), image)
    turned = encoded(Image.fromarray(image), 'tiff', tiffinfo={0x0112: 6})
    chex.assert_trees_all_equal(decode(turned, 3), np.rot90(image, -1))


def test_more_pixels_than_pillow_decodes_are_refused(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
    with pytest.raises(ValueError, match='it has more than the 40 pixels that Pillow decodes: store it smaller'):
        decode(encode_png(PHOTO[:9, :7]), 3)


def with_exif(file: bytes) -> bytes:
    """A PNG with the camera's note that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b'eXIf' + exif.tobytes().removeprefix(b'Exif\0\0')
    chunk = struct.pack('>I', len(body) - 4) + body + struct.pack('>I', zlib.crc32(body))
    return file[:33] + chunk + file[33:]  # after the first chunk, IHDR


def test_the_orientation_in_exif_is_not_applied_by_any_decoder():
    """Rotated by some, an image's labels, boxes and crops would depend on the kind of its file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, image in (('jpeg', SMALL), ('jpeg', SMALL.convert('CMYK')), ('webp', SMALL), ('png', SMALL)):
        plain, rotated = encoded(image, kind), encoded(image, kind, exif=exif)
        with Image.open(io.BytesIO(rotated)) as opened:
            assert opened.getexif()[0x0112] == 6
        chex.assert_trees_all_equal(decode(rotated, 3), decode(plain, 3))
    deep = numbers('uint16', 9, 7, 3)
    rotated = with_exif(png(deep))
    with Image.open(io.BytesIO(rotated)) as opened:
        assert opened.getexif()[0x0112] == 6
    chex.assert_trees_all_equal(decode(rotated, 3, dtype=np.uint16), deep)
    by_tfds = tfds.features.Image(shape=(9, 7, 3), dtype=np.uint16, encoding_format='png').decode_example_np(rotated)
    chex.assert_trees_all_equal(by_tfds, deep)
