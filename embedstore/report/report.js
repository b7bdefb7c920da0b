// Draws the scatter plots, in the colours of the style sheet, and redraws them when method or colour scheme change.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { ink: read("--ink"), muted: read("--muted"), rule: read("--rule"), accent: read("--accent"), paper: read("--paper") };
  };

  const axis = (given, c) => ({
    ...given, fixedrange: true, gridcolor: c.rule, zeroline: false, nticks: 6, automargin: true,
    tickfont: { color: c.muted, size: 12 }, title: { ...given.title, font: { color: c.muted, size: 12 }, standoff: 10 },
  });

  const styled = (trace, c) => trace.mode === "lines"
    ? { ...trace, line: { color: c.muted, width: 1.5, dash: "dot" } }
    : { ...trace, marker: { color: c.accent, size: 10, line: { color: c.paper, width: 1.5 } } };

  const layout = (given, c) => ({
    ...given, xaxis: axis(given.xaxis, c), yaxis: axis(given.yaxis, c), showlegend: false, hovermode: "closest",
    dragmode: false, margin: { l: 52, r: 12, t: 8, b: 46 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, color: c.ink },
    hoverlabel: { bgcolor: c.paper, bordercolor: c.rule, font: { color: c.ink, size: 13 }, align: "left" },
  });

  const draw = (element, label) => {
    const figure = document.querySelector(`[data-panel="${element}"]`);
    const plot = document.getElementById(element);
    const why = figure.querySelector(".why");
    const view = figures[element][label] ?? { caption: "not available", description: "Not computed.", figure: null };
    figure.querySelector(".r2").textContent = view.caption;
    plot.setAttribute("aria-label", view.description);
    plot.hidden = view.figure === null;
    why.hidden = view.figure !== null;
    why.textContent = view.figure === null ? view.description : "";
    if (view.figure === null) return;
    const c = colours();
    Plotly.react(plot, view.figure.data.map((trace) => styled(trace, c)), layout(view.figure.layout, c), {
      displayModeBar: false, responsive: true,
    });
  };

  const show = (relation) => {
    const control = relation.querySelector("select");
    for (const figure of relation.querySelectorAll("[data-panel]")) {
      const element = figure.dataset.panel;
      draw(element, control ? control.value : Object.keys(figures[element])[0]);
    }
    for (const table of relation.querySelectorAll("[data-label]")) {
      table.hidden = control !== null && table.dataset.label !== control.value;
    }
  };

  const relations = [...document.querySelectorAll(".relation")];
  for (const relation of relations) {
    relation.querySelector("select")?.addEventListener("change", () => show(relation));
    show(relation);
  }
  dark.addEventListener("change", () => relations.forEach(show));
})();
