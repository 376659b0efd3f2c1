// Keys, the mark of differing words, filters folded on narrow screens.
(() => {
  const one = query => document.querySelector(query), all = query => [...document.querySelectorAll(query)];
  const go = query => { const link = one(query); if (link) { link.click(); return true; } return false; };
  const dialog = one("#keys"), button = one("button.keys");
  const ask = () => { if (!dialog.open) dialog.showModal(); };
  if (button) { button.hidden = false; button.addEventListener("click", ask); }

  const step = by => {
    const links = all(".lines .what").filter(link => link.offsetParent);
    if (!links.length) return go(by > 0 ? '.around a[rel="next"]' : '.around a[rel="prev"]');
    const at = links.indexOf(document.activeElement);
    const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1)];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    return true;
  };
  const search = () => {
    const box = one('#finder input[name="q"]') ?? one(".quick input") ?? one(".find input");
    if (!box) return false;
    box.focus();
    box.select();
    return true;
  };
  const differ = one("#differ");
  const mark = () => document.body.classList.toggle("plainly", !differ.checked);
  if (differ) { differ.closest("label").hidden = false; differ.addEventListener("change", mark); }
  const keys = {
    "/": search, "?": () => { ask(); return true; }, j: () => step(1), k: () => step(-1),
    n: () => go('.pages a[rel="next"]'), p: () => go('.pages a[rel="prev"]'),
    l: () => go(".around a.up") || go('header.bar nav a[href*="features"]'),
    o: () => go('header.bar nav a:not([href*="features"])'),
    d: () => { if (differ) { differ.checked = !differ.checked; mark(); } return !!differ; },
  };
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog?.open) return;
    const field = event.target.closest?.("input, select, textarea");
    const typing = field && field.type !== "checkbox" && field.type !== "radio";
    if (typing) {
      if (event.key === "Escape") field.blur();
      else if (event.key === "ArrowDown" && field.type === "search" && step(1)) event.preventDefault();
      return;
    }
    if (Object.hasOwn(keys, event.key) && keys[event.key]()) event.preventDefault();
  });

  const filters = one("details.filters");
  if (filters && matchMedia("(max-width: 47.99rem)").matches) filters.open = false;
  addEventListener("beforeprint", () => all("main details:not(.filters, .acts, .send)").forEach(lid => { lid.open = true; }));
})();
