// A large study has hundreds of thousands of elements. What is far below the window is laid out after the page has opened,
// piece by piece and when nobody waits; then it is there for screen readers, searches and anchors like everything else.
"use strict";
(() => {
  const waiting = [...document.querySelectorAll("main > section, .results")];
  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call)); // Safari has none
  const next = () => {
    waiting.shift()?.classList.add("laid");
    if (waiting.length) idle(next);
  };
  // Not at once: whoever has just opened the page waits for its first plot.
  window.addEventListener("load", () => setTimeout(() => idle(next), 600));
})();
