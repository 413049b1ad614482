// Words and a picture with boxes. Plain browser code, no build step. Everything that comes from a model or a person is
// put in with textContent or value, never as HTML. Boxes are [x1, y1, x2, y2] in parts of the picture, 0..1.

const LEAST = 0.01; // of the picture's side: a smaller drag is a click
const GRIPS = { nw: [0, 0], n: [0.5, 0], ne: [1, 0], e: [1, 0.5], se: [1, 1], s: [0.5, 1], sw: [0, 1], w: [0, 0.5] };
const ICONS = {
  add: "M12 5v14M5 12h14",
  bin: "M5 7h14M10 11v6M14 11v6M6 7l1 13h10l1-13M9 7V4h6v3",
  undo: "M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10h-3",
  wide: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  closer: "M10 4a6 6 0 1 0 0 12a6 6 0 0 0 0-12M15 15l5 5M10 7.5v5M7.5 10h5",
  farther: "M10 4a6 6 0 1 0 0 12a6 6 0 0 0 0-12M15 15l5 5M7.5 10h5",
  save: "M12 4v11M8 11l4 4 4-4M5 20h14",
};
const LARGE = 0.5; // of the picture: a drag inside a box that covers more draws it anew instead of moving it
const canvases = new WeakMap();

export default function (component) {
  const root = component.parentElement.querySelector(".canvas");
  let canvas = canvases.get(root);
  if (!canvas) canvases.set(root, (canvas = new Canvas(root)));
  canvas.update(component.data, component.setStateValue, component.setTriggerValue);
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  if (tag === "button") element.type = "button";
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const clamp = (value, low = 0, high = 1) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 10000) / 10000;

class Canvas extends Looking {
  constructor(root) {
    super();
    this.root = root;
    this.words = make("p", "words");
    this.frame = make("div", "frame"); // what fills the screen, so that the picture in it keeps its shape
    this.stage = make("div", "stage");
    this.plane = make("div", "plane");
    this.image = make("img");
    this.image.draggable = false;
    this.heat = make("canvas", "heat");
    this.heat.setAttribute("aria-hidden", "true");
    this.mask = make("img", "mask");
    this.mask.alt = "";
    this.layer = make("div");
    this.plane.append(this.image, this.heat, this.mask, this.layer);
    this.act = make("button", "act");
    this.act.addEventListener("click", () => this.trigger("acted", true));
    this.stage.append(this.plane, this.act);
    this.frame.append(this.stage);
    this.below = make("div", "below");
    this.rows = make("ul", "rows");
    this.hint = make("p", "hint");
    this.said = make("div", "unseen");
    this.said.setAttribute("aria-live", "polite");
    root.append(this.words, this.frame, this.below, this.rows, this.hint, this.said);
    this.boxes = [];
    this.off = new Set(); // groups that are hidden
    this.chosen = -1;
    this.past = []; // earlier boxes, for undo
    this.revision = null;
    this.zoom = new Zoom(this.stage, this.plane, () => this.looked());
    this.stage.addEventListener("pointerdown", (event) => this.press(event));
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.stage.addEventListener("click", () => this.data.mode === "still" && this.fill());
    this.frame.addEventListener("fullscreenchange", () => this.filled());
    this.image.addEventListener("load", () => this.saving && this.save());
  }

  update(data, send, trigger) {
    [this.send, this.trigger] = [send, trigger];
    const last = this.data;
    this.data = data;
    this.draws = data.mode === "region" || data.mode === "edit";
    if (!this.draws) this.boxes = data.marks;
    else if (!last || this.revision !== data.revision || last.mode !== data.mode) {
      this.boxes = data.marks.map((mark) => ({ ...mark, box: [...mark.box] }));
      this.past = [];
      this.chosen = -1;
    }
    this.revision = data.revision;
    this.frame.style.display = data.image ? "" : "none";
    if (data.image) {
      const { uri, width, height } = data.image;
      this.root.style.setProperty("--shape", String(width / height));
      this.root.style.setProperty("--wide", `${data.wide}px`);
      this.root.style.setProperty("--tallest", data.tall ? "min(54vh, 30rem)" : "min(40vh, 22rem)");
      if (this.image.getAttribute("src") !== uri) this.image.src = uri;
      this.image.alt = data.alt;
      const same = last?.image?.width === width && last.image.height === height && last.revision === data.revision;
      if (!same) this.zoom.to(1);
    }
    const still = data.mode === "still";
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", still ? "button" : "group");
    this.stage.setAttribute("aria-label", still ? `Enlarge: ${data.alt}` : `${data.alt}. Keys: + and − zoom, 0 shows all`);
    this.stage.classList.toggle("draws", this.draws);
    this.stage.classList.toggle("still", still);
    this.showOverlay();
    this.showWords();
    if (!this.gesture) this.show(); // a rerun must not take a box out of somebody's hand
  }

