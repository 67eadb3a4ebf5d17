"""The frame (for ``str.format``) and the style of the report."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

STYLE = """
body { margin: 0 auto; max-width: 1120px; padding: 1rem; background: #fff; color: #1c1c1c;
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.35rem; margin-top: 2.5rem; border-bottom: 2px solid #0072b2; }
h3 { font-size: 1.1rem; margin-top: 1.5rem; }
.scroll { overflow-x: auto; background:
  linear-gradient(90deg, #fff 30%, #fff0), linear-gradient(90deg, #fff0, #fff 70%) 100% 0,
  linear-gradient(90deg, #0004, #0000), linear-gradient(90deg, #0000, #0004) 100% 0;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll;
  background-size: 40px 100%, 40px 100%, 10px 100%, 10px 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #d9d9d9; }
th[scope=row] { font-weight: 400; color: #444; min-width: 5em; }
td:not(.number) { overflow-wrap: anywhere; }
th.number, td.number { text-align: right; padding-left: .75rem; }
th.number { overflow-wrap: anywhere; min-width: 4em; }
figure { margin: 1rem 0; }
figure img { display: block; width: 100%; height: auto; }
.wide img { max-width: var(--w); }
figcaption { color: #444; font-size: .9rem; }
h4 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
.row { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.row figure { margin: .5rem 0; }
figure.half { flex: 1 1 420px; max-width: 552px; }
figure.tile { flex: 1 1 300px; max-width: 520px; }
figure.thumb { flex: 1 1 130px; max-width: 208px; overflow-wrap: anywhere; }
ul.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; margin: .25rem 0;
  list-style: none; font-size: .9rem; }
.legend span { display: inline-block; width: .9em; height: .9em; margin-right: .35em;
  border: 1px solid #555; vertical-align: -.1em; }
details p { font-size: .9rem; }
.missing { color: #555; font-style: italic; }
.data { color: #555; font-size: .85rem; overflow-wrap: anywhere; }
.note, .warning { padding: .5rem .75rem; border-left: 4px solid #0072b2; background: #f2f7fb; }
.warning { border-color: #d55e00; background: #fdf3ec; font-weight: 600; }
@media screen and (max-width: 720px) {
  .wide img { width: min(680px, var(--w)); max-width: none; }
  .wide figcaption::after { content: " (Wide: scroll it sideways.)"; color: #555; }
}
@media (max-width: 480px) { table { font-size: .875rem; } body { padding: .75rem; } }
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  .scroll { overflow: visible; background: none; }
  .wide img { width: 100%; max-width: var(--w); }
  figure.half { flex: 0 1 48%; max-width: 48%; }
  figure.tile { flex: 0 1 31%; }
  figure, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  .legend span { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  article + article { break-before: page; }
}
"""
