"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { events, rows, charts } = JSON.parse(byId("data").textContent);
  const pictures = JSON.parse(byId("pictures").textContent);
  if (!events.length) return;

  const last = events.length - 1;
  const slider = byId("slider"), play = byId("play"), dialog = byId("large"), strip = byId("strip");
  let now = last;
  let timer = 0;
  let enlarged = null;

  // ---- what a row shows at an event

  /** The frame of a row at an event: its own, or the last earlier picture. */
  function frameAt(row, event) {
    const own = row.frames[event];
    if (own) return { frame: own, from: event };
    for (let from = event - 1; from >= 0; from--) {
      if (row.frames[from] && row.frames[from].image !== undefined) return { frame: row.frames[from], from };
    }
    return { frame: { gap: "" }, from: event };
  }

  const inGap = (frame) => (frame.gap ? `No picture: ${frame.gap}` : "No picture yet");

  const percent = (part) => (part > 0.9995 && part < 1 ? "> 99.9 %" : `${+(part * 100).toPrecision(3)} %`);

  function number(value) {
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: 4 });
  }

  function verdict(frame) {
    if (frame.predicted === undefined) return frame.label === undefined ? "" : `label ${frame.label}`;
    return frame.label === undefined ? `predicted ${frame.predicted}` : `${frame.label} → ${frame.predicted}`;
  }

  const sureness = (frame) => (frame.probability === undefined ? "" : percent(frame.probability));

  const rightness = (frame) => (frame.right === undefined ? "" : frame.right ? "✓ right" : "✗ wrong");

  /** The whole of a frame in words, for those who do not see it. */
  function inWords(row, shown) {
    const { frame, from } = shown;
    const parts = [`${row.section}, ${row.name}`, events[from].name];
    if (frame.gap !== undefined) return [...parts, inGap(frame)].join("; ");
    if (frame.tiles) parts.push(frame.tiles.filter(Boolean).join(" | "));
    if (frame.label !== undefined) parts.push(`label ${frame.label}`);
    if (frame.predicted !== undefined) parts.push(`predicted ${frame.predicted} ${sureness(frame)}`.trim());
    return [...parts, rightness(frame), frame.caption].filter(Boolean).join("; ");
  }

  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
    element.hidden = !text;
  }

  function draw(image, picture) {
    if (image.dataset.source === String(picture)) return;
    image.dataset.source = picture;
    const { source, width, height, crisp } = pictures[picture];
    image.src = source;
    image.width = width;
    image.height = height;
    image.classList.toggle("crisp", crisp);
  }

  // ---- cards

  const cards = [...document.querySelectorAll(".card")].map((card, index) => {
    const part = (name) => card.querySelector(name);
    const view = {
      row: rows[index], button: part(".picture"), image: part("img"), gap: part(".gap"), tiles: part(".tiles"),
      verdict: part(".verdict"), caption: part(".caption"), stale: part(".stale"), cell: part(".cell"),
      sparks: [...card.querySelectorAll(".spark")].map((spark) => ({
        readout: spark.querySelector(".readout"), mark: spark.querySelector(".mark"),
      })),
    };
    view.button.addEventListener("click", () => enlarge(view));
    return view;
  });

  function showCard(view, event) {
    const { row } = view;
    const shown = frameAt(row, event);
    const { frame, from } = shown;
    const words = inWords(row, shown);
    const missing = frame.gap !== undefined;
    view.button.hidden = missing;
    write(view.gap, missing ? inGap(frame) : "");
    if (!missing) {
      draw(view.image, frame.image);
      view.image.alt = words;
      view.button.setAttribute("aria-label", `Enlarge: ${words}`);
    }
    showTiles(view.tiles, missing ? null : frame);
    showVerdict(view.verdict, frame);
    if (view.cell) view.cell.style.setProperty("--at", event);
    write(view.caption, frame.caption || "");
    write(view.stale, from === event ? "" : `from ${events[from].name}`);
    view.sparks.forEach((spark, place) => showSpark(spark, row.sparks[place], event));
  }

  function showTiles(element, frame) {
    const tiles = (frame && frame.tiles) || [];
    const { width, height } = frame ? pictures[frame.image] : { width: 1, height: 1 };
    const sideBySide = tiles.length <= 6 && width / height > 0.7 * tiles.length;
    element.hidden = !tiles.length;
    element.classList.toggle("columns", sideBySide);
    element.replaceChildren(...(sideBySide ? tiles : tiles.filter(Boolean)).map((text) => {
      const tile = document.createElement("span");
      tile.textContent = text;
      return tile;
    }));
  }

  function showVerdict(element, frame) {
    const text = verdict(frame);
    element.hidden = !text;
    element.replaceChildren(text);
    const add = (className, content) => {
      const part = document.createElement("span");
      part.className = className;
      part.textContent = content;
      element.append(" ", part);
    };
    if (sureness(frame)) add("sure", sureness(frame));
    if (frame.right !== undefined) add(`badge ${frame.right ? "right" : "wrong"}`, rightness(frame));
  }

  function showSpark(spark, data, event) {
    let from = event;
    while (from > 0 && data.values[from] === null) from--;
    const value = data.values[from];
    spark.readout.textContent = value === null ? "–" : number(value);
    if (!spark.mark) return;
    spark.mark.hidden = value === null;
    if (value !== null) place(spark.mark, from / Math.max(1, last), data.heights[from]);
  }

  function place(mark, x, height) {
    mark.style.setProperty("--x", x);
    mark.style.setProperty("--height", height);
  }

  // ---- charts

  const plots = [...document.querySelectorAll(".chart")].map((chart) => ({
    data: charts[chart.dataset.chart],
    area: chart.querySelector(".area"),
    cursor: chart.querySelector(".cursor"),
    marks: [...chart.querySelectorAll(".mark")],
    readouts: [...chart.querySelectorAll(".readout")],
  }));

  const share = (data, step) => (data.last === data.first ? 0.5 : (step - data.first) / (data.last - data.first));

  function showChart(plot, event) {
    const { data } = plot;
    const step = events[event].step;
    const x = share(data, step);
    plot.cursor.hidden = x < 0 || x > 1;
    plot.cursor.style.setProperty("--x", x);
    data.lines.forEach((line, index) => {
      let at = line.steps.length - 1;
      while (at >= 0 && (line.steps[at] > step || line.values[at] === null)) at--;
      plot.readouts[index].textContent = at < 0 ? "–" : number(line.values[at]);
      plot.marks[index].hidden = at < 0;
      if (at >= 0) place(plot.marks[index], share(data, line.steps[at]), line.heights[at]);
    });
  }

  function nearestEvent(data, x) {
    let nearest = 0;
    events.forEach((event, index) => {
      const distance = (at) => Math.abs(share(data, events[at].step) - x);
      if (distance(index) <= distance(nearest)) nearest = index;
    });
    return nearest;
  }

  for (const plot of plots) {
    const choose = (pointer) => {
      const box = plot.area.getBoundingClientRect();
      go(nearestEvent(plot.data, (pointer.clientX - box.left) / box.width));
    };
    plot.area.addEventListener("pointerdown", (pointer) => { pause(); choose(pointer); });
    plot.area.addEventListener("pointermove", (pointer) => { if (pointer.buttons) choose(pointer); });
  }

  // ---- the enlarged picture

  function enlarge(view) {
    enlarged = view;
    byId("large-title").textContent = `${view.row.section} · ${view.row.name}`;
    strip.replaceChildren(...events.map((event, index) => thumbnail(view.row, event, index)));
    showEnlarged();
    dialog.showModal();
    centreThumbnail();
  }

  function thumbnail(row, event, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = event.label;
    button.setAttribute("aria-label", event.label);
    const frame = row.frames[index];
    if (frame && frame.image !== undefined) {
      const image = document.createElement("img");
      image.alt = "";
      image.decoding = "async";
      draw(image, frame.image);
      button.append(image);
    } else {
      button.classList.add("empty");
      button.append(frame ? "✗" : "·");
    }
    button.addEventListener("click", () => { pause(); go(index); });
    return button;
  }

  function showEnlarged() {
    if (!enlarged) return;
    const shown = frameAt(enlarged.row, now);
    const { frame, from } = shown;
    const missing = frame.gap !== undefined;
    const image = byId("large-image");
    image.hidden = missing;
    if (!missing) image.parentElement.style.setProperty("--aspect", pictures[frame.image].width / pictures[frame.image].height);
    write(dialog.querySelector(".gap"), missing ? inGap(frame) : "");
    if (!missing) {
      draw(image, frame.image);
      image.alt = inWords(enlarged.row, shown);
    }
    const part = (name) => dialog.querySelector(`.large-text ${name}`);
    part(".moment").textContent = from === now ? events[now].label : `${events[now].label}, picture from ${events[from].name}`;
    showVerdict(part(".verdict"), frame);
    write(part(".caption"), [(frame.tiles || []).filter(Boolean).join(" | "), frame.caption].filter(Boolean).join(" · "));
    [...strip.children].forEach((button, index) => {
      if (index === now) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    centreThumbnail();
  }

  function centreThumbnail() {
    const current = strip.children[now];
    if (current) strip.scrollLeft = current.offsetLeft + current.offsetWidth / 2 - strip.clientWidth / 2;
  }

  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (click) => { if (click.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { enlarged = null; strip.replaceChildren(); });

  // ---- time

  function go(event) {
    now = Math.min(last, Math.max(0, event));
    slider.value = now;
    slider.style.setProperty("--at", now / Math.max(1, last));
    slider.setAttribute("aria-valuetext", events[now].label);
    byId("moment").textContent = events[now].label;
    for (const view of cards) showCard(view, now);
    for (const plot of plots) showChart(plot, now);
    showEnlarged();
  }

  function pause() {
    clearInterval(timer);
    timer = 0;
    document.body.classList.remove("playing");
    play.setAttribute("aria-label", "Play");
  }

  function start() {
    if (!last) return;
    go(now === last ? 0 : now);
    document.body.classList.add("playing");
    play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      go(now + 1);
      if (now === last) pause();
    }, Math.min(900, Math.max(200, 9000 / last)));
  }

  const toggle = () => (timer ? pause() : start());

  const keys = {
    ArrowLeft: () => { pause(); go(now - 1); },
    ArrowRight: () => { pause(); go(now + 1); },
    Home: () => { pause(); go(0); },
    End: () => { pause(); go(last); },
    " ": toggle,
  };

  document.addEventListener("keydown", (key) => {
    const action = keys[key.key];
    if (!action || key.altKey || key.ctrlKey || key.metaKey || key.shiftKey) return;
    // Space on a button, a link or a summary presses that.
    if (key.key === " " && key.target.closest("button, a, summary")) return;
    key.preventDefault();
    action();
  });

  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); go(+slider.value); });
  document.addEventListener("visibilitychange", () => { if (document.hidden) pause(); });

  // A closed <details> would be missing on paper.
  const opened = new Set();
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      opened.add(details);
      details.open = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
    opened.clear();
  });

  go(last);
})();
