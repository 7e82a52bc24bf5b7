// Which rows are shown, and in which order.

/** The rows' filter and arrangement; `changed` is called when the reader sets one. */
export class Rows {
  constructor(root, cards, changed) {
    this.root = root;
    this.cards = cards;
    this.filter = root.querySelector("#filter");
    this.by = root.querySelector("#by");
    this.homes = cards.map(({ card }) => card.closest(".group") ?? card).map((one) => [one, one.parentElement]);
    this.filter?.addEventListener("input", () => { this.narrow(); changed(); });
    this.by?.addEventListener("change", () => { this.arrange(); changed(); });
  }

  get state() {
    return { filter: this.filter?.value, by: this.by?.value };
  }

  apply({ filter = "", by = "" }) {
    if (!this.filter) return;
    if (this.by.value !== by && [...this.by.options].some((one) => one.value === by)) {
      this.by.value = by;
      this.arrange();
    }
    this.filter.value = filter;
    this.narrow();
  }

  narrow() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { card, row } of this.cards) {
      const labels = row.frames.flatMap((frame) => (frame ? [frame.label, frame.predicted] : []));
      const text = [row.key, row.section, row.name, row.run, ...new Set(labels)].join(" ").toLowerCase();
      card.hidden = !words.every((word) => text.includes(word));
    }
    for (const box of this.root.querySelectorAll("section[id^=section-], section.by, .group")) {
      const cards = [...box.querySelectorAll(".card")];
      box.hidden = cards.length > 0 && cards.every((card) => card.hidden);
    }
  }

  /** By technique as the page came, or by what the rows show. */
  arrange() {
    for (const [one, home] of this.homes) home.append(one);
    for (const old of this.root.querySelectorAll("section.by")) old.remove();
    const sections = [...this.root.querySelectorAll("section[id^=section-]")];
    if (this.by.value === "name" && sections.length) {
      const groups = new Map();
      this.cards.forEach(({ row }, at) => {
        if (!groups.has(row.name)) groups.set(row.name, new Set());
        groups.get(row.name).add(this.homes[at]);
      });
      const made = [...groups].map(([name, members]) => this.section(name, members));
      sections[0].before(...made);
    }
    for (const section of sections) section.hidden = this.by.value === "name" && !section.querySelector(".card");
    this.narrow();
  }

  section(name, members) {
    const section = document.createElement("section");
    section.className = "by";
    const title = document.createElement("h2");
    title.textContent = name;
    const grid = document.createElement("div");
    const [[, home]] = members;
    grid.className = home.className || "groups";
    grid.style.cssText = home.style.cssText;
    for (const [one] of members) grid.append(one);
    section.append(title, grid);
    return section;
  }
}
