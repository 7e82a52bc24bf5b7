// The page as a file: everything is in it.
import { Address } from "./address.js";
import { followLinks } from "./links.js";
import { Page } from "./page.js";

export function openReport() {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const model = { ...read("data"), pictures: read("pictures") };
  const address = new Address();
  const page = new Page(document.body, model, () => address.write(page.state));
  followLinks(document.body, (state) => {
    page.apply(state);
    address.writeNow(page.state, false);
  });
  address.listen((state) => page.apply(state));
  page.apply(address.read());
}
