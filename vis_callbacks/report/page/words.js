// What a picture is about, in words.

export const percent = (part) => (part > 0.9995 && part < 1 ? "> 99.9 %" : `${+(part * 100).toPrecision(3)} %`);

export function number(value) {
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/** The frame of a row at an event: its own, or the last earlier picture. */
export function frameAt(row, event) {
  const own = row.frames[event];
  if (own) return { frame: own, from: event };
  for (let from = event - 1; from >= 0; from--) {
    if (row.frames[from] && row.frames[from].image !== undefined) return { frame: row.frames[from], from };
  }
  return { frame: { gap: "" }, from: event };
}

export const inGap = (frame) => (frame.gap ? `No picture: ${frame.gap}` : "No picture yet");

export function verdict(frame) {
  if (frame.predicted === undefined) return frame.label === undefined ? "" : `label ${frame.label}`;
  return frame.label === undefined ? `predicted ${frame.predicted}` : `${frame.label} → ${frame.predicted}`;
}

export const sureness = (frame) => (frame.probability === undefined ? "" : percent(frame.probability));

export const rightness = (frame) => (frame.right === undefined ? "" : frame.right ? "✓ right" : "✗ wrong");

/** The whole of a frame in words, for those who do not see it. */
export function inWords(row, shown, events) {
  const { frame, from } = shown;
  const parts = [[row.section, row.name, row.run].filter(Boolean).join(", "), events[from].name];
  if (frame.gap !== undefined) return [...parts, inGap(frame)].join("; ");
  if (frame.tiles) parts.push(frame.tiles.filter(Boolean).join(" | "));
  if (frame.label !== undefined) parts.push(`label ${frame.label}`);
  if (frame.predicted !== undefined) parts.push(`predicted ${frame.predicted} ${sureness(frame)}`.trim());
  return [...parts, rightness(frame), frame.caption].filter(Boolean).join("; ");
}

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}
