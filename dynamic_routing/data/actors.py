"""What moves along a generated street: cars, trucks, buses, people and two-wheelers."""

from __future__ import annotations

import numpy as np

from .canvas import Colour
from .cutout import Cutout, box, ring
from .street import pick, shade

PAINTS: tuple[Colour, ...] = (
    (176, 28, 32),
    (36, 60, 138),
    (222, 222, 224),
    (44, 46, 50),
    (140, 144, 150),
    (60, 104, 72),
    (206, 160, 44),
)
CLOTHES: tuple[Colour, ...] = (
    (40, 44, 66),
    (150, 40, 48),
    (206, 198, 186),
    (70, 110, 150),
    (196, 130, 50),
    (88, 70, 96),
)
TROUSERS: tuple[Colour, ...] = ((44, 50, 74), (60, 56, 54), (110, 100, 86))
SKINS: tuple[Colour, ...] = ((222, 178, 150), (164, 118, 90), (108, 76, 58))
HELMETS: tuple[Colour, ...] = ((206, 30, 36), (32, 80, 190), (236, 196, 30))
DARK: Colour = (26, 28, 32)
PANE: Colour = (62, 76, 92)


def draw_car(view: Cutout, generator: np.random.Generator, label: str = "car") -> None:
    """A car from the side or from behind."""
    colour = pick(generator, PAINTS)
    view.shadow()
    if view.width > 2.5:
        _car_side(view, colour, label)
        return
    body = [
        (-0.5, 0.0), (-0.5, 0.5), (-0.44, 0.6), (-0.36, 0.97), (-0.28, 1.0), (0.28, 1.0),
        (0.36, 0.97), (0.44, 0.6), (0.5, 0.5), (0.5, 0.0), (0.34, 0.0), (0.34, 0.1),
        (-0.34, 0.1), (-0.34, 0.0),
    ]  # fmt: skip
    if not view.add(label, body, colour, is_instance=True):
        return
    view.detail([(-0.38, 0.62), (-0.31, 0.92), (0.31, 0.92), (0.38, 0.62)], PANE)
    view.detail(box(-0.46, 0.1, 0.46, 0.24), shade(colour, 0.6))
    view.detail(box(-0.14, 0.26, 0.14, 0.36), (220, 220, 214))
    lamp = (232, 40, 34) if generator.random() < 0.6 else (250, 244, 214)
    for side in (-1, 1):
        view.detail(box(side * 0.36 - 0.09, 0.4, side * 0.36 + 0.09, 0.53), lamp)
        view.detail(box(side * 0.42 - 0.07, 0.0, side * 0.42 + 0.07, 0.14), DARK)


def _car_side(view: Cutout, colour: Colour, label: str) -> None:
    """A car that crosses or is parked across."""
    body = [
        (-0.5, 0.16), (-0.5, 0.5), (-0.44, 0.58), (-0.26, 0.64), (-0.14, 0.96), (0.02, 1.0),
        (0.2, 0.98), (0.36, 0.64), (0.47, 0.58), (0.5, 0.4), (0.5, 0.16), (0.38, 0.14),
        (0.35, 0.02), (0.25, 0.02), (0.22, 0.14), (-0.2, 0.14), (-0.23, 0.02), (-0.33, 0.02),
        (-0.36, 0.14),
    ]  # fmt: skip
    if not view.add(label, body, colour, is_instance=True):
        return
    view.detail([(-0.22, 0.64), (-0.12, 0.9), (0.02, 0.93), (0.02, 0.64)], PANE)
    view.detail([(0.05, 0.64), (0.05, 0.93), (0.18, 0.91), (0.3, 0.64)], PANE)
    view.detail(box(-0.5, 0.4, -0.45, 0.5), (250, 240, 200))
    view.detail(box(0.46, 0.42, 0.5, 0.52), (226, 44, 38))
    for u in (-0.28, 0.3):
        view.disc(u, 0.2, 0.19 * view.height, DARK)
        view.disc(u, 0.2, 0.10 * view.height, (150, 150, 154))


def draw_truck(view: Cutout, generator: np.random.Generator) -> None:
    """A lorry: a box in one colour on wheels, a cabin in another."""
    view.shadow()
    cargo = pick(generator, ((206, 202, 192), (120, 128, 136), (150, 90, 60), (72, 98, 130)))
    cabin = pick(generator, PAINTS)
    outline = [
        (-0.5, 0.1), (-0.5, 0.46), (-0.44, 0.74), (-0.27, 0.76), (-0.27, 1.0), (0.5, 1.0),
        (0.5, 0.14), (0.42, 0.0), (0.28, 0.0), (0.2, 0.12), (-0.24, 0.12), (-0.3, 0.0),
        (-0.42, 0.0),
    ]  # fmt: skip
    if not view.add("truck", outline, cargo, is_instance=True):
        return
    view.detail([(-0.5, 0.12), (-0.5, 0.46), (-0.44, 0.74), (-0.28, 0.75), (-0.28, 0.12)], cabin)
    view.detail([(-0.48, 0.46), (-0.43, 0.7), (-0.33, 0.7), (-0.33, 0.46)], PANE)
    view.detail(box(-0.24, 0.12, 0.5, 0.2), DARK)
    for level in (0.45, 0.7):
        view.detail(box(-0.27, level, 0.5, level + 0.03), shade(cargo, 0.75))
    for u in (-0.36, 0.35):
        view.disc(u, 0.09, 0.1 * view.height, DARK)


