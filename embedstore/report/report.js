// Draws the plots in the colours of the style sheet, when they come near the window, and again when a menu or the colour
// scheme changes.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const SERIES = 8;

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return {
      ink: read("--ink"), muted: read("--muted"), rule: read("--rule"), accent: read("--accent"), paper: read("--paper"),
      band: read("--band"), id: read("--id"), ood: read("--ood"), idArea: read("--id-area"), oodArea: read("--ood-area"),
      series: Array.from({ length: SERIES }, (_, number) => read(`--series-${number}`)),
    };
  };

  const axis = (given, c) => ({
    ...given, fixedrange: true, gridcolor: c.rule, zeroline: false, nticks: given?.nticks ?? 6, tickangle: 0, automargin: true,
    tickfont: { color: c.muted, size: 12 }, title: { ...given?.title, font: { color: c.muted, size: 12 }, standoff: 10 },
  });

  // The latter half is dashed too: eight colours alone cannot be told apart by everybody, or in print.
  const series = (trace, c, number) => ({
    ...trace, line: { color: c.series[number % SERIES], width: 2, dash: number % SERIES < SERIES / 2 ? "solid" : "dash" },
    marker: { color: c.series[number % SERIES], size: 7 },
    error_y: trace.error_y && { ...trace.error_y, color: c.series[number % SERIES], thickness: 1.5, width: 4 },
  });

  const styles = {
    fit: (trace, c) => ({ ...trace, line: { color: c.muted, width: 1.5, dash: "dot" } }),
    points: (trace, c) => ({ ...trace, marker: { color: c.accent, size: 10, line: { color: c.paper, width: 1.5 } } }),
    id: (trace, c) => ({ ...trace, line: { ...trace.line, color: c.id, width: 1.5 }, fillcolor: c.idArea }),
    ood: (trace, c) => ({ ...trace, line: { ...trace.line, color: c.ood, width: 1.5 }, fillcolor: c.oodArea }),
    series,
  };

  const styled = (trace, c) => {
    const [role, number] = trace.meta.split(" ");
    return styles[role](trace, c, Number(number));
  };

  const layout = (given, c) => ({
    ...given, xaxis: axis(given.xaxis, c), yaxis: axis(given.yaxis, c), showlegend: false, hovermode: "closest",
    shapes: (given.shapes ?? []).map((shape) => ({ ...shape, fillcolor: c.band })),
    dragmode: false, margin: { l: 52, r: 12, t: 8, b: 46 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, color: c.ink },
    hoverlabel: { bgcolor: c.paper, bordercolor: c.rule, font: { color: c.ink, size: 13 }, align: "left" },
  });

  const draw = (figure, choice) => {
    const element = figure.dataset.panel;
    const plot = document.getElementById(element);
    const why = figure.querySelector(".why");
    const view = figures[element][choice] ?? { caption: "not available", description: "Not computed.", figure: null };
    figure.querySelector(".r2").textContent = view.caption;
    plot.setAttribute("aria-label", view.description);
    plot.hidden = view.figure === null;
    why.hidden = view.figure !== null;
    why.textContent = view.figure === null ? view.description : "";
    if (view.figure === null) return;
    const c = colours();
    // Drawn again, a plot keeps its size unless it is told one; and what is told one does not follow the window.
    const sized = { ...layout(view.figure.layout, c), width: plot.clientWidth, height: plot.clientHeight };
    Plotly.react(plot, view.figure.data.map((trace) => styled(trace, c)), sized, { displayModeBar: false, responsive: true });
    delete sized.width;
    delete sized.height;
    // Plotly measures texts in a picture beside the page, which a screen reader would read.
    document.getElementById("js-plotly-tester").setAttribute("aria-hidden", "true");
  };

  const drawn = new Set();
  const choice = (figure) => {
    const menu = figure.closest(".drawing").querySelector("select");
    return menu ? menu.value : Object.keys(figures[figure.dataset.panel])[0];
  };
  const show = (figure) => {
    drawn.add(figure);
    draw(figure, choice(figure));
  };

  const choose = (drawing) => {
    const menu = drawing.querySelector("select");
    for (const table of drawing.querySelectorAll("[data-label]")) table.hidden = table.dataset.label !== menu.value;
    for (const figure of drawing.querySelectorAll("[data-panel]")) if (drawn.has(figure)) show(figure);
  };

  // A page of a large study has a hundred plots, and nobody waits for those that are far below.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && !drawn.has(target)) show(target);
  }, { rootMargin: "100% 0px" });
  const all = [...document.querySelectorAll("[data-panel]")];
  all.forEach((figure) => near.observe(figure));
  for (const drawing of document.querySelectorAll(".drawing")) {
    drawing.querySelector("select")?.addEventListener("change", () => choose(drawing));
  }
  // print.js has made the page as wide as paper by then, and as wide as the window again.
  window.addEventListener("beforeprint", () => all.forEach(show));
  window.addEventListener("afterprint", () => all.forEach(show));
  dark.addEventListener("change", () => drawn.forEach(show));
})();
