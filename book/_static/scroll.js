/* A box that scrolls sideways can be reached and scrolled with the keyboard, says what it is, and
 * shows that there is more; one that fits is no stop on the way. The theme does so for code only. */

const BOXES = ".table-scroll, .pst-scrollable-table-container, .bd-article div.math, .cell_output pre";

function setEdge(box) {
  const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
  box.classList.toggle("scrolls-on", left > 1);
}

function setStop(box) {
  if (box.scrollWidth > box.clientWidth) {
    const kind = box.querySelector("table") ? "Table" : box.matches(".math, mjx-container") ? "Equation" : "Output";
    const caption = box.querySelector("caption")?.textContent.trim();
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", caption || `${kind}, wider than the page: scrolls sideways`);
  } else if (box.getAttribute("role") === "group") {
    for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
  }
  setEdge(box);
}

document.addEventListener("DOMContentLoaded", () => {
  const boxes = [];
  // Also after a part was unfolded, a phone turned, or an equation set.
  const sizes = new ResizeObserver(() => boxes.forEach(setStop));
  const watch = (box) => {
    boxes.push(box);
    sizes.observe(box);
    for (const part of box.children) sizes.observe(part);
    box.addEventListener("scroll", () => setEdge(box), { passive: true });
    setStop(box);
  };
  document.querySelectorAll(BOXES).forEach(watch);
  // Formulas are there when MathJax has set them; one that is wide scrolls within its line.
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    document.querySelectorAll("mjx-container").forEach(watch);
  });
});
