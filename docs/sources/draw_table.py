"""Renders `fourfold/samples/table.jpg`, the picture that fourfold ships; two minutes on one core:

    python docs/sources/draw_table.py [OUT.jpg]

A red ball, a blue box and a green bottle on a wooden table in front of a window, made by marching rays through
distance functions, so that nobody else has rights in it. Lengths are in units of about 10 cm; y points up.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
WIDTH, HEIGHT = 768, 576
FINE = 2  # rays in a row of a pixel
EYE, TARGET = np.array([0.2, 2.1, -6.0]), np.array([0.05, 0.95, 0.0])
LAMP = np.array([-0.55, 0.75, -0.42])  # direction towards the light
BALL, BOX, BOTTLE, TABLE, WALL = range(5)
COLORS = np.array([[0.85, 0.04, 0.03], [0.04, 0.16, 0.80], [0.03, 0.40, 0.09], [0, 0, 0], [0.86, 0.78, 0.65]])
GLOSS = np.array([0.35, 0.12, 0.75, 0.10, 0.0])
WALL_Z = 3.2


def unit(v: Array) -> Array:
    """Vectors of length 1."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def cylinder(p: Array, radius: float, bottom: float, top: float, rounding: float) -> Array:
    """Distance to an upright cylinder around the origin's axis, its edges rounded."""
    middle, half = (bottom + top) / 2, (top - bottom) / 2
    side = np.hypot(p[:, 0], p[:, 2]) - radius + rounding
    end = np.abs(p[:, 1] - middle) - half + rounding
    return np.hypot(np.maximum(side, 0), np.maximum(end, 0)) + np.minimum(np.maximum(side, end), 0) - rounding


def smooth_min(a: Array, b: Array, width: float) -> Array:
    """The smaller distance, the bodies melted together over `width`."""
    h = np.clip(0.5 + (b - a) / (2 * width), 0, 1)
    return b + (a - b) * h - width * h * (1 - h)


def distances(p: Array, bottle: bool = True) -> Array:
    """(points, 3) → (points, 5): how far each body is, in the order of their numbers."""
    ball = np.linalg.norm(p - [-1.3, 0.62, -0.1], axis=1) - 0.62
    turn = np.radians(28)
    q = p - [0.12, 0.5, 0.55]
    qx, qz = q[:, 0] * np.cos(turn) - q[:, 2] * np.sin(turn), q[:, 0] * np.sin(turn) + q[:, 2] * np.cos(turn)
    q = np.abs(np.stack([qx, q[:, 1], qz], 1)) - [0.52, 0.47, 0.52]
    box = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - 0.03
    r = p - [1.45, 0, -0.15]
    glass = smooth_min(cylinder(r, 0.36, 0, 1.15, 0.1), cylinder(r, 0.12, 0.9, 1.95, 0.03), 0.3)
    glass = np.minimum(glass, cylinder(r, 0.155, 1.85, 1.97, 0.04))
    table = np.maximum(p[:, 1], np.abs(p[:, 2]) - 2.6)
    return np.stack([ball, box, glass if bottle else np.full(len(p), 1e9), table, WALL_Z - p[:, 2]], 1)


def march(origin: Array, direction: Array, bottle: bool, reach: float = 30.0) -> tuple[Array, NDArray[np.intp]]:
    """Where rays end: distance along them, and the number of the body they met."""
    along = np.full(len(origin), 1e-3)
    for _ in range(110):
        step = distances(origin + along[:, None] * direction, bottle).min(1)
        along = np.minimum(along + step * 0.95, reach)
    return along, distances(origin + along[:, None] * direction, bottle).argmin(1)


def normals(p: Array) -> Array:
    """Directions away from the surfaces that points lie on."""
    e = 1e-3 * np.eye(3)
    return unit(np.stack([distances(p + d).min(1) - distances(p - d).min(1) for d in e], 1))


def wood(p: Array) -> Array:
    """Planks along x with a grain that wavers."""
    plank = np.floor((p[:, 2] + 10) / 0.62)
    shift = np.modf(np.sin(plank * 12.9898) * 43758.5453)[0]
    wave = np.sin(p[:, 0] * 1.1 + shift * 40) * 0.22 + np.sin(p[:, 0] * 2.7 + p[:, 2] * 3) * 0.08
    grain = 0.5 + 0.5 * np.sin((p[:, 2] * 9 + wave * 6 + shift * 9) * 3.0 + np.sin(p[:, 0] * 6 + p[:, 2] * 40) * 0.4)
    fine = 0.5 + 0.5 * np.sin(p[:, 2] * 190 + np.sin(p[:, 0] * 3 + shift * 20) * 3)
    shade = 0.80 + 0.13 * grain + 0.04 * fine + 0.12 * shift
    gap = np.abs(np.mod((p[:, 2] + 10) / 0.62, 1) - 0.5) > 0.485
    return np.array([0.56, 0.31, 0.13]) * shade[:, None] * np.where(gap, 0.35, 1)[:, None]


