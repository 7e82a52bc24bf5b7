// The live page: runs to choose from, and the page of the chosen ones, which tells when there is something new.
import { Address, addressOf } from "./address.js";
import { RunChooser } from "./chooser.js";
import { Page } from "./page.js";
import { followLinks } from "./links.js";

const EVERY = 2000; // milliseconds between two looks at the stores

const TAB = "visualizations";

/** Called by TensorBoard once its frame has loaded. */
export function render() {
  const framed = window !== parent;
  if (framed) {
    addStyle();
    followDarkMode();
  }
  return new Live(new Address(framed ? TAB : "")).start();
}

function addStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = "style.css";
  document.head.append(link);
  document.documentElement.lang = "en";
}

/** Dark with TensorBoard, whatever the system says. */
function followDarkMode() {
  const { body } = parent.document;
  const follow = () => {
    document.documentElement.dataset.theme = body.classList.contains("dark-mode") ? "dark" : "light";
  };
  new MutationObserver(follow).observe(body, { attributeFilter: ["class"] });
  follow();
}

class Live {
  constructor(address) {
    this.address = address;
    this.runs = [];
    this.chosen = [];
    this.token = "";
    this.page = null;
    this.following = false;
    this.content = element("div", "content");
    this.status = element("p", "status");
    this.status.setAttribute("role", "status");
    this.newer = element("button", "newer");
    this.newer.type = "button";
    this.newer.hidden = true;
    this.newer.addEventListener("click", () => this.load({ newest: true }));
    this.follow = element("input");
    this.follow.type = "checkbox";
    this.follow.id = "follow";
    this.follow.addEventListener("change", () => {
      this.following = this.follow.checked;
      if (this.following) this.load({ newest: true });
    });
    const label = element("label", "follow", this.follow, "Follow the newest");
    this.chooser = new RunChooser((chosen) => this.choose(chosen));
    document.body.append(element("div", "live-bar", this.chooser.element, this.newer, label, this.status), this.content);
    followLinks(this.content, (state) => {
      this.page.apply(state);
      this.write(true);
    });
  }

  async start() {
    this.address.listen((state) => this.go(state));
    await this.look();
    await this.go(this.address.read());
    setInterval(() => { if (!document.hidden) this.look(); }, EVERY);
  }

  /** Go to the state of an address. */
  async go(state) {
    const known = state.run.filter((name) => this.runs.includes(name));
    if (state.run.length > known.length) this.say(`There is no run ${state.run.filter((name) => !known.includes(name)).join(", ")}.`);
    const chosen = known.length ? known : this.runs.slice(-1);
    if (!this.page || chosen.join("\0") !== this.chosen.join("\0")) {
      this.chosen = chosen;
      await this.load({});
    }
    if (this.page) this.page.apply(state);
  }

  choose(chosen) {
    this.chosen = chosen;
    this.load({}).then(() => this.write(true));
  }

  /** The reader changed something; runs that are compared have other moments by step than by epoch. */
  changed() {
    this.write();
    if (this.chosen.length > 1 && this.page.axis.value !== this.axis) this.load({});
  }

  write(now = false) {
    if (!this.page) return;
    const state = { run: this.chosen, ...this.page.state };
    if (now) this.address.writeNow(state, false);
    else this.address.write(state);
  }

  // ---- what stands in the stores

  async look() {
    const answer = await this.ask("changes", {}, true);
    if (!answer) return;
    if (answer.runs.join("\0") !== this.runs.join("\0")) {
      this.runs = answer.runs;
      this.chooser.show(this.runs, this.chosen);
    }
    if (answer.gone.length) return this.say(`${answer.gone.join(", ")} is gone: its store was deleted or moved.`, true);
    if (!this.runs.length) return this.say("No run with pictures yet. They appear here as soon as one has made its first.");
    if (!this.chosen.length) return this.page || this.go(this.address.read());
    if (answer.token && answer.token !== this.token) {
      if (this.following || !this.page || this.page.last < 0) await this.load({ newest: true });
      else await this.tell();
    }
  }

  /** Tell what is new, and let everything stay where it is. */
  async tell() {
    const fresh = await this.ask("content", { axis: this.page.axis?.value });
    if (!fresh || fresh.token === this.token || fresh.token === this.told) return;
    this.told = fresh.token;
    const { events } = fresh.data;
    const known = new Set(this.page.model.events.map((event) => event.name));
    const added = events.filter((event) => !known.has(event.name));
    if (!added.length && fresh.pictures.length === this.page.model.pictures.length) return this.load({});
    const newest = added.length ? added[added.length - 1].name : "more pictures";
    this.newer.textContent = `New: ${newest}. Show`;
    this.newer.hidden = false;
    this.page.markNew(added.length);
  }

  async load({ newest = false }) {
    const axis = this.page ? this.page.axis?.value : this.address.read().axis;
    const fresh = await this.ask("content", { axis });
    if (!fresh) return;
    const before = this.page && this.page.keep();
    const same = this.page && this.shown === this.chosen.join("\0");
    const state = this.page && this.page.state;
    if (this.page) this.page.end();
    const parsed = new DOMParser().parseFromString(fresh.html, "text/html").body;
    this.content.replaceChildren(...parsed.childNodes);
    this.token = fresh.token;
    this.shown = this.chosen.join("\0");
    this.newer.hidden = true;
    this.page = new Page(this.content, { ...fresh.data, pictures: fresh.pictures }, () => this.changed(), this.chosen[0]);
    this.axis = this.page.axis?.value;
    if (same) this.page.restore(before, newest ? {} : state);
    this.chooser.show(this.runs, this.chosen);
    const last = fresh.data.events.at(-1);
    this.say(fresh.running.some(Boolean) ? `Training${last ? `, last seen: ${last.name}` : ""}` : "");
  }

  async ask(route, more, quiet = false) {
    try {
      const query = addressOf({ run: this.chosen, ...more });
      const response = await fetch(`${route}?${query}`);
      const answer = await response.json();
      if (answer.error) throw new Error(answer.error);
      return answer;
    } catch (error) {
      this.say(`${quiet ? "" : "This cannot be shown. "}${error.message}`, true);
      return null;
    }
  }

  say(text, problem = false) {
    this.status.classList.toggle("problem", problem);
    if (this.status.textContent !== text) this.status.textContent = text;
  }
}

function element(name, className = "", ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}
