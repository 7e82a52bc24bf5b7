// The pictures: one card a row, which shows the row's picture of a moment.
import { frameAt, inGap, inWords, number, rightness, sureness, verdict, write } from "./words.js";

const DAMAGED = "the picture file is damaged or gone";

export function draw(image, picture) {
  const { source, width, height, crisp } = picture;
  if (image.drawn === source) return;
  image.drawn = source;
  image.src = source;
  image.width = width;
  image.height = height;
  image.classList.toggle("crisp", crisp);
}

/** The cards of a page, each with what it takes to show another moment. */
export function cardsOf(root, model, enlarge) {
  return [...root.querySelectorAll(".card")].map((card, index) => {
    const part = (name) => card.querySelector(name);
    const view = {
      card, row: model.rows[index], button: part(".picture"), image: part("img"), gap: part(".gap"),
      tiles: part(".tiles"), verdict: part(".verdict"), caption: part(".caption"), stale: part(".stale"),
      cell: part(".cell"),
      sparks: [...card.querySelectorAll(".spark")].map((spark) => ({
        readout: spark.querySelector(".readout"), mark: spark.querySelector(".mark"),
      })),
    };
    view.button.addEventListener("click", () => enlarge(view));
    view.image.addEventListener("error", () => {
      view.button.hidden = true;
      write(view.gap, inGap({ gap: DAMAGED }));
    });
    return view;
  });
}

export function showCard(view, model, event) {
  const { row } = view;
  const shown = frameAt(row, event);
  const { frame, from } = shown;
  const words = inWords(row, shown, model.events);
  const missing = frame.gap !== undefined;
  view.button.hidden = missing;
  write(view.gap, missing ? inGap(frame) : "");
  if (!missing) {
    draw(view.image, model.pictures[frame.image]);
    view.image.alt = words;
    view.button.setAttribute("aria-label", `Enlarge: ${words}`);
  }
  showTiles(view.tiles, missing ? null : frame, model.pictures);
  showVerdict(view.verdict, frame);
  if (view.cell) view.cell.style.setProperty("--at", event);
  write(view.caption, frame.caption || "");
  write(view.stale, from === event ? "" : `from ${model.events[from].name}`);
  const last = model.events.length - 1;
  view.sparks.forEach((spark, place) => showSpark(spark, row.sparks[place], event, last));
}

function showTiles(element, frame, pictures) {
  const tiles = (frame && frame.tiles) || [];
  const { width, height } = frame ? pictures[frame.image] : { width: 1, height: 1 };
  const sideBySide = tiles.length <= 6 && width / height > 0.7 * tiles.length;
  const key = JSON.stringify([sideBySide, tiles]);
  if (element.dataset.shown === key) return;
  element.dataset.shown = key;
  element.hidden = !tiles.length;
  element.classList.toggle("columns", sideBySide);
  element.replaceChildren(...(sideBySide ? tiles : tiles.filter(Boolean)).map((text) => {
    const tile = document.createElement("span");
    tile.textContent = text;
    return tile;
  }));
}

export function showVerdict(element, frame) {
  const text = verdict(frame);
  const parts = [["sure", sureness(frame)], [`badge ${frame.right ? "right" : "wrong"}`, rightness(frame)]];
  const key = JSON.stringify([text, parts]);
  if (element.dataset.shown === key) return;
  element.dataset.shown = key;
  element.hidden = !text;
  element.replaceChildren(text);
  for (const [className, content] of parts.filter(([, content]) => content)) {
    const part = document.createElement("span");
    part.className = className;
    part.textContent = content;
    element.append(" ", part);
  }
}

function showSpark(spark, data, event, last) {
  let from = event;
  while (from > 0 && data.values[from] === null) from--;
  const value = data.values[from];
  spark.readout.textContent = value === null ? "–" : number(value);
  if (!spark.mark) return;
  spark.mark.hidden = value === null;
  if (value !== null) place(spark.mark, from / Math.max(1, last), data.heights[from]);
}

export function place(mark, x, height) {
  mark.style.setProperty("--x", x);
  mark.style.setProperty("--height", height);
}
