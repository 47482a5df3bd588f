// What can be told of a page's looks without eyes; evaluated in the page.
(() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\d.]+/g).slice(0, 3).map((part) => {
      const c = part / 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!color.endsWith(", 0)")) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const pale = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own) continue;
    const one = luminance(getComputedStyle(element).color);
    const two = luminance(ground(element));
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (contrast < 4.5) pale.push(`${element.outerHTML.slice(0, 80)}: ${contrast.toFixed(2)}`);
  }
  const missing = (selector, has) =>
    [...document.querySelectorAll(selector)].filter((e) => !has(e)).map((e) => e.outerHTML.slice(0, 80));
  const root = document.documentElement;
  return {
    text: document.body.innerText,
    scripts: document.scripts.length,
    overflow: root.scrollWidth - root.clientWidth,
    wide: [...document.querySelectorAll(".scroll")]
      .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.getAttribute("aria-label")),
    pale,
    nameless: [
      ...missing("table", (e) => e.caption && e.caption.innerText),
      ...missing("svg", (e) => e.getAttribute("aria-label") || e.ariaHidden === "true"),
      ...missing("section", (e) => document.getElementById(e.getAttribute("aria-labelledby"))),
      ...missing("th", (e) => e.scope),
    ],
    lines: [...document.querySelectorAll(".stroke")].map((e) => e.getAttribute("d").length),
    dark: luminance(getComputedStyle(document.body).backgroundColor) < 0.2,
    styled: getComputedStyle(document.querySelector("main")).display === "grid",
  };
})()
