"""How the page looks: one theme with fonts of the machine, and the few styles that gradio's parts lack."""

from gradio.themes import Base, colors, sizes

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

THEME = Base(
    primary_hue=colors.teal,
    neutral_hue=colors.slate,
    radius_size=sizes.radius_lg,
    text_size=sizes.text_md,
    font=FONT,  # fonts of the machine: a page without requests to anybody else
    font_mono=MONO,
).set(
    # Teal 700 on white and teal 300 on slate 950 have a contrast above 4.5 (WCAG 2.2, 1.4.3).
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
    button_primary_text_color_dark="white",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    block_title_text_weight="600",
)

CSS = """
.gradio-container {max-width: min(1120px, 100vw) !important; width: 100%; margin: 0 auto !important}
.gradio-container .main {min-width: 0; max-width: 100%}
@media (max-width: 640px) {.gradio-container .main > .wrap {padding: .5rem !important}}
button[role=tab].selected {color: var(--primary-700)}
.dark button[role=tab].selected {color: var(--primary-300)}
#head h1 {font-size: 1.75rem; font-weight: 700; letter-spacing: -.02em; margin: .5rem 0 .15rem}
#head p {color: var(--body-text-color-subdued); margin: 0 0 .5rem; max-width: 46rem}
.note, .note p {color: var(--body-text-color-subdued); font-size: var(--text-sm)}
:focus-visible {outline: 3px solid var(--primary-500) !important; outline-offset: 2px}

.player audio, .player video {width: 100%; max-height: 22rem; border-radius: var(--radius-lg)}
.player figure {margin: .5rem 0 0}
.player svg {display: block; width: 100%; height: 110px; cursor: pointer; border-radius: var(--radius-lg);
  background: var(--background-fill-secondary)}
.player svg .wave {fill: var(--primary-600)}
.player svg .at {stroke: var(--body-text-color); stroke-width: 1.5; vector-effect: non-scaling-stroke}
.player figcaption {color: var(--body-text-color-subdued); font-size: var(--text-sm); display: flex; gap: 1rem;
  flex-wrap: wrap; padding: .25rem 0}
.player figcaption i {display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em}
.sure {fill: #0f766e; background: #0f766e}
.fair {fill: #b45309; background: #b45309}
.unsure {fill: #be123c; background: #be123c}
.dark .sure {fill: #2dd4bf; background: #2dd4bf}
.dark .fair {fill: #fbbf24; background: #fbbf24}
.dark .unsure {fill: #fb7185; background: #fb7185}
.cues {list-style: none; padding: 0; margin: .75rem 0 0; max-height: 24rem; overflow-y: auto}
.cues li {display: flex; gap: .75rem; align-items: baseline; padding: .2rem .25rem; border-radius: var(--radius-sm);
  margin: 0}
.cues button {font-family: var(--font-mono); font-size: var(--text-sm); color: var(--body-text-color-subdued);
  background: none; border: 0; padding: .1rem .25rem; cursor: pointer; border-radius: var(--radius-sm)}
.cues button:hover {color: var(--body-text-color); text-decoration: underline}
.cues .w {cursor: pointer; border-radius: 3px; padding: 0 .1em}
.cues .w.unsure-word {text-decoration: underline dotted 2px; text-underline-offset: 3px}
.cues .w.now {background: var(--primary-200); color: #042f2e}

.live-controls {display: flex; gap: .75rem 1rem; align-items: center; flex-wrap: wrap; margin-bottom: .75rem}
.live-controls [data-part=status] {color: var(--body-text-color-subdued); font-size: var(--text-sm)}
.live-button {min-width: 7rem; padding: .6rem 1.2rem; border: 0; border-radius: var(--radius-lg); cursor: pointer;
  background: var(--button-primary-background-fill); color: white; font-weight: 600; font-size: var(--text-md)}
.live-button[aria-pressed=true] {background: #be123c}
.live-button:disabled {opacity: .6; cursor: wait}
.live {font-size: 1.35rem; line-height: 1.55; min-height: 12rem; max-height: 26rem; overflow-y: auto; padding: 1rem;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--background-fill-primary)}
.live p {font-size: inherit; margin: 0}
.live .partial, .live .waiting {color: var(--body-text-color-subdued)}
.live .waiting {font-size: 1rem}
.live-files {margin-top: .5rem; font-size: var(--text-sm)}
.live-files a {margin-left: .5rem; color: var(--primary-700); text-decoration: underline}
.dark .live-files a {color: var(--primary-300)}
.spectrogram {width: 100%; border-radius: var(--radius-lg)}
.figures {display: flex; gap: 1.5rem; flex-wrap: wrap; color: var(--body-text-color-subdued);
  font-size: var(--text-sm); margin: .5rem 0 0}
.figures b {color: var(--body-text-color); font-variant-numeric: tabular-nums}
@media (prefers-reduced-motion: reduce) {* {animation: none !important; transition: none !important}}
"""
