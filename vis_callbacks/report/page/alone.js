// The live page in a window of its own.
import { render } from "./index.js";

render();
