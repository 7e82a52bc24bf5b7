// One slider for all pictures: the page of a run or of several, as a file or live.
import { cardsOf, draw, showCard } from "./cards.js";
import { plotsOf, showChart } from "./charts.js";
import { Large } from "./large.js";
import { Rows } from "./rows.js";

const MANY = 300; // cards; of more, those far from the window follow when they come near it

export class Page {
  /**
   * @param root the element that holds the page's content
   * @param model events, rows, charts and pictures
   * @param run name of the only run that is shown
   * @param changed called with nothing whenever the state has changed by the reader's hand
   */
  constructor(root, model, changed = () => {}, run = "") {
    this.root = root;
    this.model = model;
    this.last = model.events.length - 1;
    this.now = this.last;
    this.timer = 0;
    this.listeners = new AbortController();
    this.changed = () => { if (!this.quiet) changed(); };
    this.quiet = true;
    this.large = new Large(root, model, this);
    this.cards = cardsOf(root, model, (view) => this.large.open(view));
    this.run = run;
    this.rows = new Rows(root, this.cards, () => this.changed());
    this.axis = root.querySelector("#axis");
    this.axis?.addEventListener("change", () => { this.label(); this.changed(); });
    this.plots = plotsOf(root, model, (event) => this.choose(event));
    this.slider = root.querySelector("#slider");
    this.play = root.querySelector("#play");
    this.moment = root.querySelector("#moment");
    for (const image of root.querySelectorAll("img[data-picture]")) draw(image, model.pictures[image.dataset.picture]);
    this.far = new Set(this.cards.length > MANY ? this.cards : []);
    if (this.last >= 0) this.listen();
    this.go(this.last);
    this.quiet = false;
  }

  // ---- time

  go(event) {
    if (this.last < 0) return;
    this.now = Math.min(this.last, Math.max(0, event));
    const { label } = this.model.events[this.now];
    this.slider.value = this.now;
    this.slider.style.setProperty("--at", this.now / Math.max(1, this.last));
    this.slider.setAttribute("aria-valuetext", label);
    this.moment.textContent = label;
    for (const view of this.cards) if (!this.far.has(view)) showCard(view, this.model, this.now);
    for (const plot of this.plots) showChart(plot, this.model.events[this.now]);
    this.large.show();
    if (!this.timer) this.changed();
  }

