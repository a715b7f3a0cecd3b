"use strict";
for (const table of document.querySelectorAll("table.board")) {
  const heads = table.querySelectorAll("th[data-first]");
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const order = now === "none" ? head.dataset.first : now === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.setAttribute("aria-sort", other === head ? order : "none");
      const column = Number(head.dataset.column);
      const value = (body) => body.rows[0].cells[column].dataset.v ?? "";
      const sign = order === "ascending" ? 1 : -1;
      const text = head.dataset.kind === "text";
      // Missing values stay last in both directions.
      const bodies = [...table.tBodies].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (text ? x.localeCompare(y) : Number(x) - Number(y));
      });
      table.append(...bodies);
    });
  }
}
for (const box of document.querySelectorAll(".scroll")) {
  const hint = box.previousElementSibling;
  const mark = () => {
    const wider = box.scrollWidth > box.clientWidth + 1;
    if (hint?.classList.contains("hint")) hint.hidden = !wider;
    box.classList.toggle("more", wider && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  box.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(box);
}
const button = document.querySelector(".theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const show = () => {
  const theme = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
};
button.addEventListener("click", () => {
  document.documentElement.dataset.theme = button.textContent === "Dark" ? "dark" : "light";
  show();
});
dark.addEventListener("change", show);
button.hidden = false;
show();
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
