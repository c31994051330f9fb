#include "profile/report_page.h"

#include <string.h>

/* report_page.html, made a C array by cmake/embed.cmake. */
extern const unsigned char report_page_template[];
extern const size_t report_page_template_bytes;

static const char title_mark[] = "<!--TITLE-->", data_mark[] = "<!--DATA-->";

/* Where a mark stands; the template has each of them once. */
static const char *find_mark(const char *at, const char *mark) {
    while (strncmp(at, mark, strlen(mark)) != 0) at++;
    return at;
}

static void put_escaped(text_buffer *text, const char *title) {
    for (; *title; title++) {
        if (*title == '<')
            text_put(text, "&lt;");
        else if (*title == '&')
            text_put(text, "&amp;");
        else
            text_put_n(text, title, 1);
    }
}

/* "</script>" inside a string would end the data: in JSON a '<' may be written by its number. */
static void put_data(text_buffer *text, const char *json, size_t length) {
    const char *end = json + length;
    while (json < end) {
        const char *less = memchr(json, '<', (size_t)(end - json));
        text_put_n(text, json, (size_t)((less ? less : end) - json));
        if (!less) break;
        text_put(text, "\\u003c");
        json = less + 1;
    }
}

void report_page_put(text_buffer *text, const char *title, const char *json, size_t length) {
    const char *at = (const char *)report_page_template, *end = at + report_page_template_bytes;
    const char *title_at = find_mark(at, title_mark);
    const char *data_at = find_mark(at, data_mark);
    text_put_n(text, at, (size_t)(title_at - at));
    put_escaped(text, title);
    at = title_at + sizeof title_mark - 1;
    text_put_n(text, at, (size_t)(data_at - at));
    put_data(text, json, length);
    at = data_at + sizeof data_mark - 1;
    text_put_n(text, at, (size_t)(end - at));
}
