// Every state of the page has an address, such as #run=version_0&epoch=3&row=GradCAM/cat.

/** The text of a state; what is empty or undefined is left out. Slashes stay readable. */
export function addressOf(state) {
  const parts = Object.entries(state).flatMap(([name, value]) => [value].flat()
    .filter((one) => one !== undefined && one !== null && one !== "")
    .map((one) => `${name}=${encodeURIComponent(one).replace(/%2F/g, "/").replace(/%20/g, "+")}`));
  return parts.join("&");
}

/** The state in an address; `run` is always a list. */
export function stateIn(address) {
  const parts = new URLSearchParams(address.replace(/^#/, ""));
  return { ...Object.fromEntries(parts), run: parts.getAll("run") };
}

/** Where a page keeps its address: its own window, or that of TensorBoard around it, which shows it. */
export class Address {
  constructor(prefix = "") {
    this.window = prefix ? parent : window;
    this.prefix = prefix;
    this.timer = 0;
  }

  read() {
    return stateIn(this.window.location.hash.slice(1 + this.prefix.length));
  }

  /** Whether the window shows this page: TensorBoard's address may be that of another tab. */
  get here() {
    return this.window.location.hash.slice(1).startsWith(this.prefix);
  }

  /** Write a state once it stays for a moment; each becomes an entry of the history. */
  write(state, { replace = false } = {}) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.writeNow(state, replace), replace ? 0 : 250);
  }

  writeNow(state, replace) {
    if (!this.here) return;
    const text = addressOf(state);
    const hash = `#${this.prefix}${this.prefix && text ? "&" : ""}${text}`;
    if (hash === (this.window.location.hash || "#")) return;
    this.window.history[replace ? "replaceState" : "pushState"](this.window.history.state, "", hash);
  }

  /** Call a function with the state whenever the reader goes back, forward, or edits the address. */
  listen(heard) {
    const told = () => {
      clearTimeout(this.timer);
      if (this.here) heard(this.read());
    };
    this.window.addEventListener("popstate", told);
  }
}
