// Links within the page: to a section, or to a state.
import { stateIn } from "./address.js";

export function followLinks(root, apply) {
  root.addEventListener("click", (click) => {
    const link = click.target.closest('a[href^="#"]');
    if (!link || click.ctrlKey || click.metaKey || click.shiftKey) return;
    click.preventDefault();
    const target = link.getAttribute("href").slice(1);
    if (target.includes("=")) apply(stateIn(target));
    else goTo(root.querySelector(`#${CSS.escape(target)}`));
  });
}

function goTo(section) {
  if (!section) return;
  section.scrollIntoView();
  section.tabIndex = -1;
  section.focus({ preventScroll: true });
}