def draw_bus(view: Cutout, generator: np.random.Generator) -> None:
    """A long vehicle in one bright colour with a row of windows."""
    view.shadow()
    colour = pick(generator, ((222, 186, 44), (196, 44, 40), (60, 130, 160)), 14)
    outline = [
        (-0.5, 0.1), (-0.5, 0.9), (-0.46, 1.0), (0.46, 1.0), (0.5, 0.9), (0.5, 0.1),
        (0.38, 0.0), (0.26, 0.0), (0.22, 0.1), (-0.22, 0.1), (-0.26, 0.0), (-0.38, 0.0),
    ]  # fmt: skip
    if not view.add("bus", outline, colour, is_instance=True):
        return
    windows = 6 if view.width > 5 else 2
    step = 0.92 / windows
    for number in range(windows):
        left = -0.46 + number * step
        view.detail(box(left + 0.06 * step, 0.5, left + 0.94 * step, 0.84), PANE)
    view.detail(box(-0.5, 0.3, 0.5, 0.36), shade(colour, 0.6))
    for u in (-0.32, 0.32):
        view.disc(u, 0.11, 0.12 * view.height, DARK)


PERSON = (
    (-0.34, 0.0), (-0.1, 0.0), (0.0, 0.4), (0.1, 0.0), (0.34, 0.0), (0.3, 0.48), (0.4, 0.5),
    (0.46, 0.76), (0.3, 0.83), (0.12, 0.85), (0.22, 0.92), (0.14, 1.0), (-0.14, 1.0),
    (-0.22, 0.92), (-0.12, 0.85), (-0.3, 0.83), (-0.46, 0.76), (-0.4, 0.5), (-0.3, 0.48),
)  # fmt: skip


def draw_person(view: Cutout, generator: np.random.Generator) -> None:
    """A standing or walking person in a top and trousers of two colours."""
    stride = generator.uniform(0.5, 1.3)
    outline = [(u * (stride if v < 0.1 else 1.0), v) for u, v in PERSON]
    skin = pick(generator, SKINS)
    if not view.add("person", outline, pick(generator, CLOTHES), is_instance=True):
        return
    legs = [(u * 0.97, v) for u, v in outline[:6]] + [(-0.29, 0.48)]
    view.detail(legs, pick(generator, TROUSERS))
    _draw_head(view, skin, hair=shade(skin, 0.35))


def _draw_head(view: Cutout, skin: Colour, *, hair: Colour) -> None:
    """Face and hair (or helmet) inside the head of PERSON."""
    view.detail(
        [(-0.1, 0.86), (-0.19, 0.92), (-0.17, 0.95), (0.17, 0.95), (0.19, 0.92), (0.1, 0.86)], skin
    )
    view.detail([(-0.18, 0.95), (-0.13, 0.995), (0.13, 0.995), (0.18, 0.95)], hair)


def draw_bicycle(view: Cutout, generator: np.random.Generator, *, ridden: bool) -> None:
    """A bicycle or motorcycle from the side; its rider, if ridden, is an object of its own.

    The cut-out is that of the two-wheeler, 1.1 metres high.
    """
    motor = generator.random() < 0.3
    label = "motorcycle" if motor else "bicycle"
    colour = pick(generator, PAINTS if motor else ((52, 54, 58), (120, 40, 44), (40, 66, 104)))
    outline = [
        (-0.5, 0.3), (-0.46, 0.08), (-0.3, 0.0), (-0.14, 0.08), (-0.1, 0.24), (0.1, 0.24),
        (0.14, 0.08), (0.3, 0.0), (0.46, 0.08), (0.5, 0.3), (0.4, 0.58), (0.26, 0.66),
        (0.24, 0.96), (0.14, 1.0), (0.1, 0.84), (-0.2, 0.8), (-0.34, 0.86), (-0.36, 0.6),
        (-0.46, 0.5),
    ]  # fmt: skip
    if not view.add(label, outline, colour, is_instance=True):
        return
    for u in (-0.3, 0.3):
        view.disc(u, 0.3, 0.27 * view.height, DARK)
        view.disc(u, 0.3, (0.12 if motor else 0.2) * view.height, (120, 118, 112))
    if ridden:
        _draw_rider(view, generator)


def _draw_rider(view: Cutout, generator: np.random.Generator) -> None:
    """Somebody with a helmet who leans over the handlebar."""
    seat = Cutout(view.canvas, view.camera, view.x, view.z, 0.8, 1.25, base=0.5, mirror=view.mirror)
    outline = [
        (-0.3, 0.36), (-0.28, 0.12), (-0.06, -0.1), (0.1, -0.1), (-0.02, 0.16), (0.14, 0.22),
        (0.06, 0.36), (0.42, 0.42), (0.44, 0.52), (0.24, 0.76), (0.34, 0.84), (0.3, 0.98),
        (0.16, 1.02), (0.04, 0.96), (0.04, 0.82), (-0.16, 0.7),
    ]  # fmt: skip
    if not seat.add("rider", outline, pick(generator, CLOTHES), is_instance=True):
        return
    trousers = [
        (-0.3, 0.34),
        (-0.28, 0.12),
        (-0.06, -0.1),
        (0.1, -0.1),
        (-0.02, 0.16),
        (0.14, 0.22),
        (0.06, 0.34),
    ]
    seat.detail(trousers, pick(generator, TROUSERS))
    seat.detail(ring(0.19, 0.86, 0.11, 0.07), pick(generator, SKINS))
    seat.detail(
        [(0.05, 0.88), (0.06, 0.96), (0.17, 1.01), (0.3, 0.97), (0.33, 0.88)],
        pick(generator, HELMETS),
    )
