// What is seen: words, boxes, chips, heat, and what helps to look. `Canvas` makes the elements and changes the boxes.

class Looking {
  colour(group) {
    return this.data.palette[((group % this.data.palette.length) + this.data.palette.length) % this.data.palette.length];
  }

  paint(element, group) {
    const colour = this.colour(group);
    element.style.setProperty("--colour", colour);
    element.style.setProperty("--on-colour", inkOn(colour));
  }

  // ---- closer, wider, away -------------------------------------------------------------------------------------

  looked() {
    for (const tool of this.below.querySelectorAll("[data-needs-zoom]")) tool.disabled = this.zoom.scale === 1;
    if (this.zoom.scale > 1.4) this.sharpen();
    this.placeAct();
  }

  fill() {
    this.frame.requestFullscreen?.();
  }

  filled() {
    if (this.zoom.fills()) this.sharpen();
    else this.zoom.to(1);
    this.stage.focus({ preventScroll: true });
  }

  // The picture comes small; its pixels are asked for once somebody looks at them.
  sharpen() {
    const { image } = this.data;
    if (!image || image.sharp || this.asked === image.uri) return false;
    this.asked = image.uri;
    this.trigger("sharper", true);
    return true;
  }

  save() {
    const { image } = this.data;
    if (!image.sharp && this.sharpen()) return (this.saving = true); // it goes on once they are there
    this.saving = false;
    const marks = this.boxes.filter((mark) => !mark.looked && !this.off.has(mark.group));
    const colours = (group) => ({ fill: this.colour(group), ink: inkOn(this.colour(group)) });
    download(paintBoxes(this.image, marks, colours), "picture-with-boxes.png");
  }

  lookingTools() {
    const tool = (name, words, action) => {
      const made = this.tool(name, "", action);
      made.setAttribute("aria-label", words);
      made.title = words;
      return made;
    };
    const tools = [
      tool("closer", "Zoom in", () => this.zoom.to(this.zoom.scale * STEP)),
      tool("farther", "Zoom out", () => this.zoom.to(this.zoom.scale / STEP)),
    ];
    tools[1].dataset.needsZoom = "";
    tools[1].disabled = this.zoom.scale === 1;
    if (this.frame.requestFullscreen) tools.push(tool("wide", "Whole screen", () => this.fill()));
    if (this.data.mode === "view" && this.boxes.length) tools.push(tool("save", "Save with boxes", () => this.save()));
    return tools;
  }

  // What can be done with the rectangle stands at the rectangle.
  placeAct() {
    const box = this.data?.mode === "region" && this.data.action && this.boxes[0]?.box;
    this.act.hidden = !box || Boolean(this.gesture);
    if (!box) return;
    this.act.textContent = this.data.action;
    const { scale, x, y } = this.zoom;
    const [left, top, right, bottom] = [box[0] * scale + x, box[1] * scale + y, box[2] * scale + x, box[3] * scale + y];
    if (left > 1 || right < 0 || top > 1 || bottom < 0) this.act.hidden = true; // it is out of sight
    const below = bottom < 0.86;
    this.act.style.left = `${clamp((Math.max(left, 0) + Math.min(right, 1)) / 2, 0.16, 0.84) * 100}%`;
    this.act.style.top = `${(below ? bottom : top > 0.14 ? top : Math.min(bottom, 1)) * 100}%`;
    this.act.className = below ? "act below-it" : "act above-it";
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
    this.placeAct();
    this.showBelow();
    this.showRows();
    const { mode } = this.data;
    this.hint.textContent =
      mode === "region" && !this.boxes.length
        ? "Drag on the picture to point at something. By keyboard: “Add a rectangle”, then the arrow keys."
        : !this.draws
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
    if (mode === "still") return this.below.replaceChildren();
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
      if (this.data.image) chips.push(...this.lookingTools());
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
    this.below.replaceChildren(...tools, ...this.lookingTools());
  }

  tool(name, text, action) {
    const tool = make("button", "tool");
    tool.append(icon(name));
    if (text) tool.append(make("span", "", text));
    tool.addEventListener("click", action);
    return tool;
  }
}

// Black or white, whichever is read better on a colour: WCAG's contrast, at least 4.58 to 1 for one of them.
function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const part = parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) ? "#000" : "#fff";
}
