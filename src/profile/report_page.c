#define _GNU_SOURCE /* memmem */
#include "profile/report_page.h"

#include <string.h>

/* report_page.html, made a C array by cmake/embed.cmake. */
extern const unsigned char report_page_template[];
extern const size_t report_page_template_bytes;

static const char title_mark[] = "<!--TITLE-->", data_mark[] = "<!--DATA-->";

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
    const char *title_at = memmem(at, (size_t)(end - at), title_mark, sizeof title_mark - 1);
    const char *data_at = memmem(at, (size_t)(end - at), data_mark, sizeof data_mark - 1);
    text_put_n(text, at, (size_t)(title_at - at));
    put_escaped(text, title);
    at = title_at + sizeof title_mark - 1;
    text_put_n(text, at, (size_t)(data_at - at));
    put_data(text, json, length);
    at = data_at + sizeof data_mark - 1;
    text_put_n(text, at, (size_t)(end - at));
}
