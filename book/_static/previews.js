/* Shows the previews that sphinx-tippy collected at build time. Its scripts call `tippy(link,
 * {content})` for every link; the library of that name is on no Python index, and a book that works
 * without a network brings its own. A preview comes with the mouse or the keyboard's focus, stays
 * while the mouse is on it, goes with Escape (WCAG 2.2, 1.4.13), and does not come for a finger,
 * whose touch follows the link.
 */
(function () {
  "use strict";

  const DELAY = 250; // milliseconds: a mouse that only passes opens nothing
  let box = null;
  let owner = null;
  let timer = 0;

  function make() {
    box = document.createElement("div");
    box.className = "preview";
    box.id = "preview";
    box.setAttribute("role", "tooltip");
    box.hidden = true;
    box.addEventListener("pointerenter", () => clearTimeout(timer));
    box.addEventListener("pointerleave", leave);
    document.body.append(box);
  }

  /* Below the link where there is room, else above it; within the window either way. */
  function place(link) {
    const line = link.getClientRects()[0] || link.getBoundingClientRect();
    const room = { width: document.documentElement.clientWidth, height: window.innerHeight };
    const { offsetWidth: width, offsetHeight: height } = box;
    const left = Math.max(8, Math.min(line.left, room.width - width - 8));
    const below = line.bottom + 6 + height <= room.height || line.top < height + 6;
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${(below ? line.bottom + 6 : line.top - height - 6) + window.scrollY}px`;
  }

  /* Formulas of a page that may have none itself: MathJax is fetched from the book when needed. */
  async function typeset() {
    if (!box.querySelector(".math")) return;
    if (!window.MathJax) {
      window.MathJax = { options: { enableMenu: false }, startup: { typeset: false } };
      const script = document.createElement("script");
      script.src = new URL("mathjax/tex-chtml.js", SCRIPT).href;
      await new Promise((done) => {
        script.onload = script.onerror = done;
        document.head.append(script);
      });
    }
    await window.MathJax.startup?.promise;
    await window.MathJax.typesetPromise?.([box]);
  }

  async function show(link, content) {
    if (!box) make();
    hide();
    owner = link;
    box.innerHTML = content;
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    place(link);
    await Promise.all([typeset(), ...Array.from(box.querySelectorAll("img"), (image) => image.decode().catch(() => {}))]);
    if (owner === link) place(link);
  }

  function hide() {
    clearTimeout(timer);
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
    if (box) box.hidden = true;
  }

  function leave() {
    clearTimeout(timer);
    timer = setTimeout(hide, DELAY);
  }

  const SCRIPT = document.currentScript.src;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });

  window.tippy = function (link, { content }) {
    if (link.dataset.preview) return;
    link.dataset.preview = "";
    link.removeAttribute("title"); // the browser's own hint would lie over it
    link.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "touch") return;
      clearTimeout(timer);
      timer = setTimeout(() => show(link, content), DELAY);
    });
    link.addEventListener("pointerleave", leave);
    link.addEventListener("focus", () => {
      if (link.matches(":focus-visible")) show(link, content);
    });
    link.addEventListener("blur", hide);
  };
})();
