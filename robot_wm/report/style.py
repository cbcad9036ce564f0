"""The page's style sheet."""

CSS = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1d232c; --dim: #5c6673;
  --rule: #d5dae1; --track: #e8ebf0; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --ink: #e4e8ee; --dim: #9aa4b2;
  --rule: #3a414c; --track: #2a303a; --card: #1c2027; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .4rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
section { margin-top: 2.75rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
.headline { font-size: 1.1rem; margin: .3rem 0; }
.how { color: var(--dim); max-width: 46rem; margin: 0 0 1.1rem; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; border-bottom: 1px solid var(--rule); }
thead th { color: var(--dim); font-weight: 500; font-size: .83rem; line-height: 1.25;
  vertical-align: bottom; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.success { width: 100%; }
.success td { white-space: nowrap; }
.success .ours td { background: var(--card); }
.success td:first-child, .success th:first-child { padding-left: .5rem; }
.axis { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums; }
.role { color: var(--dim); font-size: .8rem; margin-left: .25rem; }
.chip { display: inline-block; width: .75em; height: .75em; border-radius: 2px;
  margin-right: .5em; }
.chip.dot { border-radius: 50%; background: #ff5a4f; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: 0 0 .5rem;
  font-size: .92rem; }
.glyph { display: inline-block; min-width: 1.2em; font-weight: 700; }
.bar { display: block; }
.plot { display: block; width: 100%; max-width: 46rem; min-width: 26rem; height: auto; }
.plot text { font-family: inherit !important; }
.cards { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill,
  minmax(min(100%, 18rem), 1fr)); }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.cards .plot { min-width: 0; }
figure { margin: 0; }
figcaption { font-size: .88rem; color: var(--dim); margin-top: .35rem; overflow-wrap: anywhere; }
figcaption strong { color: var(--ink); font-weight: 600; }
video { display: block; width: 100%; height: auto; border-radius: 6px; background: #20242c; }
.settings { width: 100%; table-layout: fixed; }
.settings th { width: 34%; font-weight: 500; color: var(--dim); vertical-align: top; }
.settings td { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  font-size: .85rem; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--dim); font-size: .88rem; }
"""
