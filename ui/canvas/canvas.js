// Words and a picture with boxes. Plain browser code, no build step. Everything that comes from a model or a person is
// put in with textContent or value, never as HTML. Boxes are [x1, y1, x2, y2] in parts of the picture, 0..1.

const LEAST = 0.01; // of the picture's side: a smaller drag is a click
const GRIPS = { nw: [0, 0], n: [0.5, 0], ne: [1, 0], e: [1, 0.5], se: [1, 1], s: [0.5, 1], sw: [0, 1], w: [0, 0.5] };
const ICONS = {
  add: "M12 5v14M5 12h14",
  bin: "M5 7h14M10 11v6M14 11v6M6 7l1 13h10l1-13M9 7V4h6v3",
  undo: "M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10h-3",
  wide: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
};
const canvases = new WeakMap();

export default function (component) {
  const root = component.parentElement.querySelector(".canvas");
  let canvas = canvases.get(root);
  if (!canvas) canvases.set(root, (canvas = new Canvas(root)));
  canvas.update(component.data, component.setStateValue);
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

class Canvas {
  constructor(root) {
    this.root = root;
    this.words = make("p", "words");
    this.stage = make("div", "stage");
    this.image = make("img");
    this.image.draggable = false;
    this.heat = make("canvas", "heat");
    this.heat.setAttribute("aria-hidden", "true");
    this.mask = make("img", "mask");
    this.mask.alt = "";
    this.layer = make("div");
    this.stage.append(this.image, this.heat, this.mask, this.layer);
    this.below = make("div", "below");
    this.rows = make("ul", "rows");
    this.hint = make("p", "hint");
    this.said = make("div", "unseen");
    this.said.setAttribute("aria-live", "polite");
    root.append(this.words, this.stage, this.below, this.rows, this.hint, this.said);
    this.boxes = [];
    this.off = new Set(); // groups that are hidden
    this.chosen = -1;
    this.past = []; // earlier boxes, for undo
    this.revision = null;
    this.stage.addEventListener("pointerdown", (event) => this.press(event));
    this.stage.addEventListener("keydown", (event) => this.key(event));
  }

  update(data, send) {
    this.send = send;
    const last = this.data;
    this.data = data;
    this.draws = data.mode !== "view";
    if (!this.draws) this.boxes = data.marks;
    else if (!last || this.revision !== data.revision || last.mode !== data.mode) {
      this.boxes = data.marks.map((mark) => ({ ...mark, box: [...mark.box] }));
      this.past = [];
      this.chosen = -1;
    }
    this.revision = data.revision;
    this.stage.hidden = !data.image;
    this.stage.style.display = data.image ? "" : "none";
    if (data.image) {
      const { uri, width, height } = data.image;
      this.root.style.setProperty("--shape", String(width / height));
      this.root.style.setProperty("--tallest", data.tall ? "min(54vh, 30rem)" : "min(40vh, 22rem)");
      if (this.image.getAttribute("src") !== uri) this.image.src = uri;
      this.image.alt = data.alt;
    }
    this.stage.classList.toggle("draws", this.draws);
    this.showOverlay();
    this.showWords();
    if (!this.gesture) this.show(); // a rerun must not take a box out of somebody's hand
  }

  colour(group) {
    return this.data.palette[((group % this.data.palette.length) + this.data.palette.length) % this.data.palette.length];
  }

  paint(element, group) {
    const colour = this.colour(group);
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    element.style.setProperty("--colour", colour);
    element.style.setProperty("--on-colour", 0.299 * r + 0.587 * g + 0.114 * b > 110 ? "#000" : "#fff");
  }

  // ---- looking -------------------------------------------------------------------------------------------------

  showOverlay() {
    const { heat, mask } = this.data;
    this.heat.hidden = !heat.length;
    this.mask.hidden = !mask;
    if (mask && this.mask.getAttribute("src") !== mask) this.mask.src = mask;
    if (!heat.length) return;
    const [rows, columns] = [heat.length, heat[0].length];
    [this.heat.width, this.heat.height] = [columns, rows]; // the browser smooths it to the picture's size
    const pixels = new ImageData(columns, rows);
    heat.flat().forEach((value, at) => pixels.data.set([255, Math.round(200 * (1 - value)), 0, Math.round(190 * value * value)], 4 * at));
    this.heat.getContext("2d").putImageData(pixels, 0, 0);
  }

  showWords() {
    const focus = this.root.getRootNode().activeElement;
    const kept = focus && focus.dataset && focus.dataset.word;
    this.words.replaceChildren(
      ...this.data.words.map((piece, place) => {
        if (piece.group === undefined) return document.createTextNode(piece.text);
        const phrase = make("button", "phrase", piece.text);
        phrase.dataset.word = String(place);
        phrase.dataset.group = String(piece.group);
        phrase.setAttribute("aria-pressed", String(!this.off.has(piece.group)));
        phrase.title = "Show or hide on the picture";
        phrase.classList.toggle("off", this.off.has(piece.group));
        this.paint(phrase, piece.group);
        this.listen(phrase, piece.group);
        return phrase;
      }),
    );
    if (kept) this.words.querySelector(`[data-word="${kept}"]`)?.focus();
  }

  listen(element, group) {
    const light = (on) => () => this.light(on ? group : null);
    element.addEventListener("pointerenter", light(true));
    element.addEventListener("pointerleave", light(false));
    element.addEventListener("focus", light(true));
    element.addEventListener("blur", light(false));
    element.addEventListener("click", () => {
      if (this.off.has(group)) this.off.delete(group);
      else this.off.add(group);
      this.showWords();
      this.show();
    });
  }

  light(group) {
    for (const element of this.layer.children) {
      const own = Number(element.dataset.group) === group && !element.classList.contains("looked");
      element.classList.toggle("lit", group !== null && own);
      element.classList.toggle("dim", group !== null && !own);
    }
    for (const phrase of this.words.querySelectorAll(".phrase"))
      phrase.classList.toggle("lit", Number(phrase.dataset.group) === group);
  }

  show() {
    const focus = this.root.getRootNode().activeElement;
    const kept = focus && focus.classList.contains("box") ? Number(focus.dataset.place) : -1;
    this.layer.replaceChildren(...this.boxes.map((mark, place) => this.boxElement(mark, place)));
    if (kept >= 0) this.layer.children[Math.min(kept, this.boxes.length - 1)]?.focus();
    this.showBelow();
    this.showRows();
    const { mode } = this.data;
    this.hint.textContent =
      mode === "region" && !this.boxes.length
        ? "Drag on the picture to point at something. By keyboard: “Add a rectangle”, then the arrow keys."
        : mode === "view"
          ? ""
          : "Arrow keys move the chosen box, with Shift they resize it, Delete removes it.";
  }

  boxElement(mark, place) {
    const element = make("div", "box");
    element.dataset.place = String(place);
    element.dataset.group = String(mark.group);
    element.classList.toggle("looked", Boolean(mark.looked));
    element.classList.toggle("off", this.off.has(mark.group) && !mark.looked && !this.draws);
    element.classList.toggle("chosen", this.draws && place === this.chosen);
    this.paint(element, mark.group);
    this.place(element, mark.box);
    const [x1, y1, x2, y2] = mark.box;
    element.style.zIndex = String(1 + Math.round((1 - (x2 - x1) * (y2 - y1)) * 100)); // small ones stay within reach
    const label = mark.label || (this.data.mode === "edit" ? String(place + 1) : "");
    if (label) {
      const tag = make("span", "tag", label);
      if (y1 < 0.07) tag.classList.add("inside");
      if ((x1 + x2) / 2 > 0.6) tag.classList.add("leftwards");
      element.append(tag);
    }
    const where = mark.box.map((side) => Math.round(side * 100));
    const words = `${mark.label || "box " + (place + 1)}${mark.note ? ` (${mark.note})` : ""}: ${where[0]} to ${where[2]} percent from the left, ${where[1]} to ${where[3]} percent from the top`;
    element.setAttribute("aria-label", words);
    if (this.draws) {
      element.tabIndex = 0;
      element.setAttribute("role", "group");
      element.addEventListener("focus", () => this.choose(place));
      for (const [name, [x, y]] of Object.entries(GRIPS)) {
        const grip = make("span", "grip");
        grip.dataset.grip = name;
        grip.style.left = `${x * 100}%`;
        grip.style.top = `${y * 100}%`;
        grip.style.cursor = `${name}-resize`;
        element.append(grip);
      }
    } else {
      element.setAttribute("role", "img");
      element.addEventListener("pointerenter", () => !mark.looked && this.light(mark.group));
      element.addEventListener("pointerleave", () => this.light(null));
    }
    return element;
  }

  place(element, [x1, y1, x2, y2]) {
    element.style.left = `${x1 * 100}%`;
    element.style.top = `${y1 * 100}%`;
    element.style.width = `${(x2 - x1) * 100}%`;
    element.style.height = `${(y2 - y1) * 100}%`;
  }

  showBelow() {
    const { mode } = this.data;
    if (mode === "view") {
      const names = new Map();
      for (const mark of this.boxes) {
        if (mark.looked) continue;
        const entry = names.get(mark.group) || { label: mark.label, count: 0, notes: new Set() };
        entry.count += 1;
        if (mark.note) entry.notes.add(mark.note);
        names.set(mark.group, entry);
      }
      const chips = [...names].map(([group, { label, count, notes }]) => {
        const chip = make("button", "chip");
        chip.append(make("span", "dot"), make("span", "", (label || "box") + (count > 1 ? ` × ${count}` : "")));
        if (notes.size) chip.append(make("span", "note", [...notes].join("; ")));
        chip.setAttribute("aria-pressed", String(!this.off.has(group)));
        chip.title = "Show or hide";
        this.paint(chip, group);
        this.listen(chip, group);
        return chip;
      });
      if (this.data.image && this.boxes.length && this.stage.requestFullscreen) {
        const wide = this.tool("wide", "", () => this.stage.requestFullscreen());
        wide.setAttribute("aria-label", "Show the picture on the whole screen");
        wide.title = "Whole screen";
        chips.push(wide);
      }
      this.below.replaceChildren(...chips);
      return;
    }
    const one = mode === "region";
    const tools = [this.tool("add", one ? "Add a rectangle" : "Add a box", () => this.add([0.35, 0.35, 0.65, 0.65]))];
    if (one && this.boxes.length) tools[0] = this.tool("bin", "Clear", () => this.remove(0));
    if (!one) {
      const undo = this.tool("undo", "Undo", () => this.undo());
      undo.disabled = !this.past.length;
      tools.push(undo);
    }
    this.below.replaceChildren(...tools);
  }

  tool(name, text, action) {
    const tool = make("button", "tool");
    tool.append(icon(name));
    if (text) tool.append(make("span", "", text));
    tool.addEventListener("click", action);
    return tool;
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
    const frame = this.stage.getBoundingClientRect();
    return [clamp((event.clientX - frame.left) / frame.width), clamp((event.clientY - frame.top) / frame.height)];
  }

  press(event) {
    if (!this.draws || !event.isPrimary || event.button > 0) return;
    event.preventDefault();
    const [x, y] = this.at(event);
    const element = event.target.closest(".box");
    const grip = event.target.closest(".grip")?.dataset.grip;
    const place = element ? Number(element.dataset.place) : -1;
    this.gesture = { x, y, place, grip, before: this.boxes.map((mark) => ({ ...mark, box: [...mark.box] })) };
    if (place >= 0) {
      this.gesture.box = [...this.boxes[place].box];
      this.choose(place);
      element.focus({ preventScroll: true });
    } else this.chosen = -1;
    this.stage.setPointerCapture(event.pointerId);
    const move = (next) => this.drag(next);
    const end = (last) => {
      this.stage.removeEventListener("pointermove", move);
      this.stage.removeEventListener("pointerup", end);
      this.stage.removeEventListener("pointercancel", end);
      this.release(last.type === "pointercancel");
    };
    this.stage.addEventListener("pointermove", move);
    this.stage.addEventListener("pointerup", end);
    this.stage.addEventListener("pointercancel", end);
  }

  drag(event) {
    const gesture = this.gesture;
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
