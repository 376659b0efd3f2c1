// What a server answers, in files: a list's filters, search, order and pages, and the neighbours of a selection.
// list.js holds what view/find.py chooses by; here is what find.py does, and SQLite's bm25 for the order of matches.
(() => {
  const one = query => document.querySelector(query), all = query => [...document.querySelectorAll(query)];
  const made = (tag, told, ...inside) => {
    const element = Object.assign(document.createElement(tag), told);
    element.append(...inside);
    return element;
  };
  const number = count => `${count}`.replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const plural = count => `${number(count)} ${count === 1 ? "feature" : "features"}`;
  const NAMES = ["q", "condition", "status", "category", "route", "verbalizer", "trust", "least", "flagged", "kind", "sort", "by", "page"];
  const told = asked => {
    const all = new URLSearchParams(asked), found = new URLSearchParams();
    const last = name => all.getAll(name).at(-1) ?? "";
    all.set("q", [...last("q").split(/[\s\0]+/).filter(Boolean).join(" ")].slice(0, 300).join(""));
    if (last("page") === "1") all.delete("page");
    NAMES.filter(last).forEach(name => found.set(name, last(name)));
    return found;
  };
  const at = (place, asked) => `${place}${asked.size ? "?" : ""}${asked}`;

  // Words as the index cuts them (bundle.py).
  const cutter = ({ parts, goes, letters }) => {
    const stand = new Map(), pairs = [...letters];
    for (let k = 0; k < pairs.length; k += 2) stand.set(pairs[k], pairs[k + 1]);
    const among = (ranges, code) => ranges.some(([first, last]) => first <= code && code <= last);
    const cut = one => among(parts, one.codePointAt(0)) ? " " : among(goes, one.codePointAt(0)) ? "" : one;
    return text => [...text].map(one => stand.get(one) ?? cut(one)).join("").split(" ").filter(Boolean).join(" ");
  };
  // Each word as it is looked for in texts whose words stand between single blanks.
  const wanted = (held, text) => {
    const folded = cutter(held.cut);
    return [...text.matchAll(/"([^"]*)"|(\S+)/g)].slice(0, 24).map(([, exact, bare]) => {
      const said = (exact ?? bare).replaceAll('"', " ").trim(), words = /[\p{L}\p{N}]/u.test(said) && folded(said);
      return words && ` ${words}${exact === undefined && [...said].length > 2 ? "" : " "}`;
    }).filter(Boolean);
  };
  const times = (text, word) => {
    let count = 0, from = ` ${text} `.indexOf(word);
    for (const padded = ` ${text} `; from >= 0; from = padded.indexOf(word, from + 1)) count += 1;
    return count;
  };
  // By feature, how well it fits the words; of one condition's texts where one is asked for.
  const matches = (held, words, condition) => {
    const column = held.conditions.indexOf(condition), found = [];
    for (const [n, , , size, , names, ...texts] of held.words) {
      const read = condition ? [texts[column]] : texts;
      const often = words.map(word => 8 * times(names, word) + read.reduce((sum, text) => sum + times(text, word), 0));
      found.push({ n, size, often });
    }
    const mean = found.reduce((sum, row) => sum + row.size, 0) / found.length;
    const weights = words.map((_, k) => {
      const hits = found.filter(row => row.often[k]).length;
      return Math.max(Math.log((found.length - hits + 0.5) / (hits + 0.5)), 1e-6);
    });
    const fit = row => row.often.reduce(
      (sum, often, k) => sum + weights[k] * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * row.size / mean)), 0);
    return new Map(found.filter(row => row.often.every(Boolean)).map(row => [row.n, fit(row)]));
  };

  // What no list of this run answers, in words; "" where there is nothing.
  const odd = (held, asked) => {
    const form = { least: /^(0?\.\d{1,3}|0|1|1\.0{1,3}|0\.)$/, page: /^[1-9]\d{0,6}$/ };
    const name = NAMES.find(one => asked.get(one)
      && (held.known[one] ? !held.known[one].includes(asked.get(one)) : form[one] && !form[one].test(asked.get(one))));
    if (name === "by") return "files are searched for words; dragoman view searches a run by meaning";
    return name ? `${name} “${asked.get(name).slice(0, 60)}” is none of this list` : "";
  };
  // The features of a selection in its order, by their numbers, and what should be known of it.
  const chosen = (held, asked) => {
    const wrong = odd(held, asked);
    if (wrong) return { numbers: [], note: wrong };
    const get = name => asked.get(name) ?? "", condition = get("condition");
    const columns = held.columns[condition ? held.conditions.indexOf(condition) + 1 : 0];
    const words = wanted(held, get("q")), found = get("q") ? matches(held, words, condition) : null;
    if (found && !words.length) return { numbers: [], note: "there is no word to look for in this" };
    const trust = get("trust"), least = get("least");
    const left = columns.feature.map((n, k) => ({ n, k })).filter(({ n, k }) =>
      (condition || columns.control[k] === +(get("kind") === "controls"))
      && ["status", "category"].every(name => !get(name) || columns[name][k] === get(name))
      && ["route", "verbalizer"].every(name => !get(name) || columns[`${name}s`][k].includes(held[`${name}s`].indexOf(get(name))))
      && (!trust || (trust === "none" ? columns.answered[k] === null : columns.answered[k] === +(trust === "answered")))
      && (!least || (columns.confidence[k] !== null && columns.confidence[k] >= +least))
      && (!get("flagged") || columns.flagged[k])
      && (!found || found.has(n)));
    const asks = get("sort") || (found ? "match" : "run"), many = asks === "match" && found?.size > held.ranked;
    const order = many ? "run" : asks, [column, largest] = held.orders[order] ?? ["", true];
    const value = column ? ({ k }) => columns[column][k] : order === "match" && found ? ({ n }) => found.get(n) : () => 0;
    const known = left.filter(row => value(row) !== null), unknown = left.filter(row => value(row) === null);
    known.sort((a, b) => largest ? value(b) - value(a) : value(a) - value(b));
    const cut = found ? held.words.filter(([, , , , whole]) => !whole).length : 0;
    const note = cut ? `of ${plural(cut)} only the first ${number(held.longest)} characters of a text are searched` : "";
    return { numbers: [...known, ...unknown].map(({ n }) => n), note: [many && held.unranked, note].filter(Boolean).join("; ") };
  };

  const load = (file, then) => {
    const script = made("script", { src: file });
    script.addEventListener("load", then);
    document.head.append(script);
  };
  // A selection as the server's tables have it, byte for byte (exports/tables.py). A cell is text, a truth, nothing, or
  // a number or a list as it is written.
  const csvCell = cell => {
    if (cell === null) return "";
    const text = typeof cell === "string" ? (/^[=+\-@\t\r]/.test(cell) ? "'" : "") + cell.replaceAll("\0", "\ufffd")
      : Array.isArray(cell) ? cell[0] === "[]" ? "" : cell[0] : `${cell}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const KINDS = {
    csv: ["text/csv;charset=utf-8", (columns, rows) => [columns, ...rows].map(row => `${row.map(csvCell).join(",")}\r\n`)],
    jsonl: ["application/jsonl;charset=utf-8", (columns, rows) => rows.map(row => `{${columns.map((name, k) =>
      `${JSON.stringify(name)}: ${Array.isArray(row[k]) ? row[k][0] : JSON.stringify(row[k])}`).join(", ")}}\n`)],
  };
  const keep = (held, asked, kind) => {
    if (!globalThis.tables) return load("tables.js", () => keep(held, asked, kind));
    const { columns, rows } = globalThis.tables, condition = held.conditions.indexOf(asked.get("condition") ?? ""), own = new Map();
    for (const [n, of, ...cells] of rows) {
      if (!own.has(n)) own.set(n, []);
      if (condition < 0 || of === condition) own.get(n).push(cells);
    }
    const [type, as] = KINDS[kind], some = chosen(held, asked).numbers.flatMap(n => own.get(n) ?? []);
    const href = URL.createObjectURL(new Blob(as(columns, some), { type }));
    made("a", { href, download: `${held.called}${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  };

  // --- the list
  const form = one("#finder"), results = one("#results");
  const list = held => {
    const heads = all(".lines li"), shown = new Map();
    held.columns[0].feature.filter((_, k) => !held.columns[0].control[k]).forEach((n, k) => shown.set(n, heads[k]));
    const line = (n, condition) => {
      if (!condition && shown.has(n)) return shown.get(n);
      const lid = document.createElement("template");
      lid.innerHTML = held.lines[held.conditions.indexOf(condition) + 1][n]; // every word of it was escaped when it was written
      return lid.content.querySelector("li");
    };
    const other = one(".send"), commands = all(".send .typed").map(code => [code, code.textContent]);
    const quoted = text => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
    const fields = all("#finder :is(select, input)");
    const fill = asked => fields.forEach(field => { field.value = asked.get(field.name) ?? ""; });
    const show = asked => {
      const { numbers, note } = chosen(held, asked), condition = asked.get("condition") ?? "";
      const page = +(asked.get("page") ?? 1) || 1, pages = Math.max(1, Math.ceil(numbers.length / held.page));
      const some = numbers.slice(held.page * (page - 1), held.page * page), query = new URLSearchParams(asked);
      query.delete("page");
      const narrowed = [...query.keys()].some(name => name !== "sort" && name !== "kind");
      const of = narrowed ? ` of ${number(asked.get("kind") ? held.controls : held.features)}` : "";
      const link = (words, to, rel = "") => made("a", { href: to, rel }, words);
      const count = made("p", { className: "count" }, made("output", {}, `${plural(numbers.length)}${of}`));
      if (note) count.append(made("span", { className: "note" }, note));
      if (narrowed) count.append(link("clear", "features.html"));
      const lines = made("ol", { className: "lines", start: held.page * (page - 1) + 1 });
      for (const n of some) {
        const item = line(n, condition), to = item.querySelector(".what");
        to.href = at(to.getAttribute("href").split("?")[0], asked);
        lines.append(item);
      }
      if (some.length) {
        const kinds = ["csv", "jsonl"].map(kind => {
          const button = made("button", { type: "button" }, kind.toUpperCase());
          button.addEventListener("click", () => keep(held, asked, kind));
          return button;
        });
        count.append(made("span", { className: "tables" }, "as ", ...kinds));
      }
      results.replaceChildren(count);
      if (some.length && (condition ? held.exported.includes(condition) : !asked.get("kind"))) {
        for (const [code, command] of commands) code.textContent = command + (condition && ` --condition ${quoted(condition)}`);
        results.append(other);
      }
      if (!some.length) results.append(made("p", { className: "nobody" }, numbers.length ? `There is no page ${page}.` : "Nothing fits. Words are found as they stand, or as the beginning of a word."));
      results.append(lines);
      if (pages > 1) {
        const go = (words, to, rel) => {
          const next = new URLSearchParams(query);
          if (to > 1) next.set("page", to);
          return to < 1 || to > pages ? made("span", {}) : link(words, at("features.html", next), rel);
        };
        const nav = made("nav", { className: "pages", ariaLabel: "Pages" });
        nav.append(go("previous", page - 1, "prev"), made("span", {}, `page ${page} of ${pages}`), go("next", page + 1, "next"));
        results.append(nav);
      }
    };
    const move = (asked, typed) => {
      if (!typed) fill(asked);
      const to = at("features.html", asked);
      try {
        if (to !== `features.html${location.search}`) history.pushState(null, "", to);
      } catch { /* a browser that gives files one address only: the list changes all the same */ }
      show(asked);
    };
    let waiting = 0;
    const soon = wait => {
      clearTimeout(waiting);
      waiting = setTimeout(() => move(told(new FormData(form)), true), wait);
    };
    form.addEventListener("input", event => soon(event.target.type === "search" ? 120 : 0));
    form.addEventListener("submit", event => { event.preventDefault(); soon(0); });
    results.addEventListener("click", event => {
      const link = event.target.closest("a:not(.what)");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      move(told(new URL(link.href).search));
      scrollTo(0, 0);
    });
    const arrive = () => { fill(told(location.search)); show(told(location.search)); };
    addEventListener("popstate", arrive);
    arrive();
  };

  // --- a feature that was opened from a selection
  const walk = (held, asked) => {
    const { numbers } = chosen(held, asked), known = new Map(held.words.map(([n, file, id]) => [n, { file, id }]));
    const here = decodeURIComponent(location.pathname.split("/").pop()), k = numbers.findIndex(n => known.get(n).file === here);
    for (const nav of all(".around")) {
      nav.ariaLabel = "Neighbours in the selection";
      const link = (n, rel, words) => n === undefined
        ? made("span", {}) : made("a", { rel, href: at(known.get(n).file, asked) }, words(known.get(n).id));
      const up = made("a", { className: "up", href: at("features.html", asked) }, "back to the selection");
      if (k >= 0) nav.replaceChildren(link(numbers[k - 1], "prev", id => `← ${id}`), up, link(numbers[k + 1], "next", id => `${id} →`));
      else nav.querySelector(".up").replaceWith(up);
    }
    all("main :is(a[href^=feature-], a[href^=nth-])").forEach(link => { link.href = at(link.getAttribute("href").split("?")[0], asked); });
  };

  const asked = told(location.search);
  if (form) list(globalThis.held);
  else if (one(".around") && asked.size) load("list.js", () => walk(globalThis.held, asked));
})();