  showRows() {
    if (this.data.mode !== "edit") return this.rows.replaceChildren();
    const focus = this.root.getRootNode().activeElement;
    if (focus && focus.classList.contains("name") && this.rows.children.length === this.boxes.length) {
      [...this.rows.children].forEach((row, place) => row.classList.toggle("chosen", place === this.chosen));
      return; // somebody is typing
    }
    this.rows.replaceChildren(
      ...this.boxes.map((mark, place) => {
        const row = make("li", "row");
        row.classList.toggle("chosen", place === this.chosen);
        this.paint(row, mark.group);
        const name = make("input", "name");
        name.value = mark.label || "";
        name.maxLength = 200;
        name.placeholder = "What is it?";
        name.setAttribute("aria-label", `Name of box ${place + 1}`);
        name.addEventListener("focus", () => this.choose(place));
        name.addEventListener("change", () => {
          if ((mark.label || "") === name.value.trim()) return;
          this.remember();
          this.boxes[place] = { ...this.boxes[place], label: name.value.trim() || null };
          this.report();
        });
        name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
        const bin = make("button", "bin");
        bin.append(icon("bin"));
        bin.setAttribute("aria-label", `Delete box ${place + 1}`);
        bin.title = "Delete";
        bin.addEventListener("click", () => this.remove(place));
        row.append(make("span", "dot"), name, bin);
        return row;
      }),
    );
  }

  // ---- changing ------------------------------------------------------------------------------------------------

  remember() {
    this.past.push(this.boxes.map((mark) => ({ ...mark, box: [...mark.box] })));
  }

  report() {
    this.show();
    const boxes = this.boxes.map(({ box, label, group }) => ({ box: box.map(round), label, group }));
    this.send("boxes", { revision: this.data.revision, boxes });
  }

  choose(place) {
    if (this.chosen === place) return;
    this.chosen = place;
    [...this.layer.children].forEach((element, at) => element.classList.toggle("chosen", at === place));
    [...this.rows.children].forEach((row, at) => row.classList.toggle("chosen", at === place));
  }

  nextGroup() {
    return this.boxes.reduce((highest, mark) => Math.max(highest, mark.group), -1) + 1;
  }

  add(box) {
    this.remember();
    const mark = { box, label: null, group: this.data.mode === "region" ? 0 : this.nextGroup(), looked: false };
    this.boxes = this.data.mode === "region" ? [mark] : [...this.boxes, mark];
    this.chosen = this.boxes.length - 1;
    this.report();
    this.said.textContent = "Rectangle added";
    const name = this.rows.children[this.chosen]?.querySelector(".name");
    (name || this.layer.children[this.chosen]).focus({ preventScroll: true });
  }

  remove(place) {
    this.remember();
    this.boxes = this.boxes.filter((_, at) => at !== place);
    this.chosen = -1;
    this.report();
    this.said.textContent = "Rectangle removed";
    this.below.querySelector("button")?.focus({ preventScroll: true });
  }

  undo() {
    if (!this.past.length) return;
    this.boxes = this.past.pop();
    this.chosen = -1;
    this.report();
  }

  at(event) {
    const frame = this.plane.getBoundingClientRect();
    return [clamp((event.clientX - frame.left) / frame.width), clamp((event.clientY - frame.top) / frame.height)];
  }

