/* The page of a chapter's records, opened at a number of a table (?only=KEY,KEY) or at a figure or
 * table (?of=ANCHOR), shows those records alone and says so. Without a script it shows all. */

document.addEventListener("DOMContentLoaded", () => {
  const entries = Array.from(document.querySelectorAll("ol.records > li"));
  const told = document.querySelector(".records-shown");
  const asked = new URLSearchParams(location.search);
  if (!entries.length || !told) return;
  const keys = new Set((asked.get("only") || "").split(",").filter(Boolean));
  const exhibit = asked.get("of") && document.getElementById(`of-${asked.get("of")}`);
  const isMeant = (entry) =>
    keys.has(entry.id) || (exhibit && entry.dataset.of.split(" ").includes(exhibit.dataset.number));
  const count = entries.filter(isMeant).length;
  if (!count) return;
  for (const entry of entries) entry.hidden = !isMeant(entry);
  const all = document.createElement("a");
  all.href = location.pathname;
  all.textContent = `Show all ${entries.length}`;
  told.textContent = `${count} of ${entries.length} records are shown. `;
  told.append(all);
  told.hidden = false;
  told.scrollIntoView();
});