def outside(x: Array, y: Array) -> Array:
    """Sky with clouds over green hills, seen through the window."""
    high, low = np.array([0.42, 0.66, 0.95]), np.array([0.85, 0.92, 0.98])
    sky = high + (low - high) * np.clip(1.6 - y / 2.1, 0, 1)[:, None]
    puffs = np.zeros(len(x))
    for px, py, w, h in [
        (-1.3, 2.62, 0.5, 0.12),
        (-0.95, 2.72, 0.3, 0.16),
        (0.9, 2.85, 0.5, 0.11),
        (1.2, 2.93, 0.28, 0.14),
    ]:
        puffs += np.exp(-(((x - px) / w) ** 2) - ((y - py) / h) ** 2)
    sky += (0.99 - sky) * np.clip(puffs * 1.2, 0, 1)[:, None]
    hill = 1.55 + 0.22 * np.sin(x * 1.1 + 0.6) + 0.08 * np.sin(x * 2.9)
    green = np.array([0.33, 0.55, 0.22]) * (0.8 + 0.35 * (hill - y))[:, None]
    return np.where((y < hill)[:, None], green, sky)


def backdrop(p: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The wall's color, with a window in it: (color, whether it shines by itself)."""
    x, y = p[:, 0], p[:, 1]
    inner = (np.abs(x) < 2.0) & (y > 1.0) & (y < 4.2)
    outer = (np.abs(x) < 2.16) & (y > 0.82) & (y < 4.36)
    bars = (np.abs(x) < 0.055) | (np.abs(y - 2.5) < 0.045)
    pane = inner & ~bars
    color = np.where(outer[:, None], [0.93, 0.92, 0.89], COLORS[WALL])
    return np.where(pane[:, None], outside(x, y), color), pane


def shade(origin: Array, direction: Array, bottle: bool = True, depth: int = 1) -> Array:
    """Light that comes back along rays, (rays, 3)."""
    along, body = march(origin, direction, bottle)
    p = origin + along[:, None] * direction
    n = normals(p)
    n[body == WALL] = [0, 0, -1]
    color = COLORS[body].copy()
    color[body == TABLE] = wood(p[body == TABLE])
    wall, pane = backdrop(p)
    color[body == WALL] = wall[body == WALL]
    lamp = unit(LAMP)
    # Soft shadow: the narrowest gap on the way to the lamp, seen from the point.
    lit, t = np.ones(len(p)), np.full(len(p), 0.03)
    for _ in range(40):
        d = distances(p + n * 0.01 + t[:, None] * lamp)[:, :4].min(1)
        lit = np.minimum(lit, np.clip(0.5 + 5.0 * d / t, 0, 1))
        t += np.clip(d, 0.03, 0.25)
    # Corners are darker: how much closer than expected the nearest body is, a little way out.
    hidden = sum((h - distances(p + n * h).min(1)) * 0.55**i for i, h in enumerate((0.06, 0.14, 0.26, 0.42)))
    open_sky = np.clip(1 - 1.5 * hidden, 0.15, 1)
    facing = np.clip((n * lamp).sum(1), 0, 1) * lit
    from_window = np.clip((n * unit(np.array([0.1, 0.6, 0.8]))).sum(1), 0, 1) * open_sky
    light = facing[:, None] * [1.02, 0.95, 0.84] + open_sky[:, None] * [0.32, 0.33, 0.34]
    result = color * (light + from_window[:, None] * [0.26, 0.31, 0.38])
    half = unit(lamp - direction)
    result += (GLOSS[body] * lit * np.clip((n * half).sum(1), 0, 1) ** 90 * 1.6)[:, None]
    shining = (body == WALL) & pane
    result[shining] = color[shining]
    if depth:
        mirror = direction - 2 * (direction * n).sum(1, keepdims=True) * n
        fresnel = GLOSS[body] * (0.10 + 0.90 * (1 - np.clip(-(direction * n).sum(1), 0, 1)) ** 4)
        some = fresnel > 0.004
        seen = shade(p[some] + n[some] * 0.01, mirror[some], depth=0)
        result[some] += (seen - result[some] * 0.4) * fresnel[some, None]
        through = (body == BOTTLE) if bottle else np.zeros(len(p), bool)
        if through.any():  # glass: what lies behind it, tinted; thick edges let less through
            behind = shade(origin[through], direction[through], bottle=False, depth=0)
            clear = 0.62 * np.clip(-(direction * n).sum(1), 0, 1)[through, None] ** 0.8
            result[through] = result[through] * (1 - clear * 0.7) + behind * [0.16, 0.62, 0.22] * clear
    return result


def main(out: Path) -> None:
    """Render in strips, which keeps memory low."""
    forward = unit(TARGET - EYE)
    right = unit(np.cross([0, 1, 0], forward))
    up = np.cross(forward, right)
    xs = (np.arange(WIDTH * FINE) + 0.5) / FINE - WIDTH / 2
    rows = []
    for row in range(0, HEIGHT * FINE, 48):
        ys = HEIGHT / 2 - (np.arange(row, row + 48) + 0.5) / FINE
        x, y = np.meshgrid(xs, ys)
        direction = unit(forward + (x.reshape(-1, 1) * right + y.reshape(-1, 1) * up) / (1.2 * WIDTH))
        rows.append(shade(np.broadcast_to(EYE, direction.shape), direction).reshape(48, -1, 3))
    picture = np.concatenate(rows).reshape(HEIGHT, FINE, WIDTH, FINE, 3).clip(0, 1.2).mean((1, 3))
    picture = 1 - np.exp(-1.25 * picture)  # as film does: no highlight is cut off hard
    picture = np.clip(picture / (1 - np.exp(-1.25)), 0, 1) ** (1 / 1.25)
    Image.fromarray((picture * 255 + 0.5).astype(np.uint8)).save(out, quality=92)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "fourfold" / "samples" / "table.jpg")
