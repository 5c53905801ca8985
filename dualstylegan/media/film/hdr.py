"""HDR code values (PQ, HLG; BT.2020) to 8-bit sRGB for the networks, and back for what they made.

White of a page and of skin in good light is 203 cd/m2 (BT.2408): that is sRGB's 1. Lights above 0.8 of it are pressed
into the rest by a curve that can be inverted, so a face that was restyled is as bright as the one that was there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

PQ, HLG = 16, 18
_WHITE = 203.0  # cd/m2
_KNEE = 0.8
_MOST = 8.0  # times white: the end of the tables; all above is sRGB's white anyway
_STEPS = 4096  # of a table over the square root of linear light, finest where eyes are

# BT.2087: linear light with BT.2020's primaries to BT.709's
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_TO_2020 = np.linalg.inv(_TO_709).astype(np.float32)


def to_srgb(deep: np.ndarray, transfer: int) -> np.ndarray:
    """uint16 (H, W, 3) code values, 65535 being full, to uint8 (H, W, 3)."""
    return _levels()[_steps_of(_light(transfer)[deep] @ _TO_709.T, _STEPS)]


def from_srgb(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """uint8 (H, W, 3) to uint16 (H, W, 3) code values: the inverse of `to_srgb`, but for its rounding."""
    return _codes(transfer)[_steps_of(_light_of_levels()[pixels] @ _TO_2020.T, 4 * _STEPS)]


def _steps_of(light: np.ndarray, steps: int) -> np.ndarray:
    """Where light, which is overwritten, lies in a table of `steps` over its square root."""
    np.clip(light, 0, _MOST, out=light)
    np.sqrt(light, out=light)
    light *= (steps - 1) / np.sqrt(_MOST)
    return (light + 0.5).astype(np.uint16)


@lru_cache(maxsize=2)
def _light(transfer: int) -> np.ndarray:
    """float32 (65536,): each code value's light, in units of white."""
    code = np.arange(65536) / 65535
    if transfer == PQ:  # SMPTE ST 2084, its EOTF
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = code ** (1 / m2)
        light = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:  # ARIB STD-B67, its inverse OETF, then the OOTF of a screen of 1000 cd/m2, channel by channel
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
        light = 1000 * scene**1.2
    return (light / _WHITE).astype(np.float32)


@lru_cache(maxsize=2)
def _codes(transfer: int) -> np.ndarray:
    """uint16: the code value of each step of the square root of light."""
    light = (np.arange(4 * _STEPS) / (4 * _STEPS - 1)) ** 2 * _MOST
    return np.interp(light, _light(transfer), np.arange(65536)).round().astype(np.uint16)


def pressed_light(code: np.ndarray, transfer: int) -> np.ndarray:
    """The light of code values in [0, 1], in [0, 1] of sRGB's white: what is brighter is pressed into the rest."""
    return _pressed(_light(transfer)[(code * 65535).round().astype(np.uint16)])


def _pressed(light: np.ndarray) -> np.ndarray:
    room = 1 - _KNEE
    return np.where(light > _KNEE, 1 - room * np.exp(-(light - _KNEE) / room), light)


@lru_cache(maxsize=1)
def _levels() -> np.ndarray:
    """uint8: the sRGB level of each step of the square root of light."""
    pressed = _pressed((np.arange(_STEPS) / (_STEPS - 1)) ** 2 * _MOST)
    coded = np.where(pressed <= 0.0031308, 12.92 * pressed, 1.055 * pressed ** (1 / 2.4) - 0.055)
    return (255 * coded).round().astype(np.uint8)


@lru_cache(maxsize=1)
def _light_of_levels() -> np.ndarray:
    """float32 (256,): the light of each sRGB level, in units of white."""
    coded = np.minimum(np.arange(256), 254.5) / 255  # white itself would be endless
    pressed = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    room = 1 - _KNEE
    light = np.where(pressed > _KNEE, _KNEE - room * np.log(np.maximum(1 - pressed, 1e-6) / room), pressed)
    return light.astype(np.float32)