  /** Show cards when they come near the window. */
  approach(signal) {
    const views = new Map(this.cards.map((view) => [view.card, view]));
    const near = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) {
        const view = views.get(target);
        if (!isIntersecting) this.far.add(view);
        else if (this.far.delete(view)) showCard(view, this.model, this.now);
      }
    }, { rootMargin: "100%" });
    for (const card of views.keys()) near.observe(card);
    signal.addEventListener("abort", () => near.disconnect());
  }

  /** Label the slider by epochs or by steps. */
  label() {
    for (const tick of this.root.querySelectorAll(".ticks span")) {
      tick.dataset.epoch ??= tick.textContent;
      tick.textContent = this.axis.value === "step" ? tick.dataset.step : tick.dataset.epoch;
    }
  }

  choose(event) {
    this.pause();
    this.go(event);
  }

  pause() {
    if (!this.timer) return;
    clearInterval(this.timer);
    this.timer = 0;
    document.body.classList.remove("playing");
    this.play.setAttribute("aria-label", "Play");
    this.changed();
  }

  start() {
    if (!this.last) return;
    document.body.classList.add("playing");
    this.play.setAttribute("aria-label", "Pause");
    this.timer = setInterval(() => {
      this.go(this.now + 1);
      if (this.now === this.last) this.pause();
    }, Math.min(900, Math.max(200, 9000 / this.last)));
    this.go(this.now === this.last ? 0 : this.now);
  }

  toggle() {
    if (this.timer) this.pause();
    else this.start();
  }

  // ---- the reader's hand

  listen() {
    const { signal } = this.listeners;
    const keys = {
      ArrowLeft: () => this.choose(this.now - 1),
      ArrowRight: () => this.choose(this.now + 1),
      Home: () => this.choose(0),
      End: () => this.choose(this.last),
      " ": () => this.toggle(),
    };
    document.addEventListener("keydown", (key) => {
      const action = keys[key.key];
      if (!action || key.altKey || key.ctrlKey || key.metaKey || key.shiftKey) return;
      // In a text field the keys move the caret; space on a button, a link or a summary presses that.
      if (key.target.closest("input:not([type=range]), select, textarea")) return;
      if (key.key === " " && key.target.closest("button, a, summary")) return;
      key.preventDefault();
      action();
    }, { signal });
    this.play.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => this.choose(+this.slider.value));
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.pause(); }, { signal });
    this.print(signal);
    if (this.far.size) this.approach(signal);
  }

  print(signal) {
    // A closed <details> would be missing on paper.
    const opened = new Set();
    addEventListener("beforeprint", () => {
      for (const view of this.far) showCard(view, this.model, this.now);
      for (const details of this.root.querySelectorAll("details:not([open])")) {
        opened.add(details);
        details.open = true;
      }
    }, { signal });
    addEventListener("afterprint", () => {
      for (const details of opened) details.open = false;
      opened.clear();
    }, { signal });
  }

  /** Leave the document as it was: another page takes its place. */
  end() {
    this.quiet = true;
    this.pause();
    this.listeners.abort();
  }

  // ---- something new

  /** Mark at the slider's end how much there is that it does not reach yet. */
  markNew(count) {
    this.slider?.parentElement.classList.toggle("more", count > 0);
  }

  /** What the next page of the same runs takes over, so that nothing flashes or moves. */
  keep() {
    const { scrollX, scrollY } = window;
    const active = document.activeElement;
    const focused = active?.id || active?.closest?.(".card")?.dataset.key;
    const top = this.cards.find((one) => one.card.getBoundingClientRect().bottom > 0);
    return {
      images: new Map(this.cards.map((one) => [`${one.row.run}\0${one.row.key}`, one.image])),
      opened: new Set([...this.root.querySelectorAll("details[open]")].map((one) => one.parentElement.id)),
      place: top && [top.row.key, top.card.getBoundingClientRect().top],
      focused, scrollX, scrollY, rows: this.rows.state, axis: this.axis?.value,
    };
  }

  /** Take over what `keep` gave, and go to a state; without one, stay at the newest. */
  restore(before, state) {
    this.quiet = true;
    for (const view of this.cards) {
      const image = before.images.get(`${view.row.run}\0${view.row.key}`);
      if (!image) continue;
      view.image.replaceWith(image);
      view.image = image;
    }
    this.go(this.now);
    for (const id of before.opened) this.root.querySelector(`#${CSS.escape(id)} > details`)?.setAttribute("open", "");
    this.rows.apply(before.rows);
    if (this.axis && before.axis && this.axis.value !== before.axis) {
      this.axis.value = before.axis;
      this.label();
    }
    const at = this.eventOf(state);
    if (at >= 0) this.go(at);
    const open = state.large && this.cards.find((one) => one.row.key === state.row);
    if (open) this.large.open(open);
    window.scrollTo({ left: before.scrollX, top: before.scrollY, behavior: "instant" });
    const twin = before.place && this.cards.find((one) => one.row.key === before.place[0]);
    if (twin) window.scrollBy({ top: twin.card.getBoundingClientRect().top - before.place[1], behavior: "instant" });
    const focus = before.focused && (document.getElementById(before.focused)
      || this.cards.find((one) => one.row.key === before.focused)?.button);
    focus?.focus({ preventScroll: true });
    this.quiet = false;
  }

  // ---- its state, as an address holds it

  get state() {
    const { event, row } = { event: this.model.events[this.now], row: this.large.view?.row ?? this.row };
    const twins = event && this.model.events.filter((one) => one.epoch === event.epoch).length > 1;
    return {
      epoch: event && event.epoch,
      step: twins ? event.step : undefined,
      stage: twins && event.stage !== "fit" ? event.stage : undefined,
      row: row && row.key,
      large: this.large.view ? 1 : undefined,
      axis: this.axis?.value,
      ...this.rows.state,
    };
  }

  /** Go to a state; what it does not name stays. */
  apply(state) {
    this.quiet = true;
    this.rows.apply(state);
    if (this.axis && this.axis.value !== (state.axis ?? "")) {
      this.axis.value = state.axis === "step" ? "step" : "";
      this.label();
    }
    const at = this.eventOf(state);
    if (at >= 0) this.choose(at);
    const view = state.row && this.cards.find((one) => one.row.key === state.row);
    this.row = view ? view.row : undefined;
    if (view && state.large) this.large.open(view);
    else this.large.close();
    this.cards.forEach((one) => one.card.classList.toggle("chosen", one.row === this.row));
    if (view && !state.large) view.card.scrollIntoView({ block: "center", behavior: "instant" });
    this.quiet = false;
  }

  eventOf({ epoch, step, stage = "fit" }) {
    if (epoch === undefined) return -1;
    const { events } = this.model;
    const fits = (event, ...names) => names.every((name) => String(event[name]) === String({ epoch, step, stage }[name]));
    const exact = events.findIndex((event) => fits(event, "epoch", "step", "stage"));
    return exact >= 0 ? exact : events.findLastIndex((event) => fits(event, "epoch"));
  }
}
