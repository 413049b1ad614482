// Looking closer: by wheel, by two fingers, by buttons and by keys. What is drawn on the plane keeps its thickness,
// because the style sheet divides by --zoom.

const CLOSEST = 8;
const STEP = 1.5;

class Zoom {
  constructor(stage, plane, changed) {
    Object.assign(this, { stage, plane, changed, scale: 1, x: 0, y: 0 }); // x and y in parts of the stage
    this.fingers = new Map();
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    for (const kind of ["pointermove", "pointerup", "pointercancel"])
      stage.addEventListener(kind, (event) => this.follow(event));
  }

  at(event) {
    const frame = this.stage.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  }

  to(scale, [x, y] = [0.5, 0.5]) {
    const next = clamp(scale, 1, CLOSEST);
    this.x = x - ((x - this.x) * next) / this.scale;
    this.y = y - ((y - this.y) * next) / this.scale;
    this.scale = next;
    this.by(0, 0);
  }

  by(dx, dy) {
    this.x = clamp(this.x + dx, 1 - this.scale, 0);
    this.y = clamp(this.y + dy, 1 - this.scale, 0);
    this.plane.style.transform =
      this.scale === 1 ? "" : `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
    this.plane.style.setProperty("--zoom", String(this.scale));
    this.stage.classList.toggle("zoomed", this.scale > 1);
    this.changed();
  }

  // A wheel over a picture scrolls the page, as everywhere, unless the picture is looked at from close by.
  wheel(event) {
    if (!(event.ctrlKey || event.metaKey || this.scale > 1 || this.fills())) return;
    event.preventDefault();
    const pages = event.deltaMode === 0 ? event.deltaY / 400 : event.deltaY / 12;
    this.to(this.scale * 2 ** -clamp(pages, -1, 1), this.at(event));
  }

  fills() {
    return this.stage.getRootNode().fullscreenElement?.contains(this.stage) ?? false;
  }

  // Whether a press begins to move the view, and so draws nothing.
  takes(event, draws) {
    if (event.pointerType === "touch") this.fingers.set(event.pointerId, this.at(event));
    if (this.fingers.size === 2) return true;
    const pans = this.scale > 1 && (event.button === 1 || (!draws && event.button === 0));
    if (pans) {
      event.preventDefault();
      this.fingers.set(event.pointerId, this.at(event));
      this.stage.setPointerCapture(event.pointerId);
    }
    return pans;
  }

  follow(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    if (event.type !== "pointermove") return void this.fingers.delete(event.pointerId);
    const now = this.at(event);
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    this.fingers.set(event.pointerId, now);
    const moves = event.pointerType !== "touch" || this.stage.classList.contains("zoomed");
    if (!other) {
      if (moves && !this.drawing) this.by(now[0] - before[0], now[1] - before[1]);
      return;
    }
    const apart = ([x1, y1], [x2, y2]) => Math.hypot(x1 - x2, y1 - y2) || 1e-6;
    this.by((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.to((this.scale * apart(now, other)) / apart(before, other), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
  }

  key(event) {
    const arrows = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (event.key === "+" || event.key === "=") this.to(this.scale * STEP);
    else if (event.key === "-") this.to(this.scale / STEP);
    else if (event.key === "0") this.to(1);
    else if (this.scale > 1 && arrows[event.key]) this.by(...arrows[event.key]);
    else return false;
    return true;
  }
}
