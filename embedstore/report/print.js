// Makes the page as wide as paper while it is printed, with everything open and every table fitted to that width.
"use strict";
(() => {
  const root = document.documentElement;
  const sheet = document.getElementById("print-style");
  let closed = [];

  // A little smaller than the share, as words do not shrink evenly.
  const fit = (table) => {
    const share = table.parentElement.clientWidth / table.offsetWidth;
    if (share < 1) table.style.fontSize = `${0.98 * share * parseFloat(getComputedStyle(table).fontSize)}px`;
  };

  window.addEventListener("beforeprint", () => {
    root.classList.add("printing");
    sheet.media = "all";
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
    document.querySelectorAll(".scroll > table").forEach(fit);
  });

  window.addEventListener("afterprint", () => {
    for (const table of document.querySelectorAll(".scroll > table")) table.style.fontSize = "";
    for (const details of closed) details.open = false;
    closed = [];
    sheet.media = "print";
    root.classList.remove("printing");
  });
})();
