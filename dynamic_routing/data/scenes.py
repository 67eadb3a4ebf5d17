"""Street-like scenes with known polygons, drawn from a seed: no download, any size, any number.

Three profiles are three hidden subsets of one data set, with the same classes in different sizes:

    large   a low camera in a narrow street; a few near things fill much of the picture
    small   a high camera over a wide street; many far things
    mixed   both in one picture
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .actors import draw_bicycle, draw_bus, draw_car, draw_person, draw_truck
from .canvas import Canvas, Colour, Light, SceneObject
from .cutout import Cutout
from .furniture import draw_litter, draw_pole
from .profiles import check_picture
from .street import Camera, Street, draw_barrier, draw_facades, draw_ground, draw_sky, draw_tree

Counts = tuple[int, int]  # fewest and most of a thing, both included
Draw = Callable[[Cutout, np.random.Generator], None]


@dataclass(frozen=True)
class Profile:
    """What a kind of scene holds.

    Attributes:
        elevation: lowest and highest camera, metres.
        horizon: row of the horizon as a share of the height, lowest and highest.
        road: half the width of the road, metres, narrowest and widest.
        near: distance of the things, as a factor on the nearest visible ground: from, to.
        far: the same for the second, distant group of things.
        vehicles: how many vehicles in the near and in the far group.
        people: how many people on foot and on two wheels in the near and in the far group.
        poles: how many poles.
        trees: how many trees.
    """

    elevation: tuple[float, float]
    horizon: tuple[float, float]
    road: tuple[float, float]
    near: tuple[float, float]
    far: tuple[float, float]
    vehicles: tuple[Counts, Counts]
    people: tuple[Counts, Counts]
    poles: Counts
    trees: Counts


_PROFILES = {
    "large": Profile(
        elevation=(1.2, 1.7), horizon=(0.34, 0.46), road=(3.5, 4.5), near=(1.0, 2.0),
        far=(2.0, 3.0),
        vehicles=((1, 3), (0, 1)), people=((2, 5), (0, 2)), poles=(1, 3), trees=(1, 4),
    ),
    "small": Profile(
        elevation=(4.0, 6.0), horizon=(0.24, 0.34), road=(7.0, 10.0), near=(1.7, 4.0),
        far=(4.0, 8.0),
        vehicles=((5, 9), (8, 14)), people=((8, 14), (8, 14)), poles=(10, 16), trees=(6, 14),
    ),
    "mixed": Profile(
        elevation=(1.8, 2.6), horizon=(0.32, 0.42), road=(4.5, 6.5), near=(1.1, 2.2),
        far=(3.5, 9.0),
        vehicles=((1, 2), (4, 8)), people=((1, 3), (5, 10)), poles=(4, 8), trees=(2, 7),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A picture and its annotation.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: polygons in drawing order; each has at least one visible pixel.
        profile: "large", "small" or "mixed".
    """

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    profile: str


def draw_scene(generator: np.random.Generator, *, size: tuple[int, int], profile: str) -> Scene:
    """Draw one scene.

    Args:
        generator: all randomness; the same state gives the same scene.
        size: (height, width) in pixels, each at least 32.
        profile: "large", "small" or "mixed".

    Returns:
        The picture with its polygons.

    Raises:
        ValueError: for a side under 32 pixels or an unknown profile.
    """
    check_picture(size, profile)
    recipe = _PROFILES[profile]
    camera, street = _sample_view(recipe, size, generator)
    canvas = Canvas(size, background=(70, 70, 74))
    sky = draw_sky(canvas, camera, generator)
    draw_ground(canvas, camera, street, generator)
    draw_facades(canvas, camera, street, generator)
    for _ in range(int(generator.integers(1, 3))):
        draw_barrier(canvas, camera, street, generator)
    _draw_things(canvas, camera, street, recipe, generator)
    _draw_frame(canvas, generator)
    light = _sample_light(sky, generator)
    image = canvas.render(generator, light=light, row_haze=camera.row_haze())
    return Scene(image, tuple(canvas.visible_objects()), profile)


