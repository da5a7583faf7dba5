"use strict";
// Draws the report's charts as SVG from the JSON in the page. No library, no network.
(() => {
  const COLOURS = ["#4269d0", "#e08a00", "#3ca951", "#d64550", "#8f5fd6", "#1f9aa8", "#b05f8b", "#9c6b4e", "#7a8794", "#6b8e23"];
  const WIDTH = 560, HEIGHT = 260, LEFT = 52, RIGHT = 12, TOP = 8, BOTTOM = 30;
  const NS = "http://www.w3.org/2000/svg";
  const errors = [];
  window.addEventListener("error", (event) => report(event.message));
  function report(message) {
    errors.push(String(message));
    document.documentElement.dataset.errors = errors.join("; ");
  }

  function node(name, attributes, text) {
    const element = document.createElementNS(NS, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function html(name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function ticks(low, high, count) {
    const span = high - low || 1;
    const rough = span / count;
    const power = Math.pow(10, Math.floor(Math.log10(rough)));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const result = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) result.push(value);
    return result;
  }

  function label(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 10000) return (value / 1000).toPrecision(3).replace(/\.?0+$/, "") + "k";
    return String(Number(value.toPrecision(3)));
  }

  function frame(low, high, top, height, bottom) {
    const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img" });
    const x = (value) => LEFT + ((value - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - ((value - bottom) / (top - bottom || 1)) * (height - TOP - BOTTOM);
    return { svg, x, y };
  }

  function axes(svg, x, y, xTicks, yTicks, height, percent) {
    for (const value of yTicks) {
      svg.append(node("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
      const text = percent ? `${Math.round(value * 100)}%` : label(value);
      svg.append(node("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, text));
    }
    for (const value of xTicks) {
      svg.append(node("line", { class: "axis", x1: x(value), x2: x(value), y1: height - BOTTOM, y2: height - BOTTOM + 4 }));
      svg.append(node("text", { x: x(value), y: height - BOTTOM + 17, "text-anchor": "middle" }, label(value)));
    }
  }

  function legend(names) {
    const box = html("div", "legend");
    names.forEach((name, index) => {
      const item = html("span", "");
      const mark = html("i", "");
      mark.style.background = COLOURS[index % COLOURS.length];
      item.append(mark, document.createTextNode(name));
      box.append(item);
    });
    return box;
  }

  function figure(parent, title, svg, names) {
    const box = html("figure", "chart");
    box.append(html("figcaption", "", title), svg);
    if (names.length > 1 || names[0]) box.append(legend(names));
    document.getElementById(parent).append(box);
  }

  function extent(values, start) {
    let [low, high] = start;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  function dots(points, x, y) {
    return points.map(([px, py]) => `M${x(px).toFixed(1)},${y(py).toFixed(1)}h0`).join("");
  }

  function path(points, x, y, step) {
    let text = "";
    points.forEach(([px, py], index) => {
      if (index === 0) text = `M${x(px).toFixed(1)},${y(py).toFixed(1)}`;
      else text += (step ? `H${x(px).toFixed(1)}V` : `L${x(px).toFixed(1)},`) + y(py).toFixed(1);
    });
    return text;
  }

  function lines(parent, chart, percent) {
    const all = chart.series.flatMap((series) => series.points);
    const [low, high] = extent(all.map((point) => point[0]), [Infinity, -Infinity]);
    const top = percent ? 1 : extent(all.map((point) => point[1]), [0, 1])[1];
    const { svg, x, y } = frame(parent === "timelines" ? 0 : low, high, top, HEIGHT, 0);
    axes(svg, x, y, ticks(parent === "timelines" ? 0 : low, high, 7), ticks(0, top, 5), HEIGHT, percent);
    chart.series.forEach((series, index) => {
      const shape = chart.dots
        ? { d: dots(series.points, x, y), "stroke-width": 3, "stroke-linecap": "round", "stroke-opacity": 0.6 }
        : { d: path(series.points, x, y, chart.step), "stroke-width": 1.8 };
      const line = node("path", { ...shape, fill: "none", stroke: COLOURS[index % COLOURS.length] });
      line.append(node("title", {}, series.name));
      svg.append(line);
    });
    figure(parent, chart.title, svg, chart.series.map((series) => series.name));
  }

  function stacked(parent, chart) {
    const times = chart.series[0].points.map((point) => point[0]);
    const sums = times.map((_, i) => chart.series.reduce((sum, series) => sum + series.points[i][1], 0));
    const top = chart.share ? 1 : extent(sums, [0, 1])[1];
    const { svg, x, y } = frame(0, times[times.length - 1], top, HEIGHT, 0);
    axes(svg, x, y, ticks(0, times[times.length - 1], 7), ticks(0, top, 5), HEIGHT, chart.share);
    const base = times.map(() => 0);
    chart.series.forEach((series, index) => {
      const upper = series.points.map((point, i) => [point[0], Math.min(top, base[i] + point[1])]);
      const lower = times.map((time, i) => [time, base[i]]).reverse();
      const area = node("path", { d: path(upper, x, y) + path(lower, x, y).replace("M", "L") + "Z", fill: COLOURS[index % COLOURS.length] });
      area.append(node("title", {}, series.name));
      svg.append(area);
      upper.forEach((point, i) => { base[i] = point[1]; });
    });
    figure(parent, chart.title, svg, chart.series.map((series) => series.name));
  }

  function bars(parent, title, rows, names, format) {
    const row = 16, height = TOP + rows.length * (row * names.length + 8) + BOTTOM;
    const high = extent(rows.flatMap((item) => item.values), [0, 1e-9])[1];
    const svg = node("svg", { viewBox: `0 0 900 ${height}`, role: "img" });
    const x = (value) => 110 + (value / high) * 690;
    let top = TOP;
    for (const item of rows) {
      svg.append(node("text", { x: 104, y: top + (row * names.length) / 2 + 4, "text-anchor": "end" }, item.name));
      item.values.forEach((value, index) => {
        svg.append(node("rect", { x: 110, y: top, width: Math.max(0, x(value) - 110), height: row - 3, fill: COLOURS[index % COLOURS.length] }));
        svg.append(node("text", { x: x(value) + 5, y: top + row - 5 }, format(value)));
        top += row;
      });
      top += 8;
    }
    figure(parent, title, svg, names);
  }

  function gantt(chart) {
    const row = 7, height = TOP + chart.rows.length * row + BOTTOM;
    const high = extent(chart.rows.map((item) => item.end), [0, 0])[1];
    const svg = node("svg", { viewBox: `0 0 1100 ${height}`, role: "img" });
    const x = (value) => LEFT + (value / (high || 1)) * (1100 - LEFT - RIGHT);
    for (const value of ticks(0, high, 10)) {
      svg.append(node("line", { class: "axis", x1: x(value), x2: x(value), y1: TOP, y2: height - BOTTOM }));
      svg.append(node("text", { x: x(value), y: height - BOTTOM + 16, "text-anchor": "middle" }, label(value)));
    }
    chart.rows.forEach((item, index) => {
      const top = TOP + index * row;
      const group = node("g", { class: "request" });
      const part = (from, to, colour) => {
        if (from !== null && to !== null && to >= from) group.append(node("rect", { x: x(from), y: top, width: Math.max(0.5, x(to) - x(from)), height: row - 2, fill: colour }));
      };
      if (item.error) part(item.sent, item.end, "#c0341d");
      else { part(item.sent, item.first, COLOURS[1]); part(item.first, item.last, COLOURS[0]); }
      const times = item.first === null ? "" : `, first token after ${((item.first - item.sent) * 1000).toFixed(1)} ms`;
      group.append(node("title", {}, `${item.id}: ${item.tokens[0]} in, ${item.tokens[1]} out${times}${item.error ? ", " + item.error : ""}`));
      svg.append(group);
    });
    const more = chart.left_out ? ` (the first ${chart.rows.length}; ${chart.left_out} left out)` : "";
    figure("gantts", `Requests · ${chart.name}${more}: until the first token, then tokens (virtual s)`, svg, ["decode", "until first token"]);
  }

  function draw() {
    const data = JSON.parse(document.getElementById("data").textContent);
    for (const chart of data.cdfs) if (chart.series.length) lines("cdfs", chart, true);
    for (const chart of data.timelines) chart.stack ? stacked("timelines", chart) : lines("timelines", chart, chart.share);
    if (data.operators.rows.length) bars("operators", "Predicted kernel time during the load (ms)", data.operators.rows, data.operators.names, label);
    else document.getElementById("operators").append(html("p", "", "No virtual GPU took part in this run."));
    for (const item of data.coverage) {
      const rows = item.parts.map((part) => ({ name: part.name, values: [part.value] }));
      bars("coverage", `Where the durations come from · ${item.name}`, rows, [""], (value) => `${(value * 100).toFixed(1)}%`);
    }
    for (const chart of data.gantts) gantt(chart);
    document.documentElement.dataset.charts = String(document.querySelectorAll("figure.chart svg").length);
  }

  try { draw(); } catch (error) { report(error.stack || error); throw error; }
})();
