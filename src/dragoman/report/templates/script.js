(() => {
  const finder = document.querySelector(".finder");
  if (!finder) return;
  const cards = [...document.querySelectorAll("article.feature")];
  const [box, shown, all] = ["input", "output", "button"].map(name => finder.querySelector(name));
  const choices = [...finder.querySelectorAll("select")];
  const lids = card => card.firstElementChild;
  let texts;
  const apply = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) texts ??= cards.map(card => card.textContent.toLowerCase());
    const fits = (card, k) => words.every(word => texts[k].includes(word))
      && choices.every(({ name, value }) => !value || `|${card.dataset[name] ?? ""}|`.includes(`|${value}|`));
    let count = 0;
    cards.forEach((card, k) => { card.hidden = !fits(card, k); count += !card.hidden; });
    shown.textContent = `${count} of ${cards.length}`;
  };
  const reveal = () => {
    const card = document.getElementById(location.hash.slice(1));
    if (!card || !card.matches("article.feature")) return;
    if (card.hidden) { for (const field of [box, ...choices]) field.value = ""; apply(); }
    lids(card).open = true;
    card.scrollIntoView();
  };
  finder.hidden = false;
  finder.addEventListener("input", apply);
  addEventListener("hashchange", reveal);
  addEventListener("click", event => { if (event.target.closest("a[href^='#']")) setTimeout(reveal); });
  all.addEventListener("click", () => {
    const open = !cards.some(card => !card.hidden && lids(card).open && card !== cards[0]);
    cards.forEach(card => { if (!card.hidden) lids(card).open = open; });
  });
  let closed = [];
  addEventListener("beforeprint", () => { closed = cards.map(lids).filter(lid => !lid.open); closed.forEach(lid => lid.open = true); });
  addEventListener("afterprint", () => closed.forEach(lid => lid.open = false));
  apply();
  reveal();
})();
