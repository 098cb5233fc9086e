// The sample browser. Samples come from side files that call `surgbench.index` and `surgbench.chunk`
// (bench/report_samples.py); a page opened from disk may load scripts but not fetch. Whatever a model wrote
// becomes a text node, never markup.
"use strict";
const surgbench = (() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const PAGE = 24;
  const byId = id => document.getElementById(id);
  const controls = [...document.querySelectorAll("[data-key]")];
  const list = byId("list"), find = byId("find"), deep = byId("deep"), dialog = byId("opened");
  const chunks = new Map(), waiting = new Map(), texts = [];
  let data = null, matched = [], at = 0, opened = -1, turn = 0;

  function node(tag, properties, ...children) {
    const made = document.createElement(tag);
    Object.assign(made, properties);
    made.append(...children);
    return made;
  }
  function drawn(tag, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }
  const name = (kind, code) => code < 0 ? "" : data.names[kind][code];
  const value = key => { const c = controls.find(c => c.dataset.key === key); return c.type === "checkbox" ? (c.checked ? "yes" : "") : c.value; };
  // The model whose answers the list shows: the chosen one, else the last.
  const shown = () => value("model") === "" ? page.models.length - 1 : Number(value("model"));

  function boxes(text) {
    const number = "(-?\\d+(?:\\.\\d+)?)";
    const found = text.matchAll(new RegExp(`\\(${number},\\s*${number}\\),?\\s*\\(${number},\\s*${number}\\)`, "g"));
    return [...found].map(m => m.slice(1).map(Number));
  }
  function frame(i, models, eager) {
    const s = data.samples, holder = node("span", {className: "frame"}), [width, height] = s.size[i];
    if (s.picture[i] < 0) {
      holder.append(node("span", {className: "none", textContent: "no picture here"}));
      return holder;
    }
    const image = node("img", {alt: `${page.simulated ? "simulated " : ""}frame ${s.frame[i]} of ${name("dataset", s.dataset[i])} ${name("video", s.video[i])}`, width: width || 16, height: height || 9, decoding: "async"});
    const source = `${page.files}/pictures/${String(s.picture[i]).padStart(5, "0")}.jpg`;
    if (eager) image.src = source; else { image.dataset.source = source; seen.observe(image); }
    holder.append(image);
    const found = [[boxes(name("text", s.answer[i])), "truth"]];
    for (const k of models) found.push([boxes(name("text", data.models[k].prediction[i])), k === shown() ? "given" : "other"]);
    if (width && found.some(([b]) => b.length)) {
      const svg = drawn("svg", {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true"});
      for (const [list, kind] of found) for (const [x1, y1, x2, y2] of list)
        svg.append(drawn("rect", {x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1), class: kind}));
      holder.append(svg);
    }
    return holder;
  }
  // Pictures are asked for when they come near the window.
  const seen = new IntersectionObserver(entries => {
    for (const e of entries) if (e.isIntersecting) { e.target.src = e.target.dataset.source; seen.unobserve(e.target); }
  }, {rootMargin: "200px"});

  function verdict(i, k) {
    const m = data.models[k];
    if (m.right[i] < 0) return node("span", {className: "soft", textContent: "not asked"});
    return node("span", {className: `badge ${m.right[i] ? "right" : "wrong"}`, textContent: m.right[i] ? "right" : "wrong"});
  }
  const given = (i, k) => data.models[k].prediction[i] < 0 ? `none (${name("outcome", data.models[k].outcome[i])})` : name("text", data.models[k].prediction[i]);
  const place = i => { const s = data.samples; return `${name("dataset", s.dataset[i])} \u00b7 ${name("video", s.video[i])} \u00b7 frame ${s.frame[i]}`; };
  const task = i => { const s = data.samples, focus = name("text", s.focus[i]); return name("task", s.task[i]).replaceAll("_", " ") + (focus ? `: ${focus}` : ""); };

  function card(i) {
    const k = shown(), text = node("span", {className: "text"});
    text.append(node("span", {}, verdict(i, k), node("span", {className: "soft", textContent: ` ${task(i)}`})));
    text.append(node("span", {className: "soft", textContent: place(i)}));
    if (data.models[k].right[i] >= 0) text.append(node("span", {className: "answer"}, "Answer: ", node("b", {textContent: given(i, k)})));
    text.append(node("span", {className: "answer soft", textContent: `Truth: ${name("text", data.samples.answer[i])}`}));
    const button = node("button", {className: "sample", type: "button"}, frame(i, [k], false), text);
    button.dataset.sample = i;
    return node("li", {}, button);
  }
  function render(focus) {
    const pages = Math.max(1, Math.ceil(matched.length / PAGE)), first = at * PAGE;
    seen.disconnect();
    list.replaceChildren(...matched.slice(first, first + PAGE).map(card));
    byId("count").textContent = `${matched.length.toLocaleString("en")} of ${data.samples.id.length.toLocaleString("en")} samples`;
    byId("paging").textContent = `page ${at + 1} of ${pages}`;
    byId("previous").disabled = at === 0;
    byId("next").disabled = at >= pages - 1;
    document.documentElement.dataset.shown = matched.length;
    if (focus !== undefined) list.querySelectorAll(".sample")[focus]?.focus();
  }
  function move(step) { at = Math.min(Math.max(0, at + step), Math.ceil(matched.length / PAGE) - 1); render(step > 0 ? 0 : undefined); }

  async function apply() {
    const mine = ++turn, s = data.samples, k = shown(), m = data.models[k], words = find.value.trim().toLowerCase();
    const code = Object.fromEntries(["dataset", "task", "centre", "outcome"].map(key => [key, value(key) === "" ? -1 : data.names[key].indexOf(value(key))]));
    const label = value("label") === "" ? -1 : data.names.text.indexOf(value("label")), judged = value("verdict");
    // Repeated texts are searched once, not once per sample.
    const holds = Object.fromEntries(["dataset", "video", "task", "text", "centre"].map(kind => [kind, data.names[kind].map(n => n.toLowerCase().includes(words))]));
    if (words && deep.checked) for (let c = 0; c * data.chunk < s.id.length; c++) {
      byId("count").textContent = `Reading traces, part ${c + 1} of ${Math.ceil(s.id.length / data.chunk)} ...`;
      await chunk(c).catch(() => []);
      if (mine !== turn) return;
    }
    const asked = value("model") !== "" || data.models.length === 1;
    matched = [];
    for (let i = 0; i < s.id.length; i++) {
      if (code.dataset >= 0 && s.dataset[i] !== code.dataset || code.task >= 0 && s.task[i] !== code.task || code.centre >= 0 && s.centre[i] !== code.centre) continue;
      if (asked && m.right[i] < 0) continue;
      if (code.outcome >= 0 && m.outcome[i] !== code.outcome || label >= 0 && !s.labels[i].includes(label)) continue;
      if (judged === "right" && m.right[i] !== 1 || judged === "wrong" && m.right[i] !== 0) continue;
      if (judged === "differ" && new Set(data.models.map(x => x.right[i]).filter(r => r >= 0)).size < 2) continue;
      if (value("inconsistent") && !m.inconsistent[i]) continue;
      if (words && !(holds.dataset[s.dataset[i]] || holds.video[s.video[i]] || holds.task[s.task[i]] || holds.centre[s.centre[i]] || holds.text[s.answer[i]] || holds.text[s.focus[i]]
          || m.prediction[i] >= 0 && holds.text[m.prediction[i]] || s.id[i].includes(words) || String(s.frame[i]) === words || deep.checked && (texts[i] || "").includes(words))) continue;
      matched.push(i);
    }
    at = 0;
    render();
    const parts = controls.filter(c => value(c.dataset.key)).map(c => `${c.dataset.key}=${encodeURIComponent(value(c.dataset.key))}`);
    if (words) parts.push(`find=${encodeURIComponent(find.value.trim())}`);
    if (parts.length || location.hash.includes("=")) history.replaceState(null, "", `#${parts.join("&") || "samples"}`);
  }

  function chunk(number) {
    if (chunks.has(number)) return Promise.resolve(chunks.get(number));
    if (!waiting.has(number)) waiting.set(number, new Promise((resolve, reject) => {
      const script = node("script", {src: `${page.files}/samples/${String(number).padStart(3, "0")}.js`});
      script.onload = () => chunks.has(number) ? resolve(chunks.get(number)) : reject(new Error("empty"));
      script.onerror = () => { waiting.delete(number); reject(new Error("missing")); };
      document.head.append(script);
    }));
    return waiting.get(number);
  }
  async function open(i) {
    opened = i;
    const s = data.samples, body = byId("opened-body");
    byId("opened-title").textContent = `${task(i)} \u00b7 ${place(i)}`;
    body.replaceChildren(node("p", {className: "soft", textContent: "Loading ..."}));
    if (!dialog.open) dialog.showModal();
    const where = matched.indexOf(i);
    byId("back").disabled = where <= 0;
    byId("forward").disabled = where >= matched.length - 1;
    let details;
    try { details = (await chunk(Math.floor(i / data.chunk)))[i % data.chunk]; }
    catch { body.replaceChildren(node("p", {textContent: `The texts are not in ${page.files}/samples. Copy that folder along with the page.`})); return; }
    if (opened !== i) return;
    const facts = node("dl", {});
    const fact = (key, text) => { if (text !== "") facts.append(node("dt", {textContent: key}), node("dd", {textContent: text})); };
    fact("truth", name("text", s.answer[i]));
    fact("centre", name("centre", s.centre[i]));
    for (const [key, text] of Object.entries(details.labels)) fact(key, text);
    fact("sample", s.id[i]);
    const left = node("div", {}, frame(i, page.models.map((_, k) => k), true), node("p", {}, node("b", {textContent: details.question})), facts);
    const right = node("div", {});
    details.answers.forEach((a, k) => {
      if (!a) return;
      const m = data.models[k], box = node("details", {open: k === shown()});
      box.append(node("summary", {}, verdict(i, k), ` ${page.models[k]}: `, node("b", {textContent: given(i, k)}), node("span", {className: "soft small", textContent: ` ${name("outcome", m.outcome[i])}, ${name("rung", m.rung[i])}`})));
      if (m.inconsistent[i]) box.append(node("p", {className: "small"}, node("span", {className: "badge open", textContent: "inconsistent trace"})));
      for (const [level, text] of Object.entries(a.levels)) box.append(node("div", {className: "level"}, node("b", {textContent: `Level ${level}`}), text));
      if (a.text) box.append(node("details", {}, node("summary", {className: "small soft", textContent: "as written"}), node("pre", {textContent: a.text})));
      else if (a.answer !== null) box.append(node("p", {className: "small soft", textContent: `Answer as written: ${a.answer}`}));
      box.append(node("p", {className: "small soft", textContent: Object.entries(a.facts).map(([key, v]) => `${key} ${typeof v === "number" ? +v.toFixed(2) : v}`).join(", ")}));
      right.append(box);
    });
    body.replaceChildren(left, right);
    dialog.scrollTop = 0;
  }
  function step(by) {
    const where = matched.indexOf(opened) + by;
    if (where >= 0 && where < matched.length) open(matched[where]);
  }
  dialog.addEventListener("close", () => {
    const where = matched.indexOf(opened);
    opened = -1;
    if (where < 0) return;
    if (Math.floor(where / PAGE) !== at) { at = Math.floor(where / PAGE); render(where % PAGE); }
    else list.querySelectorAll(".sample")[where % PAGE]?.focus();
  });
  byId("close").addEventListener("click", () => dialog.close());
  byId("back").addEventListener("click", () => step(-1));
  byId("forward").addEventListener("click", () => step(1));
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("clear").addEventListener("click", () => { for (const c of controls) { c.value = ""; c.checked = false; } find.value = ""; labels(); apply(); });
  list.addEventListener("click", e => { const b = e.target.closest(".sample"); if (b) open(Number(b.dataset.sample)); });
  document.addEventListener("keydown", e => {
    if (e.ctrlKey || e.metaKey || e.altKey || !data) return;
    const typing = e.target.closest("input, select, textarea");
    if (e.key === "/" && !typing && !dialog.open) { e.preventDefault(); find.focus(); find.scrollIntoView({block: "center"}); return; }
    if (typing) { if (e.key === "Escape") e.target.blur(); return; }
    if (dialog.open) { if (e.key === "ArrowLeft") step(-1); else if (e.key === "ArrowRight") step(1); else return; e.preventDefault(); return; }
    const cards = [...list.querySelectorAll(".sample")], here = cards.indexOf(document.activeElement);
    if (here < 0) return;
    const columns = Math.max(1, cards.filter(c => c.offsetTop === cards[0].offsetTop).length);
    const by = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[e.key];
    if (by === undefined) return;
    e.preventDefault();
    const to = at * PAGE + here + by;
    if (to < 0 || to >= matched.length) return;
    if (Math.floor(to / PAGE) !== at) { at = Math.floor(to / PAGE); render(to % PAGE); } else cards[here + by].focus();
  });

  function choices(key, entries) {
    const control = controls.find(c => c.dataset.key === key), kept = control.value;
    control.replaceChildren(...entries.map(([v, text]) => node("option", {value: v, textContent: text})));
    control.value = entries.some(([v]) => v === kept) ? kept : "";
  }
  // The labels of the chosen task (and dataset); without a task there would be too many to choose from.
  function labels() {
    const s = data.samples, t = data.names.task.indexOf(value("task")), d = value("dataset") === "" ? -1 : data.names.dataset.indexOf(value("dataset")), found = new Set();
    if (t >= 0) s.labels.forEach((codes, i) => { if (s.task[i] === t && (d < 0 || s.dataset[i] === d)) codes.forEach(c => found.add(c)); });
    choices("label", [["", t < 0 ? "choose a task" : "all"], ...[...found].map(c => data.names.text[c]).sort().map(n => [n, n])]);
    controls.find(c => c.dataset.key === "label").disabled = t < 0;
  }
  function index(loaded) {
    data = loaded;
    choices("model", page.models.length > 1 ? [["", `all (shown: ${page.models.at(-1)})`], ...page.models.map((m, k) => [String(k), m])] : [["", page.models[0]]]);
    choices("verdict", [["", "all"], ["right", "right"], ["wrong", "wrong"], ...(page.models.length > 1 ? [["differ", "right and wrong"]] : [])]);
    for (const key of ["outcome", "dataset", "task", "centre"]) choices(key, [["", "all"], ...[...data.names[key]].sort().map(n => [n, n.replaceAll("_", " ")])]);
    const wanted = new Map(location.hash.slice(1).split("&").filter(p => p.includes("=")).map(p => [p.slice(0, p.indexOf("=")), p.slice(p.indexOf("=") + 1)].map(decodeURIComponent)));
    const set = key => { const c = controls.find(c => c.dataset.key === key); if (wanted.has(key)) { if (c.type === "checkbox") c.checked = true; else c.value = wanted.get(key); } };
    for (const c of controls) if (c.dataset.key !== "label") set(c.dataset.key);
    labels();
    set("label");
    find.value = wanted.get("find") || "";
    for (const c of controls) c.addEventListener("change", () => { if (["task", "dataset"].includes(c.dataset.key)) labels(); apply(); });
    let timer;
    find.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });
    deep.addEventListener("change", apply);
    apply();
    if (wanted.size) byId("samples").scrollIntoView();
    document.documentElement.dataset.ready = performance.now().toFixed(0);
  }
  function chunkLoaded(number, details) {
    chunks.set(number, details);
    details.forEach((d, n) => {
      const parts = d.answers.filter(Boolean).flatMap(a => [...Object.values(a.levels), a.text, a.answer || ""]);
      texts[number * data.chunk + n] = [d.question, ...parts].join("\n").toLowerCase();
    });
  }
  for (const button of document.querySelectorAll("button.more")) button.addEventListener("click", () => {
    const row = byId(button.getAttribute("aria-controls"));
    row.hidden = !row.hidden;
    button.setAttribute("aria-expanded", String(!row.hidden));
  });
  const links = [...document.querySelectorAll("nav.sections a")];
  const spy = new IntersectionObserver(entries => {
    for (const e of entries) if (e.isIntersecting) for (const a of links) {
      const here = a.hash === `#${e.target.id || "top"}`;
      a.classList.toggle("here", here);
      if (here) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
    }
  }, {rootMargin: "-70px 0px -70% 0px"});
  for (const h of document.querySelectorAll("h1, h2[id]")) spy.observe(h);
  return {index, chunk: chunkLoaded, gone: () => { byId("count").textContent = `The samples are not in ${page.files}/samples. Copy that folder along with the page.`; }};
})();