  press(event) {
    if (event.target === this.act) return;
    if (this.zoom.takes(event, this.draws)) {
      if (this.gesture) this.release(true); // a second finger: it was no drawing
      return;
    }
    if (!this.draws || !event.isPrimary || event.button > 0) return;
    event.preventDefault();
    const [x, y] = this.at(event);
    const element = event.target.closest(".box");
    const grip = event.target.closest(".grip")?.dataset.grip;
    let place = element ? Number(element.dataset.place) : -1;
    const [x1, y1, x2, y2] = place >= 0 ? this.boxes[place].box : [0, 0, 0, 0];
    const anew = place >= 0 && !grip && (x2 - x1) * (y2 - y1) > LARGE;
    if (anew && this.boxes.length > 1 && place !== this.chosen) place = -1; // a new one inside it
    this.gesture = { x, y, place, grip, before: this.boxes.map((mark) => ({ ...mark, box: [...mark.box] })) };
    this.zoom.drawing = true;
    if (place >= 0) {
      this.gesture.box = [...this.boxes[place].box];
      this.gesture.anew = anew;
      this.choose(place);
      element.focus({ preventScroll: true });
    } else this.chosen = -1;
    this.stage.setPointerCapture(event.pointerId);
    const move = (next) => this.drag(next);
    const end = (last) => {
      this.stage.removeEventListener("pointermove", move);
      this.stage.removeEventListener("pointerup", end);
      this.stage.removeEventListener("pointercancel", end);
      if (this.gesture) this.release(last.type === "pointercancel");
    };
    this.stage.addEventListener("pointermove", move);
    this.stage.addEventListener("pointerup", end);
    this.stage.addEventListener("pointercancel", end);
  }

  drag(event) {
    const gesture = this.gesture;
    if (!gesture || !event.isPrimary) return;
    const [x, y] = this.at(event);
    if (gesture.place < 0) {
      const box = [Math.min(x, gesture.x), Math.min(y, gesture.y), Math.max(x, gesture.x), Math.max(y, gesture.y)];
      if (box[2] - box[0] < LEAST || box[3] - box[1] < LEAST) return;
      const one = this.data.mode === "region";
      const mark = { box, label: null, group: one ? 0 : this.nextGroup(), looked: false };
      this.boxes = one ? [mark] : [...this.boxes, mark];
      gesture.place = this.boxes.length - 1;
      gesture.drawn = true;
      this.chosen = gesture.place;
      this.show();
    }
    const mark = this.boxes[gesture.place];
    if (gesture.anew && !gesture.drawn) {
      if (Math.abs(x - gesture.x) < LEAST || Math.abs(y - gesture.y) < LEAST) return;
      gesture.drawn = true;
    }
    this.act.hidden = true;
    if (gesture.drawn) mark.box = span([gesture.x, gesture.y, x, y]);
    else if (gesture.grip) mark.box = stretch(gesture.box, gesture.grip, x - gesture.x, y - gesture.y);
    else mark.box = shift(gesture.box, x - gesture.x, y - gesture.y);
    gesture.moved = true;
    const element = this.layer.children[gesture.place];
    if (element) this.place(element, mark.box);
  }

  release(cancelled) {
    const gesture = this.gesture;
    this.gesture = null;
    this.zoom.drawing = false;
    if (!gesture.moved) return this.show();
    if (cancelled) {
      this.boxes = gesture.before;
      return this.show();
    }
    this.past.push(gesture.before);
    this.report();
    if (gesture.drawn) this.rows.children[gesture.place]?.querySelector(".name")?.focus({ preventScroll: true });
  }

  key(event) {
    if (event.target === this.stage) {
      const opens = this.data.mode === "still" && (event.key === "Enter" || event.key === " ");
      if (opens) this.fill();
      if (!opens && !this.zoom.key(event)) return;
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    if (!this.draws || !event.target.classList.contains("box")) return;
    const place = Number(event.target.dataset.place);
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.remove(place);
    else if (by) {
      const step = event.altKey ? 0.002 : 0.01;
      const [dx, dy] = [by[0] * step, by[1] * step];
      const box = this.boxes[place].box;
      this.remember();
      this.boxes[place].box = event.shiftKey ? stretch(box, "se", dx, dy) : shift(box, dx, dy);
      this.place(event.target, this.boxes[place].box);
      clearTimeout(this.waiting); // one report when the key is let go of
      this.waiting = setTimeout(() => this.report(), 350);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function span([ax, ay, bx, by]) {
  return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
}

function shift([x1, y1, x2, y2], dx, dy) {
  const x = clamp(dx, -x1, 1 - x2);
  const y = clamp(dy, -y1, 1 - y2);
  return [x1 + x, y1 + y, x2 + x, y2 + y];
}

function stretch([x1, y1, x2, y2], grip, dx, dy) {
  if (grip.includes("w")) x1 = clamp(x1 + dx, 0, x2 - LEAST);
  if (grip.includes("e")) x2 = clamp(x2 + dx, x1 + LEAST, 1);
  if (grip.includes("n")) y1 = clamp(y1 + dy, 0, y2 - LEAST);
  if (grip.includes("s")) y2 = clamp(y2 + dy, y1 + LEAST, 1);
  return [x1, y1, x2, y2];
}
