/*
 * Self-contained report pages: one HTML file with its style and script inside, no network, no framework; light and
 * dark, printable, usable with the keyboard. Bars are HTML, so that a page reads without its script too.
 */
#ifndef PI0_PROFILE_PAGE_H
#define PI0_PROFILE_PAGE_H

#include "base/text.h"

/* Everything up to and including the heading. Texts are escaped. subtitle may be NULL. */
void page_begin(text_buffer *page, const char *title, const char *subtitle);
/* The script and the end. */
void page_end(text_buffer *page);

/* Text with &, <, > and quotes escaped, control characters as spaces; cut after `limit` bytes with "..." (0: never). */
void page_text(text_buffer *page, const char *text, size_t limit);

/* A titled section; id is its anchor in the page's list of contents. */
void page_section(text_buffer *page, const char *id, const char *title);
void page_section_end(text_buffer *page);

/* One figure of the row of figures: page_figures, page_figure.., page_figures_end. */
void page_figures(text_buffer *page);
void page_figure(text_buffer *page, const char *label, double value, int decimals, const char *unit);
void page_figures_end(text_buffer *page);

/* A part of a bar: share of the full width in 0..1; color: one of the page's op colors, 0..5. */
typedef struct page_part {
    double share;
    int color;
    const char *label; /* for the pointer and for readers of the screen */
} page_part;

/* One line of a chart of bars: name, bar, figure in ms. */
void page_bar(text_buffer *page, const char *name, const page_part *parts, int count, double ms);

/* What the colors mean. */
void page_legend(text_buffer *page, const char *const *names, int count);

/* `value` with `decimals`, or a dash for NaN. */
void page_number(text_buffer *page, double value, int decimals);

/* A number as JSON for the script: null for what is not finite. */
void page_json_number(text_buffer *page, double value);
/* A string as JSON inside a <script> element: no "</" in it. */
void page_json_string(text_buffer *page, const char *text);

#endif
