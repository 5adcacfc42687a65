"""Unusual and broken image files, crops, and captions as they are found in the wild."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.tokenize.captions import clean_caption
from datamodules.tokenize.crops import Crops, adm_crop, centre_crop
from datamodules.tokenize.images import decode_image
from tests.datamodules.collections import encoded


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """Red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 99)], -1).astype(np.uint8))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return encoded(gradient(), "PNG", exif=exif.tobytes())


def sixteen_bit() -> bytes:
    values = (np.asarray(gradient().convert("L")).astype(np.uint16) << 8) + 17
    return encoded(Image.fromarray(values), "PNG")


PLAIN = np.asarray(gradient())
GREY = np.asarray(gradient().convert("L").convert("RGB"))
USABLE = {
    "plain": (encoded(gradient()), "a.png", None, PLAIN),
    "cmyk": (encoded(gradient().convert("CMYK"), "TIFF"), "a.tif", "CMYK", PLAIN),
    "grayscale": (encoded(gradient().convert("L")), "a.png", "grayscale", GREY),
    "16 bit": (sixteen_bit(), "a.png", "16 bit", GREY),
    "palette": (encoded(Image.fromarray(PLAIN // 128 * 255).quantize(8)), "a.png", "palette", PLAIN // 128 * 255),
    "extension": (encoded(gradient()), "a.jpg", "wrong file extension", PLAIN),
    "transparent": (
        encoded(Image.new("RGBA", (40, 30), (9, 9, 9, 0))),
        "a.png",
        "transparency",
        np.full_like(PLAIN, 255),
    ),
}


@pytest.mark.parametrize("kind", USABLE)
def test_unusual_files_are_converted_and_noted(kind):
    content, name, note, expected = USABLE[kind]
    image, notes = decode_image(content, name)
    assert notes == ([note] if note else [])
    assert image.mode == "RGB" and np.abs(np.asarray(image).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)])
def test_what_is_white_depends_on_the_mode_not_on_the_values(kind, dtype):
    dark = np.arange(900, dtype=dtype).reshape(30, 30) % 250
    for values in (dark, dark << 8):
        image, notes = decode_image(encoded(Image.fromarray(values), kind), f"a.{kind.lower()}")
        assert notes == ["16 bit"] and (np.asarray(image)[..., 0] == values >> 8).all()


def test_cmyk_jpeg():
    image, notes = decode_image(encoded(gradient().convert("CMYK"), "JPEG", quality=100), "a.jpg")
    assert notes == ["CMYK"] and np.abs(np.asarray(image).astype(int) - PLAIN).mean() < 8


def test_exif_rotation_is_applied_or_ignored():
    turned, notes = decode_image(rotated(), exif=True)
    assert notes == ["EXIF rotation applied"] and turned.size == (30, 40)
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(PLAIN, -1))
    as_is, notes = decode_image(rotated(), exif=False)
    assert notes == ["EXIF rotation ignored"] and as_is.size == (40, 30)


JPEG = encoded(gradient(), "JPEG")


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"", "empty file"),
        (b"<html>404</html>", "not an image"),
        (JPEG[: len(JPEG) // 2], "damaged image: .*[Tt]runcated"),
        (JPEG[:20], "damaged|not an image"),
        (encoded(gradient())[:80], "damaged image"),
        (encoded(gradient(4, 4)), "4 x 4 pixels"),
        (encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((9, 9), 65536, np.int32)), "TIFF"), "pixels from 65536 to 65536, whose range"),
        (encoded(Image.fromarray(np.full((9, 9), -1, np.int32)), "TIFF"), "pixels from -1 to -1, whose range"),
    ],
)
def test_broken_files_are_refused_with_a_reason(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode_image(content, "a.jpg")


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=40), st.integers(0, len(JPEG)), st.booleans())
def test_no_file_makes_it_crash(noise, where, png):
    whole = encoded(gradient()) if png else JPEG
    content = whole[:where] + noise + whole[where + len(noise) :]
    try:
        image, _ = decode_image(content, "a.jpg")
    except ValueError as error:
        assert str(error)
    else:
        assert image.mode == "RGB"


# --- crops ------------------------------------------------------------------------------------------------------------


def test_views_are_named_and_placed():
    crops = Crops(("adm", "ten_1.1", "random_2"), flip=True, size=20)
    assert len(crops.views) == 2 + 10 + 4 == len(set(crops.views))
    views = crops(gradient(), "key")
    assert views.shape == (16, 20, 20, 3) and views.dtype == np.uint8
    by_name = dict(zip(crops.views, views, strict=True))
    np.testing.assert_array_equal(by_name["adm mirrored"], by_name["adm"][:, ::-1])
    np.testing.assert_array_equal(by_name["ten_1.1 top left mirrored"], by_name["ten_1.1 top right"][:, ::-1])
    np.testing.assert_array_equal(by_name["ten_1.1 middle mirrored"], by_name["ten_1.1 middle"][:, ::-1])
    left, right = by_name["ten_1.1 top left"], by_name["ten_1.1 bottom right"]
    assert left[..., 0].mean() < right[..., 0].mean() and left[..., 1].mean() < right[..., 1].mean()
    np.testing.assert_array_equal(left[:, 2:], by_name["ten_1.1 top right"][:, :-2])  # 22 pixels wide: 2 apart


def test_random_crops_depend_on_the_name_alone():
    crops = Crops(("random_1",), size=16)
    first, again, other = (crops(gradient(), key) for key in ("a", "a", "b"))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_adm_halves_with_a_box_filter_first():
    """Stripes of one pixel: averaged away by the box filter, as in guided-diffusion."""
    stripes = Image.fromarray((np.indices((128, 160))[1] % 2 * 255).astype(np.uint8)).convert("RGB")
    assert np.asarray(adm_crop(stripes, 32)).std() < 2
    tall = gradient(31, 77)
    assert adm_crop(tall, 32).size == centre_crop(tall, 32).size == (32, 32)
    middle = np.asarray(centre_crop(gradient(60, 20), 20))
    assert abs(middle[..., 0].mean() - 127.5) < 2


@pytest.mark.parametrize("names", [(), ("adm", "adm"), ("middle",), ("random_0",)])
def test_unknown_crops_are_refused(names):
    with pytest.raises(ValueError, match="crop"):
        Crops(names)


# --- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,clean,notes",
    [
        ("a cat", "a cat", 0),
        ("  two\n lines\t", "two lines", 0),
        ("bell\x07 and nul\x00!", "bell and nul !", 1),
        ("smile 😀 日本語 e\u0301", "smile 😀 日本語 e\u0301", 0),
        ("\ud800 alone", "? alone", 1),
        ("\x01\n ", "", 1),
        ("word " * 10_000, " ".join(["word"] * 10_000), 1),
    ],
)
def test_captions(text, clean, notes):
    found, remarks = clean_caption(text)
    assert found == clean and len(remarks) == notes
    assert found.encode().decode() == found


def test_images_keep_their_first_frame():
    stream = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    image, _ = decode_image(stream.getvalue(), "a.gif")
    assert image.getpixel((3, 3)) == (255, 0, 0)
