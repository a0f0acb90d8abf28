/* Tables sort: a click on a column's header sorts by it, a second click the other way round, a
 * third brings the order of the page back. It acts on the tables of `unlearnlib/tables.py`
 * (class "sortable"), within their row groups, and needs nothing else. Without it, or without a
 * script at all, the tables are as they were written.
 */
(function () {
  "use strict";

  const DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const NUMBER = /^[×~≈<>≤≥]?\s*([+\-−]?)\s*(∞|\d[\d,]*(?:\.\d+)?|\.\d+)(?:e([+\-−]?\d+))?(?:\s*×\s*10([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))?(?![\p{L}\d_])/iu;
  const POWER = /^10([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)/u;

  /* The number of an exponent written with raised digits or with a minus sign: "⁻⁵" is -5. */
  function exponent(text) {
    const plain = Array.from(text, (c) => (DIGITS.includes(c) ? DIGITS.indexOf(c) : c)).join("");
    return Number(plain.replace(/[⁻−]/, "-").replace("⁺", "+"));
  }

  /* The number that a cell begins with, or NaN: "2,150 ± 3" is 2150, "35 of 56 (63 %)" is 35,
   * "4.1 × 10¹²" is 4.1e12, "×1.2" is 1.2, "−∞" is -Infinity, "4 updates early" is -4; "never" and "–" have none. */
  function numberIn(text) {
    const trimmed = text.trim();
    const power = POWER.exec(trimmed);
    if (power) return Number(`1e${exponent(power[1])}`);
    const found = NUMBER.exec(trimmed);
    if (!found) return NaN;
    const [, sign, digits, written, raised] = found;
    const size = digits === "∞" ? Infinity : Number(digits.replaceAll(",", ""));
    const scale = exponent(written || "0") + exponent(raised || "⁰");
    // Through the decimal notation, so that 3 × 10⁻⁴ and 3e-4 are one number.
    const value = Number.isFinite(size) ? Number(`${size}e${scale}`) : size;
    // "3 updates early" is before "1 update late".
    const negative = sign === "-" || sign === "−" || /\bearly$/.test(trimmed);
    return negative ? -value : value;
  }

  /* Whether a cell holds no value: these stay last, whichever way a column is sorted. */
  function isMissing(text) {
    return ["", "-", "–", "—", "nan"].includes(text.trim().toLowerCase());
  }

  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /* The order of the cells `texts`: their indices, sorted. `direction` is 1 for ascending, -1 for
   * descending. A column is one of numbers if most of its values begin with one; words among
   * numbers come after them ("never"), and missing values after everything. Equal cells keep
   * their order. */
  function order(texts, direction) {
    const known = texts.filter((text) => !isMissing(text));
    const numeric = 2 * known.filter((text) => !Number.isNaN(numberIn(text))).length > known.length;
    const keys = texts.map((text) => {
      const value = numeric ? numberIn(text) : NaN;
      const rank = isMissing(text) ? 2 : numeric && Number.isNaN(value) ? 1 : 0;
      return { rank, value, text: text.trim() };
    });
    const compare = (a, b) => {
      if (a.rank !== b.rank) return a.rank - b.rank;
      if (a.rank === 2 || a.value === b.value) return 0;
      const way = numeric && a.rank === 0 ? Math.sign(a.value - b.value) : words.compare(a.text, b.text);
      return direction * way;
    };
    return texts.map((_, i) => i).sort((i, j) => compare(keys[i], keys[j]) || i - j);
  }

  /* The rows of a table's body as runs that are sorted by themselves: a row whose only cell names
   * a group stays where it is, and ends the run before it. */
  function groups(rows) {
    const found = [{ heading: null, rows: [] }];
    for (const row of rows) {
      if (row.querySelector('th[scope="rowgroup"]')) found.push({ heading: row, rows: [] });
      else found[found.length - 1].rows.push(row);
    }
    return found;
  }

  /* The header cells that stand over one column each: of a two-level header, the lower level. */
  function columnHeaders(table) {
    const rows = table.tHead ? table.tHead.rows : [];
    return rows.length ? Array.from(rows[rows.length - 1].cells) : [];
  }

  function prepare(table) {
    const body = table.tBodies[0];
    if (!body) return;
    const original = Array.from(body.rows);
    const parts = groups(original);
    if (!parts.some((part) => part.rows.length > 1)) return;
    const headers = columnHeaders(table);

    function sort(column, direction) {
      const sorted = [];
      for (const { heading, rows } of parts) {
        if (heading) sorted.push(heading);
        const texts = rows.map((row) => (row.cells[column] ? row.cells[column].textContent : ""));
        const places = direction ? order(texts, direction) : rows.keys();
        for (const place of places) sorted.push(rows[place]);
      }
      body.append(...sorted);
    }

    headers.forEach((header, column) => {
      const label = header.textContent.trim();
      if (!label) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort-button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const now = header.getAttribute("aria-sort");
        const next = now === "ascending" ? "descending" : now === "descending" ? null : "ascending";
        for (const other of headers) other.removeAttribute("aria-sort");
        if (next) header.setAttribute("aria-sort", next);
        sort(column, next === "ascending" ? 1 : next === "descending" ? -1 : 0);
      });
    });
  }

  if (typeof module !== "undefined") {
    module.exports = { numberIn, isMissing, order }; // for the tests
    return;
  }
  const start = () => document.querySelectorAll("table.sortable").forEach(prepare);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
