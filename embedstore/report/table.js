// Sorts, filters and folds the main tables. Without it they are plain tables in which every row is shown.
"use strict";
(() => {
  const FEW = 10; // rows that need neither a filter nor a box of their own to scroll in
  const TALL = 60;
  const byName = new Intl.Collator("en", { numeric: true });

  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  // What a head says becomes the name of a button in it.
  const intoButton = (holder, properties = {}) => {
    const button = make("button", { type: "button", ...properties }, ...holder.childNodes);
    holder.append(button);
    return button;
  };

  const read = (body) => {
    const [head, ...rows] = body.rows;
    const model = body.dataset.model;
    return {
      body, head, open: true,
      rows: rows.map((line) => {
        const name = line.cells[0].querySelector("span");
        const label = [...name.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join("");
        name.append(make("small", { className: "of" }, model));
        return { line, label, text: `${model} ${label}`.toLowerCase(), method: line.dataset.method, more: line.classList.contains("more") };
      }),
    };
  };

  class Table {
    constructor(results) {
      this.table = results.querySelector("table.main");
      this.about = results.dataset.about ? `, ${results.dataset.about}` : "";
      this.sections = [...this.table.tBodies].map(read);
      this.rows = this.sections.flatMap((section) => section.rows);
      this.heads = [...this.table.tHead.querySelectorAll("th[data-name]")];
      this.flat = make("tbody", { className: "flat", hidden: true });
      this.table.append(this.flat);
      this.sorted = null;
      this.status = make("p", { className: "status", role: "status" });
      this.heads.forEach((head, index) => {
        const button = intoButton(head);
        this.name(button, head.dataset.name);
        button.addEventListener("click", () => this.sort(index));
      });
      for (const section of this.sections) this.foldable(section);
      this.table.parentElement.classList.toggle("tall", this.rows.length > TALL);
      results.prepend(this.tools(results));
      this.update();
    }

    // In a list of controls nothing else tells the columns and the tables apart.
    name(control, text) {
      control.setAttribute("aria-label", `${text}${this.about}`);
    }

    labelled(text, control) {
      this.name(control, text);
      return make("label", {}, text, control);
    }

    tools(results) {
      const bar = make("div", { className: "table-tools" });
      this.filter = make("input", { type: "search", autocomplete: "off", placeholder: "model or method" });
      this.filter.addEventListener("input", () => this.narrow());
      const methods = [...new Set(this.rows.map((row) => row.method))];
      this.method = make("select", { autocomplete: "off" }, new Option("all", ""), ...methods.map((name) => new Option(name, `=${name}`)));
      this.method.addEventListener("change", () => this.narrow());
      if (this.rows.length > FEW) bar.append(this.labelled("Filter", this.filter), this.labelled("Method", this.method));
      this.all = make("input", { type: "checkbox", autocomplete: "off" });
      this.all.addEventListener("change", () => this.update());
      this.name(this.all, "Show all scores");
      if (this.rows.some((row) => row.more)) bar.append(make("label", {}, this.all, " Show all scores"));
      const intervals = results.querySelector(".show-intervals")?.closest(".control");
      if (intervals) bar.append(...intervals.childNodes);
      intervals?.remove();
      this.fold = make("button", { type: "button" });
      this.fold.addEventListener("click", () => this.foldAll(this.sections.some((section) => section.open)));
      this.group = make("button", { type: "button" }, "Group by model");
      this.name(this.group, this.group.textContent);
      this.group.addEventListener("click", () => this.arrange(null));
      bar.append(...(this.sections.length > 1 ? [this.fold] : []), this.group, this.status);
      return bar;
    }

    foldable(section) {
      section.button = intoButton(section.head.querySelector("span"));
      this.name(section.button, section.body.dataset.model);
      section.button.addEventListener("click", () => {
        section.open = !section.open;
        this.update();
      });
    }

    foldAll(closed) {
      for (const section of this.sections) section.open = !closed;
      this.update();
    }

    // What is looked for must not stay out of sight in a model that is collapsed.
    narrow() {
      this.foldAll(false);
    }

    // Best first; the second time worst first.
    sort(index) {
      this.arrange({ index, reversed: this.sorted?.index === index && !this.sorted.reversed });
    }

    arrange(sorted) {
      // The button that was pressed is about to go, and the keyboard's place with it.
      if (sorted === null) this.heads[0].querySelector("button").focus();
      this.sorted = sorted;
      for (const section of this.sections) {
        section.body.append(...section.rows.map((row) => row.line));
        section.body.hidden = sorted !== null;
      }
      this.flat.hidden = sorted === null;
      if (sorted !== null) this.flat.append(...this.inOrder(sorted).map((row) => row.line));
      this.heads.forEach((head, index) => {
        if (index === sorted?.index) head.setAttribute("aria-sort", this.rising(sorted) ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      this.table.parentElement.scrollTop = 0;
      this.update();
    }

    rising({ index, reversed }) {
      return (this.heads[index].dataset.best === "highest") === reversed;
    }

    inOrder({ index, reversed }) {
      const sign = reversed ? -1 : 1;
      if (index === 0) return [...this.rows].sort((a, b) => sign * byName.compare(a.label, b.label));
      const place = (row) => row.line.cells[index].dataset.place;
      const known = this.rows.filter((row) => place(row) !== undefined);
      // Rows without a value come last, whichever end is first.
      return [...known.sort((a, b) => sign * (place(a) - place(b))), ...this.rows.filter((row) => place(row) === undefined)];
    }

    update() {
      const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const method = this.method.value;
      const counts = { shown: 0, more: 0, folded: 0 };
      for (const section of this.sections) {
        const found = section.rows.filter((row) => {
          const fits = (!method || method === `=${row.method}`) && words.every((word) => row.text.includes(word));
          const hidden = row.more && !this.all.checked;
          counts.more += fits && hidden;
          return fits && !hidden;
        });
        const visible = this.sorted || section.open ? found : [];
        counts.shown += visible.length;
        counts.folded += found.length - visible.length;
        for (const row of section.rows) row.line.classList.toggle("off", !visible.includes(row));
        section.head.classList.toggle("off", found.length === 0);
        section.button.setAttribute("aria-expanded", section.open);
      }
      // With one row a method, there is nothing to set apart.
      this.table.classList.toggle("brief", !this.all.checked && this.rows.some((row) => row.more));
      this.group.hidden = this.sorted === null;
      this.fold.hidden = this.sorted !== null;
      this.fold.textContent = this.sections.some((section) => section.open) ? "Collapse all" : "Expand all";
      this.name(this.fold, this.fold.textContent);
      this.status.textContent = this.said(counts);
    }

    said({ shown, more, folded }) {
      const head = this.sorted && this.heads[this.sorted.index].dataset;
      const order = !head ? "" : head.best === undefined
        ? `, sorted by ${head.name}`
        : `, sorted by ${head.name}, ${this.rising(this.sorted) ? "lowest" : "highest"} first`;
      const others = [...(folded ? [`${folded} in collapsed models`] : []), ...(more ? [`${more} with a lower mean AUROC than another score of the same method`] : [])];
      return `${shown} of ${this.rows.length} rows${order}.${others.length ? ` Not shown: ${others.join(", ")}.` : ""}`;
    }
  }

  for (const results of document.querySelectorAll(".results")) new Table(results);
})();
