// Draws the report's charts, in the colours of the day or of the night.

const charts = document.getElementById("charts").textContent;
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 720px)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(own) {
  const grid = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") };
  return { ...grid, ...own, title: { ...own.title, font: { size: 13, color: colour("--soft") } } };
}

function draw() {
  const coloured = charts.replace(/"(--[a-z]+)"/g, (_, name) => JSON.stringify(colour(name)));
  for (const [id, { data, layout }] of Object.entries(JSON.parse(coloured))) {
    const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
    const whole = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: narrow.matches ? 12 : 13, family: "system-ui, sans-serif" },
      margin: { t: layout.title ? 44 : 28, r: 12, b: layout.showlegend === false ? 52 : 84, l: 12 },
      legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" },
      dragmode: false,
      ...layout,
      ...Object.fromEntries(axes.map((key) => [key, axis(layout[key])])),
    };
    Plotly.react(id, data, whole, { responsive: true, displayModeBar: false });
  }
}

draw();
dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