def _between(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(generator.uniform(limits[0], limits[1]))


def _sample_view(
    recipe: Profile, size: tuple[int, int], generator: np.random.Generator
) -> tuple[Camera, Street]:
    """The camera and the street in front of it."""
    height, width = size
    camera = Camera(
        height=height,
        width=width,
        horizon=height * _between(generator, recipe.horizon),
        centre=width * _between(generator, (0.35, 0.65)),
        elevation=_between(generator, recipe.elevation),
        focal=1.6 * height,
        fog=_between(generator, (60.0, 400.0)),
    )
    road = _between(generator, recipe.road)
    pavement = road + _between(generator, (2.0, 4.0))
    front = pavement + _between(generator, (0.3, 6.0))
    far = camera.nearest * max(recipe.far[1], 6.0) * _between(generator, (1.5, 3.0))
    return camera, Street(road=road, pavement=pavement, front=front, far=far)


def _sample_light(sky: Colour, generator: np.random.Generator) -> Light:
    """Brightness, colour of the light, haze and sensor noise."""
    gain = _between(generator, (0.72, 1.18))
    warmth = _between(generator, (-0.10, 0.10))
    level = int(generator.integers(170, 225))
    red, green, blue = ((level + channel) // 2 for channel in sky)
    return Light(
        gain=(gain * (1 + warmth), gain, gain * (1 - warmth)),
        haze=(red, green, blue),
        gamma=_between(generator, (0.85, 1.25)),
        noise=_between(generator, (2.0, 7.0)),
    )


def _draw_things(
    canvas: Canvas,
    camera: Camera,
    street: Street,
    recipe: Profile,
    generator: np.random.Generator,
) -> None:
    """Everything that stands upright, sorted from far to near."""
    placed: list[tuple[Cutout, Draw]] = []
    for group, limits in enumerate((recipe.near, recipe.far)):
        for _ in range(_count(generator, recipe.vehicles[group])):
            z = camera.nearest * _between(generator, limits)
            placed.append(_place_vehicle(canvas, camera, street, z, generator))
        for _ in range(_count(generator, recipe.people[group])):
            z = camera.nearest * _between(generator, limits)
            placed.append(_place_person(canvas, camera, street, z, generator))
    reach = (recipe.near[0] * 1.3, recipe.far[1])
    for _ in range(_count(generator, recipe.poles)):
        z = camera.nearest * _between(generator, reach)
        placed.append(_place_pole(canvas, camera, street, z, generator))
    for _ in range(_count(generator, recipe.trees)):
        z = camera.nearest * _between(generator, reach)
        side = float(generator.choice((-1.0, 1.0)))
        x = side * (street.pavement + _between(generator, (-0.3, 2.5)))
        placed.append((Cutout(canvas, camera, x, z, 1.0, 1.0), _tree))
    for view, draw in sorted(placed, key=lambda item: -item[0].z):
        draw(view, generator)


def _count(generator: np.random.Generator, limits: Counts) -> int:
    return int(generator.integers(limits[0], limits[1] + 1))


def _tree(view: Cutout, generator: np.random.Generator) -> None:
    draw_tree(view.canvas, view.camera, view.x, view.z, generator)


def _ridden(view: Cutout, generator: np.random.Generator) -> None:
    draw_bicycle(view, generator, ridden=True)


def _parked(view: Cutout, generator: np.random.Generator) -> None:
    draw_bicycle(view, generator, ridden=False)


def _crowd(view: Cutout, generator: np.random.Generator) -> None:
    draw_car(view, generator, label="cargroup")


def _inside(camera: Camera, z: float, limits: tuple[float, float], value: float) -> float:
    """Move x so that its column lies in the picture, if the road reaches there; value in [0, 1]."""
    half = 0.95 * camera.width * z / camera.focal
    left = (0 - camera.centre) / camera.width * half
    right = (camera.width - camera.centre) / camera.width * half
    low, high = max(limits[0], left), min(limits[1], right)
    return low + value * (high - low) if low < high else (left if limits[1] < left else right)


def _place_vehicle(
    canvas: Canvas, camera: Camera, street: Street, z: float, generator: np.random.Generator
) -> tuple[Cutout, Draw]:
    """A car, truck or bus on the road, from the side or from behind."""
    across = generator.random() < 0.4
    kind = generator.random()
    if kind >= 0.78:  # tall things stand further away, or one would hide the whole street
        z *= 1.6
    draw: Draw
    if kind < 0.73:
        draw, width, height = draw_car, (4.2 if across else 1.8), generator.uniform(1.4, 1.75)
    elif kind < 0.78:
        draw, width, height = _crowd, 1.8, generator.uniform(1.4, 1.7)
    elif kind < 0.90:
        draw, width, height = draw_truck, generator.uniform(4.5, 7.0), generator.uniform(2.6, 3.4)
    else:
        draw, width, height = draw_bus, (9.0 if across else 2.6), generator.uniform(2.8, 3.2)
    x = _inside(camera, z, (-street.road + 0.6, street.road - 0.6), generator.random())
    mirror = bool(generator.random() < 0.5)
    return Cutout(canvas, camera, x, z, width, height, mirror=mirror), draw


def _place_person(
    canvas: Canvas, camera: Camera, street: Street, z: float, generator: np.random.Generator
) -> tuple[Cutout, Draw]:
    """Somebody on foot or on two wheels, a bicycle left standing, or litter at the kerb."""
    kind = generator.random()
    mirror = bool(generator.random() < 0.5)
    if kind < 0.62:
        side = float(generator.choice((-1.0, 1.0)))
        edges = sorted((side * street.road, side * street.pavement))
        limits = (edges[0], edges[1]) if generator.random() < 0.8 else (-street.road, street.road)
        x = _inside(camera, z, limits, generator.random())
        tall = generator.uniform(1.45, 1.95)
        return Cutout(canvas, camera, x, z, 0.36 * tall, tall, mirror=mirror), draw_person
    if kind < 0.94:
        limits = (-street.road, street.road)
        x = _inside(camera, z, limits, generator.random())
        draw = _ridden if kind < 0.84 else _parked
        return Cutout(canvas, camera, x, z, 1.8, 1.1, mirror=mirror), draw
    x = _inside(camera, z, (street.road, street.pavement), generator.random())
    return Cutout(canvas, camera, x, z, 0.8, 1.1), draw_litter


def _place_pole(
    canvas: Canvas, camera: Camera, street: Street, z: float, generator: np.random.Generator
) -> tuple[Cutout, Draw]:
    """A pole at a kerb."""
    side = float(generator.choice((-1.0, 1.0)))
    x = _inside(camera, z, (side * street.road, side * (street.road + 0.8)), generator.random())
    return Cutout(canvas, camera, x, z, 0.16, generator.uniform(2.6, 4.6)), draw_pole


def _draw_frame(canvas: Canvas, generator: np.random.Generator) -> None:
    """What Cityscapes marks last: the own car's bonnet and the border of rectification."""
    height, width = canvas.height, canvas.width
    if generator.random() < 0.35:
        top = height * generator.uniform(0.90, 0.95)
        tone = int(generator.integers(30, 80))
        bonnet = [
            (0.0, height), (0.05 * width, top + 0.04 * height), (0.3 * width, top),
            (0.7 * width, top), (0.95 * width, top + 0.04 * height), (width, height),
        ]  # fmt: skip
        canvas.add("ego vehicle", bonnet, (tone, tone, tone + 6))
    border = max(2, height // 128)
    for left, top, right, bottom in (
        (0, 0, width, border - 1),
        (0, height - border, width, height),
        (0, 0, border - 1, height),
    ):
        outline = [(left, top), (left, bottom), (right, bottom), (right, top)]
        canvas.add("rectification border", outline, (8, 8, 8))
