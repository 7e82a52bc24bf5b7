// The enlarged picture: one row at all moments, or the same row of two runs on top of each other.
import { addressOf } from "./address.js";
import { draw, showVerdict } from "./cards.js";
import { saveStrip } from "./film.js";
import { frameAt, inGap, inWords, write } from "./words.js";

export class Large {
  /** `page` tells the moment by `now` and moves by `go`. */
  constructor(root, model, page) {
    this.model = model;
    this.page = page;
    this.view = null;
    this.dialog = root.querySelector("#large");
    this.strip = root.querySelector("#strip");
    root.querySelector("#close").addEventListener("click", () => this.dialog.close());
    this.other = root.querySelector("#other-image");
    this.handle = root.querySelector("#swipe");
    this.mode = "single";
    for (const button of this.dialog.querySelectorAll("[data-pair]")) {
      button.addEventListener("click", () => { this.mode = button.dataset.pair; this.show(); });
    }
    this.swipeBy();
    root.querySelector("#film")?.addEventListener("click", () => saveStrip(this.view.row, model));
    this.dialog.addEventListener("click", (click) => { if (click.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener("close", () => {
      this.view = null;
      this.strip.replaceChildren();
      page.changed();
    });
  }

  part(name) {
    return this.dialog.querySelector(name);
  }

  open(view) {
    this.view = view;
    const { row } = view;
    this.part("#large-title").textContent = [row.section, row.name, row.run].filter(Boolean).join(" · ");
    for (const link of this.dialog.querySelectorAll("[data-kind]")) {
      const query = addressOf({ run: row.run || this.page.run, row: row.key, kind: link.dataset.kind });
      link.setAttribute("href", `strip?${query}`);
      link.download = `${row.key.replace(/[^\w.-]+/g, "_")}.${link.dataset.kind}`;
    }
    const twins = this.model.rows.filter((one) => one.key === row.key && one !== row);
    this.twin = twins[0];
    this.part("#pair").hidden = !this.twin;
    this.strip.replaceChildren(...this.model.events.map((event, index) => this.thumbnail(row, event, index)));
    this.show();
    if (!this.dialog.open) this.dialog.showModal();
    this.centre();
    this.page.changed();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  thumbnail(row, event, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = event.label;
    button.setAttribute("aria-label", event.label);
    const frame = row.frames[index];
    if (frame && frame.image !== undefined) {
      const image = document.createElement("img");
      image.alt = "";
      image.decoding = "async";
      image.loading = "lazy";
      draw(image, this.model.pictures[frame.image]);
      button.append(image);
    } else {
      button.classList.add("empty");
      button.append(frame ? "✗" : "·");
    }
    button.addEventListener("click", () => this.page.choose(index));
    return button;
  }

  show() {
    if (!this.view) return;
    const { model, page: { now }, view: { row } } = this;
    const shown = frameAt(row, now);
    const { frame, from } = shown;
    const missing = frame.gap !== undefined;
    const image = this.part("#large-image");
    image.hidden = missing;
    write(this.part(".large-picture .gap"), missing ? inGap(frame) : "");
    if (!missing) {
      const picture = model.pictures[frame.image];
      image.parentElement.style.setProperty("--aspect", picture.width / picture.height);
      draw(image, picture);
      image.alt = inWords(row, shown, model.events);
    }
    this.showPair(missing, row);
    const { label } = model.events[now];
    this.part(".moment").textContent = from === now ? label : `${label}, picture from ${model.events[from].name}`;
    showVerdict(this.part(".large-text .verdict"), frame);
    const tiles = (frame.tiles || []).filter(Boolean).join(" | ");
    write(this.part(".large-text .caption"), [tiles, frame.caption].filter(Boolean).join(" · "));
    [...this.strip.children].forEach((button, index) => {
      if (index === now) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    this.centre();
  }

  /** Lay the same row of another run over this one. */
  showPair(missing, row) {
    const shown = this.twin && frameAt(this.twin, this.page.now);
    const paired = !missing && shown && shown.frame.gap === undefined && this.mode !== "single";
    this.other.hidden = !paired;
    this.handle.hidden = !paired || this.mode !== "swipe";
    this.part(".large-picture").dataset.pair = paired ? this.mode : "single";
    if (paired) {
      draw(this.other, this.model.pictures[shown.frame.image]);
      this.other.alt = inWords(this.twin, shown, this.model.events);
    }
    for (const button of this.dialog.querySelectorAll("[data-pair]")) {
      if (button.matches("button")) button.setAttribute("aria-pressed", String(button.dataset.pair === this.mode));
    }
    if (paired) this.handle.setAttribute("aria-label", `Left ${row.run}, right ${this.twin.run}`);
  }

  swipeBy() {
    let at = 50;
    const move = (to) => {
      at = Math.min(100, Math.max(0, to));
      this.part(".large-picture").style.setProperty("--swipe", at / 100);
      this.handle.setAttribute("aria-valuenow", Math.round(at));
    };
    const follow = (pointer) => {
      const box = this.part(".large-picture").getBoundingClientRect();
      move(((pointer.clientX - box.left) / box.width) * 100);
    };
    this.handle.addEventListener("pointerdown", (pointer) => this.handle.setPointerCapture(pointer.pointerId));
    this.handle.addEventListener("pointermove", (pointer) => { if (pointer.buttons) follow(pointer); });
    this.handle.addEventListener("keydown", (key) => {
      const by = { ArrowLeft: -5, ArrowRight: 5 }[key.key];
      if (!by) return;
      key.preventDefault();
      key.stopPropagation();
      move(at + by);
    });
    move(50);
  }

  centre() {
    const current = this.strip.children[this.page.now];
    if (current) this.strip.scrollLeft = current.offsetLeft + current.offsetWidth / 2 - this.strip.clientWidth / 2;
  }
}
