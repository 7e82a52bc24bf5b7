// Which run is shown, or which ones side by side.

const MOST = 6;

export class RunChooser {
  /** `chosen` is called with the names of the runs that the reader chose. */
  constructor(chosen) {
    this.tell = chosen;
    this.element = document.createElement("details");
    this.element.className = "chooser";
    this.summary = document.createElement("summary");
    this.filter = document.createElement("input");
    this.filter.type = "search";
    this.filter.id = "run-filter";
    this.filter.placeholder = "Filter runs";
    this.filter.setAttribute("aria-label", "Filter runs");
    this.filter.addEventListener("input", () => this.narrow());
    this.list = document.createElement("ul");
    const hint = document.createElement("p");
    hint.textContent = `Choose a run by its name, or tick two to ${MOST} to compare them.`;
    const panel = document.createElement("div");
    panel.className = "panel";
    panel.append(this.filter, hint, this.list);
    this.element.append(this.summary, panel);
    document.addEventListener("click", (click) => {
      if (!this.element.contains(click.target)) this.element.open = false;
    });
    this.element.addEventListener("keydown", (key) => {
      if (key.key !== "Escape") return;
      this.element.open = false;
      this.summary.focus();
    });
  }

  show(runs, chosen) {
    const shown = JSON.stringify([runs, chosen]);
    if (shown === this.shown) return;
    this.shown = shown;
    this.summary.textContent = chosen.length > 1 ? `Comparing ${chosen.join(", ")}` : `Run: ${chosen[0] ?? "none"}`;
    const focused = document.activeElement?.dataset?.run;
    this.list.replaceChildren(...runs.map((run) => this.item(run, chosen)));
    const again = focused && [...this.list.querySelectorAll("input")].find((box) => box.dataset.run === focused);
    if (again) again.focus();
    this.narrow();
  }

  item(run, chosen) {
    const item = document.createElement("li");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.includes(run);
    box.dataset.run = run;
    box.disabled = !box.checked && chosen.length >= MOST;
    box.setAttribute("aria-label", `Compare ${run}`);
    box.addEventListener("change", () => {
      const next = box.checked ? [...chosen, run] : chosen.filter((one) => one !== run);
      if (next.length) this.tell(next);
      else box.checked = true;
    });
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = run;
    if (chosen.includes(run)) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      this.element.open = false;
      this.tell([run]);
    });
    item.append(box, button);
    return item;
  }

  narrow() {
    const words = this.filter.value.toLowerCase().split(/\s+/);
    for (const item of this.list.children) {
      item.hidden = !words.every((word) => item.textContent.toLowerCase().includes(word));
    }
  }
}
