// The metrics: charts with the moment marked, which also choose a moment.
import { place } from "./cards.js";
import { number } from "./words.js";

const share = (data, at) => (data.last === data.first ? 0.5 : (at - data.first) / (data.last - data.first));

export function plotsOf(root, model, choose) {
  const plots = [...root.querySelectorAll(".chart")].map((chart) => ({
    data: model.charts[chart.dataset.chart],
    area: chart.querySelector(".area"),
    cursor: chart.querySelector(".cursor"),
    marks: [...chart.querySelectorAll(".mark")],
    readouts: [...chart.querySelectorAll(".readout")],
  }));
  for (const plot of plots) {
    const pick = (pointer) => {
      const box = plot.area.getBoundingClientRect();
      choose(nearestEvent(model.events, plot.data, (pointer.clientX - box.left) / box.width));
    };
    plot.area.addEventListener("pointerdown", pick);
    plot.area.addEventListener("pointermove", (pointer) => { if (pointer.buttons) pick(pointer); });
  }
  return plots;
}

export function showChart(plot, event) {
  const { data } = plot;
  const x = share(data, event.at);
  plot.cursor.hidden = x < 0 || x > 1;
  plot.cursor.style.setProperty("--x", x);
  data.lines.forEach((line, index) => {
    let at = line.steps.length - 1;
    while (at >= 0 && (line.steps[at] > event.at || line.values[at] === null)) at--;
    plot.readouts[index].textContent = at < 0 ? "–" : number(line.values[at]);
    plot.marks[index].hidden = at < 0;
    if (at >= 0) place(plot.marks[index], share(data, line.steps[at]), line.heights[at]);
  });
}

function nearestEvent(events, data, x) {
  let nearest = 0;
  const distance = (index) => Math.abs(share(data, events[index].at) - x);
  events.forEach((_, index) => { if (distance(index) <= distance(nearest)) nearest = index; });
  return nearest;
}
